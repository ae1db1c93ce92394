"""What the tests of constrained text share: tiny vocabularies of every kind, untrained models, and engines."""

from __future__ import annotations

import string
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch

from scratchlm.generation.build import build_engine
from scratchlm.generation.engine import Engine
from scratchlm.models import Decoder, ModelConfig, build_model
from scratchlm.tokenizers import Tokenizer, train_tokenizer

from ..tokenizers import styles

CONTEXT = 96
TEXT = (
    string.printable.replace("\r", "").replace("\x0b", "").replace("\x0c", "")
    + 'é {"name": "Rumi", "age": 30, "tags": ["a", "b"], "ok": true, "none": null, "not": false, "number": -1.5e3}\n'
    * 4
)
SPECIALS = ("[PAD]", "[UNK]", "[EOS]")
KINDS = ("char", "bpe", "byte-level", "spm")
"""Vocabularies that spell all of JSON: ours of characters and of pieces, GPT-2's kind, and SentencePiece's."""


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    if kind == "char":
        return train_tokenizer("char", [TEXT], special_tokens=SPECIALS)
    if kind == "bpe":
        return train_tokenizer("bpe", [TEXT], vocab_size=330, special_tokens=SPECIALS)
    if kind == "word":
        return train_tokenizer("word", ["yes no perhaps not sure , . 1 2 [ ] { }"], special_tokens=SPECIALS)
    folder = Path(mkdtemp(prefix="scratchlm-test-"))
    {"byte-level": styles.gpt2, "spm": styles.llama2}[kind](folder)
    return Tokenizer.open(folder)


@cache
def model_of(kind: str) -> Decoder:
    """Untrained: at temperature 2 it says anything."""
    torch.manual_seed(0)
    sizes = {"context": CONTEXT, "width": 16, "layers": 1, "heads": 2, "init_std": 0.3}
    model = build_model(ModelConfig(vocab_size=tokenizer_of(kind).vocab_size + 3, positions="rotary", **sizes))  # type: ignore[arg-type]
    assert isinstance(model, Decoder)
    return model.eval()


def engine_of(kind: str, rows: int = 4) -> Engine:
    return build_engine(model_of(kind), rows=rows)
