"""Office documents: docx, pptx and xlsx, read as Markdown through markitdown's converters."""

from __future__ import annotations

import re
import zipfile
from io import BytesIO
from typing import Any

from scratchlm.retrieval.formats import Unreadable, one_line, quiet, without_data

_MOST_UNPACKED = 400_000_000
"""Bytes of the XML in a file; a few kilobytes can hold gigabytes of it."""
_MOST_CELLS = 5_000_000
"""Of a sheet's rectangle: one cell in the last corner makes 17 thousand million."""
_MAIN = {"docx": "word/document.xml", "pptx": "ppt/presentation.xml", "xlsx": "xl/workbook.xml"}
_COMPOUND = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""How files of the older formats begin, and encrypted ones of the newer."""
_SLIDE = re.compile(r"^<!-- Slide number: (\d+) -->[ \t]*\n?", re.MULTILINE)
_CELL = re.compile(rb'<(?:\w+:)?c\b[^>]*?\br="([A-Z]{1,3})(\d{1,7})"')


def read_office(kind: str, data: bytes) -> tuple[str, tuple[int, ...]]:
    """A document as Markdown, and the offsets at which its slides begin (none but of a pptx). Sheets are headings.

    Raises:
        Unreadable: it is encrypted, broken, another format, or would unpack to too much.
        ImportError: a package that reads it is not installed.
    """
    _check(kind, data)
    from markitdown import StreamInfo, converters

    made: dict[str, Any] = {
        "docx": converters.DocxConverter,
        "pptx": converters.PptxConverter,
        "xlsx": converters.XlsxConverter,
    }
    try:
        with quiet():
            text: str = made[kind]().convert(BytesIO(data), StreamInfo(extension=f".{kind}")).markdown
    except ImportError:
        raise
    except Exception as error:  # whatever the libraries below stumble over
        if type(error).__name__ == "MissingDependencyException":
            package = {"docx": "mammoth", "pptx": "pptx", "xlsx": "openpyxl"}[kind]
            raise ModuleNotFoundError(str(error), name=package) from error
        raise Unreadable(f"is a broken {kind} file ({one_line(error)}); open it and save it again") from error
    text = without_data(text)
    if kind == "xlsx":
        text = _without_fillers(text)
    return _slides(text) if kind == "pptx" else (text, ())


def _check(kind: str, data: bytes) -> None:
    if data.startswith(_COMPOUND):
        raise Unreadable(f"is encrypted, or of an older format; save it as .{kind} without a password")
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            parts = archive.infolist()
            if _MAIN[kind] not in {part.filename for part in parts}:
                raise Unreadable(f"is no {kind} file, though a zip archive; rename it or save it again")
            unpacked = sum(part.file_size for part in parts if part.filename.endswith((".xml", ".rels")))
            if unpacked > _MOST_UNPACKED:
                raise Unreadable(
                    f"unpacks to {unpacked:,} bytes, more than the {_MOST_UNPACKED:,} that are read; split it"
                )
            if kind == "xlsx":
                for part in parts:
                    if part.filename.startswith("xl/worksheets/") and part.filename.endswith(".xml"):
                        _check_sheet(archive.read(part))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise Unreadable(f"is a broken {kind} file ({one_line(error).lower()}); open it and save it again") from error
    except Exception as error:
        if type(error).__module__ == "zlib":
            raise Unreadable(f"is a broken {kind} file (damaged contents); open it and save it again") from error
        raise


def _check_sheet(xml: bytes) -> None:
    rows = columns = 0
    for match in _CELL.finditer(xml):
        rows = max(rows, int(match[2]))
        columns = max(columns, _column(match[1]))
    if rows * columns > _MOST_CELLS:
        raise Unreadable(
            f"has a sheet of {rows:,} rows and {columns:,} columns, more than the {_MOST_CELLS:,} cells that are read; "
            "remove cells far from the others, or split it"
        )


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number


def _without_fillers(markdown: str) -> str:
    """A sheet's empty cells empty: pandas writes NaN and NaT, and calls columns without a name "Unnamed: 3"."""
    return re.sub(r"(?<=\| )(?:NaN|NaT|Unnamed: \d+)(?= \|)", "", markdown)


def _slides(markdown: str) -> tuple[str, tuple[int, ...]]:
    """The text without the comments that number the slides, and where each slide begins."""
    parts: list[str] = []
    starts: list[int] = []
    at = length = 0
    for match in _SLIDE.finditer(markdown):
        if int(match[1]) != len(starts) + 1:  # a slide that says so itself
            continue
        parts.append(markdown[at : match.start()])
        length += len(parts[-1])
        starts.append(length)
        at = match.end()
    parts.append(markdown[at:])
    return "".join(parts), tuple(starts)
