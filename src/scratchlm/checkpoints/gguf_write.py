"""Writing GGUF files that llama.cpp loads and continues: F16 or Q8_0, tokenizer and chat template included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scratchlm.checkpoints.files import disk_errors, write_atomically
from scratchlm.checkpoints.gguf_config import XIELU, rope_factors
from scratchlm.checkpoints.gguf_fit import Tensors, fit
from scratchlm.checkpoints.gguf_names import Family, source_of
from scratchlm.checkpoints.weights import model_tensors
from scratchlm.errors import UserError
from scratchlm.models import Model, ModelConfig
from scratchlm.tokenizers import Tokenizer, gguf_entries, with_end

Kind = Literal["f16", "q8_0"]
_FILE_TYPES: dict[str, int] = {"f16": 1, "q8_0": 7}


def write_gguf(
    model: Model, tokenizer: Tokenizer, path: str | Path, kind: Kind = "f16", chat_template: str | None = None
) -> None:
    """Write a decoder and its tokenizer as one GGUF file, which appears whole or not at all.

    Matrices are stored as ``kind`` says (rows that are no multiple of 32 as F16), all else as F32. Where the tokenizer
    has no token that ends a text, one is added, since llama.cpp assumes one; its output row is the mean of the others,
    so it is never the likeliest, and its probability is below 1 / vocabulary.

    Args:
        chat_template: None for the tokenizer's own.

    Raises:
        UserError: llama.cpp has no such architecture or tokenizer, or the disk refuses the file.
    """
    if kind not in _FILE_TYPES:
        raise UserError(f"there is no kind {kind!r} of GGUF file here; choose f16 or q8_0")
    path = Path(path)
    tensors = {name: tensor.detach().cpu().float() for name, tensor in model_tensors(model).items()}
    config = model.config
    ended = with_end(tokenizer)
    if ended is not tokenizer and ended.vocab_size > config.vocab_size:
        config, tensors = _grown(config, tensors, ended.vocab_size)
    family, config, tensors = fit(config, tensors)
    entries = gguf_entries(ended, config.vocab_size, chat_template)
    stored = [(name, *_stored(name, tensor, kind)) for name, tensor in _their_tensors(family, config, tensors)]

    def write(partial: Path) -> None:
        writer = gguf.GGUFWriter(partial, family.name)
        for key, value in {**_settings(family, config, kind), **entries}.items():
            _add(writer, key, value)
        for name, data, type_ in stored:
            writer.add_tensor(name, data, raw_dtype=type_)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    with disk_errors(str(path), "choose another place, or free some space"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)


def _grown(config: ModelConfig, tensors: Tensors, size: int) -> tuple[ModelConfig, Tensors]:
    """With as many tokens more as ``size`` says: nothing as input, the mean of the others as output."""
    tensors = dict(tensors)
    more = size - config.vocab_size
    names = ["head.weight", "head.bias"]
    if config.tied_embeddings:
        names.append("embed.tokens.weight")
    else:
        embedding = tensors["embed.tokens.weight"]
        tensors["embed.tokens.weight"] = torch.cat([embedding, embedding.new_zeros(more, config.width)])
    for name in names:
        if name in tensors:
            mean = tensors[name].mean(0, keepdim=True)
            tensors[name] = torch.cat([tensors[name], mean.expand(more, *mean.shape[1:])])
    return replace(config, vocab_size=size), tensors


def _their_tensors(family: Family, config: ModelConfig, tensors: Tensors) -> list[tuple[str, Tensor]]:
    """Their names and tensors: rows taken apart, and turned as llama.cpp wants them."""
    listed: list[tuple[str, Tensor]] = []
    for ours, tensor in tensors.items():
        source = source_of(family, config, ours)
        if source is None:
            raise ValueError(f"{family.name} has no place for {ours!r}")
        heads = [config.heads, config.key_value_heads, config.key_value_heads]
        counts = [tensor.shape[0]]
        if len(source.names) == 3:
            counts = [count * config.head_size for count in heads]
        elif len(source.names) == 2:
            counts = [tensor.shape[0] // 2] * 2
        for name, order, part in zip(source.names, source.orders, torch.split(tensor, counts), strict=True):
            if order is None:
                listed.append((name, part))
            else:
                theirs = torch.empty_like(part)
                theirs[torch.from_numpy(order)] = part
                listed.append((name, theirs))
    if config.rope_scaling is not None and config.rope_scaling["type"] == "llama3":
        listed.append(("rope_freqs.weight", rope_factors(config)))
    return listed


def _stored(name: str, tensor: Tensor, kind: Kind) -> tuple[NDArray[Any], gguf.GGMLQuantizationType]:
    if tensor.dim() == 1 or name == "position_embd.weight":
        return tensor.contiguous().numpy(), gguf.GGMLQuantizationType.F32
    if kind == "q8_0" and tensor.shape[1] % 32 == 0:
        return quantise_q8_0(tensor), gguf.GGMLQuantizationType.Q8_0
    if float(tensor.abs().max()) > 65_504:
        raise UserError(f"{name} holds {float(tensor.abs().max()):.3g}, more than fp16 can; write it as q8_0")
    return tensor.half().contiguous().numpy(), gguf.GGMLQuantizationType.F16


def quantise_q8_0(matrix: Tensor) -> NDArray[np.uint8]:
    """(rows, columns) float32 -> (rows, bytes of a row): blocks of an fp16 scale and 32 int8, as ggml's
    ``quantize_row_q8_0`` makes them: the scale is the greatest magnitude / 127, halves are rounded away from zero."""
    blocks = matrix.float().reshape(-1, 32)
    scale = blocks.abs().amax(dim=1, keepdim=True) / 127
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    scaled = blocks * inverse
    whole = scaled.abs().floor()
    whole += (2 * (scaled.abs() - whole)).floor()
    out = torch.empty(blocks.shape[0], 34, dtype=torch.uint8)
    out[:, :2] = scale.half().view(torch.uint8)
    out[:, 2:] = (whole * scaled.sign()).to(torch.int8).view(torch.uint8)
    return out.view(matrix.shape[0], -1).numpy()


def _settings(family: Family, config: ModelConfig, kind: Kind) -> dict[str, Any]:
    epsilon = "layer_norm_rms_epsilon" if family.norm == "rmsnorm" else "layer_norm_epsilon"
    values: dict[str, Any] = {
        "block_count": config.layers,
        "context_length": config.context,
        "embedding_length": config.width,
        "feed_forward_length": config.ffn_size,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.key_value_heads,
        f"attention.{epsilon}": config.norm_eps,
        "vocab_size": config.vocab_size,
    }
    if family.positions == "rotary":
        values |= {"rope.freq_base": config.rope_theta, "rope.dimension_count": config.head_size}
        values |= {"attention.key_length": config.head_size, "attention.value_length": config.head_size}
        if config.rope_scaling is not None and config.rope_scaling["type"] == "linear":
            values |= {"rope.scaling.type": "linear", "rope.scaling.factor": config.rope_scaling["factor"]}
    settings = {f"{family.name}.{key}": value for key, value in values.items()}
    if family.name == "apertus":
        settings |= {key: [float(value)] * config.layers for key, value in XIELU.items()}
    return {"general.file_type": _FILE_TYPES[kind], "general.quantization_version": 2, **settings}


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, [int(one) if isinstance(one, int) else one for one in value])
