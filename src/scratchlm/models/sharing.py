"""Texts that share a beginning, whose states are computed once."""

from __future__ import annotations

import torch
from torch import Tensor


class Sharing:
    """How tokens that are there once become whole texts for attention, and are there once again after it.

    Args:
        opened: (B, E) int64, in each row the numbers of its tokens, 0..T-1, of which its texts consist, one after the
            other. Every token is in it.
        tokens: T.

    Raises:
        ValueError: a token is in none of the texts, or outside the row.
    """

    def __init__(self, opened: Tensor, tokens: int) -> None:
        rows, length = opened.shape
        if opened.numel() and not 0 <= int(opened.min()) <= int(opened.max()) < tokens:
            raise ValueError(f"opened tokens go from 0 to {tokens - 1} in a row of {tokens}")
        self.opened = opened
        places = torch.arange(length, device=opened.device).expand_as(opened)
        first = torch.full((rows, tokens), length, device=opened.device).scatter_reduce(1, opened, places, "amin")
        if rows and int(first.max()) == length:
            raise ValueError("a token of the row is in none of its texts")
        row = torch.arange(rows, device=opened.device)[:, None]
        self._opened, self._first = (opened + row * tokens).flatten(), (first + row * length).flatten()

    def open(self, x: Tensor) -> Tensor:
        """(B, T, N) -> (B, E, N)."""
        return x.flatten(0, 1).index_select(0, self._opened).view(*self.opened.shape, -1)

    def close(self, x: Tensor) -> Tensor:
        """(B, E, N) -> (B, T, N). The texts agree on what they share; the first one's is taken."""
        return x.flatten(0, 1).index_select(0, self._first).view(len(x), -1, x.shape[-1])
