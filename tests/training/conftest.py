"""Tiny models and tasks that train in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from scratchlm.data import encode_pairs
from scratchlm.models import Model, build_model, model_preset
from scratchlm.tokenizers import train_tokenizer
from scratchlm.training import TrainConfig
from scratchlm.training.tasks import MaskedToken, NextToken, Task, Translate

SPECIALS = ("[PAD]", "[UNK]", "[MASK]", "[BOS]", "[EOS]")
TEXT = "the sea is wide and the wind is cold and the ship is far from home " * 6
TOKENIZER = train_tokenizer("char", [TEXT], special_tokens=SPECIALS)
IDS = TOKENIZER.encode_array(TEXT)
PAIRS = [(word, word[::-1]) for word in sorted(set(TEXT.split()))]


@pytest.fixture
def tiny_model() -> Callable[..., Model]:
    def build(preset: str = "tinygpt", seed: int = 0, **fields: Any) -> Model:
        torch.manual_seed(seed)
        shape = {"width": 16, "heads": 2, "layers": 1, "context": 8, "dropout": 0.0}
        return build_model(model_preset(preset, TOKENIZER.vocab_size, **(shape | fields)))

    return build


@pytest.fixture
def tiny_task() -> Callable[[str], Task]:
    def build(preset: str = "tinygpt") -> Task:
        if preset == "tinybert":
            return MaskedToken(IDS, IDS[:60], 8, TOKENIZER)
        if preset == "transformer":
            return Translate(encode_pairs(PAIRS, TOKENIZER, 8), None)
        return NextToken(IDS[:-60], IDS[-60:], 8)

    return build


@pytest.fixture
def tiny_config() -> Callable[..., TrainConfig]:
    def build(**fields: Any) -> TrainConfig:
        settings = {"steps": 6, "batch_size": 8, "learning_rate": 1e-2, "weight_decay": 0.0, "device": "cpu"}
        return TrainConfig(**(settings | fields))

    return build


@pytest.fixture
def weights() -> Callable[[torch.nn.Module], dict[str, np.ndarray]]:
    def copies(model: torch.nn.Module) -> dict[str, np.ndarray]:
        return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}

    return copies
