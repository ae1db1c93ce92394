"""Adapters: LoRA beside frozen weights, weights in 4 and 8 bits, and PEFT's files both ways."""

from scratchlm.adapters.attach import (
    adapters_of,
    adapters_off,
    add_lora,
    drop_adapter,
    merge,
    merged_weight,
    trainable,
    unload,
    use_adapter,
)
from scratchlm.adapters.frozen import FrozenLinear, dense_weight, freeze, give_memory_back, quantise_base
from scratchlm.adapters.lora import LoraSettings
from scratchlm.adapters.peft_format import load_adapter, save_adapter

__all__ = [
    "FrozenLinear",
    "LoraSettings",
    "adapters_of",
    "adapters_off",
    "add_lora",
    "dense_weight",
    "drop_adapter",
    "freeze",
    "give_memory_back",
    "load_adapter",
    "merge",
    "merged_weight",
    "quantise_base",
    "save_adapter",
    "trainable",
    "unload",
    "use_adapter",
]
