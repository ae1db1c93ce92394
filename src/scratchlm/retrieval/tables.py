"""Tables of values: CSV, read as a Markdown table."""

from __future__ import annotations

import csv
from io import BytesIO, StringIO
from typing import Any

from scratchlm.retrieval.formats import Unreadable, one_line

_SAMPLE = 1 << 16
_SEPARATORS = ",;\t|"
_LONGEST = 1 << 17
"""Characters of a cell."""


def read_csv(text: str) -> str:
    """The Markdown table of a CSV file: the first row is its head, and line breaks in cells become spaces.

    Columns may be separated by commas, semicolons, tabs or bars; whichever of them stands in most of the first lines
    equally often outside of quotes.

    Raises:
        Unreadable: quotes do not match, or a cell has more than 131,072 characters.
    """
    from markitdown import StreamInfo
    from markitdown.converters import CsvConverter

    before = csv.field_size_limit(_LONGEST)  # of the whole process: whatever else was read must not matter
    try:
        separator = _separator(text[:_SAMPLE])
        if separator != ",":
            rewritten = StringIO(newline="")
            csv.writer(rewritten).writerows(csv.reader(StringIO(text, newline=""), delimiter=separator))
            text = rewritten.getvalue()
        converter: Any = CsvConverter  # its constructor has no types
        markdown: str = converter().convert(BytesIO(text.encode("utf-8")), StreamInfo(charset="utf-8")).markdown
    except csv.Error as error:
        raise Unreadable(f"is no CSV that can be read ({one_line(error)}); mend it or leave it out") from error
    finally:
        csv.field_size_limit(before)
    return markdown


def _separator(sample: str) -> str:
    def evenness(separator: str) -> tuple[float, int]:
        try:
            rows = [row for row in csv.reader(StringIO(sample, newline=""), delimiter=separator) if row][:50]
        except csv.Error:
            return 0.0, 0
        columns = [len(row) for row in rows]
        usual = max(set(columns), key=lambda count: (columns.count(count), count), default=0)
        return (columns.count(usual) / len(columns), usual) if usual > 1 else (0.0, 0)

    return max(_SEPARATORS, key=evenness)
