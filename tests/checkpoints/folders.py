"""Small models of two families, and what opening a folder of theirs says."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scratchlm.checkpoints import load_huggingface
from scratchlm.errors import UserError
from scratchlm.models import ModelConfig

LLAMA = ModelConfig(
    vocab_size=50,
    context=16,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    ffn_width=24,
    positions="rotary",
    norm="rmsnorm",
    activation="swiglu",
    out_bias=False,
    ffn_bias=False,
    head_bias=False,
)
BERT = ModelConfig(
    vocab_size=50,
    architecture="encoder",
    context=16,
    width=16,
    layers=1,
    heads=2,
    norm_placement="post",
    qkv_bias=True,
    embedding_norm=True,
    token_types=2,
    final_norm=False,
    head="none",
    head_bias=False,
)
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def fields(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    return values


def change(folder: Path, **values: Any) -> None:
    (folder / CONFIG).write_text(json.dumps(fields(folder) | values))


def complaint(folder: Path, load: Callable[[Path], object] = load_huggingface) -> str:
    """The one line that opening ``folder`` gives, and proof that it took no memory to find out."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as error:
        load(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes
    assert "\n" not in str(error.value)
    return str(error.value)
