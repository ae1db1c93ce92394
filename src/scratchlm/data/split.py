"""Training text and held-out text: one contiguous tail of the source, cut off before anything is learnt from it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from scratchlm.data.chunks import cut_safely, read_text
from scratchlm.data.files import Document, Source
from scratchlm.errors import UserError
from scratchlm.tokenizers.segments import safe_cut

Part = Literal["train", "validation"]
_REACH = 4096
"""Characters before the exact place of the cut in which a line's or word's end is looked for."""


@dataclass(frozen=True)
class Passage:
    """A stretch of one document that belongs to one part."""

    part: Part
    document: Document
    start: int
    """Characters of the document before it."""
    end: int


@lru_cache(maxsize=16)
def passages(source: Source, validation_fraction: float) -> tuple[Passage, ...]:
    """The source's documents in order, the one in which validation begins cut in two.

    The last ``validation_fraction`` of the characters is for validation; the cut moves back, by at most a quarter of
    the validation text, to a line's end or else a word's end. With 0 all is for training.

    Raises:
        UserError: the fraction is not from 0 up to 1, or a file cannot be read.
    """
    if not 0 <= validation_fraction < 1:
        raise UserError(
            f"validation_fraction is {validation_fraction}; give a share from 0 up to, but not including, 1"
        )
    held_out = round(source.characters * validation_fraction)
    left = source.characters - held_out
    found: list[Passage] = []
    for document in source.documents:
        if left >= document.characters:
            found.append(Passage("train", document, 0, document.characters))
        elif left <= 0:
            found.append(Passage("validation", document, 0, document.characters))
        else:
            cut = _boundary(document, left, min(_REACH, held_out // 4))
            found += [Passage("train", document, 0, cut), Passage("validation", document, cut, document.characters)]
        left -= document.characters
    return tuple(passage for passage in found if passage.end > passage.start)


def read_passage(passage: Passage) -> Iterator[str]:
    """The passage's text, in chunks.

    Raises:
        UserError: the file cannot be read, or is not the text it was.
    """
    at = 0
    for text in read_text(passage.document.origin):
        yield text[max(0, passage.start - at) : max(0, passage.end - at)]
        at += len(text)
        if at >= passage.end:
            return


def iter_texts(
    source: Source,
    *,
    validation_fraction: float = 0.0,
    cut: Callable[[str], int | None] = safe_cut,
) -> Iterator[str]:
    """The training part in chunks that end between words, as vocabularies are learnt from it.

    A newline stands between documents where the first does not end in one (see :mod:`scratchlm.data.stream`).

    Raises:
        UserError: a file cannot be read.
    """
    last = ""
    for passage in passages(source, validation_fraction):
        if passage.part != "train":
            return
        if last and last != "\n":
            yield "\n"
        for text in cut_safely(read_passage(passage), cut, passage.document.name):
            yield text
            last = text[-1]


def _boundary(document: Document, target: int, reach: int) -> int:
    """The place to cut at or before ``target`` characters."""
    start = max(0, target - reach)
    window = "".join(read_passage(Passage("train", document, start, target + 1)))
    before, after = window[: target - start], window[target - start :]
    line = before.rfind("\n") + 1
    if line:
        return start + line
    for place in range(len(before), 0, -1):
        if before[place - 1].isspace():
            return start + place
    place = target
    while after and unicodedata.combining(after) and place > start + 1:
        place -= 1
        after = window[place - start]
    return place
