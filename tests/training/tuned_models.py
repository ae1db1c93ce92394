"""Tiny models on disk and files of rows, to be fine-tuned in a second: what the tests of fine-tuning share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from scratchlm.checkpoints import save_huggingface
from scratchlm.models import ModelConfig, build_model
from scratchlm.tokenizers import Tokenizer, train_tokenizer

COMMON: dict[str, Any] = {"context": 48, "width": 16, "layers": 2, "heads": 2, "init_std": 0.1, "dropout": 0.1}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"qkv_bias": True, "head_bias": False, "tied_embeddings": True, "embedding_dropout": True},
    "llama": {
        **{"kv_heads": 1, "ffn_width": 24, "positions": "rotary", "norm": "rmsnorm", "activation": "swiglu"},
        **{"out_bias": False, "ffn_bias": False, "head_bias": False, "dropout": 0.0},
    },
    "bert": {
        **{"architecture": "encoder", "qkv_bias": True, "norm_placement": "post", "embedding_norm": True},
        **{"token_types": 2, "final_norm": False, "head": "none", "head_bias": False},
    },
}
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WORDS = ["the", "sea", "is", "wide", "and", "cold", "ship", "far", "home", "wind", "red", "blue", "good", "bad", "wolf"]
WORDS.append("moon")


def sentence(number: int, length: int = 6) -> str:
    """Always the same for a number, others for others."""
    return " ".join(WORDS[(number * 7 + n * (number % 5 + 1)) % len(WORDS)] for n in range(length))


def rows(task: str, count: int = 24, first: int = 0) -> list[dict[str, Any]]:
    """Rows of a task, of different lengths. What a word's tag is, and the class of a text that begins with it, can be
    learned."""
    found: list[dict[str, Any]] = []
    for number in range(first, first + count):
        text, answer = sentence(number, 2 + number % 6), sentence(number + 1000, 1 + number % 3)
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        words = text.split()
        tags = [("O", "B-thing", "I-thing")[WORDS.index(word) % 3] for word in words]
        found.append(
            {
                "lm": {"text": text},
                "prompt": {"prompt": text, "completion": f" {answer}"},
                "chat": {"messages": turns},
                "classify": {"text": text, "label": ("bad", "fair", "good")[WORDS.index(words[0]) % 3]},
                "tag": {"tokens": words, "tags": tags},
            }[task]
        )
    return found


def write_rows(path: Path, values: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def tokenizer(family: str) -> Tokenizer:
    texts = [sentence(number) + "\n" for number in range(40)]
    if family == "bert":
        return train_tokenizer("wordpiece", texts, vocab_size=80, special_tokens=("[PAD]", "[UNK]", "[MASK]", "[BOS]"))
    made = train_tokenizer("bpe", texts, vocab_size=300, special_tokens=("<|endoftext|>",))
    made.chat_template = TEMPLATE if family == "llama" else None
    return made


def save_model(folder: Path, family: str, **changes: Any) -> Path:
    """A model of random weights as Hugging Face's folder."""
    words = tokenizer(family)
    torch.manual_seed(3)
    shape = COMMON | SHAPES[family] | changes
    save_huggingface(build_model(ModelConfig(words.vocab_size, **shape)), folder, words)
    return folder


def settings(**changes: Any) -> dict[str, Any]:
    """A short tuning on the CPU in which much is learned."""
    return {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "log_every": 1, "device": "cpu"} | changes
