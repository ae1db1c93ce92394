"""The small parts of a model: norms, activations and the three ways of telling positions apart."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scratchlm import kernels
from scratchlm.models.config import ModelConfig


class LayerNorm(nn.Module):
    """Zero mean and unit variance over the last dimension, then a learned scale and shift (Ba et al. 2016, eq. 4).

    (..., C) -> (..., C).
    """

    def __init__(self, size: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return kernels.layer_norm(x, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Unit root mean square over the last dimension, then a learned scale (Zhang & Sennrich 2019, eq. 4).

    (..., C) -> (..., C).
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return kernels.rms_norm(x, self.weight, self.eps)


def build_norm(config: ModelConfig, size: int | None = None) -> nn.Module:
    """The config's norm over the last dimension of ``size`` (default: the width)."""
    size = config.width if size is None else size
    if config.norm == "rmsnorm":
        return RMSNorm(size, config.norm_eps)
    return LayerNorm(size, config.norm_eps, config.norm_bias)


def activate(x: Tensor, activation: str) -> Tensor:
    """The feed-forward layer's non-linearity.

    ``swiglu`` (Shazeer 2020, eq. 6) takes (..., 2F), gate first, and gives (..., F); the others keep the shape.
    """
    if activation == "gelu":
        return kernels.gelu(x)
    if activation == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
    if activation == "relu":
        return F.relu(x)
    if activation == "relu2":  # the squared ReLU of Primer (So et al. 2021)
        return F.relu(x).square()
    if activation == "swiglu":
        return kernels.swiglu(x)
    raise ValueError(f"unknown activation {activation!r}")


def sinusoidal_table(length: int, width: int) -> Tensor:
    """The fixed position table of Vaswani et al. 2017, section 3.5. (length, width).

    Even columns: PE(pos, 2i) = sin(pos / 10000^(2i/width)); odd columns: PE(pos, 2i+1) = cos of the same angle.
    """
    frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(length)[:, None] * frequencies[None, :]
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


def rotary_frequencies(head_size: int, theta: float, scaling: dict[str, Any] | None = None) -> Tensor:
    """How far each pair of a head's coordinates turns from one position to the next, in radians. (head_size / 2,).

    ``linear`` scaling (Chen et al. 2023) divides all of them by its factor. ``llama3`` (Llama 3.1's) divides those that
    turn fewer than ``low_freq_factor`` times within the original context, keeps those that turn more than
    ``high_freq_factor`` times, and passes from the one to the other in between, linearly in the number of turns.
    """
    frequencies: Tensor = 1.0 / theta ** (torch.arange(0, head_size, 2).float() / head_size)
    if scaling is None:
        return frequencies
    slowed: Tensor = frequencies / scaling["factor"]
    if scaling["type"] == "linear":
        return slowed
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_context"] * frequencies / (2 * math.pi)
    kept: Tensor = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return kept * frequencies + (1.0 - kept) * slowed


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021): each pair of a head's coordinates turns by an angle that grows with position.

    Coordinates i and i + D/2 form pair i, the convention of the published Llama and Qwen weights.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_size: int, theta: float, context: int, scaling: dict[str, Any] | None = None) -> None:
        super().__init__()
        self._shape = (head_size, theta, context, scaling)
        self.fill_tables()

    def fill_tables(self) -> None:
        """Compute the tables anew, on the default device."""
        head_size, theta, context, scaling = self._shape
        frequencies = rotary_frequencies(head_size, theta, scaling)
        angles = torch.arange(context).float()[:, None] * frequencies[None, :]
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (T,) or (B, T) -> cosines and sines, each (T, D/2) or (B, T, D/2)."""
        return self.cos[positions], self.sin[positions]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each head's pairs. x (B, T, H, D), cos and sin (T, D/2) or (B, T, D/2) -> (B, T, H, D)."""
    cos, sin = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Embedding(nn.Module):
    """Tokens and their places become vectors. ids (B, T) -> (B, T, C).

    The modules are named for what they hold: ``tokens``, ``positions`` (learned positions only), ``types`` (segment
    embeddings, where the config has them) and ``norm``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions: nn.Embedding | None = None
        if config.positions == "learned":
            self.positions = nn.Embedding(config.context + config.position_offset, config.width)
        self.fill_tables()
        self.types = nn.Embedding(config.token_types, config.width) if config.token_types else None
        self.norm = build_norm(config) if config.embedding_norm else None
        self.dropout = nn.Dropout(config.dropout if config.embedding_dropout else 0.0)

    def fill_tables(self) -> None:
        """Compute the fixed positions anew, on the default device."""
        if self.config.positions == "sinusoidal":
            self.register_buffer("table", sinusoidal_table(self.config.context, self.config.width), persistent=False)

    def forward(self, ids: Tensor, positions: Tensor, types: Tensor | None = None) -> Tensor:
        x: Tensor = self.tokens(ids)
        if self.config.embedding_scale != 1.0:
            x = x * self.config.embedding_scale
        if self.positions is not None:
            offset = self.config.position_offset
            x = x + self.positions(positions + offset if offset else positions)
        elif self.config.positions == "sinusoidal":
            x = x + self.get_buffer("table")[positions].to(x.dtype)
        if self.types is not None:
            x = x + self.types(torch.zeros_like(ids) if types is None else types)
        if self.norm is not None:
            x = self.norm(x)
        return self.dropout(x) if self.dropout.p else x
