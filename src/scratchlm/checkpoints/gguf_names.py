"""What GGUF calls our tensors and settings, one family for each of llama.cpp's architectures that we can run.

The tables serve both directions. A line gives our module and theirs; several of theirs are the row blocks of ours, one
after the other. Weights and biases go by the same line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scratchlm.models import ModelConfig
from scratchlm.models.config import Activation, Norm, Positions

Turned = Literal["", "heads", "kv_heads"]


@dataclass(frozen=True)
class Line:
    """Our module's name, and theirs; ``{i}`` is the block's number.

    ``turned`` names, for each of theirs, the heads whose rows llama.cpp stores interleaved (see :func:`interleaved`).
    """

    ours: str
    theirs: tuple[str, ...]
    turned: tuple[Turned, ...] = ()


@dataclass(frozen=True)
class Family:
    """One of llama.cpp's architectures, as a point in the space of :class:`ModelConfig`."""

    name: str
    norm: Norm
    activation: Activation
    positions: Positions
    lines: tuple[Line, ...]
    encoder: bool = False
    qk_norm: bool = False
    biases: Literal["none", "some", "qkv", "all"] = "none"
    """Which biases llama.cpp takes beside those of norms: any or none of them, exactly those of q, k and v, or all."""
    head_bias: bool = False
    ties: bool = True
    """Whether it takes the token embeddings where there is no output matrix."""
    stretches: bool = False
    """Whether it reads rope_freqs.weight."""


_TOP = (Line("embed.tokens", ("token_embd",)), Line("norm", ("output_norm",)), Line("head", ("output",)))
_COMMON = (
    Line("blocks.{i}.norm1", ("blk.{i}.attn_norm",)),
    Line("blocks.{i}.attention.out", ("blk.{i}.attn_output",)),
    Line("blocks.{i}.attention.q_norm", ("blk.{i}.attn_q_norm",)),
    Line("blocks.{i}.attention.k_norm", ("blk.{i}.attn_k_norm",)),
    Line("blocks.{i}.norm2", ("blk.{i}.ffn_norm",)),
    Line("blocks.{i}.mlp.down", ("blk.{i}.ffn_down",)),
)
_THREE = ("blk.{i}.attn_q", "blk.{i}.attn_k", "blk.{i}.attn_v")
_SPLIT = Line("blocks.{i}.attention.qkv", _THREE)
_TURNED = Line("blocks.{i}.attention.qkv", _THREE, ("heads", "kv_heads", ""))
_GATED = Line("blocks.{i}.mlp.up", ("blk.{i}.ffn_gate", "blk.{i}.ffn_up"))
_UP = Line("blocks.{i}.mlp.up", ("blk.{i}.ffn_up",))

_ALL = (
    Family("llama", "rmsnorm", "swiglu", "rotary", (*_TOP, *_COMMON, _TURNED, _GATED), biases="some", stretches=True),
    Family("qwen2", "rmsnorm", "swiglu", "rotary", (*_TOP, *_COMMON, _SPLIT, _GATED), biases="qkv", head_bias=True),
    Family("qwen3", "rmsnorm", "swiglu", "rotary", (*_TOP, *_COMMON, _SPLIT, _GATED), qk_norm=True),
    Family("arcee", "rmsnorm", "relu2", "rotary", (*_TOP, *_COMMON, _TURNED, _UP), stretches=True),
    # Its activation, xIELU, is the squared ReLU when its parameters are those of gguf_config.XIELU.
    Family("apertus", "rmsnorm", "relu2", "rotary", (*_TOP, *_COMMON, _SPLIT, _UP), qk_norm=True, ties=False),
    Family("nemotron", "layernorm", "relu2", "rotary", (*_TOP, *_COMMON, _SPLIT, _UP), biases="some", ties=False),
    Family("starcoder2", "layernorm", "gelu_tanh", "rotary", (*_TOP, *_COMMON, _SPLIT, _UP), biases="all"),
    Family(
        "gpt2",
        "layernorm",
        "gelu_tanh",
        "learned",
        (
            *_TOP,
            *_COMMON,
            Line("embed.positions", ("position_embd",)),
            Line("blocks.{i}.attention.qkv", ("blk.{i}.attn_qkv",)),
            _UP,
        ),
        biases="all",
    ),
    Family(
        "bert",
        "layernorm",
        "gelu",
        "learned",
        (
            Line("embed.tokens", ("token_embd",)),
            Line("embed.positions", ("position_embd",)),
            Line("embed.types", ("token_types",)),
            Line("embed.norm", ("token_embd_norm",)),
            Line("blocks.{i}.norm1", ("blk.{i}.attn_output_norm",)),
            Line("blocks.{i}.norm2", ("blk.{i}.layer_output_norm",)),
            Line("blocks.{i}.attention.out", ("blk.{i}.attn_output",)),
            Line("blocks.{i}.mlp.down", ("blk.{i}.ffn_down",)),
            _SPLIT,
            _UP,
        ),
        encoder=True,
    ),
)
FAMILIES: Mapping[str, Family] = {family.name: family for family in _ALL}


@dataclass(frozen=True)
class Source:
    """Where one of our tensors comes from: their names, and for each the rows' order (None: as they are)."""

    names: tuple[str, ...]
    orders: tuple[NDArray[np.int64] | None, ...]


def source_of(family: Family, config: ModelConfig, ours: str) -> Source | None:
    """What the tensor ``ours`` (such as "blocks.3.attention.qkv.weight") is called in a GGUF file; None: nothing."""
    module, _, kind = ours.rpartition(".")
    parts = module.split(".")
    number = parts[1] if parts[0] == "blocks" else ""
    pattern = module.replace(f"blocks.{number}.", "blocks.{i}.", 1) if number else module
    for line in family.lines:
        if line.ours == pattern:
            names = tuple(f"{theirs.replace('{i}', number)}.{kind}" for theirs in line.theirs)
            orders = tuple(_order(config, which) for which in line.turned) or (None,) * len(names)
            return Source(names, orders)
    return None


def _order(config: ModelConfig, which: Turned) -> NDArray[np.int64] | None:
    if not which:
        return None
    return interleaved(config.heads if which == "heads" else config.key_value_heads, config.head_size)


def interleaved(heads: int, size: int) -> NDArray[np.int64]:
    """(heads * size,): our row r is row ``interleaved(...)[r]`` of llama.cpp's.

    Its rotation turns neighbouring coordinates 2j and 2j+1; ours (Hugging Face's) turns j and j + size/2. So within
    each head our j-th row is its 2j-th, our (j + size/2)-th its (2j+1)-th.
    """
    return np.arange(heads * size).reshape(heads, size // 2, 2).swapaxes(1, 2).reshape(-1)


def known_extras(names: Iterable[str]) -> set[str]:
    """Tensors that carry no weights of ours: frequencies (read with the config) that are computed anyway."""
    return {name for name in names if name == "rope_freqs.weight" or name.endswith(".attn_rot_embd.weight")}
