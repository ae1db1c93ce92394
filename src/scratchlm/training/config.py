"""How a model is trained: one flat set of fields, checked when it is made."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from scratchlm.errors import UserError
from scratchlm.ranges import check_choice, check_whole

Schedule = Literal["constant", "cosine", "linear", "wsd"]
OptimizerName = Literal["adamw", "muon"]
Precision = Literal["auto", "fp32", "bf16"]
TokenizerKind = Literal["char", "word", "bpe", "wordpiece"]
Unknown = Literal["error", "token"]
Sharding = Literal["none", "full"]


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training.

    Raises:
        UserError: from ``__post_init__``, for a value out of range; the line names the field.
    """

    steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 32
    """Rows of one pass through the model, over all processes together."""
    accumulation: int = 1
    """Passes whose gradients make one step."""
    optimizer: OptimizerName = "adamw"
    learning_rate: float = 1e-3
    """AdamW's peak learning rate; with Muon, that of the embeddings, the head, norms and biases."""
    muon_learning_rate: float = 0.03
    muon_momentum: float = 0.95
    final_learning_rate_ratio: float = 0.0
    """The learning rate at the end, as a share of its peak."""
    warmup_steps: int = 0
    schedule: Schedule = "cosine"
    decay_fraction: float = 0.2
    """Share of the steps in which a ``wsd`` schedule falls."""
    weight_decay: float = 0.1
    """On matrices; never on norms, biases and embeddings."""
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    clip_norm: float = 1.0
    """The gradient is scaled down to this norm; 0 for never."""
    precision: Precision = "auto"
    """``auto`` takes bf16 on GPUs that have it, fp32 elsewhere."""
    compile: bool = False
    """Let torch.compile fuse the model (needs a C++ compiler on the CPU; pays on GPUs and long runs)."""
    recompute: bool = False
    """Activations are computed again in the backward pass: less memory, about a third more time, the same numbers."""
    sharding: Sharding = "none"
    """What each of several processes holds: the whole model, or with ``full`` its share of weights, gradients and
    optimizer state (FSDP). The result is the same."""
    device: str = "auto"
    seed: int = 0
    validation_fraction: float = 0.1
    eval_every: int = 0
    """Steps between validations; 0 for a tenth of the run."""
    eval_tokens: int = 500_000
    """At most so many held-out tokens are looked at in a validation; 0 for all."""
    save_every: int = 0
    """Steps between checkpoints; 0 for a tenth of the run, but at least each 1,000 steps."""
    log_every: int = 10
    patience: int = 0
    """Stop after so many validations without a better one; 0 for never."""
    mask_probability: float = 0.15
    tokenizer: TokenizerKind = "char"
    tokenizer_vocab_size: int | None = None
    """For bpe and wordpiece; None for their default."""
    unknown: Unknown = "error"
    """What a character or word outside the vocabulary becomes: an ``error``, or the unknown ``token``."""
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name in ("steps", "batch_size", "accumulation", "log_every"):
            check_whole(name, getattr(self, name), 1)
        for name in ("warmup_steps", "eval_every", "eval_tokens", "save_every", "patience", "seed"):
            check_whole(name, getattr(self, name), 0)
        if self.tokenizer_vocab_size is not None:
            check_whole("tokenizer_vocab_size", self.tokenizer_vocab_size, 2)
        for name in ("learning_rate", "muon_learning_rate", "epsilon"):
            _number(name, getattr(self, name), lambda value: value > 0, "a number above 0")
        for name in ("weight_decay", "clip_norm"):
            _number(name, getattr(self, name), lambda value: value >= 0, "0 or more")
        for name in ("beta1", "beta2", "muon_momentum", "validation_fraction"):
            _number(name, getattr(self, name), lambda value: 0 <= value < 1, "a share from 0 up to, not including, 1")
        for name in ("final_learning_rate_ratio", "decay_fraction"):
            _number(name, getattr(self, name), lambda value: 0 <= value <= 1, "a share from 0 to 1")
        _number("mask_probability", self.mask_probability, lambda value: 0 < value <= 1, "a share above 0 and up to 1")
        if self.warmup_steps >= self.steps:
            raise UserError(f"warmup_steps {self.warmup_steps} leave nothing of {self.steps} steps; lower them")
        if self.compile and self.sharding != "none":
            raise UserError("compile and sharding do not go together; leave one of them out")

    @property
    def evaluation_interval(self) -> int:
        return self.eval_every or max(1, self.steps // 10)

    @property
    def checkpoint_interval(self) -> int:
        return self.save_every or min(1000, max(1, self.steps // 10))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


_CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": get_args(OptimizerName),
    "schedule": get_args(Schedule),
    "precision": get_args(Precision),
    "tokenizer": get_args(TokenizerKind),
    "unknown": get_args(Unknown),
    "sharding": get_args(Sharding),
}


def _number(name: str, value: Any, allowed: Any, words: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or not allowed(value):
        raise UserError(f"{name} is {value!r}; give {words}")
