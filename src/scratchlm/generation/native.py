"""The whole forward pass as one call of native code: many sequences end to end, in float32, 8 or 4 bits."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from scratchlm import kernels
from scratchlm.generation.weights import Weights
from scratchlm.kernels.quantised import PackedMatrix, Precision
from scratchlm.models import ModelConfig

NativePrecision = Literal["fp32", "int8", "int4"]
_ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "swiglu", "relu2")
_LAYER_TENSORS = {
    "norm1_weight": "norm1.weight",
    "norm1_bias": "norm1.bias",
    "q_norm": "attention.q_norm.weight",
    "k_norm": "attention.k_norm.weight",
    "norm2_weight": "norm2.weight",
    "norm2_bias": "norm2.bias",
}
_LAYER_MATRICES = {"qkv": "attention.qkv", "out": "attention.out", "up": "mlp.up", "down": "mlp.down"}
_MODEL_TENSORS = {
    "positions": "embed.positions.weight",
    "types": "embed.types.weight",
    "embed_norm_weight": "embed.norm.weight",
    "embed_norm_bias": "embed.norm.bias",
    "cos": "rope.cos",
    "sin": "rope.sin",
    "norm_weight": "norm.weight",
    "norm_bias": "norm.bias",
}
_INTEGERS = ("layer_count", "width", "heads", "kv_heads", "head_size", "ffn", "activation", "rms", "pre", "causal")

INT8_SHORT = 3
"""The native code's number for 8 bits with activations of 7, which is faster for many tokens at once."""
SHARED = 2**20
"""Products of a layer, in multiply-adds, from which on waking other threads costs less than they save."""


class _Matrix(Structure):
    _fields_ = [("data", c_void_p), ("bias", c_void_p), ("rows", c_int64), ("columns", c_int64), ("kind", c_int64)]


class _Layer(Structure):
    _fields_ = [
        *((name, c_void_p) for name in _LAYER_TENSORS),
        *((name, _Matrix) for name in _LAYER_MATRICES),
        ("window", c_int64),
    ]


class _Model(Structure):
    _fields_ = [
        ("layers", POINTER(_Layer)),
        ("tokens", _Matrix),
        ("head", _Matrix),
        *((name, c_void_p) for name in _MODEL_TENSORS),
        ("embedding_scale", c_float),
        ("eps", c_float),
        *((name, c_int32) for name in _INTEGERS),
    ]


class _Call(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("tokens", "dots", "segments")),
        *((name, c_void_p) for name in ("ids", "positions", "first", "counts", "slots_of", "starts")),
        ("wanted_count", c_int64),
        ("wanted", c_void_p),
        *((name, c_int64) for name in ("slots", "capacity", "one_layer")),
        *((name, c_void_p) for name in ("keys", "values", "logits", "states", "work")),
        ("threads", c_int64),
        ("stop", c_void_p),
    ]


@dataclass
class Segment:
    """New tokens of one sequence, which go to the end of what its slot of the cache holds."""

    slot: int
    ids: Sequence[int]
    start: int
    """Tokens that the slot holds already."""
    prompt: bool = True
    """Whether these are a piece of a prompt; generated tokens are computed by dot products (see forward.c)."""
    wanted: Literal["last", "all", "none"] = "last"
    """Which tokens' logits to compute."""


class Stop:
    """Asks a pass that is being computed to end early; set from any thread."""

    def __init__(self) -> None:
        self._asked = c_int32(0)

    @property
    def address(self) -> int:
        """Where native code looks."""
        return ctypes.addressof(self._asked)

    def set(self) -> None:
        self._asked.value = 1

    def clear(self) -> None:
        self._asked.value = 0


class GivenUpError(Exception):
    """A pass has ended early. What it has put at its segments' places in the cache counts for nothing."""


class NativeCache:
    """Keys and values of ``slots`` sequences of up to ``capacity`` tokens, laid out for the native code.

    The memory is reserved at once and taken from the system page by page as tokens come.
    """

    def __init__(self, config: ModelConfig, slots: int, capacity: int, *, layers: int | None = None) -> None:
        width = _function("cache_width", [], c_int64)()
        self.slots, self.capacity = slots, -(-capacity // width) * width
        shape = (config.layers if layers is None else layers, slots, config.key_value_heads)
        strips = -(-config.head_size // width)
        self.keys = torch.empty(*shape, self.capacity // width, config.head_size, width)
        self.values = torch.empty(*shape, strips, self.capacity, width)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Make the first ``tokens`` tokens of one slot those of another, too."""
        blocks = -(-tokens // self.keys.shape[-1])
        self.keys[:, target, :, :blocks] = self.keys[:, source, :, :blocks]
        self.values[:, target, :, :, :tokens] = self.values[:, source, :, :, :tokens]


class NativeModel:
    """A decoder's or an encoder's forward pass.

    Args:
        weights: the tensors; float32 ones are read where they lie, and kept alive by this object.
        precision: of the matrices. "int4" keeps embeddings and the projection to the vocabulary in 8 bits.
    """

    def __init__(self, weights: Weights, precision: NativePrecision = "fp32") -> None:
        self.config = config = weights.config
        self.precision = precision
        self._weights = weights
        self._kept: list[Tensor] = []
        self._matrices: dict[str, PackedMatrix] = {}
        self._layers = (_Layer * config.layers)()
        for number, layer in enumerate(self._layers):
            path = f"blocks.{number}."
            for field, name in _LAYER_TENSORS.items():
                setattr(layer, field, self._pointer(path + name))
            for field, name in _LAYER_MATRICES.items():
                setattr(layer, field, self._matrix(path + name, precision))
            windowed = config.sliding_window is not None and number >= config.window_from_layer
            layer.window = config.sliding_window if windowed else 0
        around: NativePrecision = "fp32" if precision == "fp32" else "int8"
        self._model = _Model(layers=self._layers)
        self._model.tokens = self._matrix("embed.tokens", around)
        if config.head == "linear":
            self._model.head = self._matrix("head", around)
        for field, name in _MODEL_TENSORS.items():
            setattr(self._model, field, self._pointer(name))
        if config.position_offset:
            self._model.positions += 4 * config.width * config.position_offset
        self._model.embedding_scale, self._model.eps = config.embedding_scale, config.norm_eps
        sizes = (
            *(config.layers, config.width, config.heads, config.key_value_heads, config.head_size, config.ffn_size),
            *(_ACTIVATIONS.index(config.activation), config.norm == "rmsnorm", config.norm_placement == "pre"),
            config.architecture == "decoder",
        )
        for field, size in zip(_INTEGERS, sizes, strict=True):
            setattr(self._model, field, int(size))
        self._layer_size = sum(m.rows * m.columns for m in (getattr(self._layers[0], f) for f in _LAYER_MATRICES))
        self._address = ctypes.addressof(self._model)
        self._forward = _function("forward", [c_void_p, c_void_p, c_int64], c_int64)
        self._work_size = _function("forward_work", [c_void_p, c_void_p, c_int64], c_int64)
        self._work = torch.empty(0, dtype=torch.uint8)
        self._logits = torch.empty(0)

    @property
    def bytes(self) -> int:
        """Memory that the packed matrices take; float32 ones belong to the model."""
        return sum(matrix.bytes for matrix in self._matrices.values())

    def logits(self, segments: Sequence[Segment], cache: NativeCache, stop: Stop | None = None) -> Tensor:
        """Feed the segments; the logits of the wanted tokens, (wanted, V), in the order of the segments.

        The result is valid until the next call.

        Raises:
            GivenUpError: ``stop`` was set before half of the layers were computed.
            ValueError: a token outside the vocabulary, a slot or place outside the cache, an empty segment.
        """
        order = sorted(range(len(segments)), key=lambda i: segments[i].prompt)  # dot products come first
        wanted: list[list[int]] = [[] for _ in segments]
        first = 0
        for i in order:
            count = len(segments[i].ids)
            kind = segments[i].wanted
            wanted[i] = (
                [] if kind == "none" else list(range(first + (count - 1 if kind == "last" else 0), first + count))
            )
            first += count
        rows = [row for part in wanted for row in part]
        size = len(rows) * self.config.vocab_size
        if self._logits.numel() < size:
            self._logits = torch.empty(size)
        out = self._logits[:size].view(len(rows), self.config.vocab_size)
        self._call([segments[i] for i in order], cache, rows, out, None, stop)
        return out

    def states(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """The states after the final norm, (tokens, C), of whole sequences one after the other; nothing is kept.

        Raises:
            ValueError: a token outside the vocabulary, or a sequence that is empty or longer than the context.
        """
        longest = max(map(len, sequences))
        cache = NativeCache(self.config, len(sequences), longest, layers=1)
        out = torch.empty(sum(map(len, sequences)), self.config.width)
        self._call([Segment(slot, ids, 0) for slot, ids in enumerate(sequences)], cache, [], None, out)
        return out

    def _call(
        self,
        segments: list[Segment],
        cache: NativeCache,
        wanted: list[int],
        logits: Tensor | None,
        states: Tensor | None,
        stop: Stop | None = None,
    ) -> None:
        ids: list[int] = []
        positions: list[int] = []
        firsts: list[int] = []
        dots = longest = 0
        for part in segments:
            end = part.start + len(part.ids)
            if not part.ids or not 0 <= part.slot < cache.slots or part.start < 0:
                raise ValueError(f"an empty segment, or a slot outside 0..{cache.slots - 1}: {part}")
            if end > min(cache.capacity, self.config.context):
                raise ValueError(f"{end} tokens do not fit a context of {min(cache.capacity, self.config.context)}")
            firsts.append(len(ids))
            ids += part.ids
            positions += range(part.start, end)
            dots += 0 if part.prompt else len(part.ids)
            longest = max(longest, end)
        if min(ids) < 0 or max(ids) >= self.config.vocab_size:
            raise ValueError(f"token ids go from 0 to {self.config.vocab_size - 1}, not from {min(ids)} to {max(ids)}")
        counts, slots, starts = zip(*((len(s.ids), s.slot, s.start) for s in segments), strict=True)
        numbers = [*ids, *positions, *firsts, *counts, *slots, *starts, *wanted]
        table = (c_int64 * len(numbers))(*numbers)
        at = ctypes.addressof(table)
        call = _Call(tokens=len(ids), dots=dots, segments=len(segments), wanted_count=len(wanted))
        for field, length in (
            *(("ids", len(ids)), ("positions", len(ids))),
            *((name, len(segments)) for name in ("first", "counts", "slots_of", "starts")),
            ("wanted", len(wanted)),
        ):
            setattr(call, field, at)
            at += 8 * length
        call.slots, call.capacity, call.one_layer = cache.slots, cache.capacity, len(cache.keys) == 1
        call.keys, call.values = cache.keys.data_ptr(), cache.values.data_ptr()
        call.logits = None if logits is None else logits.data_ptr()
        call.states = None if states is None else states.data_ptr()
        call.threads = torch.get_num_threads() if len(ids) * self._layer_size >= SHARED else 1
        size = self._work_size(self._address, ctypes.byref(call), longest)
        if self._work.numel() < size + 64:
            self._work = torch.empty(size + 64, dtype=torch.uint8)
        call.work = -(-self._work.data_ptr() // 64) * 64
        call.stop = None if stop is None else stop.address
        if not self._forward(self._address, ctypes.byref(call), longest):
            raise GivenUpError

    def _pointer(self, name: str) -> int | None:
        tensor = self._weights.tensor(name)
        if tensor is None:
            return None
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _matrix(self, name: str, precision: NativePrecision) -> _Matrix:
        bias = self._pointer(f"{name}.bias")
        if precision == "fp32":
            weight = self._weights.tensor(f"{name}.weight")
            assert weight is not None
            self._kept.append(weight)
            return _Matrix(weight.data_ptr(), bias, *weight.shape, 0)
        packed = self._packed(name, precision)
        short = self.config.architecture == "encoder" and packed.precision == "int8"
        return _Matrix(packed.data.data_ptr(), bias, packed.rows, packed.columns, INT8_SHORT if short else packed.kind)

    def _packed(self, name: str, precision: Precision) -> PackedMatrix:
        if name == "head" and self.config.tied_embeddings:
            name = "embed.tokens"
        if name not in self._matrices:
            self._matrices[name] = self._weights.packed(f"{name}.weight", precision)
        return self._matrices[name]


def _function(name: str, arguments: list[Any], result: Any) -> Any:
    function = getattr(kernels.library(), name)
    function.argtypes, function.restype = arguments, result
    return function
