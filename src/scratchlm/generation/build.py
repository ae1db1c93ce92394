"""The engine for a model: which code computes it, and in how many bits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from scratchlm import kernels
from scratchlm.adapters import adapters_of, merge
from scratchlm.errors import UserError
from scratchlm.generation.backends import NativeBackend, TorchBackend, UncachedBackend
from scratchlm.generation.engine import Engine
from scratchlm.generation.native import NativeModel
from scratchlm.generation.precision import PrecisionName, choose_precision
from scratchlm.generation.weights import ModuleWeights, Weights, supported
from scratchlm.kernels.quantised import Precision
from scratchlm.models import Decoder
from scratchlm.models.quantised import quantise


def build_engine(
    model: Decoder,
    *,
    rows: int,
    precision: PrecisionName = "fp32",
    use_cache: bool = True,
    context: int | None = None,
) -> Engine:
    """An engine for a decoder in memory, at most ``rows`` texts at a time, with room for ``context`` tokens of each (at
    most, and without one, the model's own).

    In float32 it works on the model's own weights as they are, changes in place and adapters included; other precisions
    are made from them now, with the adapters in use worked in. Native code where that computes the same, else PyTorch.
    "auto" is "fp32" here.

    Raises:
        UserError: quantised weights of a model on a GPU.
        ValueError: the model's head gives no words.
    """
    if model.config.head != "linear":
        raise ValueError(f"a model whose head is {model.config.head!r} does not continue text")
    if not use_cache:
        return Engine(UncachedBackend(model, rows))
    context = min(context or model.config.context, model.config.context)
    device, dtype = model.embed.tokens.weight.device, model.embed.tokens.weight.dtype
    if precision == "bf16":
        ready = dtype == torch.bfloat16
        return Engine(TorchBackend(model if ready else copy.deepcopy(model).bfloat16(), rows, context))
    if precision in ("auto", "fp32"):
        if supported(model):
            return Engine(NativeBackend(NativeModel(ModuleWeights(model)), rows, context))
        return Engine(TorchBackend(model, rows, context))
    if device.type != "cpu":
        raise UserError(f"{precision} weights are for the CPU; on a GPU use bf16, or leave the precision out")
    kind: Precision = "int8" if precision == "int8" else "int4"
    if adapters_of(model).active:  # worked into a copy: rounding is of what the model computes now
        model = copy.deepcopy(model)
        merge(model)
        model.eval()
    if supported(model):
        return Engine(NativeBackend(NativeModel(ModuleWeights(model), kind), rows, context))
    return Engine(TorchBackend(quantise(model, kind), rows, context))


def build_file_engine(
    weights: Weights,
    *,
    rows: int,
    precision: PrecisionName,
    origin: Path | None,
    sample: Callable[[], Sequence[int]],
    context: int | None = None,
) -> Engine | None:
    """An engine on a file's weights without a model in memory, or None where only PyTorch can compute it.

    ``sample`` gives the tokens of a text to measure "auto" on; ``origin`` is the file that the answer is for.
    """
    if not kernels.available() or precision == "bf16":
        return None
    if precision == "auto":
        precision = choose_precision(weights, sample(), origin)
    if precision == "fp32":
        return None
    most = min(context or weights.config.context, weights.config.context)
    return Engine(NativeBackend(NativeModel(weights, "int8" if precision == "int8" else "int4"), rows, most))


def default_precision(model: Decoder) -> PrecisionName:
    """bf16 on GPUs that compute it, else fp32."""
    device = model.embed.tokens.weight.device
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
