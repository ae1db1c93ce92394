"""Kahneman-Tversky optimisation: a policy learns from completions that are each liked or not (Ethayarajh et al. 2024).

There are no pairs. How good a completion has become is told from how far the policy has left the reference at large,
which is estimated from completions of other prompts: here each prompt with the next row's completion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scratchlm.alignment.preference_losses import implicit_rewards, kto_baseline, kto_losses
from scratchlm.alignment.sequences import judge_examples, number_tokens, sequence_log_probabilities
from scratchlm.data import IGNORE, Batch, Examples, Plan
from scratchlm.errors import UserError
from scratchlm.training.distributed import World
from scratchlm.training.tasks import FineTune, Work


@dataclass(frozen=True)
class KtoConfig:
    """How a policy learns from completions that are liked or not.

    Raises:
        UserError: from ``__post_init__``, for a value out of range; the line names the field.
    """

    loss: str = "kto"
    beta: float = 0.1
    """How dear it is to leave the reference."""
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    """Of the two kinds; where one is rarer, more. Their products with the kinds' counts should be alike, at most 4 : 3
    (section 4.2)."""
    plain_text: str = "rumi-life"
    """A corpus or a text file on which the perplexity is measured before and after; ``none`` for none."""

    def __post_init__(self) -> None:
        if self.loss != "kto":
            raise UserError(f"loss is {self.loss!r}; rows of single completions are for kto")
        for name in ("beta", "desirable_weight", "undesirable_weight"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise UserError(f"{name} is {value!r}; give a number above 0")


def mismatched(examples: Examples) -> Examples:
    """The prompt of each example with the completion of the next, the last with the first's; as long as is allowed.

    Raises:
        UserError: there is one example only.
    """
    if len(examples) < 2:
        raise UserError(
            "kto compares with other rows' completions; give at least two rows, and hold out none or at least two"
        )
    parts = [examples[number] for number in range(len(examples))]
    starts = [int(np.flatnonzero(targets != IGNORE)[0]) + 1 for _, targets in parts]
    ids, targets = [], []
    for number, start in enumerate(starts):
        other = (number + 1) % len(parts)
        prompt, completion = parts[number][0][:start], parts[other][0][starts[other] :]
        whole = np.concatenate([prompt, completion[: max(1, examples.max_length - start)]])
        learned = np.full(len(whole), IGNORE, np.int32)
        learned[start - 1 : -1] = whole[start:]
        ids.append(whole)
        targets.append(learned)
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    return replace(examples, ids=np.concatenate(ids), targets=np.concatenate(targets), offsets=offsets)


class _Half:
    """One set of examples: what is liked, their mismatches, and what the reference says of both."""

    def __init__(self, plan: Plan, model: nn.Module, place: World, note: Callable[[str], None] | None) -> None:
        self.liked = torch.from_numpy(plan.examples.flags)
        both = plan.examples, mismatched(plan.examples)
        (self.table, (own,)), (self.others, (strange,)) = (number_tokens([one]) for one in both)
        self.plan, self.strangers = replace(plan, examples=own), replace(plan, examples=strange, _orders={})
        self.reference, _ = judge_examples(model, [self.plan], self.table, place, note)
        self.baseline, _ = judge_examples(model, [self.strangers], self.others, place, note)


class Kto(FineTune):
    """Learning from completions that are liked or not; the plans' examples are of the task "kto".

    Args:
        model, place, note: to work out the reference's log-probabilities, now, as the model is.
    """

    def __init__(
        self,
        train: Plan,
        held_out: Plan | None,
        config: KtoConfig,
        model: nn.Module,
        place: World,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.model, self.place, self.config = model.to(place.device), place, config
        self.halves = [_Half(plan, self.model, place, note) for plan in (train, held_out) if plan is not None]
        super().__init__(self.halves[0].plan, self.halves[1].plan if held_out is not None else None)
        self._half = self.halves[0]
        self._baseline = torch.zeros(())
        self._chosen = np.zeros(0, np.int64)
        self._sums = dict[str, float]()

    def work(self, step: int, rows: int, passes: int, place: World, generator: torch.Generator) -> Work:
        self._half, self._sums = self.halves[0], {}
        self._chosen = self.train.indices(step)
        return replace(super().work(step, rows, passes, place, generator), labels=len(self._chosen))

    def begin(self, model: nn.Module, batches: list[Batch], place: World) -> None:  # noqa: ARG002 - other completions
        self._baseline = self._estimate(self.halves[0], self._chosen)

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        found = sequence_log_probabilities(model, batch, self._half.table)
        places = found.numbers.cpu()
        before = self._half.reference[places].to(found.sums.device)
        liked = self._half.liked[places].to(found.sums.device)
        losses = kto_losses(
            found.sums,
            before,
            liked,
            self._baseline.to(found.sums.device),
            beta=self.config.beta,
            desirable_weight=self.config.desirable_weight,
            undesirable_weight=self.config.undesirable_weight,
        )
        if torch.is_grad_enabled():
            rewards = implicit_rewards(found.sums.detach(), before, self.config.beta)
            for name, mine in (("liked", liked), ("disliked", ~liked)):
                for what, value in ((f"reward_{name}", float(rewards[mine].sum())), (name, float(mine.sum()))):
                    self._sums[what] = self._sums.get(what, 0.0) + value
        return losses.sum(), torch.tensor(len(losses), device=losses.device)

    def validation(self) -> Iterator[Batch] | None:
        if self.held_out is None:
            return None
        return self._judged()

    def metrics(self) -> dict[str, float]:
        """Of the last step: the mean implicit reward of what is liked and what is not, and the baseline, in nats."""
        means = {
            f"reward_{name}": self._sums[f"reward_{name}"] / self._sums[name]
            for name in ("liked", "disliked")
            if self._sums.get(name)
        }
        return means | {"baseline": float(self._baseline)}

    def figures(self) -> dict[str, Any]:
        """Of the held-out completions: how often one that is liked has a higher implicit reward than one that is not
        (half where they are equal), and the mean rewards of both."""
        if len(self.halves) < 2:
            return {}
        half = self.halves[1]
        sums, _ = judge_examples(self.model, [half.plan], half.table, self.place)
        rewards = implicit_rewards(sums, half.reference, self.config.beta)
        good, bad = rewards[half.liked], rewards[~half.liked]
        figures: dict[str, Any] = {"rows": len(rewards), "liked": len(good)}
        if len(good) and len(bad):
            gaps = good[:, None] - bad
            figures["accuracy"] = float(((gaps > 0).float() + 0.5 * (gaps == 0)).mean())
            figures |= {"reward_liked": float(good.mean()), "reward_disliked": float(bad.mean())}
        return figures

    def _judged(self) -> Iterator[Batch]:
        """The held-out batches, after an estimate of the baseline by all of them."""
        half, before = self.halves[1], self._baseline
        self._half, self._baseline = half, self._estimate(half, np.arange(len(half.liked)))
        yield from half.plan.in_order()
        self._half, self._baseline = self.halves[0], before

    def _estimate(self, half: _Half, chosen: Any) -> Tensor:
        """The baseline, from the mismatches of these examples; the same in all processes."""
        numbers = np.sort(chosen)
        laid = half.strangers.only(numbers, len(numbers))
        sums, _ = judge_examples(self.model, [laid], half.others, self.place)
        places = torch.from_numpy(numbers)
        return kto_baseline(sums[places], half.baseline[places])
