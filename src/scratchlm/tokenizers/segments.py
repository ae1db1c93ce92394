"""Cutting text where no tokenizer of ours looks across, and encoding each distinct piece once.

GPT-2's pre-tokenizer (and BERT's, and splitting into words) never joins a non-space character to white space after it:
letters, digits and signs end where white space begins, and what follows starts afresh. So a text may be cut before
every run of white space and its pieces encoded alone; the ids are those of the whole. Since text repeats its words,
remembering each piece's ids makes encoding many times faster than running the pre-tokenizer over everything.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

WHITE_SPACE = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""The characters with Unicode's White_Space property. Python's ``\\s`` adds U+001C-U+001F, which the others do not."""

_PIECES = re.compile(f"[{WHITE_SPACE}]*+[^{WHITE_SPACE}]++|[{WHITE_SPACE}]++")
_MAX_PIECES = 400_000
_MAX_CHARACTERS = 16_000_000


def pieces(text: str) -> list[str]:
    """Cut ``text`` before each run of white space that follows something else; joined, the pieces are the text."""
    return _PIECES.findall(text)


def safe_cut(text: str) -> int | None:
    """The last offset at which ``text`` may be cut, at a line's end if there is one; None where there is none.

    ``encode(text[:cut]) + encode(text[cut:] + rest) == encode(text + rest)`` for every rest. The cut lies before the
    white space, because what precedes it must not be white space too.
    """
    for spaces in ("\n", WHITE_SPACE):
        start = max(text.rfind(space) for space in spaces) + 1
        while start > 0 and text[start - 1] in WHITE_SPACE:
            start -= 1
        if start > 0:
            return start
    return None


class SegmentEncoder:
    """Encodes text by its pieces, each distinct piece once; what is remembered is bounded.

    ``encode`` turns a list of pieces into a list of id lists and is called with the unseen ones only. Several threads
    may use it; they take turns.
    """

    def __init__(self, encode: Callable[[list[str]], Sequence[Sequence[int]]], dtype: np.dtype[np.unsignedinteger]):
        self._encode = encode
        self._dtype = dtype
        self._turn = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._numbers = _Numbers()
        self._characters = 0
        self._ids: NDArray[np.unsignedinteger] = np.empty(0, self._dtype)
        self._ends: NDArray[np.int64] = np.zeros(1, np.int64)

    def __call__(self, text: str) -> NDArray[np.unsignedinteger]:
        """The ids of ``text``, (tokens,), in the smallest dtype for the vocabulary."""
        with self._turn:
            return self._remembered(text)

    def _remembered(self, text: str) -> NDArray[np.unsignedinteger]:
        if len(self._numbers) > _MAX_PIECES or self._characters > _MAX_CHARACTERS:
            self._forget()
        cut = pieces(text)
        numbers = np.fromiter(map(self._numbers.__getitem__, cut), dtype=np.int64, count=len(cut))
        if self._numbers.unseen:
            self._learn()
        starts = self._ends[numbers]
        lengths = self._ends[numbers + 1] - starts
        before = np.cumsum(lengths) - lengths
        return self._ids[np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))]

    def _learn(self) -> None:
        unseen = self._numbers.unseen
        self._numbers.unseen = []
        try:
            encoded = self._encode(unseen)
        except BaseException:
            self._forget()
            raise
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        flat = np.fromiter((i for ids in encoded for i in ids), dtype=self._dtype, count=int(lengths.sum()))
        self._ids = np.concatenate([self._ids, flat])
        self._ends = np.concatenate([self._ends, self._ends[-1] + np.cumsum(lengths)])
        self._characters += sum(map(len, unseen))


class _Numbers(dict[str, int]):
    """Piece -> its number; an unseen piece gets the next one and is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.unseen: list[str] = []

    def __missing__(self, piece: str) -> int:
        number = self[piece] = len(self)
        self.unseen.append(piece)
        return number
