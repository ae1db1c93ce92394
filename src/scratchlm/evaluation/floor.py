"""The entropy floor of a text: the best that any model can do, given what a window shows.

A model sees the tokens of a window and where in the window it stands. Windows that show it the same must get the same
answer, so where the text goes on differently after the same beginning, part of the loss cannot be learned away. The
best answer is the observed distribution, its loss the conditional entropy H(next | what is seen) (Cover & Thomas 2006,
eq. 2.10), and the best guess the most frequent continuation. On a small text this floor is what a figure should be
held against; it says nothing about text outside the windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Floor:
    """The lowest cross-entropy (nats a token) and the highest accuracy that the windows allow."""

    cross_entropy: float
    accuracy: float
    tokens: int
    """Predictions counted: windows times positions."""


def next_token_floor(ids: np.ndarray, context: int) -> Floor:
    """The floor of predicting each next token in every window of ``context`` tokens (stride 1).

    ids (N,) -> over the N - context windows and their positions t: the entropy of the token after position t given the
    window's tokens up to t. A text shorter than that is one window.

    Raises:
        ValueError: fewer than two tokens.
    """
    ids = _checked(ids, 2)
    context = min(context, len(ids) - 1)
    windows = sliding_window_view(ids, context + 1)
    nats, correct = 0.0, 0
    seen = np.zeros(len(windows), dtype=np.int64)  # windows with the same tokens so far have the same number
    for t in range(context):
        seen = _joined(seen, windows[:, t])
        more_nats, more_correct = _conditional_entropy(seen, windows[:, t + 1])
        nats, correct = nats + more_nats, correct + more_correct
    return _floor(nats, correct, len(windows) * context)


def masked_token_floor(ids: np.ndarray, context: int) -> Floor:
    """The floor of filling each single gap in every window of ``context`` tokens (stride 1).

    ids (N,) -> over the N - context + 1 windows and their positions t: the entropy of the token at t given all others.
    A text shorter than a window is one window.

    Raises:
        ValueError: no tokens.
    """
    ids = _checked(ids, 1)
    context = min(context, len(ids))
    windows = sliding_window_view(ids, context)
    before = [np.zeros(len(windows), dtype=np.int64)]
    for t in range(context - 1):
        before.append(_joined(before[-1], windows[:, t]))
    nats, correct = 0.0, 0
    after = np.zeros(len(windows), dtype=np.int64)
    for t in range(context - 1, -1, -1):
        more_nats, more_correct = _conditional_entropy(_joined(before[t], after), windows[:, t])
        nats, correct = nats + more_nats, correct + more_correct
        after = _joined(after, windows[:, t])
    return _floor(nats, correct, len(windows) * context)


def _checked(ids: np.ndarray, least: int) -> Ids:
    if ids.ndim != 1 or len(ids) < least:
        raise ValueError(f"a floor needs a row of at least {least} tokens, not shape {ids.shape}")
    return ids.astype(np.int64)


def _joined(first: Ids, second: Ids) -> Ids:
    """Number the pairs (first[i], second[i]) so that equal pairs have equal numbers, from 0."""
    pairs = first * (int(second.max()) + 1) + second
    numbers: Ids = np.unique(pairs, return_inverse=True)[1].astype(np.int64)
    return numbers


def _conditional_entropy(seen: Ids, token: Ids) -> tuple[float, int]:
    """Sum over windows of -ln P(token | seen) under the observed shares, and how many the best guess gets right."""
    pairs, counts = np.unique(seen * (int(token.max()) + 1) + token, return_counts=True)
    group = pairs // (int(token.max()) + 1)
    totals = np.bincount(group, weights=counts)
    nats = float(-(counts * np.log(counts / totals[group])).sum())
    best = np.zeros(len(totals), dtype=np.int64)
    np.maximum.at(best, group, counts)
    return nats, int(best.sum())


def _floor(nats: float, correct: int, tokens: int) -> Floor:
    return Floor(cross_entropy=abs(nats / tokens), accuracy=correct / tokens, tokens=tokens)
