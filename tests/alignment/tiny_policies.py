"""A tiny policy, prompts and rewards: what the tests of rollouts, GRPO and PPO share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from scratchlm.adapters import LoraSettings, add_lora
from scratchlm.alignment.policy import Prompts
from scratchlm.data import Examples, Plan
from scratchlm.data.records import Skipped
from scratchlm.models import Decoder, ModelConfig, build_model
from scratchlm.tokenizers import Tokenizer, train_tokenizer
from scratchlm.training import TrainConfig
from scratchlm.training.distributed import World
from scratchlm.training.loop import Trainer
from scratchlm.training.progress import Reporter

CPU = World(torch.device("cpu"))
LETTERS = "abcdefgh"
SHAPE: dict[str, Any] = {
    **{"context": 24, "width": 16, "layers": 2, "heads": 2, "kv_heads": 1, "dropout": 0.0, "init_std": 0.3},
    **{"positions": "rotary", "norm": "rmsnorm", "activation": "swiglu", "tied_embeddings": True, "head_bias": False},
}
PROMPTS = ["ab", "c", "dec", "a", "hgf"]


def letters() -> Tokenizer:
    """A token a letter, and an end."""
    return train_tokenizer("char", [LETTERS], special_tokens=("<|endoftext|>",))


def policy(*, lora: bool = False, dropout: float = 0.0, **fields: Any) -> Decoder:
    torch.manual_seed(3)
    built = build_model(ModelConfig(vocab_size=letters().vocab_size, **SHAPE | {"dropout": dropout} | fields))
    assert isinstance(built, Decoder)
    if lora:
        torch.manual_seed(4)
        add_lora(built, LoraSettings(rank=2, dropout=dropout))
    return built


def moved(model: Decoder, by: float = 0.05) -> Decoder:
    """What is trained of it, changed a little."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += by * torch.randn(parameter.shape, generator=generator)
    return model


def prompts(texts: Sequence[str] = PROMPTS) -> Prompts:
    words = letters()
    return Prompts([words.encode(text) for text in texts], list(texts), [{"number": n} for n in range(len(texts))])


def plan(rows: int, tokens: int = 48, texts: Sequence[str] = PROMPTS) -> Plan:
    """Of prompts."""
    ids = prompts(texts).ids
    offsets = np.cumsum([0, *map(len, ids)])
    flat = np.concatenate([np.array(one, np.uint32) for one in ids])
    targets = np.full(len(flat), -100, np.int32)
    examples = Examples("lm", flat, targets, offsets, np.arange(len(ids)), (), 24, 0, Skipped())
    return Plan(examples, rows, tokens, 0, "auto", 16)


class Rewarded:
    """Rewards by a function of the prompt and the completion."""

    def __init__(self, *functions: Callable[[str, str], float]) -> None:
        self.functions = functions
        self.names = [f"reward-{number}" for number in range(len(functions))]
        self.seen: list[dict[str, list[Any]]] = []

    def score(
        self, texts: list[str], completions: list[str], columns: dict[str, list[Any]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append(columns)
        found = torch.tensor([[one(a, b) for a, b in zip(texts, completions, strict=True)] for one in self.functions])
        return found, found.sum(0)


def many_as(_prompt: str, completion: str) -> float:
    """The share of the letter a."""
    return completion.count("a") / 8


def trainer(model: Any, task: Any, rows: int, passes: int = 1, **fields: Any) -> Trainer:
    config = TrainConfig(
        **{"steps": 100, "batch_size": rows, "accumulation": passes, "device": "cpu", "clip_norm": 0.0}
        | {"learning_rate": 1e-2, "weight_decay": 0.0, "schedule": "constant", **fields}
    )
    return Trainer(model, task, config, None, CPU, Reporter(quiet=True))


def gradients(model: Any, task: Any, rows: int, passes: int = 1) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and the gradients of the first step, which is not taken."""
    made = trainer(model, task, rows, passes)
    found: dict[str, torch.Tensor] = {}

    def update() -> float:
        found.update({name: p.grad.clone() for name, p in made.model.named_parameters() if p.grad is not None})
        return 0.0

    made.update = update  # type: ignore[method-assign]
    made.step()
    return made.state.loss, found
