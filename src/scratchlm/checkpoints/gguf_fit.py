"""Which of llama.cpp's architectures a decoder fits, and the rewriting of its weights that makes it fit.

Each rewriting leaves the logits as they are (but for GELU, which llama.cpp knows by its tanh approximation alone).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from scratchlm.checkpoints.gguf_names import FAMILIES, Family
from scratchlm.errors import UserError
from scratchlm.models import ModelConfig
from scratchlm.models.config import TAUGHT
from scratchlm.models.layers import sinusoidal_table

Tensors = dict[str, Tensor]


def fit(config: ModelConfig, tensors: Tensors) -> tuple[Family, ModelConfig, Tensors]:
    """The family, and the config and weights in its form.

    Raises:
        UserError: no family computes what this config does; the line names the reason.
    """
    config, tensors = _simplified(config, dict(tensors))
    reasons: dict[str, list[str]] = {}
    for family in FAMILIES.values():
        if not family.encoder:
            reasons[family.name] = _misfits(family, config)
            if not reasons[family.name]:
                return family, config, _completed(family, config, tensors)
    name, closest = min(
        reasons.items(), key=lambda item: (FAMILIES[item[0]].positions != config.positions, len(item[1]))
    )
    raise UserError(
        f"llama.cpp has no architecture for this model; the closest, {name}, has no {' and no '.join(closest)}"
    )


def _simplified(config: ModelConfig, tensors: Tensors) -> tuple[ModelConfig, Tensors]:
    """Folds what no architecture there has into what all of them have."""
    if config.head in TAUGHT:
        gives = "rewards" if config.head == "reward" else "labels"
        raise UserError(f"GGUF files continue text, and this model gives {gives}; export it with --to huggingface")
    if config.architecture != "decoder":
        raise UserError(f"GGUF files are written of decoders; this model is of the kind {config.architecture!r}")
    for unfit, what in (
        (config.norm_placement != "pre", "norms after each sub-layer"),
        (not config.final_norm, "a stack without a final norm"),
        (config.embedding_norm, "a norm on the embeddings"),
        (config.token_types > 0, "token types"),
        (config.head != "linear", "another head than a linear one"),
        (config.window_from_layer > 0, "a window in some layers only"),
    ):
        if unfit:
            raise UserError(f"llama.cpp has no decoder with {what}, so this model cannot be written as GGUF")
    if config.tied_embeddings and (config.embedding_scale != 1.0 or (config.head_bias and config.norm == "layernorm")):
        tensors["head.weight"] = tensors["embed.tokens.weight"]
        config = replace(config, tied_embeddings=False)
    if config.embedding_scale != 1.0:
        tensors["embed.tokens.weight"] = tensors["embed.tokens.weight"] * config.embedding_scale
        config = replace(config, embedding_scale=1.0)
    if config.head_bias and config.norm == "layernorm":
        config, tensors = _head_bias_into_norm(config, tensors)
    if config.sliding_window is not None:
        # Up to the window's length it makes no difference, and that is what the file will say the context is.
        config = replace(config, context=min(config.context, config.sliding_window), sliding_window=None)
    if config.positions in ("sinusoidal", "none"):
        table = sinusoidal_table(config.context, config.width)
        tensors["embed.positions.weight"] = table if config.positions == "sinusoidal" else torch.zeros_like(table)
        config = replace(config, positions="learned")
    if config.activation == "gelu":
        config = replace(config, activation="gelu_tanh")
    return config, tensors


def _head_bias_into_norm(config: ModelConfig, tensors: Tensors) -> tuple[ModelConfig, Tensors]:
    """The head's bias, told by the final LayerNorm and the head's matrix.

    A LayerNorm gives ``n * g + b`` where the sum of n is zero. So to each row of the head a multiple a of 1/g can be
    added: it meets ``sum(n) = 0`` and adds the constant ``a * sum(b / g)``. With b' = b + g in b's place that constant
    is a * (sum(b / g) + width), and the row w gives w.g more than it should, hence a = (c - w.g) / (sum(b / g) + width)
    for the bias c.
    """
    scale = tensors["norm.weight"].double()
    shift = tensors["norm.bias"].double() if "norm.bias" in tensors else torch.zeros_like(scale)
    total = (shift / scale).sum() + config.width
    if not bool(torch.isfinite(total)) or abs(float(total)) < 1e-3 * config.width:
        raise UserError(
            "llama.cpp has no bias on the head, and the final norm has zeros, so that it cannot be moved there"
        )
    weight = tensors["head.weight"].double()
    share = (tensors.pop("head.bias").double() - weight @ scale) / total
    tensors["head.weight"] = (weight + share[:, None] / scale).float()
    tensors["norm.bias"] = (shift + scale).float()
    return replace(config, head_bias=False, norm_bias=True), tensors


def _misfits(family: Family, config: ModelConfig) -> list[str]:
    """What the config has and the family does not, in words that follow "has no"."""
    found: list[str] = []
    for ours, theirs in (
        (config.norm, family.norm),
        (config.activation, family.activation),
        (f"{config.positions} positions", f"{family.positions} positions"),
    ):
        if ours != theirs:
            found.append(ours)
    if config.qk_norm != family.qk_norm:
        found.append("norm on queries and keys" if config.qk_norm else "queries and keys without a norm")
    biases = {"q, k and v": config.qkv_bias, "the attention's output": config.out_bias, "feed-forward": config.ffn_bias}
    allowed = {"none": 0, "qkv": 1, "some": 3, "all": 3}[family.biases]
    found += [f"bias of {name}" for n, (name, has) in enumerate(biases.items()) if has and n >= allowed]
    if config.head_bias and not family.head_bias:
        found.append("bias on the head")
    if family.positions == "learned" and (
        config.heads * config.head_size != config.width or config.key_value_heads != config.heads
    ):
        found.append("heads of another size or shared keys")
    if config.rope_scaling is not None and config.rope_scaling["type"] == "llama3" and not family.stretches:
        found.append("Llama 3's scaling of positions")
    return found


def _completed(family: Family, config: ModelConfig, tensors: Tensors) -> Tensors:
    """With the tensors that the family cannot do without: biases of zero, an output matrix."""
    if config.tied_embeddings and not family.ties:
        tensors["head.weight"] = tensors["embed.tokens.weight"]
    wanted: list[str] = []
    if family.biases in ("all", "qkv"):
        wanted += ["attention.qkv"]
    if family.biases == "all":
        wanted += ["attention.out", "mlp.up", "mlp.down"]
    if family.norm == "layernorm":
        wanted += ["norm1", "norm2"]
        tensors.setdefault("norm.bias", torch.zeros_like(tensors["norm.weight"]))
    for block in range(config.layers):
        for module in wanted:
            name = f"blocks.{block}.{module}"
            tensors.setdefault(f"{name}.bias", torch.zeros(tensors[f"{name}.weight"].shape[0]))
    return tensors
