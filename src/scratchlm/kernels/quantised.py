"""Weight matrices in 8 or 4 bits: packed once, multiplied with activations of 8 bits, in C or in plain PyTorch.

Blocks of 32 inputs share a scale (and with 4 bits a minimum), as in GGUF's Q8_0 and Q4_1. ``native/quantised.h`` tells
how the bytes lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from scratchlm.kernels.build import available, call

Precision = Literal["int8", "int4"]
PANEL, BLOCK = 8, 32
KINDS: dict[str, int] = {"int8": 1, "int4": 2}
BLOCK_BYTES = {"int8": PANEL * BLOCK + 2 * PANEL, "int4": PANEL * BLOCK // 2 + 4 * PANEL}
GGUF_TYPES: dict[str, tuple[int, Precision]] = {"Q8_0": (0, "int8"), "Q4_0": (1, "int4"), "Q4_1": (2, "int4")}
"""What can be packed without rounding anything again."""


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix W (rows, columns) in ``precision``; ``data`` is uint8 (panels, blocks, bytes of a block)."""

    data: Tensor
    precision: Precision
    rows: int
    columns: int

    @classmethod
    def empty(cls, precision: Precision, rows: int, columns: int) -> PackedMatrix:
        shape = (-(-rows // PANEL), -(-columns // BLOCK), BLOCK_BYTES[precision])
        return cls(torch.empty(shape, dtype=torch.uint8), precision, rows, columns)

    @property
    def bytes(self) -> int:
        return self.data.numel()

    @property
    def kind(self) -> int:
        """The native code's number for the precision."""
        return KINDS[self.precision]


def pack(weight: Tensor, precision: Precision) -> PackedMatrix:
    """Round a matrix (N, K) to ``precision``.

    int8 is symmetric, each block's largest weight at 127. int4 divides each block's range in 15 steps, then moves scale
    and minimum to the least squares fit as long as that lowers the error.

    Raises:
        ValueError: not a matrix.
    """
    if weight.dim() != 2:
        raise ValueError(f"only matrices are packed, not a tensor of shape {tuple(weight.shape)}")
    weight = weight.detach().to("cpu", torch.float32).contiguous()
    rows, columns = weight.shape
    if not available():
        return PackedMatrix(_pack_plain(weight, precision), precision, rows, columns)
    packed = PackedMatrix.empty(precision, rows, columns)
    call("pack_matrix", packed.kind, rows, columns, weight, packed.data)
    return packed


def pack_gguf(pieces: Sequence[tuple[str, Tensor, Tensor | None]], columns: int) -> PackedMatrix | None:
    """Repack rows of GGUF blocks, nothing rounded; None where a type is no Q8_0, Q4_0 or Q4_1, or the types differ.

    pieces: (type name, uint8 (rows, bytes of a row), order (rows,) int64 or None) each; row i of a piece is the file's
    row ``order[i]``. Their rows follow one another.
    """
    kinds = {GGUF_TYPES[name][1] if name in GGUF_TYPES else None for name, _, _ in pieces}
    precision = kinds.pop() if len(kinds) == 1 else None
    if precision is None or columns % BLOCK or not available():
        return None
    rows = sum(len(data) for _, data, _ in pieces)
    packed = PackedMatrix.empty(precision, rows, columns)
    first = 0
    for name, data, order in pieces:
        if not data.is_contiguous() or (order is not None and order.dtype != torch.int64):
            raise ValueError("rows must be contiguous and their order int64")
        kind = GGUF_TYPES[name][0]
        call("pack_gguf", kind, rows, columns, data, order, first, len(data), packed.data)
        first += len(data)
    return packed


def unpack(packed: PackedMatrix) -> Tensor:
    """The matrix (rows, columns) that ``packed`` stands for, in float32."""
    if packed.data.device.type != "cpu" or not available():
        return _unpack_plain(packed)
    weight = torch.empty(packed.rows, packed.columns)
    call("unpack_matrix", packed.kind, packed.rows, packed.columns, packed.data, weight)
    return weight


def quantised_linear(x: Tensor, packed: PackedMatrix, bias: Tensor | None = None) -> Tensor:
    """x W^T + bias, (..., K) -> (..., N), without gradients.

    The native code rounds each block of 32 activations to 8 bits; without it the matrix is unpacked and the activations
    stay as they are.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or not available() or torch.compiler.is_compiling():
        return F.linear(x, unpack(packed).to(x.dtype), bias)
    flat = x.detach().reshape(-1, packed.columns).contiguous()
    out = torch.empty(len(flat), packed.rows)
    if len(flat):
        work = torch.empty(call("quantised_work", len(flat), packed.columns), dtype=torch.uint8)
        call("quantised_linear", packed.kind, *out.shape, packed.columns, flat, packed.data, out, work)
    out = out.view(*x.shape[:-1], packed.rows)
    return out if bias is None else out + bias


# ---- the same bytes in plain PyTorch


def _blocks(weight: Tensor) -> Tensor:
    """(N, K) -> (panels, blocks, PANEL, BLOCK), zeros where rows or columns are missing."""
    rows, columns = weight.shape
    padded = F.pad(weight, (0, -columns % BLOCK, 0, -rows % PANEL))
    return padded.view(-1, PANEL, padded.shape[1] // BLOCK, BLOCK).transpose(1, 2)


def _pack_plain(weight: Tensor, precision: Precision) -> Tensor:
    w = _blocks(weight)
    shape = w.shape[:2]
    if precision == "int8":
        largest = w.abs().amax(-1, keepdim=True)
        q = torch.round(w * torch.where(largest > 0, 127.0 / largest, 0.0)).to(torch.int8).view(torch.uint8)
        bytes_ = q.view(*shape, PANEL, 8, 4).transpose(2, 3).reshape(*shape, -1)
        return torch.cat([bytes_, _as_bytes(largest[..., 0] / 127.0)], -1)
    scale, minimum, q = _fit4(w)
    q = q.to(torch.uint8).view(*shape, PANEL, 4, 2, 4)
    both = q[..., 0, :] | q[..., 1, :] << 4
    return torch.cat([both.transpose(2, 3).reshape(*shape, -1), _as_bytes(scale), _as_bytes(minimum)], -1)


def _fit4(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, minimum (float32 values of float16) and steps 0..15 of each row of each block."""

    def rounded(scale: Tensor, minimum: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scale, minimum = scale.half().float(), minimum.half().float()
        inverse = torch.where(scale > 0, 1.0 / scale, 0.0)
        q = torch.round((w - minimum[..., None]) * inverse[..., None]).clamp(0, 15)
        return scale, minimum, q, (scale[..., None] * q + minimum[..., None] - w).square().sum(-1)

    least, largest = w.amin(-1), w.amax(-1)
    scale, minimum, q, error = rounded((largest - least) / 15.0, least)
    for _ in range(4):
        sq, sqq, sw, sqw = q.sum(-1), q.square().sum(-1), w.sum(-1), (q * w).sum(-1)
        spread = BLOCK * sqq - sq * sq
        slope = torch.where(spread > 0, (BLOCK * sqw - sq * sw) / spread, 0.0)
        new = rounded(slope, (sw - slope * sq) / BLOCK)
        better = (slope > 0) & (new[3] < error)
        scale, minimum, error = (
            torch.where(better, a, b) for a, b in zip((new[0], new[1], new[3]), (scale, minimum, error), strict=True)
        )
        q = torch.where(better[..., None], new[2], q)
    return scale, minimum, q


def _as_bytes(values: Tensor) -> Tensor:
    """(..., PANEL) -> (..., 2 * PANEL), float16."""
    return values.half().contiguous().view(torch.uint8)


def _unpack_plain(packed: PackedMatrix) -> Tensor:
    data = packed.data
    shape = data.shape[:2]
    if packed.precision == "int8":
        q = data[..., :256].view(torch.int8).reshape(*shape, 8, PANEL, 4).transpose(2, 3).reshape(*shape, PANEL, BLOCK)
        w = q.float() * data[..., 256:].contiguous().view(torch.float16).float()[..., None]
    else:
        both = data[..., :128].reshape(*shape, 4, PANEL, 4).transpose(2, 3)
        q = torch.stack([both & 15, both >> 4], dim=-2).reshape(*shape, PANEL, BLOCK)
        scale, minimum = (
            data[..., first : first + 16].contiguous().view(torch.float16).float()[..., None] for first in (128, 144)
        )
        w = q.float() * scale + minimum
    return w.transpose(1, 2).reshape(shape[0] * PANEL, -1)[: packed.rows, : packed.columns].contiguous()
