"""What a model is, told from the headers of its files: no weights are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from scratchlm.checkpoints.catalogue import ADAPTER, Located, resolve
from scratchlm.checkpoints.download import damaged_files
from scratchlm.checkpoints.gguf import GGUFFile
from scratchlm.checkpoints.headers import CURE, read_header, read_json
from scratchlm.checkpoints.huggingface import read_config
from scratchlm.checkpoints.run import WEIGHTS, RunFolder
from scratchlm.checkpoints.weights import WeightFiles, model_tensors
from scratchlm.errors import UserError
from scratchlm.models import ModelConfig, empty_model

PRECISIONS = {"float32": (4.0, 4), "bfloat16": (2.0, 2), "int8": (34 / 32, 4), "int4": (20 / 32, 4)}
"""Bytes of a matrix's element (of 8 and 4 bits with their scales, one for 32 elements), and of one in the cache."""
_VECTOR_BYTES = 4
"""Of everything that is no matrix where the matrices have 8 or 4 bits."""


@dataclass(frozen=True)
class _Held:
    """What a model's files hold, by their headers."""

    config: ModelConfig
    family: str
    elements: int
    """Floating-point numbers in all tensors together."""
    tensors: int
    types: Counter[str]
    files: list[Path]


def inspect(model: str | Path | Located, *, verify: bool = False) -> dict[str, Any]:
    """Everything there is to know about a model before it is loaded, ready for JSON.

    Args:
        verify: read every file of a model that was fetched, and compare its sha256. Adds ``verified``: False where
            nothing was recorded to compare with, as of a run or a path.

    Returns:
        ``name``, ``kind`` (run, huggingface, gguf), ``path``, ``architecture`` (decoder, encoder, seq2seq), ``family``,
        ``layers``, ``width``, ``heads``, ``kv_heads``, ``vocabulary``, ``context`` (tokens), ``parameters``, ``stored``
        (type -> tensors), ``bytes`` (on disk), ``memory`` (precision -> ``weights``, ``cache`` at the full context and
        ``total``, in bytes), ``licence``, ``chat_template``, ``tokenizer``, ``hub``.

    Raises:
        UserError: there is no such model, or a file is damaged; the line names it.
    """
    located = model if isinstance(model, Located) else resolve(model)
    if located.kind == "adapter":
        return _adapter(located, verify)
    wrong = damaged_files(located) if verify else None
    if wrong:
        again = f"fetch it again with: scratchlm models pull {located.name}"
        raise UserError(f"damaged in {located.path}: {', '.join(wrong)} (sha256 differs); {again}")
    held, told = _READERS[located.kind](located)
    config, entry = held.config, located.entry
    matrices, vectors = _parameters(located, held)
    return {
        "name": located.name,
        "kind": located.kind,
        "path": str(located.path),
        "architecture": config.architecture,
        "family": held.family,
        "layers": config.layers,
        "width": config.width,
        "heads": config.heads,
        "kv_heads": config.key_value_heads,
        "vocabulary": config.vocab_size,
        "context": config.context,
        "parameters": matrices + vectors,
        "stored": dict(held.types.most_common()),
        "bytes": sum(path.stat().st_size for path in held.files),
        "memory": memory(config, matrices, vectors),
        "hub": entry.hub if entry is not None else None,
        **told,
        **({"verified": wrong is not None} if verify else {}),
        "licence": entry.licence if entry is not None else told["licence"],
    }


def _adapter(located: Located, verify: bool) -> dict[str, Any]:
    """What there is to know about the base, and what the adapter adds to it."""
    fields = read_json(located.path / ADAPTER)
    weights = located.path / "adapter_model.safetensors"
    added = sum(info.elements for info in read_header(weights).values())
    told = inspect(str(fields.get("base_model_name_or_path")), verify=verify)
    own = {"name": located.name, "kind": "adapter", "path": str(located.path), "base": told["name"]}
    return {**told, **own, "rank": fields.get("r"), "added": added, "bytes": told["bytes"] + weights.stat().st_size}


def memory(config: ModelConfig, matrices: int, vectors: int) -> dict[str, dict[str, int]]:
    """Bytes that a model takes in each precision: its weights, and the key-value cache of one full context."""
    stacks = {"decoder": 1, "encoder": 0, "seq2seq": 1}[config.architecture]
    cached = stacks * 2 * config.layers * config.key_value_heads * config.head_size * config.context
    table = {}
    for name, (width, cache_width) in PRECISIONS.items():
        weights = int(matrices * width + vectors * (_VECTOR_BYTES if name.startswith("int") else width))
        table[name] = {"weights": weights, "cache": cached * cache_width, "total": weights + cached * cache_width}
    return table


def _parameters(located: Located, held: _Held) -> tuple[int, int]:
    """How many parameters the config describes, in matrices and in vectors; the files must hold as many."""
    config = held.config
    if config.layers > held.tensors:
        raise UserError(
            f"{located.path} describes {config.layers:,} layers, its files hold {held.tensors:,} tensors; {CURE}"
        )
    # Computed positions are no parameters, and their tables take time to compute.
    brief = config if config.positions == "learned" else replace(config, context=1, sliding_window=None)
    tensors = [tensor for tensor in model_tensors(empty_model(brief)).values() if tensor.is_floating_point()]
    matrices = sum(tensor.numel() for tensor in tensors if tensor.dim() > 1)
    vectors = sum(tensor.numel() for tensor in tensors if tensor.dim() <= 1)
    if matrices + vectors > held.elements:
        raise UserError(
            f"{located.path} describes {matrices + vectors:,} parameters, its files hold {held.elements:,}; {CURE}"
        )
    return matrices, vectors


# -- one reader for each kind -----------------------------------------------------------------------------------------


def _run(located: Located) -> tuple[_Held, dict[str, Any]]:
    run = RunFolder.open(located.path)
    description = run.description()
    if not (run.path / WEIGHTS).exists() and run.latest_checkpoint() is not None:
        raise UserError(f"{run.path} is not finished: it has no {WEIGHTS} yet; go on with: {run.resume_command()}")
    config = ModelConfig.from_dict(description["model"])
    family = str(description.get("preset", "of one's own"))
    return _safetensors(run.path, config, family), _tokenizer_in(run.path)


def _huggingface(located: Located) -> tuple[_Held, dict[str, Any]]:
    family = str(read_json(located.path / "config.json").get("model_type"))
    return _safetensors(located.path, read_config(located.path), family), _tokenizer_in(located.path)


def _safetensors(folder: Path, config: ModelConfig, family: str) -> _Held:
    weights = WeightFiles(folder)
    floats = [info for info in weights.tensors.values() if info.is_float]
    types = Counter(info.dtype for info in floats)
    return _Held(config, family, sum(info.elements for info in floats), len(weights.tensors), types, weights.paths)


def _gguf(located: Located) -> tuple[_Held, dict[str, Any]]:
    file = GGUFFile(located.path)
    infos = [file.info(name) for name in file.names()]
    elements = sum(prod(info.shape) for info in infos)
    family = str(file.metadata.get("general.architecture"))
    held = _Held(file.config(), family, elements, len(infos), Counter(info.type for info in infos), [located.path])
    tokenizer = _text(file.metadata, "tokenizer.ggml.model")
    told = {
        "licence": _text(file.metadata, "general.license"),
        "chat_template": "tokenizer.chat_template" in file.metadata,
        "tokenizer": _GGUF_TOKENIZERS.get(str(tokenizer), tokenizer),
    }
    return held, told


_GGUF_TOKENIZERS = {"gpt2": "bpe", "llama": "sentencepiece", "bert": "wordpiece"}
_READERS = {"run": _run, "huggingface": _huggingface, "gguf": _gguf}


def _text(metadata: Mapping[str, Any], key: str) -> str | None:
    value = metadata.get(key)
    return value[:80] if isinstance(value, str) else None


def _tokenizer_in(folder: Path) -> dict[str, Any]:
    """What kind of tokenizer lies in a folder, and whether it has a chat template."""
    settings = folder / "tokenizer_config.json"
    values = read_json(settings) if settings.is_file() else {}
    kind = values.get("scratchlm_kind")
    if kind is None and (folder / "tokenizer.json").is_file():
        model = read_json(folder / "tokenizer.json").get("model")
        kind = str(model.get("type", "of a kind it does not name")).lower() if isinstance(model, dict) else None
    if kind is None:
        files = (("vocab.json", "bpe"), ("vocab.txt", "wordpiece"), ("tokenizer.model", "sentencepiece"))
        kind = next((name for file, name in files if (folder / file).is_file()), None)
    template = "chat_template" in values or any(
        (folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")
    )
    return {"licence": None, "chat_template": template, "tokenizer": kind}
