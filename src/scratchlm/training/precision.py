"""What a model computes in while it is trained."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn import functional as F

from scratchlm.errors import UserError
from scratchlm.training.config import Precision

_ROWS, _WIDE, _WORTH = 512, (576, 1536), 0.75
"""Of the products that are timed: about those of a small model's feed-forward layer. And how much less time bf16 must
need."""


def bf16_arithmetic(device: torch.device) -> bool:
    """Whether a device computes in bf16 itself, and does not only emulate it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cpu" and bool(known)


def autocast(precision: Precision, device: torch.device) -> Any:
    """A factory of the context in which the model runs: bf16 where asked for and there is hardware for it.

    Raises:
        UserError: bf16 was asked for, and this hardware would only emulate it.
    """
    able = bf16_arithmetic(device)
    if precision == "bf16" and not able:
        raise UserError(f"this {device.type} has no bf16 arithmetic; use precision=fp32 (or auto, which looks first)")
    if precision == "bf16" or (precision == "auto" and device.type == "cuda" and able):
        return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext


def fastest(device: torch.device) -> Precision:
    """``bf16`` where products of matrices take at most three quarters of their time in fp32, and else ``fp32``.

    A GPU with bf16 arithmetic is taken at its word. Of CPUs that have it some are slower so and some twice as fast,
    which is tried (some hundredths of a second).
    """
    if not bf16_arithmetic(device):
        return "fp32"
    if device.type == "cuda":
        return "bf16"
    took = {kind: min(_seconds(kind) for _ in range(5)) for kind in (torch.float32, torch.bfloat16)}
    return "bf16" if took[torch.bfloat16] < _WORTH * took[torch.float32] else "fp32"


def _seconds(kind: torch.dtype) -> float:
    x, weight = torch.ones(_ROWS, _WIDE[0], dtype=kind), torch.ones(_WIDE[1], _WIDE[0], dtype=kind)
    F.linear(x, weight)
    began = time.perf_counter()
    F.linear(x, weight)
    return time.perf_counter() - began
