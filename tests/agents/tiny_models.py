"""Untrained models that chat: what they write is as wild as can be."""

from __future__ import annotations

import torch

from scratchlm.generation.build import build_engine
from scratchlm.generation.engine import Engine
from scratchlm.models import Decoder, ModelConfig, build_model
from scratchlm.tokenizers import Tokenizer

from .chat_tokenizers import chatty


class Tiny:
    """What an agent needs of a ``scratchlm.LanguageModel``, with random weights.

    Args:
        template: the chat template.
        context: tokens; the tokenizer has one for each byte.
    """

    name = "tiny"

    def __init__(self, template: str, context: int = 4096) -> None:
        torch.manual_seed(0)
        self.tokenizer: Tokenizer = chatty(template)
        size = self.tokenizer.vocab_size
        self.config = ModelConfig(
            *(size, "decoder"), context=context, width=16, layers=1, heads=2, positions="rotary", init_std=0.3
        )
        model = build_model(self.config)
        assert isinstance(model, Decoder)
        self._engine = build_engine(model.eval(), rows=4)

    def engine(self) -> Engine:
        return self._engine
