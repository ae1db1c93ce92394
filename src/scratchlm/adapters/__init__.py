"""Adapters: LoRA beside frozen weights, weights in 4 and 8 bits, and PEFT's files both ways."""

from scratchlm.adapters.attach import (
    adapters_of,
    adapters_off,
    add_lora,
    merge,
    merged_weight,
    trainable,
    unload,
    use_adapter,
)
from scratchlm.adapters.frozen import FrozenLinear, dense_weight, freeze, quantise_base
from scratchlm.adapters.lora import LoraSettings

__all__ = [
    "FrozenLinear",
    "LoraSettings",
    "adapters_of",
    "adapters_off",
    "add_lora",
    "dense_weight",
    "freeze",
    "merge",
    "merged_weight",
    "quantise_base",
    "trainable",
    "unload",
    "use_adapter",
]
