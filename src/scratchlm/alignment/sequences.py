"""How likely a model finds whole completions: the one code for their log-probabilities, with and without gradients.

Batches hold several examples a row, in any layout. So that each prediction can be told to belong to its example, a
batch's labels are the numbers of its tokens among all tokens of all examples; a table says what each token's target is,
and whose it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from scratchlm.data import IGNORE, Batch, Examples, Plan
from scratchlm.models import evaluating
from scratchlm.models.loss import linear_log_probabilities
from scratchlm.training.distributed import World
from scratchlm.training.progress import clock

PASS_TOKENS = 1024
"""Of a pass that only judges: without gradients it keeps little, and larger products are faster."""
_SAID_EVERY = 5.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True)
class TokenTable:
    """Of N tokens of E examples."""

    targets: Tensor
    """(N,) int64: what is to be said at each, ``IGNORE`` where nothing is."""
    owners: Tensor
    """(N,) int64: the number of its example."""
    examples: int
    """E."""

    def take(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The targets and the owners of some tokens (D,), where their numbers lie."""
        places = numbers.cpu()
        return self.targets[places].to(numbers.device), self.owners[places].to(numbers.device)


def number_tokens(parts: Sequence[Examples]) -> tuple[TokenTable, list[Examples]]:
    """The table of all tokens of several sets, one after the other, and the sets with numbers for targets."""
    targets = np.concatenate([part.targets for part in parts]).astype(np.int64)
    lengths = np.concatenate([part.lengths for part in parts])
    owners = np.repeat(np.arange(len(lengths)), lengths)
    numbered, first = [], 0
    for part in parts:
        numbers = np.arange(first, first + len(part.targets))
        numbered.append(replace(part, targets=np.where(part.targets == IGNORE, IGNORE, numbers)))
        first += len(part.targets)
    return TokenTable(torch.from_numpy(targets), torch.from_numpy(owners), len(lengths)), numbered


class Sequences(NamedTuple):
    """Of the S examples of a batch, by rising number."""

    numbers: Tensor
    """(S,) int64."""
    sums: Tensor
    """(S,) float32: the log-probability of all that is supervised, in nats."""
    counts: Tensor
    """(S,) int64: of how many tokens."""


def token_log_probabilities(model: Any, states: Tensor, targets: Tensor) -> Tensor:
    """The log-probabilities (N,), float32, of targets (N,) at states (N, C) of :meth:`hidden`."""
    if type(model.head) is nn.Linear and model.config.head == "linear":
        return linear_log_probabilities(states, model.head.weight, model.head.bias, targets)[0]
    logits: Tensor = model.logits(states).float()
    return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]


def sequence_log_probabilities(model: Any, batch: Batch, table: TokenTable) -> Sequences:
    """The log-probabilities of the examples of a batch whose labels are numbers of the ``table``.

    Raises:
        ValueError: the batch has no labels.
    """
    if batch.labels is None:
        raise ValueError("a batch without labels has nothing to be likely")
    states = model.hidden(batch.ids, **batch.places)
    wanted = batch.labels != IGNORE
    targets, owners = table.take(batch.labels[wanted])
    found = token_log_probabilities(model, states[wanted], targets)
    numbers, places, counts = torch.unique(owners, return_inverse=True, return_counts=True)
    return Sequences(numbers, found.new_zeros(len(numbers)).index_add(0, places, found), counts)


def judge_examples(
    model: nn.Module,
    plans: Sequence[Plan],
    table: TokenTable,
    place: World,
    note: Callable[[str], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The log-probability (E,), float32, of every example of the plans, and its count of tokens (E,), on the CPU.

    Several processes share the work. The model is in evaluation mode meanwhile.
    """
    sums, counts = torch.zeros(table.examples), torch.zeros(table.examples)
    wide = [replace(one, rows=max(one.rows, len(one.examples)), tokens=max(one.tokens, PASS_TOKENS)) for one in plans]
    batches = [batch for plan in wide for batch in plan.in_order()]
    began = said = time.perf_counter()
    with evaluating(model), torch.no_grad():
        for done, batch in enumerate(batches[place.rank :: place.size]):
            found = sequence_log_probabilities(model, batch.to(place.device), table)
            sums[found.numbers.cpu()] = found.sums.cpu()
            counts[found.numbers.cpu()] = found.counts.cpu().float()
            if note is not None and done and time.perf_counter() - said > _SAID_EVERY:
                said = time.perf_counter()
                left = (said - began) / (done + 1) * (len(batches) / place.size - done - 1)
                note(f"{done + 1:,} of {len(batches) // place.size:,} passes, {clock(left)} left")
    both = torch.stack([sums, counts]).to(place.device)
    place.add_up(both)
    return both[0].cpu(), both[1].cpu()
