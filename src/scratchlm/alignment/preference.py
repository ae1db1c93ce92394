"""Direct preference optimisation and its kin: a policy learns from pairs without a reward model (Rafailov et al. 2023).

Which of two completions was preferred is told by how much more likely the policy finds each than the reference does,
the model as it was before. Its log-probabilities never change, so they are worked out once, before training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from scratchlm.alignment.measuring import wilson
from scratchlm.alignment.pair_config import PairConfig
from scratchlm.alignment.preference_losses import PairLoss, implicit_rewards, preference_losses
from scratchlm.alignment.sequences import Sequences, judge_examples, number_tokens, sequence_log_probabilities
from scratchlm.data import Batch, Plan
from scratchlm.errors import UserError
from scratchlm.training.distributed import World
from scratchlm.training.tasks import FineTune, Work

REFERENCED: tuple[PairLoss, ...] = ("dpo", "ipo", "hinge")
"""Losses that compare the policy with the model as it was."""


@dataclass(frozen=True)
class PreferenceConfig(PairConfig):
    """How a policy learns from pairs.

    Raises:
        UserError: from ``__post_init__``, for a value out of range; the line names the field.
    """

    loss: PairLoss = "dpo"
    """``dpo`` (Rafailov et al. 2023), ``ipo`` (Azar et al. 2023), ``hinge`` (Zhao et al. 2023), ``orpo`` (Hong et al.
    2024) or ``simpo`` (Meng et al. 2024)."""
    beta: float = 0.1
    """How dear it is to leave the reference; of orpo the weight of the odds, of simpo the scale of the reward."""
    label_smoothing: float = 0.0
    """With dpo: the share of pairs that may be the wrong way round."""
    gamma: float = 0.5
    """With simpo: by how much, in rewards, the chosen one should lead."""
    sft_weight: float = 0.0
    """How much of the chosen one's cross-entropy a token is added, which keeps it likely (Pang et al. 2024)."""
    plain_text: str = "rumi-life"
    """A corpus or a text file on which the perplexity is measured before and after; ``none`` for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in get_args(PairLoss):
            raise UserError(f"loss is {self.loss!r}; choose one of: {', '.join(get_args(PairLoss))}, kto")
        for name, least, most in (
            ("beta", 0.0, math.inf),
            ("label_smoothing", 0.0, 0.5),
            ("gamma", 0.0, math.inf),
            ("sft_weight", 0.0, math.inf),
        ):
            value = getattr(self, name)
            if not least <= value < most or (name == "beta" and value == 0):
                above = "a number above 0" if name == "beta" else f"a number of at least {least:g}"
                raise UserError(f"{name} is {value!r}; give {above}{'' if most == math.inf else f', below {most:g}'}")
        if self.label_smoothing and self.loss != "dpo":
            raise UserError(f"label_smoothing is for loss=dpo, not {self.loss}; leave it out")


class Preference(FineTune):
    """Learning from pairs of completions.

    The plans' examples are of the task "preference": two of each pair, the chosen one first, which a plan keeps in one
    pass.

    Args:
        config: what is learned.
        steps: that will be taken: only their pairs, and those held out, are looked at by the reference; None for all.
        model, place, note: to work out the reference's log-probabilities, now, as the model is.
    """

    def __init__(
        self,
        train: Plan,
        held_out: Plan | None,
        config: PreferenceConfig,
        model: nn.Module,
        place: World,
        note: Callable[[str], None] | None = None,
        steps: int | None = None,
    ) -> None:
        plans = [train] if held_out is None else [train, held_out]
        self.table, numbered = number_tokens([plan.examples for plan in plans])
        changed = [replace(plan, examples=one, shares=True) for plan, one in zip(plans, numbered, strict=True)]
        super().__init__(changed[0], changed[1] if held_out is not None else None)
        self.config, self.model, self.place = config, model.to(place.device), place
        self.reference = torch.zeros(self.table.examples)
        began = time.perf_counter()
        if config.loss in REFERENCED:
            some = changed[0]
            if steps is not None and steps < some.steps_per_epoch:
                some = some.only(np.sort(np.concatenate([some.indices(step) for step in range(steps)])))
            self.reference, _ = judge_examples(self.model, [some, *changed[1:]], self.table, place, note)
        self.reference_seconds = time.perf_counter() - began
        """What it took to work out the reference's log-probabilities."""
        self._sums = dict[str, float]()

    def work(self, step: int, rows: int, passes: int, place: World, generator: torch.Generator) -> Work:
        self._sums = {}
        work = super().work(step, rows, passes, place, generator)
        return replace(work, labels=len(self.train.indices(step)) // 2)

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        found = sequence_log_probabilities(model, batch, self.table)
        if not len(found.numbers):  # a process without rows
            return found.sums.sum(), found.counts.sum()
        _check_whole(found)
        chosen, rejected = found.sums[0::2], found.sums[1::2]
        before = self.reference[found.numbers.cpu()].to(chosen.device)
        lengths = found.counts.to(chosen.dtype)
        losses = preference_losses(
            self.config.loss,
            chosen,
            rejected,
            before[0::2],
            before[1::2],
            lengths[0::2],
            lengths[1::2],
            beta=self.config.beta,
            label_smoothing=self.config.label_smoothing,
            gamma=self.config.gamma,
        )
        if self.config.sft_weight:
            losses = losses - self.config.sft_weight * chosen / lengths[0::2]
        if torch.is_grad_enabled():
            self._note(found, before, losses)
        return losses.sum(), torch.tensor(len(losses), device=losses.device)

    def metrics(self) -> dict[str, float]:
        """Of the last step's pairs: the implicit rewards, how often the chosen one leads, and by how much."""
        pairs = self._sums.get("pairs", 0.0)
        return {name: total / pairs for name, total in self._sums.items() if name != "pairs"} if pairs else {}

    def figures(self) -> dict[str, Any]:
        """Of held-out pairs: how often the policy prefers the chosen one, measured from where it began (``accuracy``,
        half where it prefers none) and as it is (``likelier``), and by how much; empty where nothing is held out."""
        if self.held_out is None:
            return {}
        first = self.table.examples - len(self.held_out.examples)
        sums, counts = (one[first:] for one in judge_examples(self.model, [self.held_out], self.table, self.place))
        rewards = implicit_rewards(sums, self.reference[first:], self.config.beta)
        if self.config.loss == "simpo":
            rewards = self.config.beta * sums / counts
        gaps, likelier = rewards[0::2] - rewards[1::2], sums[0::2] > sums[1::2]
        accuracy = float(((gaps > 0).float() + 0.5 * (gaps == 0)).mean())
        return {
            "pairs": len(gaps),
            "accuracy": accuracy,
            "accuracy_interval": wilson(accuracy, len(gaps)),
            "reward_margin": float(gaps.mean()),
            "likelier": float(likelier.float().mean()),
        }

    def _note(self, found: Sequences, before: Tensor, losses: Tensor) -> None:
        rewards = implicit_rewards(found.sums.detach(), before, self.config.beta)
        if self.config.loss == "simpo":
            rewards = self.config.beta * found.sums.detach() / found.counts
        ours, theirs = rewards[0::2], rewards[1::2]
        values = {
            "pairs": float(len(losses)),
            "reward_chosen": float(ours.sum()),
            "reward_rejected": float(theirs.sum()),
            "reward_margin": float((ours - theirs).sum()),
            "accuracy": float((ours > theirs).sum()),
        }
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in values.items()}


def _check_whole(found: Sequences) -> None:
    """Raises ValueError where a pair is not whole."""
    numbers = found.numbers
    if len(numbers) % 2 or not bool(((numbers[0::2] % 2 == 0) & (numbers[1::2] == numbers[0::2] + 1)).all()):
        raise ValueError("a pair's completions must be in one pass")
