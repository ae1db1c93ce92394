"""Small untrained models and tokenizers: what generation does with them does not depend on what they learned."""

from __future__ import annotations

import pytest
import torch

from scratchlm.models import Decoder, Encoder, ModelConfig, build_model
from scratchlm.tokenizers import Tokenizer, train_tokenizer

TEXT = "\nJalāl al-Dīn Muḥammad Rūmī, or simply Rumi, was a 13th-century poet."


@pytest.fixture(scope="session")
def characters() -> Tokenizer:
    return train_tokenizer("char", [TEXT])


@pytest.fixture(scope="session")
def words() -> Tokenizer:
    return train_tokenizer("word", [TEXT], special_tokens=("[PAD]", "[UNK]", "[MASK]"))


@pytest.fixture(scope="session")
def pieces() -> Tokenizer:
    return train_tokenizer("bpe", [TEXT], vocab_size=270)


def loud(model: torch.nn.Module) -> torch.nn.Module:
    """Larger weights than a fresh model has, so that different inputs give clearly different outputs."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def decoder(characters: Tokenizer) -> Decoder:
    torch.manual_seed(0)
    model = build_model(ModelConfig(vocab_size=characters.vocab_size, context=16, width=32, layers=2, heads=4))
    return loud(model)


@pytest.fixture(scope="session")
def encoder(words: Tokenizer) -> Encoder:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=words.vocab_size, architecture="encoder", context=8, width=32, layers=2, heads=4)
    return loud(build_model(config))
