"""Formats of documents: of which kind a file is, and its text, pages and metadata."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import PurePosixPath
from typing import Any

import yaml

from scratchlm.errors import missing_package
from scratchlm.retrieval.decoding import NotText, decode


def _suffixes(line: str) -> frozenset[str]:
    return frozenset(line.split())


CODE = _suffixes(
    ".bash .c .cc .clj .cpp .cs .css .cu .cxx .dart .erl .ex .exs .f90 .fs .go .gradle .groovy .h .hpp .hs .hxx "
    ".java .jl .js .jsx .kt .kts .lua .m .mjs .ml .mm .nim .php .pl .pm .proto .ps1 .py .pyi .pyx .r .rb .rs "
    ".scala .scss .sh .sol .sql .swift .tf .ts .tsx .vb .vue .zig .zsh"
)
_KINDS = {
    **dict.fromkeys((".md", ".markdown", ".mdown", ".mkd", ".mdx", ".qmd", ".rmd"), "markdown"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson", ".geojson"), "json"),
    **{f".{kind}": kind for kind in ("pdf", "docx", "pptx", "xlsx", "ipynb")},
    **dict.fromkeys(CODE, "code"),
    **dict.fromkeys(
        _suffixes(".txt .text .rst .log .tex .org .adoc .asciidoc .srt .vtt .ini .cfg .toml .yaml .yml"), "text"
    ),
}
KINDS = tuple(dict.fromkeys(_KINDS.values()))
"""Of documents."""
_OLD_OFFICE = {".doc": ".docx", ".ppt": ".pptx", ".xls": ".xlsx", ".odt": ".docx", ".odp": ".pptx", ".ods": ".xlsx"}
_NO_TEXT = _suffixes(
    ".7z .a .avi .avif .bin .bmp .bz2 .class .dll .dmg .dylib .eot .exe .flac .gguf .gif .gz .heic .ico .iso .jar "
    ".jpeg .jpg .lance .lock .m4a .mkv .mov .mp3 .mp4 .mpeg .npy .npz .o .ogg .onnx .otf .parquet .pdb .pkl .png "
    ".psd .pt .pth .pyc .pyo .rar .safetensors .so .sqlite .sqlite3 .tar .tgz .tif .tiff .ttf .wasm .wav .webm "
    ".webp .whl .woff .woff2 .xz .zip .zst"
)
_NO_CHARACTER = re.compile("[\0\ud800-\udfff]")
_TALKATIVE = ("pdfminer", "bs4", "mammoth", "openpyxl")
"""Loggers of the libraries below; their children follow them."""
_LONGEST_FRONT_MATTER = 1 << 16
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?)\r?\n(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL)


class Unreadable(Exception):  # noqa: N818
    """A file that gives no text; the message goes after the file's name."""


@dataclass(frozen=True)
class Read:
    """What a file says: the fields of :class:`~scratchlm.retrieval.passages.Document` of these names."""

    text: str
    kind: str
    pages: tuple[int, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def kind_of(path: str) -> str:
    """The kind of a file by its name; "" where the name does not tell, and only the content can.

    Raises:
        Unreadable: files of that name are not read.
    """
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in _NO_TEXT:
        raise Unreadable(f"is not read: {suffix} files hold no text; leave them out with an ignore pattern")
    if suffix in _OLD_OFFICE:
        raise Unreadable(f"is not read: it is no {_OLD_OFFICE[suffix]} file; save it as {_OLD_OFFICE[suffix]}")
    return _KINDS.get(suffix, "")


def read_bytes_as(kind: str, data: bytes) -> Read:
    """The text of a file of a kind, as :func:`kind_of` gives it.

    Text, Markdown, JSON and code are what the file says, line ends included; the offsets of other kinds are those of
    the Markdown that they are read as.

    Raises:
        Unreadable: it is broken, encrypted, in an unknown encoding, or holds no text.
        UserError: a package that reads such files is not installed.
    """
    try:
        if kind == "pdf":
            from scratchlm.retrieval.pdf_pages import read_pdf

            text, pages, metadata = read_pdf(data)
            read = Read(text, kind, pages, metadata)
        elif kind in ("docx", "pptx", "xlsx"):
            from scratchlm.retrieval.office_files import read_office

            text, pages = read_office(kind, data)
            read = Read(text, kind, pages)
        else:
            read = _of_text(kind, _decoded(kind, data))
    except ModuleNotFoundError as error:
        package = (error.name or "a package").partition(".")[0]
        raise missing_package(f"{kind or 'such'} files need", package, "rag") from error
    read = Read(_writable(read.text), read.kind, read.pages, {n: _writable(v) for n, v in read.metadata.items()})
    if not read.text.strip():
        scans = "; if it is scanned, run a text recognition on it first" if kind == "pdf" else ""
        raise Unreadable(f"holds no text{scans or '; fill it or leave it out'}")
    return read


def _writable(text: str) -> str:
    """The text without what is no character and cannot be written as UTF-8: escapes in a notebook can say anything."""
    return _NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", text)


def _decoded(kind: str, data: bytes) -> str:
    try:
        return decode(data)
    except NotText as error:
        if not kind:
            raise Unreadable(
                "is of a kind that is not read, and no text; leave it out with an ignore pattern"
            ) from error
        raise Unreadable(str(error)) from error


def _of_text(kind: str, text: str) -> Read:
    if not text.strip():
        return Read(text, kind or "text")
    if kind == "markdown":
        return Read(text, kind, metadata=front_matter(text)[1])
    if kind == "html":
        return _html(text)
    if kind == "csv":
        from scratchlm.retrieval.tables import read_csv

        return Read(read_csv(text), kind)
    if kind == "json":
        _check_json(text)
    if kind == "ipynb":
        return _notebook(text)
    return Read(text, kind or "text")


def front_matter(text: str) -> tuple[int, dict[str, str]]:
    """Where a Markdown text's front matter ends, 0 where there is none, and what it says.

    Front matter is a mapping in YAML between two lines ``---``, the first of which begins the text. Its values are kept
    as text, lists of them with commas between; deeper structures are left out.
    """
    match = _FRONT_MATTER.match(text, 0, _LONGEST_FRONT_MATTER)
    if match is None:
        return 0, {}
    try:
        values = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return 0, {}  # a rule and a later one, as any text may have
    if not isinstance(values, dict):
        return 0, {}
    plain = {str(name): _plain(value) for name, value in values.items()}
    return match.end(), {name: value for name, value in plain.items() if value is not None}


def _plain(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list):
        parts = [_plain(one) for one in value if not isinstance(one, list)]
        return ", ".join(part for part in parts if part is not None)
    return None


def _check_json(text: str) -> None:
    """Whole JSON, or JSON a line."""
    try:
        json.loads(text)
        return
    except (ValueError, RecursionError) as error:
        whole = error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    try:
        json.loads(lines[0][1])
    except (ValueError, RecursionError):
        raise Unreadable(f"is no JSON ({_json_reason(whole)}); mend it") from whole
    for number, line in lines:
        try:
            json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"is no JSON in line {number:,} ({_json_reason(error)}); mend it") from error


def _json_reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.lower()}, line {error.lineno:,}, column {error.colno:,}"
    return "nested too deep" if isinstance(error, RecursionError) else str(error).partition(";")[0]


def _html(text: str) -> Read:
    from markitdown.converters import HtmlConverter

    try:
        with quiet():
            converted = HtmlConverter().convert_string(text)
    except ImportError:
        raise
    except Exception as error:  # whatever the parser stumbles over
        raise Unreadable(f"is broken HTML ({one_line(error)}); mend it") from error
    title = " ".join((converted.title or "").split())
    return Read(without_data(converted.markdown), "html", metadata={"title": title} if title else {})


def _notebook(text: str) -> Read:
    from io import BytesIO

    from markitdown import StreamInfo
    from markitdown.converters import IpynbConverter

    try:
        stream = BytesIO(text.encode("utf-8"))
        converted = IpynbConverter().convert(stream, StreamInfo(extension=".ipynb", charset="utf-8"))
    except ImportError:
        raise
    except Exception as error:  # whatever else than a notebook it is
        raise Unreadable(f"is no notebook ({one_line(error)}); mend it, or leave it out") from error
    return Read(without_data(converted.markdown), "ipynb")


def without_data(markdown: str) -> str:
    """Markdown without pictures that are written out in it: their descriptions stay."""
    return re.sub(r"!\[([^\]]{0,2000})\]\(data:[^)]*\)", r"\1", markdown)


def one_line(error: Exception) -> str:
    """A library's complaint, short enough for a line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 100 else words[:97] + "..."


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' warnings about a file off the terminal: it is read, or named with one line of ours."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
