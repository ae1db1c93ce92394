"""Where sentences end: by punctuation, in any language that has it."""

from __future__ import annotations

import re

_SHORT = (
    "mr mrs ms dr prof st jr sr vs e.g i.e eg ie cf al fig figs eq eqs sec ch vol no nos pp p approx dept est inc "
    "ltd co corp gen col sgt capt lt rev hon jan feb mar apr jun jul aug sep sept oct nov dec u.s u.k z.b d.h bzw "
    "ca nr str"
)
_ABBREVIATIONS = frozenset(_SHORT.split())
"""Without their last full stop; a sentence may begin after "etc." and "a.m.", so these are not among them."""
_END = re.compile(
    r"""
    (?<![.!?…])(?P<stop>[.!?…]++)["'”’»)\]*_`]*+(?=\s)  # of Latin, Greek, Cyrillic ...: and white space after
    | [。！？｡][」』”’）】]*                     # Chinese and Japanese: no white space follows
    | [।॥؟۔](?=\s)                            # Hindi, Arabic, Urdu
    | \n(?=[ \t]*\r?\n)                       # an empty line
    | \n(?=[ \t]*(?:[-*+•–]|\d{1,3}[.)])[ \t]) # the next item of a list
    """,
    re.VERBOSE,
)
_SPACE = re.compile(r"\s*")


def sentences(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """The sentences of ``text[start:end]`` as (start, end), in order, without the white space around them.

    They hold every character that is not white space. A list's items count as sentences of their own; a heading or a
    line without punctuation ends at the next empty line. A full stop after an abbreviation, a single capital letter
    ("J. Smith") or before a small letter ends nothing.
    """
    end = len(text) if end is None else end
    found: list[tuple[int, int]] = []
    begin = _skip(text, start, end)
    for match in _END.finditer(text, begin, end):
        at = match.end()
        if at <= begin or (match["stop"] and not _ends(text, match, begin, end)):
            continue
        if stop := len(text[begin:at].rstrip()):
            found.append((begin, begin + stop))
        begin = _skip(text, at, end)
    if begin < end and (stop := len(text[begin:end].rstrip())):
        found.append((begin, begin + stop))
    return found


def _skip(text: str, at: int, end: int) -> int:
    match = _SPACE.match(text, at, end)
    return match.end() if match else at


def _ends(text: str, match: re.Match[str], begin: int, end: int) -> bool:
    """Whether a full stop and its like end a sentence."""
    at = _skip(text, match.end(), end)
    following = text[at : min(at + 1, end)]
    if following.islower():
        return False
    if match["stop"] != ".":
        return True
    before = text[max(begin, match.start() - 12) : match.start()]
    word = re.split(r"[\s(\[\"'“‘]", before)[-1]
    if len(word) == 1 and word.isupper():
        return False
    return word.casefold() not in _ABBREVIATIONS
