"""The key-value cache: what attention has computed for the tokens before this one."""

from __future__ import annotations

import torch
from torch import Tensor

from scratchlm.models.config import ModelConfig


class KVCache:
    """Keys and values of every layer, in memory allocated once.

    Args:
        config: the decoder's config.
        rows: sequences decoded side by side.
        capacity: tokens that each row can hold.
        device, dtype: where and how they are kept.
    """

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        capacity: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (config.layers, rows, config.key_value_heads, capacity, config.head_size)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.capacity = capacity
        self.length = 0
        """Tokens held so far, the same in every row."""

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store T new tokens' keys and values (B, K, T, D) of one layer; return all so far, (B, K, length + T, D).

        The length moves on when the whole model has seen the tokens (:meth:`advance`), not layer by layer.

        Raises:
            ValueError: the tokens do not fit.
        """
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens; {end} were given")
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, tokens: int) -> None:
        self.length += tokens

    def reset(self) -> None:
        """Forget everything; the memory is kept."""
        self.length = 0
