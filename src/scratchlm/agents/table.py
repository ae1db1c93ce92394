"""Looking up rows of a table: a CSV, TSV, JSON or JSONL file, or rows in memory."""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from scratchlm.agents.tool import Tool
from scratchlm.errors import UserError
from scratchlm.reading import read_text

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d{1,40})(?:\.\d{1,40})?")
_LARGEST, _ROWS, _NEAR = 32 << 20, 20, 3
"""Bytes of a file; rows that are shown at most; near values that are told."""


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a file: JSON (a list of objects), JSONL, or CSV and TSV with a line of names.

    Raises:
        UserError: it cannot be read, or has no rows or names.
    """
    try:
        text = read_text(path, _LARGEST).removeprefix("\ufeff")
        kind = path.suffix.lower()
        if kind == ".json":
            rows = json.loads(text)
        elif kind in (".jsonl", ".ndjson"):
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = list(csv.DictReader(io.StringIO(text), delimiter="\t" if kind == ".tsv" else ",", strict=True))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{path} is no table: {error}") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and row for row in rows):
        raise UserError(f"{path} is no table; it needs rows of named values")
    if any(None in row or None in row.values() for row in rows) and kind not in (".json", ".jsonl", ".ndjson"):
        line = next(number for number, row in enumerate(rows, 2) if None in row or None in row.values())
        raise UserError(f"{path}: row {line} has not as many values as the first line has names")
    return rows


def table_tool(rows: Sequence[Mapping[str, Any]], name: str = "lookup", of: str = "the table") -> Tool:
    """A tool that looks up rows: where one column has a value, it shows another, or the whole rows.

    Args:
        rows: with the same names, more or less.
        of: what the table is called in the description.

    Raises:
        ValueError: there are no rows.
    """
    columns = list(dict.fromkeys(str(key) for row in rows for key in row))
    if not columns:
        raise ValueError("a table needs rows of named values")
    kept = [{str(key): value for key, value in row.items()} for row in rows]
    names = {"type": "string", "enum": columns}
    parameters = {
        "type": "object",
        "properties": {"column": names, "value": {"type": "string"}, "show": names},
        "required": ["column", "value"],
        "additionalProperties": False,
    }
    about = f"Look up rows of {of}, where a column has a value; show one column, or all."
    return Tool(name, about, parameters, lambda given: find_rows(kept, **given))


def find_rows(rows: Sequence[Mapping[str, Any]], column: str, value: str, show: str | None = None) -> str:
    """What the rows whose ``column`` has a ``value`` (in any case; numbers by what they are worth) say: the column
    ``show`` of each, or ``name: value`` of all, a line each.

    Raises:
        ValueError: there is no such column or row; the line has the nearest.
    """
    known = list(dict.fromkeys(key for row in rows for key in row))
    for one in (column, show):
        if one is not None and one not in known:
            raise ValueError(f"there is no column {one!r}; the columns are: {', '.join(known)}")
    wanted = _key(value)
    found = [row for row in rows if column in row and _key(row[column]) == wanted]
    if not found:
        values = {_text(row[column]).casefold(): _text(row[column]) for row in rows if column in row}
        near = difflib.get_close_matches(value.casefold(), values, _NEAR)
        raise ValueError(
            f"no row has {column} = {value}" + (f"; near: {', '.join(values[one] for one in near)}" if near else "")
        )
    if show is not None:
        lines = [_text(row.get(show)) for row in found[:_ROWS]]
    else:
        lines = [", ".join(f"{key}: {_text(one)}" for key, one in row.items()) for row in found[:_ROWS]]
    more = [f"[{len(found) - _ROWS} more rows]"] if len(found) > _ROWS else []
    return "\n".join([*lines, *more])


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _key(value: Any) -> str | Fraction:
    """What makes two values the same."""
    text = " ".join(_text(value).split()).casefold()
    return Fraction(text.replace(",", "")) if _NUMBER.fullmatch(text) else text
