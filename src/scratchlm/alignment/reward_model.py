"""Reward models: how good a text is, as one number, learned from which of two texts people preferred.

The loss is that of Bradley and Terry's model of comparisons (Ouyang et al. 2022, equation 1): the probability that the
chosen text is preferred is the sigmoid of the gap between the two rewards. Only gaps are learned, so that a reward has
a meaning beside others' only, unless ``centring`` keeps their mean near zero.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scratchlm.alignment.pair_config import PairConfig
from scratchlm.alignment.preference_losses import bradley_terry
from scratchlm.data import IGNORE, Batch, Examples, Plan, Records
from scratchlm.data.judged import at_reading_place
from scratchlm.data.record_rows import BadRow, Record
from scratchlm.errors import UserError
from scratchlm.generation.predict import Predictor
from scratchlm.models import evaluating
from scratchlm.opening import open_model
from scratchlm.training.distributed import World
from scratchlm.training.tasks import FineTune, Work

Margins = NDArray[np.float32]
Message = dict[str, Any]
_AT_ONCE = 1024
"""Completions that are encoded together, to find others of their length."""


@dataclass(frozen=True)
class RewardConfig(PairConfig):
    """How a reward model learns from pairs.

    Raises:
        UserError: from ``__post_init__``, for a value out of range; the line names the field.
    """

    margin_weight: float = 0.0
    """By how much more, for each point of a pair's margin, the chosen one's reward should lead (Touvron et al. 2023,
    section 3.2.2); 0 to ask for no more of clear pairs than of others."""
    centring: float = 0.0
    """How much the square of a pair's summed rewards weighs, which keeps the mean reward near zero (Eisenstein et al.
    2023); 0.01 is usual."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("margin_weight", "centring"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise UserError(f"{name} is {value!r}; give a number of at least 0")


def pair_margins(records: Records, examples: Examples) -> Margins:
    """(P,): the margin of each pair, 0 where the rows have none."""
    return np.array([records.rows[row].margin for row in examples.rows[0::2]], np.float32)


class Pairwise(FineTune):
    """Learning rewards from pairs.

    The plans' examples are of the task "preference": two of each pair, the chosen one first, which a plan keeps in one
    pass. The labels of a batch are the numbers of its texts among all, those held out last, where they are judged.

    Args:
        margins: (P,) of the pairs to learn from, then of those held out.
        ends: the tokenizer's ``eos_ids``, before which a decoder judges a text; None for an encoder, which judges it at
            its first token.
    """

    def __init__(
        self,
        train: Plan,
        held_out: Plan | None,
        margins: Margins,
        config: RewardConfig,
        *,
        ends: Collection[int] | None,
    ) -> None:
        counts = [len(plan.examples) for plan in (train, held_out) if plan is not None]
        if any(count % 2 for count in counts) or 2 * len(margins) != sum(counts):
            raise ValueError(f"{counts} texts and {len(margins)} margins; a pair has two texts and one margin")
        super().__init__(
            replace(train, examples=at_reading_place(train.examples, ends)),
            None
            if held_out is None
            else replace(held_out, examples=at_reading_place(held_out.examples, ends, counts[0])),
        )
        self.margins, self.config = torch.from_numpy(np.asarray(margins, np.float32)), config
        self._sums = dict[str, float]()

    def work(self, step: int, rows: int, passes: int, place: World, generator: torch.Generator) -> Work:
        self._sums = {}
        work = super().work(step, rows, passes, place, generator)
        return replace(work, labels=len(self.train.indices(step)) // 2)

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        numbers, rewards = judge_batch(model, batch)
        if not len(numbers):  # a process without rows
            return rewards.sum(), torch.tensor(0, device=rewards.device)
        if len(numbers) % 2 or not bool(((numbers[0::2] % 2 == 0) & (numbers[1::2] == numbers[0::2] + 1)).all()):
            raise ValueError("a pair's texts must be in one pass")
        chosen, rejected = rewards[0::2], rewards[1::2]
        margins = self.config.margin_weight * self.margins[numbers[0::2].cpu() // 2].to(rewards.device)
        losses = bradley_terry(chosen, rejected, margins, centring=self.config.centring)
        if torch.is_grad_enabled():
            self._note(chosen.detach(), rejected.detach())
        return losses.sum(), torch.tensor(len(losses), device=losses.device)

    def metrics(self) -> dict[str, float]:
        """Of the last step's pairs: the mean rewards, how often the chosen one leads, and by how much."""
        pairs = self._sums.get("pairs", 0.0)
        return {name: total / pairs for name, total in self._sums.items() if name != "pairs"} if pairs else {}

    def _note(self, chosen: Tensor, rejected: Tensor) -> None:
        values = {
            "pairs": float(len(chosen)),
            "reward_chosen": float(chosen.sum()),
            "reward_rejected": float(rejected.sum()),
            "reward_margin": float((chosen - rejected).sum()),
            "accuracy": float((chosen > rejected).sum()),
        }
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in values.items()}


def judge_batch(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The numbers (S,) of a batch's texts, rising, and their rewards (S,), float32. They are read where the labels are.

    Raises:
        ValueError: the batch has no labels.
    """
    if batch.labels is None:
        raise ValueError("a batch without labels does not say where its rewards are read")
    states = model.hidden(batch.ids, **batch.places)
    wanted = batch.labels != IGNORE
    numbers, order = batch.labels[wanted].sort()
    rewards: Tensor = model.logits(states[wanted])[:, 0].float()
    return numbers, rewards[order]


def judge_examples(model: nn.Module, plan: Plan, place: World, *, ends: Collection[int] | None) -> NDArray[np.float32]:
    """The rewards (N,) of all examples of a plan, in their order. A text that is in several pairs is judged once, and
    several processes share the work."""
    distinct, owners = _distinct(at_reading_place(plan.examples, ends))
    found = torch.zeros(len(distinct), device=place.device)
    batches = list(replace(plan, examples=distinct, _orders={}).in_order())
    with evaluating(model), torch.no_grad():
        for batch in batches[place.rank :: place.size]:
            numbers, rewards = judge_batch(model, batch.to(place.device))
            found[numbers] = rewards
    place.add_up(found)
    return found.cpu().numpy()[owners]


def _distinct(examples: Examples) -> tuple[Examples, NDArray[np.int64]]:
    """The different texts (U) among examples, numbered anew where their labels are, and which of them each is (N,)."""
    known: dict[tuple[bytes, bytes], int] = {}
    parts: list[tuple[NDArray[np.uint32], NDArray[np.int32]]] = []
    owners = np.empty(len(examples), np.int64)
    for number in range(len(examples)):
        ids, targets = examples[number]
        read = targets != IGNORE
        owners[number] = known.setdefault((ids.tobytes(), read.tobytes()), len(known))
        if owners[number] == len(parts):
            parts.append((ids, np.where(read, np.int32(len(parts)), np.int32(IGNORE))))
    singly = replace(
        examples,
        task="classify",  # of which each example is one by itself
        ids=np.concatenate([ids for ids, _ in parts]),
        targets=np.concatenate([targets for _, targets in parts]),
        offsets=np.cumsum([0, *(len(ids) for ids, _ in parts)]),
        rows=np.arange(len(parts)),
    )
    return singly, owners


class RewardModel:
    """A trained reward model as a reward: a callable that alignment's policies learn from.

    Args:
        predictor: of the task "reward".
        name: of the model, for messages.
    """

    def __init__(self, predictor: Predictor, name: str) -> None:
        if predictor.task != "reward":
            raise ValueError(f"{name} is for the task {predictor.task}, not for rewards")
        self.predictor, self.name = predictor, name
        self.truncated = 0
        """How many of the completions so far were too long, so that their ends counted for nothing."""

    @classmethod
    def load(cls, folder: str | Path, *, max_length: int | None = None, device: str = "cpu") -> RewardModel:
        """The reward model of a run, or of any name that ``scratchlm predict`` takes.

        Args:
            max_length: tokens that are read of a prompt with its completion; None for as many as the model takes.

        Raises:
            UserError: it cannot be opened, gives no rewards, or takes no such ``max_length``.
        """
        opened = open_model(str(folder), weights=False)
        if opened.config.head != "reward":
            raise UserError(
                f"{folder} gives no rewards; train a reward model with: scratchlm align reward MODEL --data FILE"
            )
        model = opened.model.to(device)
        return cls(Predictor(model, opened.tokenizer, max_length=max_length, name=str(folder)), str(folder))

    def __call__(
        self,
        prompts: Sequence[str | Sequence[Message]],
        completions: Sequence[str],
        **columns: Any,  # noqa: ARG002 - which every reward is given
    ) -> list[float]:
        """A reward for each completion of each prompt, which is a text, or the messages before an assistant's turn.

        Raises:
            UserError: nothing to judge in one of them, or a chat that the template refuses; the line tells its number.
        """
        rows = [_row(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]
        found: list[float] = []
        for first in range(0, len(rows), _AT_ONCE):
            try:
                told = self.predictor.rewards(rows[first : first + _AT_ONCE])
            except BadRow as error:
                raise UserError(f"the reward model {self.name} cannot read a chat: {error}") from error
            for number, one in enumerate(told, first + 1):
                if one.reward is None:
                    raise UserError(f"completion {number:,} and its prompt have no token for {self.name} to judge")
                found.append(one.reward)
                self.truncated += one.truncated
        return found


def _row(prompt: str | Sequence[Message], completion: str) -> Record:
    if isinstance(prompt, str):
        return Record(prompt=prompt, texts=(completion,))
    return Record(messages=tuple(prompt), texts=(completion,))
