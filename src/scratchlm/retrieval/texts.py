"""Texts out of files that are read as a stream: one a line, or a column of JSON lines or CSV."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from scratchlm.data.chunks import CHUNK_BYTES, decode_chunks, open_bytes
from scratchlm.errors import UserError

COLUMN = "text"
"""The column that is read where none is named."""
LONGEST = 16 << 20
"""Characters of a line or cell."""
_JSON, _CSV = (".jsonl", ".ndjson"), {".csv": ",", ".tsv": "\t"}


def read_texts(origin: Path | BinaryIO, column: str | None = None) -> Iterator[str]:
    """The texts of a file, or of a stream such as standard input.

    A file whose name ends in .jsonl or .ndjson holds an object a line, one in .csv or .tsv a header and rows; their
    texts are the column ``column``, or "text". Other files hold a text a line, empty ones included. A stream holds
    lines, or with a ``column`` JSON objects.

    Raises:
        UserError: the file cannot be read, is not UTF-8, holds no text, or a row lacks the column; the line tells
            which.
    """
    name = str(origin) if isinstance(origin, Path) else "standard input"
    suffix = origin.suffix.lower() if isinstance(origin, Path) else _JSON[0] if column is not None else ""
    if suffix in _JSON:
        texts = _of_json(_lines(origin, name), name, column or COLUMN)
    elif suffix in _CSV:
        texts = _of_csv(_lines(origin, name), name, column or COLUMN, _CSV[suffix])
    elif column is not None:
        raise UserError(f"{name} has no columns, so no {column!r}; leave --column out, or give a .jsonl or .csv file")
    else:
        texts = (line.removesuffix("\n").removesuffix("\r") for line in _lines(origin, name))
    empty = True
    for text in texts:
        empty = False
        yield text
    if empty:
        raise UserError(f"{name} holds no text; give at least one")


def _chunks(origin: Path | BinaryIO, name: str) -> Iterator[bytes]:
    # Whatever is there of a pipe is taken at once, so that lines do not wait for a megabyte to come together.
    file = open_bytes(origin) if isinstance(origin, Path) else origin
    read: Callable[[int], bytes] = getattr(file, "read1", file.read)
    try:
        while chunk := read(CHUNK_BYTES):
            yield chunk
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror or error}); check the path and the disk") from error
    finally:
        if file is not origin:
            file.close()


def _lines(origin: Path | BinaryIO, name: str) -> Iterator[str]:
    """Lines with their ends."""
    rest: list[str] = []
    number, held = 1, 0
    for text in decode_chunks(_chunks(origin, name), name):
        *whole, last = text.split("\n")
        for part in whole:
            yield "".join([*rest, part, "\n"])
            rest, held = [], 0
            number += 1
        rest.append(last)
        held += len(last)
        if held > LONGEST:
            raise UserError(f"{name}, line {number:,}, has more than {LONGEST:,} characters; write a text a line")
    if held:
        yield "".join(rest)


def _of_json(lines: Iterable[str], name: str, column: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}, line {number:,},"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:80]
            raise UserError(f"{where} is no JSON ({reason}); write an object a line, or give a .txt file") from error
        if not isinstance(row, dict):
            raise UserError(f'{where} is no JSON object; write {{"{column}": "..."}}')
        if column not in row:
            raise _lacking(where, column, row)
        text = row[column]
        if not isinstance(text, str):
            raise UserError(f"{where} has {json.dumps(text)[:40]} as {column!r}, which is no text; put it in quotes")
        yield text


def _of_csv(lines: Iterable[str], name: str, column: str, delimiter: str) -> Iterator[str]:
    csv.field_size_limit(LONGEST)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        if not header:
            return
        if column not in header:
            raise _lacking(f"{name}, line 1,", column, header)
        place = header.index(column)
        for row in rows:
            if not row:
                continue
            if len(row) <= place:
                raise UserError(f"{name}, line {rows.line_num:,}, ends before the column {column!r}; complete the row")
            yield row[place]
    except csv.Error as error:
        raise UserError(f"{name}, line {rows.line_num:,}, is no CSV ({error}); is a quote left open?") from error


def _lacking(where: str, column: str, columns: Iterable[str]) -> UserError:
    names = [str(name)[:40] for name in columns]
    near = difflib.get_close_matches(column, names, n=1)
    cure = f"did you mean {near[0]!r}?" if near else f"name one with --column: {', '.join(names[:8]) or 'it has none'}"
    return UserError(f"{where} has no column {column!r}; {cure}")
