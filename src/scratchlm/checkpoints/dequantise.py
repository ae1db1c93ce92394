"""From ggml's block formats to numbers, many blocks at a time.

A row is cut into blocks (32 or 256 weights) that share scales. The names are llama.cpp's; the layouts follow its
``ggml-common.h``, and every result equals ``gguf.quants.dequantize`` to the bit: the same operations in fp32, in the
same order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCKS: dict[str, tuple[int, int]] = {
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}
"""Type -> (weights in a block, bytes of a block)."""

_CHUNK = 1 << 18
"""Weights at a time: the work stays within a core's cache."""


def dequantise(kind: str, blocks: NDArray[np.uint8]) -> Tensor:
    """(rows, bytes of a row) uint8 -> (rows, columns) float32.

    Raises:
        ValueError: a type that is not in :data:`BLOCKS`, or rows that are no whole number of blocks.
    """
    if kind not in BLOCKS:
        raise ValueError(f"unknown block type {kind!r}")
    weights, size = BLOCKS[kind]
    rows, width = blocks.shape
    if width % size:
        raise ValueError(f"rows of {width} bytes are no whole number of {kind} blocks of {size}")
    flat = torch.from_numpy(np.ascontiguousarray(blocks)).view(-1, size)
    out = torch.empty(flat.shape[0], weights)
    step = max(1, _CHUNK // weights)
    for start in range(0, flat.shape[0], step):
        _DECODERS[kind](flat[start : start + step], out[start : start + step])
    return out.view(rows, -1)


def _half(blocks: Tensor, start: int) -> Tensor:
    """The fp16 number at byte ``start`` of each block, (n, 1) float32."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _f32(blocks: Tensor, out: Tensor) -> None:
    out.copy_(blocks.view(torch.float32))


def _f16(blocks: Tensor, out: Tensor) -> None:
    out.copy_(blocks.view(torch.float16))


def _bf16(blocks: Tensor, out: Tensor) -> None:
    out.copy_(blocks.view(torch.bfloat16))


def _nibbles(packed: Tensor) -> Tensor:
    """(n, k) bytes -> (n, 2k): all low halves, then all high halves."""
    return torch.cat((packed & 15, packed >> 4), dim=1)


def _fifth_bits(packed: Tensor) -> Tensor:
    """(n, 4) bytes, 32 bits in order -> (n, 32) of 0 or 16."""
    shifts = torch.arange(8, dtype=torch.uint8)
    return ((packed[:, :, None] >> shifts) & 1).flatten(1) << 4


def _q8_0(blocks: Tensor, out: Tensor) -> None:
    out.copy_(blocks[:, 2:].view(torch.int8)).mul_(_half(blocks, 0))


def _q4_0(blocks: Tensor, out: Tensor) -> None:
    out.copy_(_nibbles(blocks[:, 2:])).sub_(8).mul_(_half(blocks, 0))


def _q4_1(blocks: Tensor, out: Tensor) -> None:
    out.copy_(_nibbles(blocks[:, 4:])).mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _q5_0(blocks: Tensor, out: Tensor) -> None:
    out.copy_(_nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])).sub_(16).mul_(_half(blocks, 0))


def _q5_1(blocks: Tensor, out: Tensor) -> None:
    out.copy_(_nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])).mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _pairs_of_bits(packed: Tensor) -> Tensor:
    """(n, 64) bytes -> (n, 8, 32): in each half of the block, bits 0-1 of 32 bytes, then their bits 2-3, ..."""
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8).view(1, 1, 4, 1)
    return ((packed.view(-1, 2, 1, 32) >> shifts) & 3).reshape(-1, 8, 32)


def _scaled(values: Tensor, scales: Tensor, out: Tensor) -> Tensor:
    """values (n, groups, k) times scales (n, groups), written to ``out`` seen as (n, groups, k)."""
    seen = out.view(values.shape)
    return seen.copy_(values).mul_(scales[:, :, None])


def _q2_k(blocks: Tensor, out: Tensor) -> None:
    scales = blocks[:, :16]
    values = _pairs_of_bits(blocks[:, 16:80].contiguous()).view(-1, 16, 16)
    factors, offsets = _half(blocks, 80) * (scales & 15).float(), _half(blocks, 82) * (scales >> 4).float()
    _scaled(values, factors, out).sub_(offsets[:, :, None])


def _q3_k(blocks: Tensor, out: Tensor) -> None:
    packed = blocks[:, 96:108]
    low = _nibbles(packed[:, :8])
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8).view(1, 4, 1)
    high = ((packed[:, None, 8:] >> shifts) & 3).flatten(1)
    scales = (low | (high << 4)).to(torch.int8) - 32
    bits = torch.arange(8, dtype=torch.uint8).view(1, 8, 1)
    # A third bit that is not set takes 4 away.
    missing = (((blocks[:, None, :32] >> bits) & 1) ^ 1) << 2
    values = _pairs_of_bits(blocks[:, 32:96].contiguous()).to(torch.int8) - missing.to(torch.int8)
    _scaled(values.view(-1, 16, 16), _half(blocks, 108) * scales.float(), out)


def _six_bit_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The 12 bytes that hold 8 scales and 8 offsets of 6 bits each -> two (n, 8) float32."""
    d, m, both = packed[:, :4], packed[:, 4:8], packed[:, 8:12]
    scales = torch.cat((d & 63, (both & 15) | ((d >> 2) & 48)), dim=1)
    offsets = torch.cat((m & 63, (both >> 4) | ((m >> 2) & 48)), dim=1)
    return scales.float(), offsets.float()


def _halves_of_32(packed: Tensor) -> Tensor:
    """(n, 128) bytes -> (n, 8, 32): for each 32 bytes their low halves, then their high halves."""
    seen = packed.reshape(-1, 4, 1, 32)
    return torch.cat((seen & 15, seen >> 4), dim=2).view(-1, 8, 32)


def _q4_k(blocks: Tensor, out: Tensor) -> None:
    scales, offsets = _six_bit_scales(blocks[:, 4:16])
    factors, offsets = _half(blocks, 0) * scales, _half(blocks, 2) * offsets
    _scaled(_halves_of_32(blocks[:, 16:]), factors, out).sub_(offsets[:, :, None])


def _q5_k(blocks: Tensor, out: Tensor) -> None:
    scales, offsets = _six_bit_scales(blocks[:, 4:16])
    factors, offsets = _half(blocks, 0) * scales, _half(blocks, 2) * offsets
    bits = torch.arange(8, dtype=torch.uint8).view(1, 8, 1)
    fifth = ((blocks[:, None, 16:48] >> bits) & 1) << 4
    _scaled(_halves_of_32(blocks[:, 48:]) | fifth, factors, out).sub_(offsets[:, :, None])


def _q6_k(blocks: Tensor, out: Tensor) -> None:
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = torch.cat((low & 15, low >> 4), dim=2).view(-1, 8, 32)
    values = (low | (_pairs_of_bits(blocks[:, 128:192].contiguous()) << 4)).to(torch.int8) - 32
    scales = _half(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8).float()
    _scaled(values.view(-1, 16, 16), scales, out)


_DECODERS: dict[str, Callable[[Tensor, Tensor], None]] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
