"""A document as its index has it: lines with their numbers, and the characters that are cited marked in them.

The index keeps the passages and where they stand, not the files. What lies between passages, which is white space and
what was not worth indexing, comes as empty lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scratchlm.retrieval.passages import Hit

_AROUND = 150
"""Lines before and after the ones that are wanted."""


@dataclass
class _Line:
    number: int
    parts: list[tuple[int, str]] = field(default_factory=list)
    """Texts, and at which character of the document each begins."""


def source_lines(passages: Sequence[Hit], start: int = 0, end: int = 0, line: int = 0) -> dict[str, Any]:
    """The lines of a document around those that are wanted.

    Args:
        passages: all of the document, in order.
        start, end: characters that are cited; the same for none.
        line: the line to look at where nothing is cited; 0 for the first.

    Returns:
        ``lines``: of each ``line``, its number, and ``parts``, pairs of a text and whether it is cited; ``first``,
        ``last``: the numbers of the first and the last line of the whole document.
    """
    lines = _lines(passages)
    cited = [at for at, one in enumerate(lines) if any(_cut(part, start, end)[1] for part in one.parts)]
    if cited:
        low, high = cited[0], cited[-1]
    else:
        low = high = next((at for at, one in enumerate(lines) if one.number >= line), len(lines) - 1)
    shown = lines[max(0, low - _AROUND) : high + 1 + _AROUND]
    return {
        "first": lines[0].number,
        "last": lines[-1].number,
        "lines": [{"line": one.number, "parts": _marked(one, start, end)} for one in shown],
    }


def _lines(passages: Sequence[Hit]) -> list[_Line]:
    lines = [_Line(passages[0].first_line)]
    reached = 0
    for hit in passages:
        text, begin, number = hit.text, hit.start, hit.first_line
        if begin < reached:  # what a passage repeats of the one before
            known = min(reached - begin, len(text))
            number += text.count("\n", 0, known)
            text, begin = text[known:], begin + known
        while lines[-1].number < number:
            lines.append(_Line(lines[-1].number + 1))
        for count, part in enumerate(text.split("\n")):
            if count:
                lines.append(_Line(lines[-1].number + 1))
            if part.rstrip("\r"):
                lines[-1].parts.append((begin, part.rstrip("\r")))
            begin += len(part) + 1
        reached = max(reached, hit.end)
    return lines


def _cut(part: tuple[int, str], start: int, end: int) -> tuple[str, str, str]:
    """A part's text before, within and after the cited characters."""
    at, text = part
    low, high = min(max(start - at, 0), len(text)), min(max(end - at, 0), len(text))
    return text[:low], text[low:high], text[max(low, high) :]


def _marked(line: _Line, start: int, end: int) -> list[tuple[str, bool]]:
    found = []
    for part in line.parts:
        before, within, after = _cut(part, start, end)
        found += [(text, mark) for text, mark in ((before, False), (within, True), (after, False)) if text]
    return found
