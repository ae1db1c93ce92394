"""Texts that share a beginning, whose states are computed once."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from scratchlm.kernels import Text


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
        self._texts: list[Text] | None = None

    def open(self, x: Tensor) -> Tensor:
        """(B, T, N) -> (B, E, N)."""
        return x.flatten(0, 1).index_select(0, self._opened).view(*self.opened.shape, -1)

    def close(self, x: Tensor) -> Tensor:
        """(B, E, N) -> (B, T, N). The texts agree on what they share; the first one's is taken."""
        return x.flatten(0, 1).index_select(0, self._first).view(len(x), -1, x.shape[-1])

    def texts(self, bounds: Tensor) -> list[Text] | None:
        """The texts, each with the tokens that are its own alone: those that no text before it has.

        Args:
            bounds: (texts + 1), where they begin among all the opened tokens, counted through.

        None where a text's own tokens are not its last ones, one after another.
        """
        if self._texts is None:
            self._texts = self._own(bounds.tolist())
        return self._texts or None

    def _own(self, bounds: list[int]) -> list[Text]:
        found = []
        is_own = self._first[self._opened] == torch.arange(len(self._opened))
        for start, end in itertools.pairwise(bounds):
            own = int(is_own[start:end].sum())
            if own == 0:
                continue
            tokens = self._opened[start:end]
            first = int(tokens[-own])
            if not torch.equal(tokens[-own:], torch.arange(first, first + own)) or not is_own[end - own : end].all():
                return []
            found.append(Text(first, first + own, tokens))
        return found
