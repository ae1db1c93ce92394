"""Named shapes. The tutorial's two models, the original Transformer, and a modern small decoder with one size dial."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from scratchlm.errors import UserError
from scratchlm.models.config import ModelConfig

_TUTORIAL: dict[str, Any] = {
    "width": 128,
    "layers": 4,
    "heads": 4,
    "dropout": 0.1,
    "activation": "gelu",
    "norm": "layernorm",
    "norm_placement": "pre",
    "positions": "learned",
    "qkv_bias": False,
}


def _tinybert() -> dict[str, Any]:
    """Chapter 3 of the tutorial."""
    return _TUTORIAL | {"architecture": "encoder", "context": 8}


def _tinygpt() -> dict[str, Any]:
    """Chapter 4 of the tutorial."""
    return _TUTORIAL | {"architecture": "decoder", "context": 64}


def _transformer() -> dict[str, Any]:
    """The original Transformer's design (Vaswani et al. 2017, table 3) at a size that a laptop trains in minutes."""
    return {
        "architecture": "seq2seq",
        "context": 64,
        "width": 128,
        "layers": 2,
        "heads": 4,
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "embedding_dropout": True,
        "activation": "relu",
        "norm_placement": "post",
        "final_norm": False,
        "positions": "sinusoidal",
        "qkv_bias": False,
        "out_bias": False,
        "head_bias": False,
        "tied_embeddings": True,
        # Embeddings start at width^-0.5 so that, scaled by width^0.5, they match the positions' size (section 3.4).
        "init_std": 128**-0.5,
        "embedding_scale": 128**0.5,
    }


def modern(depth: int) -> dict[str, Any]:
    """The size dial: ``depth`` blocks, 64 channels of width for each, heads of 64."""
    return {
        "architecture": "decoder",
        "context": 256,
        "width": 64 * depth,
        "layers": depth,
        "heads": depth,
        "ffn_width": 64 * depth * 4,
        "positions": "rotary",
        "norm": "rmsnorm",
        "qk_norm": True,
        "activation": "relu2",
        "out_bias": False,
        "ffn_bias": False,
        "head_bias": False,
        "dropout": 0.0,
        "init_std": 0.02,
        "zero_residual_init": True,
    }


def _shakespeare() -> dict[str, Any]:
    """Under a million parameters, context 64: the shape of the Tiny Shakespeare benchmark."""
    return modern(2) | {"context": 64, "heads": 4}


PRESETS: dict[str, Callable[[], dict[str, Any]]] = {
    "tinybert": _tinybert,
    "tinygpt": _tinygpt,
    "transformer": _transformer,
    "modern": lambda: modern(4),
    "shakespeare": _shakespeare,
}


def model_preset(name: str, vocab_size: int, **overrides: Any) -> ModelConfig:
    """The preset's config for a vocabulary of ``vocab_size`` tokens, with some fields changed.

    ``depth`` is an override that only ``modern`` takes: it sets width, layers, heads and ffn_width together.

    Raises:
        UserError: no such preset, or a value that a field does not take.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(PRESETS)}"
        raise UserError(f"there is no preset {name!r}; {hint}")
    fields = PRESETS[name]()
    if "depth" in overrides:
        depth = overrides.pop("depth")
        if name != "modern":
            raise UserError(f"depth is the size dial of the preset 'modern'; {name!r} takes layers and width")
        if not isinstance(depth, int) or depth < 1:
            raise UserError(f"depth is {depth!r}; give a whole number of at least 1")
        fields |= modern(depth)
    if name == "transformer" and isinstance(overrides.get("width"), int) and overrides["width"] > 0:
        fields |= {"embedding_scale": overrides["width"] ** 0.5, "init_std": overrides["width"] ** -0.5}
    return ModelConfig(vocab_size=vocab_size, **(fields | overrides))
