"""What is learned: where batches come from and how a model is judged on held-out text. The loop knows no more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scratchlm.data import (
    IGNORE,
    Batch,
    PairTable,
    Plan,
    every_block,
    every_window,
    mask_tokens,
    sample_blocks,
    sample_windows,
)
from scratchlm.models import cross_entropy_sum, linear_cross_entropy_sum
from scratchlm.tokenizers import Tokenizer
from scratchlm.training.distributed import World

Ids = NDArray[np.unsignedinteger]
EVALUATION_ROWS = 64


@dataclass(frozen=True)
class Work:
    """One process's share of a step: passes whose gradients add up."""

    batches: list[Batch]
    labels: int
    """Labels of the whole step, over all processes."""
    tokens: int
    """Tokens of the whole step."""

    @property
    def computed(self) -> float:
        """The share of the tokens that are computed: less than 1 where texts share their beginnings."""
        every = sum((batch.ids if batch.opened is None else batch.opened).numel() for batch in self.batches)
        return sum(batch.ids.numel() for batch in self.batches) / every if every else 1.0


class Task:
    """What the loop needs to know of a task."""

    period = 1
    """Steps that belong together, such as those that learn from the same rollouts: between the first and the last of
    them the task holds what cannot be made again, so that nothing is saved or judged there."""
    falls = True
    """Whether the loss should fall, so that one that rises tells of a step that is too long. That of a policy need not:
    its gradient is all that it is for."""

    def learner(self, model: nn.Module) -> nn.Module:
        """What is trained for a model: itself, or a module that holds it and what only the training needs."""
        return model

    def product(self, learner: nn.Module) -> nn.Module:
        """The model in what is trained, whose weights are those to keep."""
        return learner

    def work(self, step: int, rows: int, passes: int, place: World, generator: torch.Generator) -> Work:
        """What this process does in a step of ``passes`` passes of ``rows`` rows. A function of the step, the place and
        the generator alone, which is seeded by the step, and of the weights at the first step of a period. No batches,
        in all processes alike, for a step that changes nothing."""
        raise NotImplementedError

    def begin(self, model: nn.Module, batches: list[Batch], place: World) -> None:
        """Called before the passes of a step, which are these here, with the model that computes them."""

    def validation(self) -> Iterator[Batch] | None:
        """The held-out batches, the same each time, or None where nothing is held out."""
        raise NotImplementedError

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The summed loss (0-d) and the number of labels it sums over (0-d)."""
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """What there is to log of the last step beside the loss."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep of the task, at the end of a period."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""

    def span(self) -> float | None:
        """How many tokens each token is one of, on average; None for the model's whole context."""
        return None


class Sampled(Task):
    """The loss of every task here, nats per label; and steps of rows drawn at random, by ``batch``.

    Every process draws the whole step's rows and knows its count of labels without asking the others.
    """

    def batch(self, rows: int, generator: torch.Generator) -> Batch:
        """``rows`` training rows, drawn by ``generator`` alone."""
        raise NotImplementedError

    def work(
        self,
        step: int,  # noqa: ARG002 - the generator's seed is made of it
        rows: int,
        passes: int,
        place: World,
        generator: torch.Generator,
    ) -> Work:
        batch = self.batch(rows * passes, generator)
        first, last = place.share(rows)
        slices = [batch.slice(rows * number + first, rows * number + last) for number in range(passes)]
        return Work(slices, batch.label_count(), batch.ids.numel())

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        if batch.labels is None:
            raise ValueError("a batch without labels cannot be learned from")
        return cross_entropy_sum(model.forward_batch(batch), batch.labels)


@dataclass
class NextToken(Sampled):
    """Language modelling: predict each token from those before it, on random windows of a stream."""

    train: Ids
    held_out: Ids | None
    context: int
    eval_tokens: int = 0
    """At most so many held-out tokens per validation; 0 for all."""

    def batch(self, rows: int, generator: torch.Generator) -> Batch:
        return sample_windows(self.train, rows, self.context, generator)

    def validation(self) -> Iterator[Batch] | None:
        if self.held_out is None:
            return None
        return every_window(_limited(self.held_out, self.eval_tokens), self.context, EVALUATION_ROWS, self.context)


@dataclass
class MaskedToken(Sampled):
    """Masked language modelling (Devlin et al. 2019): predict hidden tokens from both sides."""

    train: Ids
    held_out: Ids | None
    context: int
    tokenizer: Tokenizer
    probability: float = 0.15
    eval_tokens: int = 0

    def batch(self, rows: int, generator: torch.Generator) -> Batch:
        return self._masked(sample_blocks(self.train, rows, self.context, generator), generator)

    def validation(self) -> Iterator[Batch] | None:
        if self.held_out is None:
            return None
        generator = torch.Generator().manual_seed(0)  # the same masks each time, so that validations compare
        held_out = _limited(self.held_out, self.eval_tokens)
        blocks = every_block(held_out, self.context, EVALUATION_ROWS, self.context)
        return (self._masked(block, generator) for block in blocks)

    def _masked(self, ids: Tensor, generator: torch.Generator) -> Batch:
        mask_id = self.tokenizer.mask_id
        if mask_id is None:
            raise ValueError("masked language modelling needs a tokenizer with [MASK]")
        inputs, labels = mask_tokens(
            ids,
            mask_id=mask_id,
            vocab_size=self.tokenizer.vocab_size,
            special_ids=self.tokenizer.special_ids,
            generator=generator,
            probability=self.probability,
        )
        return Batch(ids=inputs, labels=labels)


@dataclass
class Translate(Sampled):
    """Sequence to sequence: predict each target token from the source and the target's tokens before it."""

    train: PairTable
    held_out: PairTable | None

    def batch(self, rows: int, generator: torch.Generator) -> Batch:
        return self.train.sample(rows, generator)

    def validation(self) -> Iterator[Batch] | None:
        return None if self.held_out is None else self.held_out.every(EVALUATION_ROWS)


@dataclass
class FineTune(Task):
    """Learning from examples, whatever their task: tokens to follow, labels or tags, at the positions that have a
    target. A step's passes are laid out by a plan, without padding where that pays."""

    train: Plan
    """Of ``batch_size * accumulation`` rows a step."""
    held_out: Plan | None

    def work(
        self,
        step: int,
        rows: int,
        passes: int,
        place: World,
        generator: torch.Generator,  # noqa: ARG002 - a plan's order has a seed of its own
    ) -> Work:
        if rows * passes != self.train.rows:
            raise ValueError(f"a step of {rows * passes} rows, but the plan's steps have {self.train.rows}")
        batches = self.train.step(step, place.rank, place.size)
        learned, tokens = self.train.sizes(step)
        return Work(batches or [_nothing()], learned, tokens)

    def validation(self) -> Iterator[Batch] | None:
        return None if self.held_out is None else self.held_out.in_order()

    def span(self) -> float | None:
        lengths = self.train.examples.lengths.astype(np.float64)
        return float((lengths**2).sum() / lengths.sum())

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        if batch.labels is None:
            raise ValueError("a batch without labels cannot be learned from")
        states = model.hidden(batch.ids, **batch.places)
        if type(model.head) is nn.Linear and model.config.head == "linear":
            return linear_cross_entropy_sum(states, model.head.weight, model.head.bias, batch.labels)
        wanted = batch.labels != IGNORE
        return cross_entropy_sum(model.logits(states[wanted]), batch.labels[wanted])


def _nothing() -> Batch:
    """For a process that a step leaves without rows: one pass that teaches nothing, since the others wait for it."""
    return Batch(torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), IGNORE))


def _limited(ids: Ids, tokens: int) -> Ids:
    return ids[: tokens + 1] if tokens and len(ids) > tokens + 1 else ids
