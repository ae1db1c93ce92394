"""Decoding, apart from sampling: rows of tokens go in, the logits of what comes next come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scratchlm.generation.native import NativeStep, supported
from scratchlm.models import Decoder, KVCache, ModelConfig, Seq2Seq


class Decoding:
    """Rows of equal length that grow together, one token at a time.

    The window is what the model sees: at most ``context`` tokens, at positions that count from 0. When it is full and
    another token comes, its last ``context // 2`` tokens, the new one among them, become the new window. That is one
    prefill for every ``context // 2`` tokens, and a rule that needs no cache to state: with and without one the model
    sees the same tokens at the same positions, so the logits are the same.

    Args:
        model: a decoder, or an encoder-decoder with ``memory``.
        prompt: (B, T) int64, T >= 1; longer than the context, its end is taken.
        memory: (B, S, C), the encoder's states of an encoder-decoder's source.
        use_cache: False computes the whole window anew for each token (to check against).
    """

    def __init__(
        self, model: Decoder | Seq2Seq, prompt: Tensor, *, memory: Tensor | None = None, use_cache: bool = True
    ) -> None:
        self._model, self._memory, self._use_cache = model, memory, use_cache
        self._context = model.config.context
        self._rows: list[list[int]] = prompt[:, -self._context :].tolist()
        self._device = prompt.device
        self._step = NativeStep(model) if use_cache and isinstance(model, Decoder) and supported(model) else None
        self._cache: KVCache | None = None
        self.logits = self._prefill()
        """(B, V): what comes next in each row."""

    def push(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row; return the new logits (B, V), valid until the next call."""
        for row, token in zip(self._rows, tokens, strict=True):
            row.append(token)
        if len(self._rows[0]) > self._context:
            kept = max(self._context // 2, 1)
            self._rows = [row[-kept:] for row in self._rows]
            self.logits = self._prefill()
        elif self._cache is None:
            self.logits = self._prefill()
        elif self._step is not None:
            self.logits = self._step(tokens, self._cache)
        else:
            self.logits = self._forward(torch.tensor(tokens, device=self._device)[:, None], self._cache)
        return self.logits

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only (indices into the present ones; one may be named several times)."""
        self._rows = [list(self._rows[row]) for row in rows]
        index = torch.tensor(rows, device=self._device)
        self.logits = self.logits[index]
        if self._memory is not None:
            self._memory = self._memory[index]
        if self._cache is not None:
            self._cache = _select(self._cache, index, self._model.config)

    def _prefill(self) -> Tensor:
        ids = torch.tensor(self._rows, device=self._device)
        if not self._use_cache:
            return self._forward(ids, None)
        if self._cache is None:
            like = self._model.head.weight
            self._cache = KVCache(self._model.config, len(self._rows), self._context, like.device, like.dtype)
        self._cache.reset()
        return self._forward(ids, self._cache)

    def _forward(self, ids: Tensor, cache: KVCache | None) -> Tensor:
        """Logits of the last position, (B, V): the projection to the vocabulary is made for that one only."""
        stack: Any = self._model
        if isinstance(self._model, Seq2Seq):
            hidden = self._model.decoder.hidden(ids, cache=cache, memory=self._memory)
        else:
            hidden = stack.hidden(ids, cache=cache)
        logits: Tensor = self._model.head(hidden[:, -1])
        return logits.float()


def _select(cache: KVCache, rows: Tensor, config: ModelConfig) -> KVCache:
    """A cache of these rows, as full as the given one."""
    selected = KVCache(config, len(rows), cache.capacity, cache.keys.device, cache.keys.dtype)
    selected.keys, selected.values, selected.length = cache.keys[:, rows], cache.values[:, rows], cache.length
    return selected
