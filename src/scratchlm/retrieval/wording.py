"""Sentences of a text with where they stand, and the words of a sentence that say something."""

from __future__ import annotations

import re
from functools import cache

_END = re.compile(r"(?<=[.!?])[\"”’')\]}]*\s+(?=[^\sa-zß-öø-ÿа-яё,;:.?!])|(?<=[。！？])[”』」]?")
_ABBREVIATION = re.compile(
    r"(?:(?<!\w)(?:Mr|Mrs|Ms|Dr|St|Prof|Inc|Ltd|Co|Jr|Sr|No|vs|etc|e\.g|i\.e|cf|approx|Fig|fig|ca|vol|pp?)|\b[A-Z])\.$"
)
_BLOCK = re.compile(r"[ ]{0,3}#{1,6}\s[^\n]*|[^\n]+(?:\n(?!\s*\n|\s*[-*+#>|]|\s*\d+[.)]\s)[^\n]+)*")
_HEADING = re.compile(r"\s{0,3}#{1,6}\s")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

_STOP_WORDS = """
    a about above after again against all also am among an and any are as at be because been before being below
    between both but by can could did do does doing done down during each ever every few for from further get give
    given go had has have having he her here hers him his how i if in into is it its itself just let many may me might
    more most much must my no nor not now of off on once one only or other our out over own please same shall she
    should so some such tell than that the their them then there these they this those through to too under until up
    us use used using very was we were what when where whether which while who whom whose why will with would you
    your"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""English words that say nothing of what a text is about."""


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text begin and end, in order; headings are none.

    A list's item and a table's row stand by themselves. Lines that follow one another without a blank one are one
    text, as in Markdown.
    """
    found: list[tuple[int, int]] = []
    for block in _BLOCK.finditer(text):
        if _HEADING.match(block[0]):
            continue
        at = 0
        for end in _END.finditer(block[0]):
            if not _ABBREVIATION.search(block[0], 0, end.start()):
                found.append((block.start() + at, block.start() + end.end()))
                at = end.end()
        found.append((block.start() + at, block.end()))
    return [trimmed for start, end in found if (trimmed := _trimmed(text, start, end)) is not None]


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, in order, repeated as often as they stand there."""
    return [word.casefold().replace("’", "'").removesuffix("'s") for word in _WORD.findall(text)]


def content_words(text: str) -> list[str]:
    """The words that say something, each once, in order."""
    return [word for word in dict.fromkeys(words_of(text)) if word not in STOP_WORDS]


@cache
def stem(word: str) -> str:
    """A word without the commonest English endings, so that "opened" is "opens"; a coarse cut, of words in lower
    case."""
    for ending in ("ations", "ation", "ingly", "ments", "ment", "ings", "ing", "ies", "ied", "ers", "ed", "es", "er"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    else:
        if word.endswith("s") and not word.endswith("ss") and len(word) > 3:
            word = word[:-1]
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "ls":
        word = word[:-1]  # stopped, stop
    return word[:-1] if len(word) > 3 and word[-1] in "ey" else word


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    part = text[start:end]
    begin = start + len(part) - len(part.lstrip())
    return (begin, start + len(part.rstrip())) if part.strip() else None
