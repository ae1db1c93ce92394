"""Fast operations for the CPU, each with a plain PyTorch fallback of the same meaning.

Written in C (``native/``), compiled at first use, for float32 on Linux; everything else falls back. See
:func:`status`. Results are the same bits for the same seed, whatever the number of threads.
"""

from __future__ import annotations

from scratchlm.kernels.attention import attention, rotate_heads
from scratchlm.kernels.build import available, disabled, library, status
from scratchlm.kernels.linear import gelu_mlp, linear_dropout_add, norm_linear, norm_linear_residual
from scratchlm.kernels.pointwise import dropout_add, gelu, layer_norm, rms_norm, swiglu
from scratchlm.kernels.shared_attention import Text, shared_attention, sharing_pays

__all__ = [
    "Text",
    "attention",
    "available",
    "disabled",
    "dropout_add",
    "gelu",
    "gelu_mlp",
    "layer_norm",
    "library",
    "linear_dropout_add",
    "norm_linear",
    "norm_linear_residual",
    "rms_norm",
    "rotate_heads",
    "shared_attention",
    "sharing_pays",
    "status",
    "swiglu",
]
