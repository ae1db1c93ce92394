"""Named recipes: a preset's shape and how it is trained."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scratchlm.errors import UserError
from scratchlm.training.config import TrainConfig


@dataclass(frozen=True)
class Recipe:
    """How a preset is trained unless told otherwise."""

    train: TrainConfig
    corpus: str | None = None
    """The corpus it was made for, and is trained on unless told otherwise; None where there is none."""

    def data(self, given: str | Path | None) -> str:
        """The text to train on.

        Raises:
            UserError: none is given, and the preset has none of its own.
        """
        if given is not None:
            return str(given)
        if self.corpus is None:
            raise UserError("this preset has no text of its own; name one with --data FILE")
        return self.corpus


RECIPES: dict[str, Recipe] = {
    "tinybert": Recipe(
        TrainConfig(
            steps=1000,
            batch_size=32,
            learning_rate=2e-3,
            warmup_steps=50,
            weight_decay=0.01,
            beta2=0.99,
            tokenizer="word",
            validation_fraction=0.0,
        ),
        corpus="rumi-life",
    ),
    "tinygpt": Recipe(
        TrainConfig(
            steps=1000,
            batch_size=32,
            learning_rate=2e-3,
            warmup_steps=50,
            weight_decay=0.01,
            beta2=0.99,
            tokenizer="char",
            validation_fraction=0.0,
        ),
        corpus="rumi",
    ),
    "transformer": Recipe(
        TrainConfig(
            steps=1500,
            batch_size=64,
            learning_rate=2e-3,
            warmup_steps=150,
            weight_decay=0.01,
            beta2=0.98,
            tokenizer="char",
            validation_fraction=0.1,
        ),
        corpus="dates",
    ),
    "modern": Recipe(
        TrainConfig(
            steps=2000,
            batch_size=16,
            optimizer="muon",
            learning_rate=0.01,
            muon_learning_rate=0.02,
            warmup_steps=20,
            schedule="linear",
            weight_decay=0.0,
            tokenizer="bpe",
            tokenizer_vocab_size=4096,
        ),
    ),
    "shakespeare": Recipe(
        TrainConfig(
            steps=240,
            batch_size=16,
            optimizer="muon",
            learning_rate=0.02,
            muon_learning_rate=0.03,
            muon_momentum=0.9,
            warmup_steps=5,
            schedule="linear",
            weight_decay=0.0,
            epsilon=1e-10,
            clip_norm=0.0,
            eval_every=80,
            save_every=80,
            tokenizer="char",
        ),
    ),
}


def recipe(preset: str, **changes: Any) -> Recipe:
    """The recipe of ``preset`` with some training settings changed.

    Raises:
        UserError: no such preset, or a value out of range.
    """
    if preset not in RECIPES:
        near = difflib.get_close_matches(preset, RECIPES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(RECIPES)}"
        raise UserError(f"there is no preset {preset!r}; {hint}")
    found = RECIPES[preset]
    settings = found.train.to_dict() | changes
    if "steps" in changes and "warmup_steps" not in changes:
        # A short run warms up for the same share of its steps.
        share = found.train.warmup_steps / found.train.steps
        settings["warmup_steps"] = int(share * changes["steps"]) if isinstance(changes["steps"], int) else 0
    for interval in ("eval_every", "save_every"):
        if "steps" in changes and interval not in changes:
            settings[interval] = 0
    return Recipe(TrainConfig(**settings), found.corpus)
