"""Beginnings that examples have in common, such as the prompt of several completions, are computed once.

In a causal model a token's state depends on what stands before it alone, so that the same beginning has the same states
in all texts that have it. A row then holds each beginning once, and ``Batch.opened`` says of which of the row's tokens
each text consists: attention, and nothing else, sees the texts whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from scratchlm.data.batch import IGNORE, Batch
from scratchlm.data.examples import Examples
from scratchlm.data.record_rows import Task

Indices = NDArray[np.int64]
SHARING: tuple[Task, ...] = ("lm", "prompt", "chat")
"""Tasks whose examples may be computed with their beginnings shared, if the model is causal."""
_WORTH = 0.2
LEAST = 4
"""Tokens that are worth it; most texts begin with the same one or two."""


def common_beginnings(examples: Examples) -> Indices:
    """(N,): how many tokens each example has in common with the one before it, from the start on, as far as nothing is
    learned there in either; 0 where that is less than :data:`LEAST`."""
    found = np.zeros(len(examples), np.int64)
    for number in range(1, len(examples)):
        (ids, targets), (last, its) = examples[number], examples[number - 1]
        most = min(len(ids), len(last))
        same = (ids[:most] == last[:most]) & (targets[:most] == IGNORE) & (its[:most] == IGNORE)
        found[number] = most if same.all() else int(same.argmin())
    found[found < LEAST] = 0
    return found


def usual_beginning(examples: Examples) -> int:
    """How many tokens an example has in common with the one before it, in the middle of all; 0 where that is less than
    a fifth of an example, so that it would not pay to compute them once."""
    middle = int(np.median(common_beginnings(examples)))
    return middle if middle >= _WORTH * float(examples.lengths.mean()) else 0


def shared_tokens(begun: Indices, earlier: int, later: int) -> int:
    """How many tokens two examples are known to have in common: what all from the one to the other begin with, by what
    each has in common with the one before it (``begun``, of :func:`common_beginnings`). 0 where the other is not later.
    """
    return int(begun[earlier + 1 : later + 1].min()) if earlier < later else 0


def shared_batch(examples: Examples, bins: Sequence[Sequence[int] | Indices], begun: Indices) -> Batch | None:
    """The examples of each bin in a row (B, T), without what they share with the one before them in it; None where
    nothing is shared. ``documents`` (B, E) are those of the opened tokens."""
    rows = [_Row(examples, [int(number) for number in one], begun) for one in bins]
    if not any(row.saved for row in rows):
        return None
    width = max(len(row.ids) for row in rows)
    # A row's padding is opened as well, so that all its tokens have a place in attention.
    opened_width = max(len(row.opened) + width - len(row.ids) for row in rows)
    shape, opened_shape = (len(rows), width), (len(rows), opened_width)
    ids, labels = np.zeros(shape, np.int64), np.full(shape, IGNORE, np.int64)
    positions = np.zeros(shape, np.int64)
    opened, documents = np.zeros(opened_shape, np.int64), np.full(opened_shape, -1, np.int32)
    for n, row in enumerate(rows):
        own, every = len(row.ids), len(row.opened)
        ids[n, :own], labels[n, :own], positions[n, :own] = row.ids, row.labels, row.positions
        opened[n, :every], documents[n, :every] = row.opened, row.documents
        opened[n, opened_width - (width - own) :] = np.arange(own, width)  # behind: a text's own tokens are its last
    told = {"positions": positions, "documents": documents, "opened": opened}
    return Batch(
        torch.from_numpy(ids), torch.from_numpy(labels), **{name: torch.from_numpy(one) for name, one in told.items()}
    )


class _Row:
    """The tokens of some examples, each beginning once."""

    def __init__(self, examples: Examples, numbers: list[int], begun: Indices) -> None:
        ids, labels, positions, opened, documents = [], [], [], [], []
        at = self.saved = 0
        whole = np.zeros(0, np.int64)
        for place, number in enumerate(numbers):
            part, targets = examples[number]
            first = shared_tokens(begun, numbers[place - 1], number) if place else 0
            whole = np.concatenate([whole[:first], np.arange(at, at + len(part) - first)])
            ids.append(part[first:])
            labels.append(targets[first:])
            positions.append(np.arange(first, len(part)))
            opened.append(whole)
            documents.append(np.full(len(part), place))
            at += len(part) - first
            self.saved += first
        self.ids, self.labels, self.positions = (np.concatenate(one) for one in (ids, labels, positions))
        self.opened, self.documents = np.concatenate(opened), np.concatenate(documents)
