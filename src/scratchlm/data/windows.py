"""Windows of a token stream, gathered with one indexing operation per batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from scratchlm.data.batch import IGNORE, Batch

Ids = NDArray[np.unsignedinteger]


def sample_windows(ids: Ids, rows: int, context: int, generator: torch.Generator) -> Batch:
    """``rows`` random windows with next-token labels: ids and labels (rows, context), labels one token ahead.

    Every start from 0 to ``len(ids) - context - 1`` is equally likely, so the last token of the stream is a label too.

    Raises:
        ValueError: the stream is shorter than one window (``context + 1`` tokens).
    """
    starts = torch.randint(_starts(ids, context + 1), (rows,), generator=generator)
    return _next_token(_gather(ids, starts.numpy(), context + 1))


def every_window(ids: Ids, context: int, rows: int, stride: int = 1) -> Iterator[Batch]:
    """All windows at 0, stride, 2 stride, ... in batches of ``rows`` (the last may be smaller), for evaluation.

    The end of the stream is never left out: where the stride does not meet it, one more window ends there, with labels
    that an earlier window already had set to ``IGNORE``. So with ``stride=context`` each token but the first is
    predicted exactly once.

    Raises:
        ValueError: the stream is shorter than one window, or ``stride`` is not from 1 to ``context``.
    """
    if not 1 <= stride <= context:
        raise ValueError(f"stride {stride} would leave tokens out; give one from 1 to the context, {context}")
    last = _starts(ids, context + 1) - 1
    starts = np.arange(0, last + 1, stride)
    repeated = 0
    if starts[-1] < last:
        repeated = context - (last - int(starts[-1]))
        starts = np.append(starts, last)
    for first in range(0, len(starts), rows):
        batch = _next_token(_gather(ids, starts[first : first + rows], context + 1))
        if first + rows >= len(starts) and repeated:
            assert batch.labels is not None
            batch.labels[-1, :repeated] = IGNORE
        yield batch


def sample_blocks(ids: Ids, rows: int, context: int, generator: torch.Generator) -> Tensor:
    """``rows`` random stretches, (rows, context) int64, for masking: what is to be predicted are these tokens
    themselves, not the ones after them. Every start from 0 to ``len(ids) - context`` is equally likely.

    Raises:
        ValueError: the stream is shorter than ``context``.
    """
    starts = torch.randint(_starts(ids, context), (rows,), generator=generator)
    return torch.from_numpy(_gather(ids, starts.numpy(), context))


def every_block(ids: Ids, context: int, rows: int, stride: int = 1) -> Iterator[Tensor]:
    """All stretches at 0, stride, 2 stride, ... and the one that ends the stream, (up to ``rows``, context) int64.

    Raises:
        ValueError: the stream is shorter than ``context``, or ``stride`` is below 1.
    """
    if stride < 1:
        raise ValueError(f"stride is {stride}; give at least 1")
    last = _starts(ids, context) - 1
    starts = np.unique(np.append(np.arange(0, last + 1, stride), last))
    for first in range(0, len(starts), rows):
        yield torch.from_numpy(_gather(ids, starts[first : first + rows], context))


def _starts(ids: Ids, length: int) -> int:
    """How many stretches of ``length`` tokens there are."""
    if length < 1 or len(ids) < length:
        raise ValueError(f"a stream of {len(ids)} tokens has no window of {length}")
    return len(ids) - length + 1


def _gather(ids: Ids, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    return sliding_window_view(ids, length)[starts].astype(np.int64)


def _next_token(windows: NDArray[np.int64]) -> Batch:
    both = torch.from_numpy(windows)
    # Cloned, because a single row's slices are contiguous as they are and would share their memory.
    return Batch(ids=both[:, :-1].clone(), labels=both[:, 1:].clone())
