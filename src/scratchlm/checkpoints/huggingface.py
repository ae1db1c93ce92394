"""Hugging Face's folders, both ways: config.json and model.safetensors, as ``transformers`` writes and opens them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from scratchlm.checkpoints.dialects import Fields, config_from_fields
from scratchlm.checkpoints.express import fields_from_config
from scratchlm.checkpoints.families import Table, family_table, join, split
from scratchlm.checkpoints.files import (
    disk_errors,
    write_atomically,
    write_folder_atomically,
    write_tensors,
    write_text,
)
from scratchlm.checkpoints.headers import CURE, read_json
from scratchlm.checkpoints.matching import match
from scratchlm.checkpoints.weights import SINGLE, WeightFiles, model_tensors, set_parameters
from scratchlm.errors import UserError
from scratchlm.models import Decoder, Encoder, ModelConfig, empty_model, parameter_count

if TYPE_CHECKING:
    from scratchlm.tokenizers import Tokenizer

CONFIG = "config.json"
_LARGEST_CONFIG = 4 << 20
_FOLDED = ("norm.weight", "norm.bias", "head.weight")
EXACT = "scratchlm."
"""Before the names of a run's tensors that stand beside a form of them that ``transformers`` can use."""


def read_config(source: str | Path | Mapping[str, Any]) -> ModelConfig:
    """The config in a folder, or in the fields of a config.json.

    In a folder, which heads there are is seen from the names of the tensors, where there are any.

    Raises:
        UserError: the file is missing or damaged, or describes what scratchlm's models do not have; the field is named.
    """
    if isinstance(source, Mapping):
        return config_from_fields(Fields(source, CONFIG))
    folder = Path(source)
    try:
        names: Collection[str] | None = WeightFiles(folder).tensors
    except UserError:
        names = None  # a config alone is enough here; who wants the weights is told what is wrong with them
    return config_from_fields(_fields(folder, names))


def load_huggingface(folder: str | Path, dtype: torch.dtype = torch.float32) -> Decoder | Encoder:
    """The model in a folder, in evaluation mode.

    Tensors that are stored in ``dtype`` and need no rearranging stay where the file is mapped in memory; changes to
    them do not reach the file.

    Raises:
        UserError: a file is missing, damaged or a pickle; a feature is not supported; tensors are missing, unknown or
            of another shape, all of which are named.
    """
    folder = Path(folder)
    files = WeightFiles(folder)
    fields = _fields(folder, files.tensors)
    config = config_from_fields(fields)
    if config.layers > len(files.tensors) or parameter_count(config) > 2 * files.numbers + 2**20:
        raise UserError(
            f"{folder / CONFIG} describes a model of {parameter_count(config):,} parameters, the weights beside it are "
            f"{files.numbers:,}; they do not belong together, {CURE}"
        )
    model = empty_model(config)
    assert isinstance(model, Decoder | Encoder)
    shapes = {name: info.shape for name, info in files.tensors.items() if not name.startswith(EXACT)}
    table = _table(fields.values["model_type"], config.head, shapes)
    sources = match(_shapes(model_tensors(model)), config, table, shapes, files.read, str(folder))
    tensors = {}
    for name, source in sources.items():
        tensors[name] = join([files.read(theirs) for theirs in source.names], source).to(dtype)
    set_parameters(model, tensors)
    return model


def _fields(folder: Path, names: Collection[str] | None) -> Fields:
    return Fields(read_json(folder / CONFIG, _LARGEST_CONFIG), str(folder / CONFIG), names)


def _table(family: str, head: str, names: Iterable[str]) -> Table:
    """The family's table, in the form without a prefix if that is how the tensors are named."""
    table = family_table(family, "linear" if head == "none" else head)
    return table if any(name.startswith(table.prefix) for name in names) else table.without_prefix()


# -- writing ----------------------------------------------------------------------------------------------------------


def huggingface_form(model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The fields of a config.json, and the tensors by Hugging Face's names, that are this model.

    A GPT-2 without a bias on its head gives the logits of a decoder with one: see :func:`fold_head_bias`. Where theirs
    always has a bias and ours has none, theirs is zero.

    Raises:
        InexpressibleError: no family of theirs has this model; the line names the field that stands in the way.
    """
    config: ModelConfig = model.config  # type: ignore[assignment]
    tensors = {name: tensor.detach() for name, tensor in model_tensors(model).items()}
    if _folds(config):
        config, tensors = fold_head_bias(config, tensors)
    fields = fields_from_config(config)
    table = family_table(fields["model_type"], config.head)
    theirs: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        theirs |= split(tensor, table.source(name), config)
    for name, source in table.always_biased(config.layers):
        weight = tensors.get(name.removesuffix("bias") + "weight")
        if name not in tensors and weight is not None:
            theirs |= split(weight.new_zeros(weight.shape[0]), source, config)
    dtype = tensors["embed.tokens.weight"].dtype
    return fields | {"torch_dtype": str(dtype).removeprefix("torch.")}, theirs


def _folds(config: ModelConfig) -> bool:
    linear = config.head == "linear" and config.head_bias and config.architecture == "decoder"
    return linear and config.norm == "layernorm" and config.final_norm


def fold_head_bias(config: ModelConfig, tensors: Mapping[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The same logits without a bias on the head.

    The final norm gives g * z + c, where the coordinates of z sum to zero; the head makes W (g * z + c) + b of it. With
    a scale and shift of ones instead, z + 1, and any vector a, the head W g + a 1^T / C gives W g z + W g 1 + a, since
    1^T z = 0. So a = W c + b - W g makes the two equal. Computed in float64, so that only the last rounding is lost.
    """
    weight, bias = tensors["head.weight" if "head.weight" in tensors else "embed.tokens.weight"], tensors["head.bias"]
    scale, wide = tensors["norm.weight"].double(), weight.double()
    shift = tensors["norm.bias"].double() if "norm.bias" in tensors else torch.zeros_like(scale)
    scaled = wide * scale
    rest = wide @ shift + bias.double() - scaled.sum(dim=1)
    ones = torch.ones_like(tensors["norm.weight"])
    folded = {name: tensor for name, tensor in tensors.items() if name != "head.bias"} | {
        "head.weight": (scaled + rest[:, None] / config.width).to(weight.dtype),
        "norm.weight": ones,
        "norm.bias": ones.clone(),
    }
    return replace(config, head_bias=False, tied_embeddings=False), folded


def run_form(model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """:func:`huggingface_form`, and beside it what was folded, as it is, under our own names (see :data:`EXACT`).

    Raises:
        InexpressibleError: as :func:`huggingface_form`.
    """
    fields, theirs = huggingface_form(model)
    if _folds(model.config):  # type: ignore[arg-type]
        own = model_tensors(model)
        theirs |= {EXACT + name: own[name].detach() for name in (*_FOLDED, "head.bias") if name in own}
    return fields, theirs


def tensors_from_run(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """What :func:`run_form` wrote, by our names and to the last bit.

    Raises:
        UserError: tensors are missing, unknown or of another shape; all of them are named.
    """
    config: ModelConfig = model.config  # type: ignore[assignment]
    expressed = replace(config, head_bias=False) if _folds(config) else config
    table = _table(fields_from_config(expressed)["model_type"], config.head, tensors)
    exact = {name.removeprefix(EXACT): tensor for name, tensor in tensors.items() if name.startswith(EXACT)}
    folded = {theirs for name in _FOLDED for theirs in table.source(name).names} if exact else set()
    theirs = {name: tensor for name, tensor in tensors.items() if not name.startswith(EXACT) and name not in folded}
    wanted = {name: shape for name, shape in _shapes(model_tensors(model)).items() if name not in exact}
    sources = match(wanted, config, table, _shapes(theirs), theirs.__getitem__, origin)
    found = {name: join([theirs[one] for one in source.names], source) for name, source in sources.items()}
    return exact | found


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def config_text(fields: Mapping[str, Any], tokenizer: Tokenizer | None) -> str:
    """The text of a config.json, with the ids of the tokenizer's special tokens."""
    values = dict(fields)
    if tokenizer is not None:
        others = sorted(tokenizer.eos_ids - {tokenizer.eos_id})  # a chat's end of turn, say
        ends = others if tokenizer.eos_id is None else [tokenizer.eos_id, *others]
        values["bos_token_id"] = tokenizer.bos_id
        values["eos_token_id"] = ends if len(ends) > 1 else next(iter(ends), None)
        if values["pad_token_id"] is None:  # RoBERTa's positions depend on its own
            values["pad_token_id"] = tokenizer.pad_id
            # transformers takes a text's class from its last token that is not this one, which must not end a text.
            if tokenizer.pad_id is None and tokenizer.eos_id not in tokenizer.suffix_ids:
                values["pad_token_id"] = tokenizer.eos_id if "id2label" in values else None
    return json.dumps(values, indent=2) + "\n"


def save_huggingface(model: nn.Module, folder: str | Path, tokenizer: Tokenizer | None = None) -> None:
    """Write config.json, model.safetensors and the tokenizer's files into a folder, over older ones.

    Raises:
        UserError: no family of theirs has this model (the line names the field), or the disk refuses.
    """
    folder = Path(folder)
    fields, tensors = huggingface_form(model)
    with disk_errors(f"the model in {folder}", "choose a folder that you may write to, or free some space"):
        folder.mkdir(parents=True, exist_ok=True)
        if tokenizer is not None:
            tokenizer.save(folder)
        write_text(folder / CONFIG, config_text(fields, tokenizer))
        write_atomically(folder / SINGLE, lambda partial: write_tensors(partial, tensors))


def export_huggingface(model: nn.Module, tokenizer: Tokenizer, folder: str | Path) -> None:
    """:func:`save_huggingface` into a new folder, which appears whole or not at all.

    Raises:
        UserError: the folder holds files already; no family of theirs has this model; the disk refuses.
    """
    folder = Path(folder)
    huggingface_form(model)  # a reason why not is told before anything is written
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; choose a new folder to export to")
    with disk_errors(f"the model in {folder}", "choose a folder that you may write to, or free some space"):
        if folder.is_dir():
            folder.rmdir()
        write_folder_atomically(folder, lambda partial: save_huggingface(model, partial, tokenizer))
