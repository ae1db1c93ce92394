"""Rollouts as flat tables of sampled tokens, and as examples whose labels are numbers into them.

As with pairs (see :mod:`~scratchlm.alignment.sequences`) a batch may lay completions out in any way, several a row:
what there is to know of a token lies in a table, and its number in the batch finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scratchlm.alignment.rollouts import Rollout
from scratchlm.data import IGNORE, Batch, Examples, Plan
from scratchlm.data.records import Skipped
from scratchlm.models import evaluating
from scratchlm.models.loss import linear_log_probabilities
from scratchlm.training.distributed import World

Numbers = NDArray[np.int64]


@dataclass
class SampledTokens:
    """N sampled tokens of S completions, those of each completion one after the other. On the policy's device."""

    ids: Tensor
    """(N,) int64."""
    owners: Tensor
    """(N,) int64: which completion each is of."""
    lengths: Tensor
    """(S,) int64: how many of each completion were sampled."""
    sampler: Tensor
    """(N,) float32: the log-probability that each was drawn with."""
    examples: Examples
    """S prompts with their completions, without the last token, from which nothing follows; the targets are numbers of
    tokens."""
    values: dict[str, Tensor] = field(default_factory=dict)
    """What is found out of them later, (N,) each: ``old``, ``reference``, ``advantages``, ..."""

    @classmethod
    def of(cls, rollouts: Sequence[Rollout], device: torch.device) -> SampledTokens:
        """The tables of some rollouts."""
        ids, targets, tokens, owners, sampler = [], [], list[int](), list[int](), list[float]()
        for number, one in enumerate(rollouts):
            whole = [*one.prompt, *one.completion]
            ids.append(np.array(whole[:-1], np.uint32))
            own = np.full(len(whole) - 1, IGNORE, np.int32)
            for place, (token, drawn) in enumerate(zip(one.completion, one.sampled, strict=True)):
                if drawn:
                    own[len(one.prompt) + place - 1] = len(tokens)
                    tokens.append(token)
                    owners.append(number)
                    sampler.append(one.log_probabilities[place])
            targets.append(own)
        offsets = np.cumsum([0, *map(len, ids)])
        longest = int(np.diff(offsets).max())
        examples = Examples(
            "lm",
            np.concatenate(ids),
            np.concatenate(targets),
            offsets,
            np.arange(len(rollouts)),
            (),
            longest,
            0,
            Skipped(),
        )
        of_each = torch.tensor(owners, dtype=torch.int64)
        lengths = of_each.bincount(minlength=len(rollouts))
        return cls(
            torch.tensor(tokens, dtype=torch.int64, device=device),
            of_each.to(device),
            lengths.to(device),
            torch.tensor(sampler, dtype=torch.float32, device=device),
            examples,
        )

    def __len__(self) -> int:
        """S."""
        return len(self.lengths)

    def rows(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) as a row of each completion: (S, T), zero after its end, and where tokens are, (S, T) bool."""
        mask = torch.arange(int(self.lengths.max()), device=flat.device) < self.lengths[:, None]
        return flat.new_zeros(mask.shape).masked_scatter(mask, flat), mask

    def per_token(self, of_completions: Tensor) -> Tensor:
        """(S,) -> (N,): to each token what its completion has."""
        return of_completions[self.owners]

    def sums(self, flat: Tensor) -> Tensor:
        """(N,) -> (S,): the sum over each completion."""
        return flat.new_zeros(len(self)).index_add(0, self.owners, flat)

    def batches(self, numbers: Numbers, plan: Plan, place: World) -> list[Batch]:
        """Some completions as the batches of this process, laid out as in ``plan``; none where it has none."""
        if not len(numbers):
            return []
        laid = replace(plan, examples=self.examples, shares=True).only(numbers, len(numbers))
        return laid.step(0, place.rank, place.size)

    def tokens(self, numbers: Numbers) -> int:
        """Tokens of some completions, their prompts' too."""
        return int(self.examples.lengths[numbers].sum())


class Found(NamedTuple):
    """What a pass has found of the M sampled tokens of a batch."""

    numbers: Tensor
    """(M,) int64."""
    log_probabilities: Tensor
    """(M,) float32, with gradients."""
    entropies: Tensor
    """(M,) float32: of the distribution that each was drawn from, without gradients."""
    states: Tensor
    """(M, C): that each was predicted from."""


def read_tokens(model: Any, batch: Batch, table: SampledTokens, temperature: float, *, entropy: bool = False) -> Found:
    """The policy's view of a batch whose labels are numbers of the ``table``; without ``entropy`` those are zero.

    Raises:
        ValueError: the batch has no labels.
    """
    if batch.labels is None:
        raise ValueError("a batch without labels has nothing to be likely")
    hidden = model.hidden(batch.ids, **batch.places)
    wanted = batch.labels != IGNORE
    numbers, states = batch.labels[wanted], hidden[wanted]
    ids = table.ids[numbers]
    if type(model.head) is nn.Linear and model.config.head == "linear":
        weights = (states, model.head.weight, model.head.bias, ids)
        return Found(numbers, *linear_log_probabilities(*weights, temperature=temperature, entropy=entropy), states)
    spread = (model.logits(states).float() / temperature).log_softmax(-1)
    entropies = -(spread.exp() * spread).sum(-1).detach()
    return Found(numbers, spread.gather(-1, ids[:, None])[:, 0], entropies, states)


def judge(
    model: nn.Module,
    table: SampledTokens,
    numbers: Numbers,
    plan: Plan,
    place: World,
    temperature: float,
    more: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """What a model as it is now says of some completions, without gradients and without dropout: the log-probabilities
    (N,) and, of the states, ``more`` (N,). Zero for all other tokens. Several processes share the work."""
    found = torch.zeros(2, len(table.ids), device=place.device)
    with evaluating(model), torch.no_grad():
        for batch in table.batches(numbers, plan, place):
            one = read_tokens(model, batch.to(place.device), table, temperature)
            found[0, one.numbers] = one.log_probabilities
            if more is not None:
                found[1, one.numbers] = more(one.states).float()
    place.add_up(found)
    return found[0], found[1]
