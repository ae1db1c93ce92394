"""A model's config out of a GGUF file's metadata and tensor shapes, both of which may lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from scratchlm.checkpoints.gguf_names import FAMILIES, Family
from scratchlm.errors import UserError
from scratchlm.models import ModelConfig
from scratchlm.models.layers import rotary_frequencies

_LONGEST_CONTEXT = 1 << 20
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "attention.scale": (0.0,),
    "use_parallel_residual": (False,),
}
"""Settings that change the computation, and the values at which they do not."""
XIELU = {"xielu.alpha_p": math.log(math.e - 1), "xielu.alpha_n": -100.0, "xielu.beta": 0.0, "xielu.eps": -1e-6}
"""Apertus' activation (Huang & Schlag 2024): above zero it is softplus(alpha_p) x^2 + beta x, and below zero its other
half is multiplied by softplus(alpha_n) + beta. With these numbers, 1, 0 and 0, it is the squared ReLU."""


class _Settings:
    """The metadata of one architecture; every getter names the key in its error."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str) -> None:
        self._metadata, self._prefix = metadata, architecture

    def get(self, name: str) -> Any:
        return self._metadata.get(f"{self._prefix}.{name}")

    def whole(self, name: str, default: int | None = None) -> int:
        value = self.get(name)
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            value = value[0].item()  # one number for each block, all the same
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 1 << 31:
            raise UserError(f"{self._prefix}.{name} is {_shown(value)}; a whole number from 1 is needed here")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e12:
            raise UserError(f"{self._prefix}.{name} is {_shown(value)}; a positive number is needed here")
        # Written as fp32: 1e-5 comes back as 9.99999974e-06, so the shortest decimal that gives the same fp32 is meant.
        return float(np.format_float_scientific(np.float32(value)))


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)[:60]


def family_of(metadata: Mapping[str, Any]) -> Family:
    """The architecture's family.

    Raises:
        UserError: there is none of that name.
    """
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserError(
            f"general.architecture is {_shown(name)}, which is not supported; supported are: {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


def read_gguf_config(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], factors: Tensor | None = None
) -> ModelConfig:
    """The config that the metadata and the tensors' shapes (outermost dimension first) describe.

    ``factors`` (head size / 2,) is the tensor rope_freqs.weight, where the file has one.

    Raises:
        UserError: an architecture or a feature that is not supported, a value that is missing or contradicts a shape.
    """
    family = family_of(metadata)
    settings = _Settings(metadata, family.name)
    for key, meant in XIELU.items() if family.name == "apertus" else ():
        values = np.atleast_1d(metadata.get(key, np.nan))
        # The negative side vanishes at any number so low, whatever its eps.
        if key != "xielu.eps" and not np.allclose(np.maximum(values, -100.0), meant, atol=1e-6):
            raise UserError(
                f"{key} is {_shown(values.tolist())}: the activation xIELU is not supported, but for the squared ReLU"
            )
    for key, neutral in _NEUTRAL.items():
        value = settings.get(key)
        if value is not None and value not in neutral:
            raise UserError(f"{family.name}.{key} is {_shown(value)}, a feature that is not supported")
    layers = settings.whole("block_count")
    present = {name.split(".")[1] for name in shapes if name.startswith("blk.")}
    if len(present) != layers:
        raise UserError(f"{family.name}.block_count is {layers:,}, the file has tensors of {len(present):,} blocks")
    vocabulary, width = _matrix(shapes, "token_embd.weight")
    heads = settings.whole("attention.head_count")
    default_size = width // heads if width >= heads else 1
    head_size = settings.whole("attention.key_length", default_size)
    if settings.whole("attention.value_length", head_size) != head_size:
        raise UserError(f"{family.name}.attention.value_length differs from key_length, which is not supported")
    shared = settings.whole("attention.head_count_kv", heads)
    fields: dict[str, Any] = {
        "vocab_size": vocabulary,
        "architecture": "encoder" if family.encoder else "decoder",
        "context": _context(settings, shapes, family),
        "width": width,
        "layers": layers,
        "heads": heads,
        "kv_heads": None if shared == heads else shared,
        "head_dim": head_size if head_size * heads != width or width % heads else None,
        "ffn_width": _matrix(shapes, "blk.0.ffn_up.weight")[0],
        "positions": family.positions,
        "norm": family.norm,
        "activation": family.activation,
        "qk_norm": "blk.0.attn_q_norm.weight" in shapes,
        "qkv_bias": "blk.0.attn_q.bias" in shapes or "blk.0.attn_qkv.bias" in shapes,
        "out_bias": "blk.0.attn_output.bias" in shapes,
        "ffn_bias": "blk.0.ffn_up.bias" in shapes,
        "head_bias": "output.bias" in shapes,
        "tied_embeddings": "output.weight" not in shapes,
        "dropout": 0.0,
    }
    for key, ours in (("embedding_length", "width"), ("feed_forward_length", "ffn_width")):
        if settings.whole(key, fields[ours]) != fields[ours]:
            raise UserError(f"{family.name}.{key} is {settings.whole(key):,}, the tensors have {fields[ours]:,}")
    norm_key = "attention.layer_norm_rms_epsilon" if family.norm == "rmsnorm" else "attention.layer_norm_epsilon"
    fields["norm_eps"] = settings.number(norm_key)
    if family.positions == "rotary":
        fields |= _rotary(settings, head_size, factors)
    window = settings.get("attention.sliding_window")
    if window is not None and 0 < settings.whole("attention.sliding_window") < fields["context"]:
        fields["sliding_window"] = settings.whole("attention.sliding_window")
    if family.encoder:
        types = _matrix(shapes, "token_types.weight")[0] if "token_types.weight" in shapes else 0
        fields |= {"norm_placement": "post", "final_norm": False, "embedding_norm": True, "token_types": types}
        fields |= {"head": "none", "head_bias": False, "tied_embeddings": False}
    else:
        fields["norm_bias"] = family.norm == "rmsnorm" or "output_norm.bias" in shapes
    return ModelConfig(**fields)


def _context(settings: _Settings, shapes: Mapping[str, tuple[int, ...]], family: Family) -> int:
    if family.positions == "learned":
        return _matrix(shapes, "position_embd.weight")[0]
    context = settings.whole("context_length")
    if context > _LONGEST_CONTEXT:
        raise UserError(f"{family.name}.context_length is {context:,}; more than {_LONGEST_CONTEXT:,} is not supported")
    return context


def _matrix(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, int]:
    shape = shapes.get(name)
    if shape is None:
        raise UserError(f"the tensor {name!r} is missing; the file is no complete model, fetch it again")
    if len(shape) != 2:
        raise UserError(f"the tensor {name!r} has the shape {list(shape)}, a matrix is needed; fetch the file again")
    return shape[0], shape[1]


def _rotary(settings: _Settings, head_size: int, factors: Tensor | None) -> dict[str, Any]:
    turned = settings.whole("rope.dimension_count", head_size)
    if turned != head_size:
        raise UserError(f"only {turned} of a head's {head_size} coordinates are rotated, which is not supported")
    fields: dict[str, Any] = {"rope_theta": settings.number("rope.freq_base", 10_000.0)}
    kind, factor = settings.get("rope.scaling.type"), settings.number("rope.scaling.factor", 1.0)
    if settings.get("rope.scale_linear") is not None:  # the key of older files
        kind, factor = "linear", settings.number("rope.scale_linear")
    if kind not in (None, "none", "linear"):
        raise UserError(f"rope.scaling.type is {_shown(kind)}, which is not supported (none and linear are)")
    if kind == "linear" and factor != 1.0:
        fields["rope_scaling"] = {"type": "linear", "factor": factor}
    if factors is not None:
        if "rope_scaling" in fields:
            raise UserError("the file has both rope.scaling and rope_freqs.weight, which is not supported")
        if factors.shape != (head_size // 2,):
            raise UserError(f"rope_freqs.weight has the shape {list(factors.shape)}, {head_size // 2} are needed")
        scaling = llama3_scaling(factors, fields["rope_theta"])
        if scaling is not None:
            fields["rope_scaling"] = scaling
    return fields


def rope_factors(config: ModelConfig) -> Tensor:
    """(head size / 2,): what the config's scaling divides each frequency by; llama.cpp's rope_freqs.weight."""
    plain = rotary_frequencies(config.head_size, config.rope_theta)
    return plain / rotary_frequencies(config.head_size, config.rope_theta, config.rope_scaling)


def llama3_scaling(factors: Tensor, theta: float) -> dict[str, Any] | None:
    """The inverse of :func:`rope_factors`: the settings that give these factors; None where all are 1.

    Multiplying the original context and both frequency factors by one number changes nothing, so the low one is taken
    as 1, as in every published model.

    Raises:
        UserError: no settings give these factors.
    """
    factors = factors.double()
    if not bool(((factors >= 0.999) & (factors < 1e6)).all()):
        raise UserError("rope_freqs.weight holds numbers that are no stretching of wavelengths; fetch the file again")
    if bool((factors - 1).abs().max() < 1e-4):
        return None
    factor = round(float(factors.max()), 4)
    if bool((factors / factor - 1).abs().max() < 1e-4):
        return {"type": "linear", "factor": factor}
    size = 2 * factors.numel()
    for high, original in _candidates(factors, factor, rotary_frequencies(size, theta).double()):
        found: dict[str, Any] = {"type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": high}
        found["original_context"] = original
        made = rotary_frequencies(size, theta) / rotary_frequencies(size, theta, found)
        if bool((made / factors - 1).abs().max() < 1e-3):
            return found
    raise UserError("rope_freqs.weight does not follow Llama 3's scaling, the one that is supported")


def _candidates(factors: Tensor, factor: float, frequencies: Tensor) -> list[tuple[float, int]]:
    """High frequency factors and original contexts, the published ones first, that may give ``factors``.

    Between the borders the share that is kept, (1/factors - 1/factor) / (1 - 1/factor), is a straight line in the
    number of turns, original_context * frequency / 2 pi: 0 at one turn, 1 at ``high`` turns. Two points fix it.
    """
    found = [(4.0, 8192)]
    kept = (1 / factors - 1 / factor) / (1 - 1 / factor)
    between = (kept > 1e-3) & (kept < 0.999)
    turn = 2 * math.pi
    if int(between.sum()) >= 2:
        first, last = frequencies[between][0], frequencies[between][-1]
        slope = float((kept[between][0] - kept[between][-1]) / (first - last))
        offset = slope * float(last) - float(kept[between][-1])  # 1 / (high - 1)
        if slope > 0 and offset > 0:
            found.append((round(1 + 1 / offset, 2), max(1, round(turn * slope / offset))))
    elif int(between.sum()) == 1:
        found.append((4.0, max(1, round(turn * (1 + 3 * float(kept[between][0])) / float(frequencies[between][0])))))
    elif bool((kept >= 0.999).any()):
        slowest, fastest = float(frequencies[kept >= 0.999].min()), float(frequencies[kept <= 1e-3].max())
        found.append((4.0, max(1, round(turn * 2 / math.sqrt(slowest * fastest)))))
    return found
