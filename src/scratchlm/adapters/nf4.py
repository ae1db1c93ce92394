"""NF4: four-bit weights whose levels are quantiles of the normal distribution, with scales that are quantised in turn.

Dettmers et al. 2023, "QLoRA", sections 2 and 3; the levels and the order of the bytes are bitsandbytes', whose
checkpoints they made known. In all about 4.13 bits a weight.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

# fmt: off
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)
# fmt: on
BLOCK, GROUP = 64, 256
"""Weights that share a scale, and scales that share a scale of their own."""


@dataclass(frozen=True)
class PackedNF4:
    """A matrix in NF4. Weight i of its rows laid end to end is ``LEVELS[code i] * scale of block i // BLOCK``."""

    codes: Tensor
    """uint8, two weights each: the first in the upper half."""
    scales: Tensor
    """uint8 (blocks,): each block's largest magnitude, less ``offset``, as a number of :func:`dynamic_levels`."""
    group_scales: Tensor
    """float32 (groups,): what the levels of a group's scales are multiplied by."""
    offset: Tensor
    """float32 (): the mean of the blocks' largest magnitudes."""
    shape: tuple[int, int]

    @property
    def bytes(self) -> int:
        tensors = (self.codes, self.scales, self.group_scales, self.offset)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def pack_nf4(weight: Tensor) -> PackedNF4:
    """Round a matrix to NF4 on the device where it lies.

    A block of zeros stays one, as near as its scale can say; the definition leaves it open.

    Raises:
        ValueError: not a matrix, or one without elements.
    """
    if weight.dim() != 2 or weight.numel() == 0:
        raise ValueError(f"only matrices are packed, not a tensor of shape {tuple(weight.shape)}")
    scaled, largest = _scaled(weight.detach().float().flatten(), BLOCK)
    codes = _nearest(scaled, _levels(weight.device))[: -(-weight.numel() // 2) * 2]
    offset = largest.mean()
    scaled, group_scales = _scaled(largest - offset, GROUP)
    scales = _nearest(scaled, dynamic_levels(weight.device))[: len(largest)]
    return PackedNF4(codes[::2] << 4 | codes[1::2], scales, group_scales, offset, (weight.shape[0], weight.shape[1]))


def unpack_nf4(packed: PackedNF4, *, scratch: bool = False) -> Tensor:
    """The float32 matrix that ``packed`` stands for.

    Args:
        scratch: it lies in memory that this thread's next such call overwrites. For products that follow at once: a
            training brings matrices back hundreds of times a step, and new memory for each tears the heap to pieces.
    """
    device, numbers = packed.codes.device, packed.shape[0] * packed.shape[1]
    groups = packed.group_scales.repeat_interleave(GROUP)[: len(packed.scales)]
    scales = dynamic_levels(device)[packed.scales.int()] * groups + packed.offset
    if scratch and device.type == "cpu":
        codes = _room("codes", torch.int32, len(packed.codes)).copy_(packed.codes)
        pairs = torch.index_select(_pairs(device), 0, codes, out=_room("pairs", torch.int64, len(codes)))
    else:
        pairs = _pairs(device).index_select(0, packed.codes.int())
    weights = pairs.view(torch.float32)
    if len(weights) < len(scales) * BLOCK:
        weights = F.pad(weights, (0, len(scales) * BLOCK - len(weights)))
    weights = weights.view(-1, BLOCK).mul_(scales[:, None])
    return weights.flatten()[:numbers].view(packed.shape)


_ROOMS = threading.local()


def _room(name: str, dtype: torch.dtype, count: int) -> Tensor:
    """(count,) of this thread's memory of a name, which grows where it has to."""
    room: Tensor | None = getattr(_ROOMS, name, None)
    if room is None or len(room) < count:
        with torch.inference_mode(False):  # else it could be written to in that mode alone
            room = torch.empty(count, dtype=dtype)
        setattr(_ROOMS, name, room)
    return room[:count]


@lru_cache(maxsize=8)
def dynamic_levels(device: torch.device) -> Tensor:
    """The 256 levels of an 8-bit number with a dynamic exponent (Dettmers 2016, "8-Bit Approximations", section 2).

    For each power of ten from -6 to 0 the middles of 2^(7 + power - 1) equal parts of [0.1, 1], with both signs; 0 and
    1. The higher the power, the more of the bits say the fraction.
    """
    levels = [0.0, 1.0]
    for exponent in range(7):
        bounds = torch.linspace(0.1, 1.0, 2**exponent + 1)
        middles = 10.0 ** (exponent - 6) * ((bounds[1:] + bounds[:-1]) / 2)
        levels += middles.tolist() + (-middles).tolist()
    return torch.tensor(sorted(levels), device=device)


@lru_cache(maxsize=8)
def _levels(device: torch.device) -> Tensor:
    return torch.tensor(LEVELS, device=device)


@lru_cache(maxsize=8)
def _pairs(device: torch.device) -> Tensor:
    """(256,) of 64 bits each: the two float32 levels that a byte stands for, fetched as one."""
    levels, byte = _levels(device), torch.arange(256, device=device)
    return torch.stack([levels[byte >> 4], levels[byte & 15]], dim=1).view(torch.int64).flatten()


def _scaled(values: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Values in [-1, 1] (zeros at the end that fill the last block) and each block's largest magnitude."""
    blocks = F.pad(values, (0, -len(values) % block)).view(-1, block)
    largest = blocks.abs().amax(dim=1)
    scaled = (blocks * (1 / largest)[:, None]).clamp(-1, 1)
    return scaled.nan_to_num(0.0).flatten(), largest


def _nearest(values: Tensor, levels: Tensor) -> Tensor:
    """The number of the nearest level, uint8; of two as near, the lower."""
    return torch.bucketize(values, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
