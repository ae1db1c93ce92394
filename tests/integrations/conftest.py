"""What the tests with other libraries share: tiny models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scratchlm.checkpoints import save_huggingface
from scratchlm.models import ModelConfig, build_model
from scratchlm.tokenizers import train_tokenizer

from ..training.tuned_models import COMMON, SHAPES, save_model, sentence


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with untrained models: ``talker`` and ``other`` chat, ``reader`` gives vectors."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("talker", "other"):
        save_model(folder / name, "llama", context=512, init_std=0.3, **({} if name == "talker" else {"layers": 1}))
    letters = " ".join("abcdefghijklmnopqrstuvwxyz 0123456789")
    tokens = ("[PAD]", "[UNK]", "[MASK]", "[BOS]")
    words = train_tokenizer("wordpiece", [*map(sentence, range(40)), letters], vocab_size=160, special_tokens=tokens)
    torch.manual_seed(3)
    config = ModelConfig(words.vocab_size, **(COMMON | SHAPES["bert"]))
    save_huggingface(build_model(config), folder / "reader", words)
    return folder
