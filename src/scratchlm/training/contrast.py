"""Vectors of texts, learned from texts that belong together: each is told from all others of its step.

The loss is the multiple negatives ranking loss (Henderson et al. 2017, section 4.4) on cosines, also known as InfoNCE
(van den Oord et al. 2018, equation 4): a text's vector must be more like that of the text that belongs to it than like
those that belong to the step's other rows, and like its own row's wrong ones. How hard that is depends on how many
there are, so all rows of a step are candidates, in however many passes and processes they are computed: the vectors are
made first without gradients, the loss's slope at each vector follows from them all, and a second pass takes it through
the model (gradient caching, Gao et al. 2021, section 3.2). One pass in one process needs no second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from scratchlm.checkpoints.pooling import Pooling
from scratchlm.data import IGNORE, Batch, Examples, Records
from scratchlm.data.packing import pack, packed_batch
from scratchlm.errors import UserError
from scratchlm.training.config import TrainConfig
from scratchlm.training.distributed import World
from scratchlm.training.tasks import FineTune, Work

SCALE = 20.0
"""Cosines are multiplied by it: the inverse of a temperature of 0.05."""
_JUDGED_ROW = 1024


@dataclass(frozen=True)
class Texts:
    """What is known of N texts: which row each is of, its part in it, and which are the same text. (N,) int64 each."""

    rows: Tensor
    parts: Tensor
    """0 for the text that looks, 1 for the one that belongs to it, from 2 on for those that do not."""
    same: Tensor
    """Equal for texts with the same tokens."""

    @classmethod
    def of(cls, *examples: Examples) -> Texts:
        """Of several sets, one after the other."""
        rows, parts, same = list[NDArray[np.int64]](), list[NDArray[np.int64]](), list[int]()
        known: dict[bytes, int] = {}
        for one in examples:
            groups = one.groups
            sizes = np.diff(groups)
            rows.append(np.repeat(np.arange(len(sizes)), sizes) + (1 + rows[-1][-1] if rows else 0))
            parts.append(np.arange(len(one)) - np.repeat(groups[:-1], sizes))
            same += (known.setdefault(one[n][0].tobytes(), len(known)) for n in range(len(one)))
        return cls(torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(parts)), torch.tensor(same))

    def take(self, numbers: Tensor) -> Texts:
        """Some of them, by their numbers (D,), where these lie."""
        places = numbers.cpu()
        return Texts(*(one[places].to(numbers.device) for one in (self.rows, self.parts, self.same)))


def contrast_losses(vectors: Tensor, texts: Texts, scale: float = SCALE) -> Tensor:
    """The loss in nats of each text that looks, zero at the others. (D, C) -> (D,), float32.

    Its candidates are all texts that do not look themselves, but for those that would be wrongly told to be wrong: the
    same text as its own or as the one that belongs to it, and what belongs to a row that looks with the same text.

    Raises:
        ValueError: a row's texts are not all here.
    """
    looks, offered = (texts.parts == 0).nonzero()[:, 0], (texts.parts > 0).nonzero()[:, 0]
    same_row = texts.rows[looks, None] == texts.rows[offered]
    right = same_row & (texts.parts[offered] == 1)
    if not bool((right.sum(1) == 1).all()) or not bool((same_row.sum(0) == 1).all()):
        raise ValueError("some texts of a row are missing; those of a step are learned from together")
    answers, owners = right.int().argmax(1), same_row.int().argmax(0)
    asked, found = texts.same[looks], texts.same[offered]
    hidden = (found == asked[:, None]) | (found == found[answers][:, None])
    hidden |= (asked[owners] == asked[:, None]) & (texts.parts[offered] == 1)
    with torch.autocast(vectors.device.type, enabled=False):
        units = F.normalize(vectors.float(), dim=1)
        scores = scale * (units[looks] @ units[offered].T)
    scores = scores.masked_fill(hidden & ~right, -torch.inf)
    losses = F.cross_entropy(scores, answers, reduction="none")
    return losses.new_zeros(len(texts.parts)).index_put((looks,), losses)


def pooled(states: Tensor, batch: Batch, pooling: Pooling) -> Tensor:
    """The vectors (D, C) of a batch's documents, each of which has a label at its first token. (B, T, C) -> (D, C).

    As :meth:`~scratchlm.checkpoints.pooling.PoolingSettings.vectors` makes them of one document's states at a time.
    """
    assert batch.labels is not None
    begins = batch.labels != IGNORE
    if pooling == "cls":
        return states[begins]
    documents = int(begins.sum())
    owner = begins.flatten().cumsum(0) - 1
    outside = owner < 0 if batch.documents is None else (owner < 0) | (batch.documents.flatten() < 0)
    owner = owner.masked_fill(outside, documents)  # a last one, for padding, that is thrown away
    sums = states.new_zeros(documents + 1, states.shape[-1]).index_add(0, owner, states.flatten(0, 1))
    return sums[:documents] / owner.bincount(minlength=documents + 1)[:documents, None]


@dataclass
class _Known:
    """What a first pass over a whole step has found."""

    numbers: Tensor
    """(D,): of the step's texts, rising."""
    losses: Tensor
    """(D,)."""
    slopes: Tensor
    """(D, C): of the sum of the losses, at each vector."""


@dataclass
class Contrast(FineTune):
    """Learning vectors from texts that belong together.

    The labels of a batch are the numbers of its texts among all: those to train on, then those held out.
    """

    pooling: Pooling = "mean"
    _step: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64), repr=False)
    """The numbers of the step's texts."""
    _known: _Known | None = field(default=None, repr=False)
    _random: deque[list[Tensor]] = field(default_factory=deque, repr=False)
    """The generators' states before each pass that is still to come a second time, so that dropout is the same."""

    def __post_init__(self) -> None:
        held_out = () if self.held_out is None else (self.held_out.examples,)
        self.texts = Texts.of(self.train.examples, *held_out)

    def work(self, step: int, rows: int, passes: int, place: World, generator: torch.Generator) -> Work:
        work = super().work(step, rows, passes, place, generator)
        self._step = torch.from_numpy(np.sort(self.train.indices(step)))
        return replace(work, labels=int((self.texts.parts[self._step] == 0).sum()))

    def begin(self, model: nn.Module, batches: list[Batch], place: World) -> None:
        self._known = None
        self._random.clear()
        if len(batches) == 1 and place.size == 1:
            return
        numbers, vectors = self._step.to(place.device), torch.empty(0)
        with torch.no_grad():
            for batch in batches:
                self._random.append(_random_states(place.device))
                mine, found = self._vectors(model, batch.to(place.device))
                if not vectors.numel():
                    vectors = torch.zeros(len(numbers), found.shape[1], device=place.device)
                vectors[torch.searchsorted(numbers, mine)] = found.float()
            place.add_up(vectors)
        with torch.enable_grad():
            losses = contrast_losses(vectors.requires_grad_(), self.texts.take(numbers))
            (slopes,) = torch.autograd.grad(losses.sum(), vectors)
        self._known = _Known(numbers, losses.detach(), slopes)

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        if self._known is None or not self._random:
            numbers, vectors = self._vectors(model, batch)
            texts = self.texts.take(numbers)
            return contrast_losses(vectors, texts).sum(), (texts.parts == 0).sum()
        _set_random_states(self._random.popleft(), batch.ids.device)
        numbers, vectors = self._vectors(model, batch)
        places = torch.searchsorted(self._known.numbers, numbers)
        along = (vectors * self._known.slopes[places]).sum()
        losses = self._known.losses[places].sum()
        return along - along.detach() + losses, (self.texts.take(numbers).parts == 0).sum()

    def validation(self) -> Iterator[Batch] | None:
        if self.held_out is None:
            return None
        return (self._judged(self.held_out.indices(step)) for step in range(self.held_out.steps_per_epoch))

    def _judged(self, indices: Any) -> Batch:
        """All texts of as many rows as a step has in one batch, so that the loss is as in training."""
        assert self.held_out is not None
        examples = self.held_out.examples
        lengths = examples.lengths[indices]
        batch = packed_batch(examples, [indices[one] for one in pack(lengths, max(_JUDGED_ROW, int(lengths.max())))])
        assert batch.labels is not None
        numbers = batch.labels + len(self.train.examples)
        return replace(batch, labels=numbers.masked_fill(batch.labels == IGNORE, IGNORE))

    def _vectors(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The numbers of a batch's texts (D,), and their vectors (D, C)."""
        if batch.labels is None:
            raise ValueError("a batch without labels cannot be learned from")
        states = model.hidden(batch.ids, **batch.places)
        return batch.labels[batch.labels != IGNORE], pooled(states, batch, self.pooling)


def check_contrast(config: TrainConfig, processes: int) -> None:
    """Whether vectors can be learned so.

    Raises:
        UserError: one row a step, a compiled loss, whose dropout cannot be drawn twice, or a model that is spread.
    """
    if config.batch_size * config.accumulation < 2:
        raise UserError("the task embed tells a step's rows from one another; give a batch_size of at least 2")
    if config.compile:
        raise UserError("compile does not go with the task embed, whose passes are computed twice; leave it out")
    if config.sharding != "none" and processes > 1:
        raise UserError("the task embed needs the whole model in each process; leave sharding out")


def lower_texts(records: Records) -> Records:
    """Texts that belong together in lower case, as some checkpoints read theirs."""
    return replace(
        records, rows=[replace(row, texts=tuple(text.lower() for text in row.texts)) for row in records.rows]
    )


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_states(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
