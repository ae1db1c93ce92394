"""The decoding step in C: one call per token on the model's own weights and its key-value cache."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from typing import Any, cast

import torch
from torch import Tensor, nn

from scratchlm import kernels
from scratchlm.models import Decoder, KVCache

_ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "swiglu", "relu2")
_LAYER_FIELDS = (
    ("norm1_weight", "norm1.weight"),
    ("norm1_bias", "norm1.bias"),
    ("qkv_weight", "attention.qkv.weight"),
    ("qkv_bias", "attention.qkv.bias"),
    ("q_norm", "attention.q_norm.weight"),
    ("k_norm", "attention.k_norm.weight"),
    ("out_weight", "attention.out.weight"),
    ("out_bias", "attention.out.bias"),
    ("norm2_weight", "norm2.weight"),
    ("norm2_bias", "norm2.bias"),
    ("up_weight", "mlp.up.weight"),
    ("up_bias", "mlp.up.bias"),
    ("down_weight", "mlp.down.weight"),
    ("down_bias", "mlp.down.bias"),
)
_MODEL_FIELDS = (
    ("tokens", "embed.tokens.weight"),
    ("positions", "embed.positions.weight"),
    ("types", "embed.types.weight"),
    ("embed_norm_weight", "embed.norm.weight"),
    ("embed_norm_bias", "embed.norm.bias"),
    ("cos", "rope.cos"),
    ("sin", "rope.sin"),
    ("norm_weight", "norm.weight"),
    ("norm_bias", "norm.bias"),
    ("head_weight", "head.weight"),
    ("head_bias", "head.bias"),
)
_INTEGERS = (
    "layer_count",
    "width",
    "heads",
    "kv_heads",
    "head_size",
    "ffn",
    "vocab",
    "activation",
    "rms",
    "pre",
    "threads",
)
_PLAIN_MODULES = ("scratchlm.models.", "torch.nn.modules.")


class _Layer(Structure):
    _fields_ = [(name, c_void_p) for name, _ in _LAYER_FIELDS]


class _Model(Structure):
    _fields_ = [
        ("layers", POINTER(_Layer)),
        *((name, c_void_p) for name, _ in _MODEL_FIELDS),
        ("embedding_scale", c_float),
        ("eps", c_float),
        *((name, c_int32) for name in _INTEGERS),
    ]


def supported(model: nn.Module) -> bool:
    """Whether the C step computes what ``model`` computes: a plain decoder, in float32 on the CPU, in evaluation mode.

    A module from elsewhere (an adapter around a linear layer, say) or with hooks leaves the step to PyTorch.
    """
    if not (isinstance(model, Decoder) and kernels.available()):
        return False
    for module in model.modules():
        hooked = module._forward_hooks or module._forward_pre_hooks
        if not type(module).__module__.startswith(_PLAIN_MODULES) or hooked or module.training:
            return False
    tensors = [*model.parameters(), *model.buffers()]
    return all(t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous() for t in tensors)


class NativeStep:
    """Feeds one token per row to a :func:`supported` decoder.

    The weights are read where they are: a change to them in place is seen, and they must not be freed meanwhile (this
    object holds them).
    """

    def __init__(self, model: Decoder) -> None:
        library = kernels.library()
        config = model.config
        self._vocab = config.vocab_size
        self._tensors: list[Tensor] = []
        self._layers = (_Layer * config.layers)()
        for layer, block in zip(self._layers, model.blocks, strict=True):
            for name, path in _LAYER_FIELDS:
                setattr(layer, name, self._pointer(block, path))
        self._model = _Model(layers=ctypes.cast(self._layers, POINTER(_Layer)))
        for name, path in _MODEL_FIELDS:
            setattr(self._model, name, self._pointer(model, path))
        if config.positions == "sinusoidal":
            self._model.positions = self._pointer(model, "embed.table")
        self._model.embedding_scale, self._model.eps = config.embedding_scale, config.norm_eps
        sizes = (
            config.layers,
            config.width,
            config.heads,
            config.key_value_heads,
            config.head_size,
            config.ffn_size,
            config.vocab_size,
            _ACTIVATIONS.index(config.activation),
            config.norm == "rmsnorm",
            config.norm_placement == "pre",
            torch.get_num_threads(),
        )
        for name, size in zip(_INTEGERS, sizes, strict=True):
            setattr(self._model, name, int(size))
        self._address = ctypes.addressof(self._model)
        self._step: Any = library.decode_step
        self._step.argtypes = [c_void_p, c_void_p, c_int32, c_int64, c_int64, *([c_void_p] * 4)]
        self._step.restype = None
        self._scratch_size: Any = library.decode_scratch
        self._scratch_size.argtypes, self._scratch_size.restype = [c_void_p, c_int32, c_int64], c_int64
        self._cache: KVCache | None = None
        self._rows = 0

    def __call__(self, tokens: Sequence[int], cache: KVCache) -> Tensor:
        """Append one token to each row of the cache. tokens (B,) -> logits (B, V), valid until the next call.

        Raises:
            ValueError: a token outside the vocabulary, rows that differ from the cache's, or a full cache.
        """
        if cache is not self._cache or len(tokens) != self._rows:
            self._prepare(cache, len(tokens))
        if cache.length >= cache.capacity:
            raise ValueError(f"the cache holds {cache.capacity} tokens and is full")
        if not (min(tokens) >= 0 and max(tokens) < self._vocab):
            raise ValueError(f"token ids must be below {self._vocab}; got {max(tokens)}")
        self._ids[:] = list(tokens)
        self._step(self._address, self._ids, self._rows, cache.length, cache.capacity, *self._memory)
        cache.advance(1)
        return self._logits

    def _prepare(self, cache: KVCache, rows: int) -> None:
        """Take the addresses that stay the same from step to step."""
        if cache.keys.shape[1] != rows or not (cache.keys.is_contiguous() and cache.values.is_contiguous()):
            raise ValueError(f"the cache has {cache.keys.shape[1]} rows; tokens for {rows} were given")
        self._cache, self._rows = cache, rows
        self._ids = (c_int64 * rows)()
        self._scratch = torch.empty(self._scratch_size(self._address, rows, cache.capacity))
        self._logits = torch.empty(rows, self._vocab)
        self._memory = tuple(t.data_ptr() for t in (cache.keys, cache.values, self._scratch, self._logits))

    def _pointer(self, module: nn.Module, path: str) -> int | None:
        """The address of the tensor at ``path``, or None where the model has none."""
        found: Any = module
        for name in path.split("."):
            found = getattr(found, name, None)
            if found is None:
                return None
        self._tensors.append(cast(Tensor, found))
        return self._tensors[-1].data_ptr()
