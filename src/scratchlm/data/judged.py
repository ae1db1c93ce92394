"""Texts that are judged as wholes: how a row becomes token ids, and at which of them a reward is read.

A decoder's reward is read at the last token of the completion itself, before what ends it (EOS, or the template's end
of a turn): so it is the same whether a completion was finished or stopped, and for a text that someone else encoded
without an end. An encoder's is read at its first token, as a class is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scratchlm.data.batch import IGNORE
from scratchlm.data.examples import Examples, RecordEncoder
from scratchlm.data.record_rows import BadRow, Record
from scratchlm.data.records import Records
from scratchlm.tokenizers import Tokenizer


class Judged(NamedTuple):
    """One text to be judged."""

    ids: NDArray[np.uint32]
    place: int
    """The token at which its reward is read; -1 where the text has none."""
    truncated: bool


def at_reading_place(examples: Examples, ends: Collection[int] | None, first: int = 0) -> Examples:
    """The same examples whose one target each, where its reward is read, is its number, counted from ``first``.

    Args:
        ends: ids of tokens that may stand behind a text to end it; None for an encoder.
    """
    places = examples.offsets[:-1]
    if ends is not None:
        learned = np.flatnonzero(examples.targets != IGNORE)
        last = learned[np.searchsorted(learned, examples.offsets[1:]) - 1]  # each example has one at least
        places = last + ~np.isin(examples.targets[last], list(ends))
    targets = np.full_like(examples.targets, IGNORE)
    targets[places] = np.arange(first, first + len(examples))
    return replace(examples, targets=targets)


def encode_judged(rows: Sequence[Record], tokenizer: Tokenizer, max_length: int, encoder: bool) -> list[Judged]:
    """The completions of prompts or chats, one of ``texts`` in each row, encoded as the pairs of a training are.

    Raises:
        UserError: something is not in the vocabulary, or there is no template for a chat.
        BadRow: a chat that its template refuses.
    """
    way = RecordEncoder(Records("", "", "preference", "", {}, rows), tokenizer, max_length, False, not encoder)
    found, cut = list[Judged](), 0
    for row, parts in zip(rows, way.rows(), strict=True):
        if isinstance(parts, BadRow):
            if row.messages:
                raise parts
            # No token, or a single one, from which nothing follows that could be learned.
            text = tokenizer.encode(row.prompt + row.texts[0])
            found.append(Judged(np.array(text, np.uint32), len(text) - 1, False))
            continue
        ((ids, targets),) = parts
        place = 0
        if not encoder:
            last = int(np.flatnonzero(np.asarray(targets) != IGNORE)[-1])
            place = last + (targets[last] not in tokenizer.eos_ids)
        silent = not encoder and place < len(tokenizer.prefix_ids)
        found.append(Judged(np.asarray(ids, np.uint32), -1 if silent else place, way.truncated > cut))
        cut = way.truncated
    return found
