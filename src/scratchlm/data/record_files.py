"""Rows out of files: JSON lines, CSV, Parquet, texts, CoNLL, and datasets of the hub. What is wrong with a row is told,
not raised, so that whoever asked may go on."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from scratchlm.data.chunks import not_text, read_text
from scratchlm.data.files import TEXT_SUFFIXES, resolve_source
from scratchlm.errors import UserError, missing_package
from scratchlm.reading import ordinary_size

LONGEST = 64 << 20
"""Bytes of a line."""
LARGEST_ARRAY = 1 << 30
"""Bytes of a .json file, which is read as a whole."""
HUB = "hub:"
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_SAMPLE_ROWS = 50
_PARQUET_ROWS = 1024


class Row(NamedTuple):
    place: str
    """Such as "reviews.csv, line 3"."""
    values: dict[str, Any] | str
    """The fields, or what is wrong with the row."""


class RowFile(NamedTuple):
    format: str
    """For people, such as "CSV (comma)"."""
    rows: Iterator[Row]
    whole: bool = False
    """Rows are whole files, so that a long one is a text to be read in parts."""


def read_rows(source: str | Path, *, split: str = "train", lines: bool = False, conll: bool = False) -> RowFile:
    """The rows of what ``source`` names.

    Args:
        source: a file; a folder of files of one kind, taken in the order of their names; a corpus; or "hub:NAME" or
            "hub:NAME:CONFIG", a dataset of the hub.
        split: of the hub's dataset.
        lines: a row is a line of a text file, and not the whole file.
        conll: text files hold a token and its tag a line.

    Raises:
        UserError: there is no such thing, a file is damaged or of no known kind, or a package is missing.
    """
    name = str(source)
    if name.startswith(HUB):
        return RowFile("a dataset of the hub", _hub(name, split))
    path = Path(source).expanduser()
    if path.is_dir():
        paths = sorted(p for p in path.rglob("*") if p.suffix.lower() in _READERS and not p.name.startswith("."))
        if not paths:
            return _texts(name, lines)
        if len({p.suffix.lower() for p in paths}) > 1:
            kinds = ", ".join(sorted({p.suffix for p in paths}))
            raise UserError(f"the folder {name} holds files of several kinds ({kinds}); name one file")
    elif path.suffix.lower() in _READERS and path.exists():
        paths = [path]
    elif conll and path.suffix.lower() in TEXT_SUFFIXES and path.exists():
        return RowFile("CoNLL", _conll(path))
    elif path.is_file() and path.suffix.lower() not in TEXT_SUFFIXES and path.suffix:
        known = " ".join((*_READERS, *sorted(TEXT_SUFFIXES)))
        raise UserError(f"{name} is of no known kind; give a file that ends in one of: {known}")
    else:
        return _texts(name, lines)
    format_, reader = _READERS[paths[0].suffix.lower()]
    if format_ == "CSV":
        format_ = f"CSV ({_SEPARATORS[_separator(paths[0])]})"
    return RowFile(format_, (row for path in paths for row in reader(path)))


def _texts(name: str, lines: bool) -> RowFile:
    source = resolve_source(name)

    def rows() -> Iterator[Row]:
        for origin in source.origins:
            place = str(origin) if isinstance(origin, Path) else name
            try:
                text = "".join(read_text(origin))
            except UserError as error:
                yield Row(place, "it" + str(error).removeprefix(place))
                continue
            if not lines:
                yield Row(place, {"text": text})
                continue
            for number, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    yield Row(f"{place}, line {number:,}", {"text": line.removesuffix("\r")})

    return RowFile("lines of text" if lines else "text", rows(), whole=not lines)


def _raw_lines(path: Path) -> Iterator[bytes]:
    """Lines without their ends, nor a byte order mark.

    Raises:
        UserError: the file cannot be read, is binary, or has a line beyond reason.
    """
    try:
        ordinary_size(path)
        with path.open("rb") as file:
            head = file.read(4096)
            if b"\0" in head:
                raise not_text(str(path), head, head, head.index(b"\0"))
            file.seek(3 if head.startswith(b"\xef\xbb\xbf") else 0)
            number = 0
            while line := file.readline(LONGEST):
                number += 1
                if len(line) == LONGEST:
                    raise UserError(f"{path}, line {number:,}, has {LONGEST >> 20} MB or more; give a row a line")
                yield line.removesuffix(b"\n").removesuffix(b"\r")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); check the path") from error


def _parsed(place: str, text: bytes) -> Row:
    try:
        values = json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Row(place, f"it is not UTF-8 (byte {error.start + 1:,} of the line)")
    except json.JSONDecodeError as error:
        return Row(place, f"it is no JSON ({error.msg}, character {error.pos + 1:,})")
    except (ValueError, RecursionError) as error:
        return Row(place, f"it is no JSON ({' '.join(str(error).split())[:80]})")
    return Row(place, values if isinstance(values, dict) else 'it is no JSON object; write {"field": "value", ...}')


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_raw_lines(path), 1):
        if line.strip():
            yield _parsed(f"{path}, line {number:,}", line)


def _json(path: Path) -> Iterator[Row]:
    """A .json file: an array of objects, or JSON lines under that name."""
    first = next((line.strip() for line in _raw_lines(path) if line.strip()), b"")
    if not first.startswith(b"["):
        yield from _json_lines(path)
        return
    if path.stat().st_size > LARGEST_ARRAY:
        raise UserError(f"{path} is an array of more than {LARGEST_ARRAY >> 30} GiB; write JSON lines (.jsonl)")
    try:
        rows = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({' '.join(str(error).split())[:80]}); mend it") from error
    for number, values in enumerate(rows, 1):
        yield Row(f"{path}, row {number:,}", values if isinstance(values, dict) else "it is no JSON object")


def _text_lines(path: Path) -> Iterator[str]:
    """Bytes that are no UTF-8 become surrogates, which are found where they are read."""
    return (line.decode("utf-8", "surrogateescape") for line in _raw_lines(path))


def _separator(path: Path) -> str:
    """The one by which most rows have as many fields as the header, and more than one of them."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    sample = [line for _, line in zip(range(_SAMPLE_ROWS), _text_lines(path), strict=False)]
    best, chosen = (0, 0), ","
    for separator in _SEPARATORS:
        try:
            widths = [len(row) for row in csv.reader((line + "\n" for line in sample), delimiter=separator) if row]
        except csv.Error:
            continue
        if widths and widths[0] > 1 and (score := (widths.count(widths[0]), widths[0])) > best:
            best, chosen = score, separator
    return chosen


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(LONGEST)
    rows = csv.reader((line + "\n" for line in _text_lines(path)), delimiter=_separator(path), strict=True)
    header: list[str] = []
    while True:
        place = f"{path}, line {rows.line_num + 1:,}"
        try:
            row = next(rows, None)
        except csv.Error as error:
            opened = "a quote that is opened here is never closed" if "end of data" in str(error) else str(error)
            yield Row(place, f"it is no CSV ({opened})")
            continue
        if row is None:
            return
        if not row or not any(row):
            continue
        if not header:
            header = [name.strip() for name in row]
            if twice := [name for name in header if header.count(name) > 1]:
                raise UserError(f"{place}: the header has the column {twice[0]!r} twice; rename one")
        elif len(row) != len(header):
            yield Row(
                place, f"it has {len(row)} fields where the header has {len(header)}; quote texts with separators"
            )
        else:
            yield Row(place, dict(zip(header, row, strict=True)))


def _parquet(path: Path) -> Iterator[Row]:
    if find_spec("pyarrow") is None:
        raise missing_package("Parquet needs", "pyarrow", "finetune")
    import pyarrow
    import pyarrow.parquet

    try:
        ordinary_size(path)
        number = 0
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_PARQUET_ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}, row {number:,}", values)
    except (OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path} cannot be read as Parquet ({reason}); check the path, or write it again") from error


def _conll(path: Path) -> Iterator[Row]:
    """A sentence a row: its lines' first column, the tokens, and the last one, the tags. Blank lines stand between
    sentences; lines of "-DOCSTART-", and those that begin with "#" and have another number of columns, are no tokens.
    """
    width = first = 0
    tokens: list[str] = []
    tags: list[str] = []
    wrong: Row | None = None
    for number, line in enumerate([*_text_lines(path), ""], 1):
        fields = line.rstrip().split("\t") if "\t" in line.strip() else line.split()
        if line.strip() and fields[0] != "-DOCSTART-":
            if line.startswith("#") and len(fields) != (width or 2):
                continue
            first, width = first or number, width or max(2, len(fields))
            tokens.append(fields[0])
            tags.append(fields[-1])
            if wrong is None and len(fields) != width:
                what = f"it has {len(fields)} columns where {width} are needed; write a token, white space and its tag"
                wrong = Row(f"{path}, line {number:,}", what)
        elif tokens:
            yield wrong or Row(f"{path}, line {first:,}", {"tokens": tokens, "tags": tags})
            tokens, tags, wrong, first = [], [], None, 0


def _hub(name: str, split: str) -> Iterator[Row]:
    if find_spec("datasets") is None:
        raise UserError(f"{name} needs the package datasets, which is missing; run: pip install datasets")
    dataset_name, _, config = name.removeprefix(HUB).partition(":")
    try:
        dataset: Any = import_module("datasets").load_dataset(dataset_name, config or None, split=split)
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{name} cannot be loaded ({reason}); check the name, the split and the network") from error
    classes = {
        column: names
        for column, feature in dataset.features.items()
        if (names := getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None))
    }

    def named(value: Any, names: list[str]) -> Any:
        """Class names for numbers; -1, which stands for none, is nothing."""
        if isinstance(value, list):
            return [named(one, names) for one in value]
        return value if not isinstance(value, int) else names[value] if 0 <= value < len(names) else None

    for number, values in enumerate(dataset, 1):
        known = {column: named(values[column], names) for column, names in classes.items()}
        yield Row(f"{name}, row {number:,}", {**values, **known})


_READERS: dict[str, tuple[str, Callable[[Path], Iterator[Row]]]] = {
    ".jsonl": ("JSON lines", _json_lines),
    ".ndjson": ("JSON lines", _json_lines),
    ".json": ("JSON", _json),
    ".csv": ("CSV", _csv),
    ".tsv": ("CSV", _csv),
    ".parquet": ("Parquet", _parquet),
    ".conll": ("CoNLL", _conll),
    ".bio": ("CoNLL", _conll),
    ".iob2": ("CoNLL", _conll),
}
