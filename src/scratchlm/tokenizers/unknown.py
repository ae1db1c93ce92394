"""What to say about a text that the vocabulary cannot spell."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from scratchlm.errors import UserError


class UnknownTextError(UserError):
    """A character or word that is not in the vocabulary, where it stands, and the cure.

    ``symbol`` (for people), ``offset`` (characters before it in the text that was encoded) and ``cure`` let a caller
    who knows the file say the same with the file's line.
    """

    def __init__(self, symbol: str, offset: int, cure: str, place: str) -> None:
        super().__init__(f"{symbol} at {place} is not in the vocabulary; {cure}")
        self.symbol = symbol
        self.offset = offset
        self.cure = cure


def place_in(text: str, offset: int) -> str:
    """``line 3, column 7 (character 120)`` for an offset, all counted from one."""
    line = text.count("\n", 0, offset) + 1
    column = offset - (text.rfind("\n", 0, offset) + 1) + 1
    return f"line {line}, column {column} (character {offset + 1})"


def unknown_character(text: str, offset: int, knows: Callable[[str], bool]) -> UnknownTextError:
    """The error for the character at ``offset``; ``knows(c)`` tells whether the vocabulary has a character."""
    character = text[offset]
    symbol = f"the character {character!r} (U+{ord(character):04X})"
    return UnknownTextError(symbol, offset, _cure(text, offset, knows), place_in(text, offset))


def unknown_word(text: str, offset: int, word: str) -> UnknownTextError:
    """The error for a whole word that starts at ``offset``."""
    shown = word if len(word) <= 40 else word[:37] + "..."
    cure = "use a word of the training text, or train again with --set unknown=token"
    return UnknownTextError(f"the word {shown!r}", offset, cure, place_in(text, offset))


def _cure(text: str, offset: int, knows: Callable[[str], bool]) -> str:
    """Letters with marks exist composed (NFC) and decomposed (NFD); a text in the other form is the usual cause."""
    start = offset
    while start > 0 and unicodedata.combining(text[start]):
        start -= 1
    end = offset + 1
    while end < len(text) and unicodedata.combining(text[end]):
        end += 1
    cluster = text[start:end]
    for form in ("NFC", "NFD"):
        spelled = unicodedata.normalize(form, cluster)
        if spelled != cluster and all(map(knows, spelled)):
            return f"normalise the text to {form}, the form that the vocabulary was made from"
    return "remove it, or train again with --set unknown=token"
