"""A policy that learns from what it says: rollouts, rewards, and the steps that are taken by them.

The steps of a period learn from one rollout: at the first of them the policy samples completions and they are rewarded;
then each step takes a share of them, and each is met ``updates`` times. What PPO and GRPO have in common is here; they
differ in what an advantage is, and in the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from scratchlm.adapters import adapters_of, adapters_off
from scratchlm.alignment.rollouts import SLOTS, Rollout, Sampler, Scored
from scratchlm.alignment.sampled import Found, Numbers, SampledTokens, judge, read_tokens
from scratchlm.alignment.watching import Watch, write_samples
from scratchlm.data import IGNORE, Batch, Examples, Plan, Records
from scratchlm.data.packing import epoch_order
from scratchlm.errors import UserError
from scratchlm.models import Decoder
from scratchlm.ranges import check_choice, check_number, check_whole
from scratchlm.tokenizers import Tokenizer
from scratchlm.training.distributed import World
from scratchlm.training.tasks import FineTune, Work

SamplingPrecision = Literal["fp32", "bf16", "int8", "int4"]
Columns = dict[str, list[Any]]


class Rewards(Protocol):
    """What completions are worth; :class:`~scratchlm.alignment.rewards.RewardSet` is one."""

    @property
    def names(self) -> Sequence[str]: ...

    def score(self, prompts: list[str], completions: list[str], columns: Columns) -> tuple[Any, Any]:
        """The rewards (R, N) and their weighted sum (N,)."""


@dataclass(frozen=True)
class PolicyConfig:
    """How a policy rolls out, whatever it then learns by.

    Raises:
        UserError: from ``__post_init__``, for a value out of range; the line names the field.
    """

    new_tokens: int = 128
    """Tokens of a completion at most."""
    temperature: float = 1.0
    """At which completions are sampled; the policy that learns is that of this temperature."""
    updates: int = 1
    """How often a completion is learned from."""
    minibatches: int = 1
    """The steps in which all completions of a rollout are met once."""
    sampling_precision: SamplingPrecision = "fp32"
    """Of the weights that sample; where it is not fp32 what they say is weighted by how likely the policy is to say
    it."""
    importance_cap: float = 2.0
    """The most that such a weight may be."""
    samples_every: int = 10
    """Rollouts between those of which some completions are kept in ``samples.jsonl``; 0 for none."""

    def __post_init__(self) -> None:
        for name, least in (("new_tokens", 1), ("updates", 1), ("minibatches", 1), ("samples_every", 0)):
            check_whole(name, getattr(self, name), least)
        check_number("temperature", self.temperature, above=0.0)
        check_number("importance_cap", self.importance_cap, above=0.0)
        check_choice("sampling_precision", self.sampling_precision, get_args(SamplingPrecision))

    @property
    def period(self) -> int:
        return self.updates * self.minibatches


@dataclass(frozen=True)
class Prompts:
    """What is rolled out from: ids for the policy, texts and other columns for the rewards."""

    ids: list[list[int]]
    texts: list[str]
    columns: list[dict[str, Any]]

    @classmethod
    def of(cls, examples: Examples, records: Records) -> Prompts:
        """Of encoded prompts and the rows that they were. A chat's text is what its user said last."""
        rows = [records.rows[int(number)] for number in examples.rows]
        texts = [
            row.prompt or next((m["content"] for m in reversed(row.messages) if m["role"] == "user"), "")
            for row in rows
        ]
        return cls(
            [examples[number][0].tolist() for number in range(len(examples))],
            [str(text) for text in texts],
            [dict(getattr(row, "extra", None) or {}) for row in rows],
        )

    def __len__(self) -> int:
        return len(self.ids)

    def columns_of(self, numbers: Sequence[int]) -> Columns:
        """For each column its values at some prompts, None where one has none."""
        names = dict.fromkeys(name for number in numbers for name in self.columns[number])
        return {name: [self.columns[number].get(name) for number in numbers] for name in names}


class PolicyTask(FineTune):
    """Learning from rollouts. Dropout is off: a ratio of two policies must not be one of two masks.

    Args:
        train: the plan of the prompts. Of it the number of completions of a rollout (``rows``, the prompts' number
            times ``per_prompt``), the tokens of a pass, the layout and the seed are taken; the prompts come in an order
            of their own, without end.
        prompts: those of the plan's examples.
        model: a decoder whose trained parameters are the policy; the policy without its adapters, or else as it is now,
            is the reference.
        rewards: what completions are worth.
        note: says something to the user.
        folder: where ``samples.jsonl`` goes; None for nowhere.

    Raises:
        UserError: the prompts are too long, the rows do not go into groups, or the model is no decoder.
    """

    falls = False

    def __init__(
        self,
        train: Plan,
        prompts: Prompts,
        config: PolicyConfig,
        model: Any,
        tokenizer: Tokenizer,
        rewards: Rewards,
        place: World,
        *,
        per_prompt: int = 1,
        note: Callable[[str], None] | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__(train, None)
        if not isinstance(model, Decoder) or model.config.head != "linear":
            raise UserError("only a decoder that says words has a policy; choose one")
        if train.rows % per_prompt:
            raise UserError(
                f"a rollout of {train.rows} completions cannot be divided into groups of {per_prompt}; let batch_size "
                f"be a multiple of {per_prompt}"
            )
        longest = max(map(len, prompts.ids), default=0)
        if longest + config.new_tokens > model.config.context:
            raise UserError(
                f"a prompt of {longest:,} tokens and {config.new_tokens:,} new_tokens do not fit the model's context "
                f"of {model.config.context:,}; lower new_tokens, or max_length"
            )
        self.prompts, self.settings, self.model, self.tokenizer = prompts, config, model, tokenizer
        self.rewards, self.place, self.per_prompt = rewards, place, per_prompt
        self.note, self.folder = note or (lambda _text: None), folder
        self.period = config.period
        self.sampler = Sampler(model, config.sampling_precision, min(SLOTS, train.rows))
        self.watch = Watch()
        self.table: SampledTokens
        self.scored: Scored
        self.kept: Tensor
        """(S,) bool: the completions that go through the model; the others are counted."""
        self.taught: Tensor
        """(S,) bool: the completions that count."""
        self._frozen: Decoder | None = None
        self._switched = bool(adapters_of(model).active)
        if self.needs_reference and not self._switched:
            self._frozen = deepcopy(model).requires_grad_(False).eval()
        self._judged = True
        self._of_rollout: dict[str, float] = {}
        self._of_step: dict[str, float] = {}
        self._ratio = 1.0
        self.rollout = 0
        """The number of the last one."""

    # ---- what the heirs say

    def policy(self, model: Any) -> Any:
        """The decoder in what is trained."""
        return model

    @property
    def needs_reference(self) -> bool:
        """Whether the policy is compared with what it was."""
        raise NotImplementedError

    def value(self, scored: Scored, table: SampledTokens) -> None:
        """Tell which completions are ``kept`` and ``taught``, and what is known of them from their rewards."""
        raise NotImplementedError

    def prepare(self, model: Any) -> None:
        """Judge the completions by the policy, as it is before the first update, and by the reference."""
        raise NotImplementedError

    def token_losses(self, model: Any, found: Found) -> Tensor:
        """The losses (M,) of the tokens of a pass, each multiplied by its weight."""
        raise NotImplementedError

    def divisor(self, numbers: Numbers) -> int:
        """What the sum of a step's losses is divided by, for these of its completions that count."""
        return int(self.table.lengths[torch.from_numpy(numbers)].sum())

    # ---- what the loop asks

    def work(self, step: int, rows: int, passes: int, place: World, generator: torch.Generator) -> Work:
        if rows * passes != self.train.rows:
            raise ValueError(f"a rollout of {rows * passes} completions, but the plan's rows are {self.train.rows}")
        rollout, number = divmod(step, self.period)
        if number == 0:
            self._roll_out(rollout, generator)
        elif self.stops(place):
            return Work([], 0, 0)
        self._of_step, self._ratio = {}, 1.0
        chosen = self._minibatch(rollout, number)
        passed = chosen[self.kept.cpu().numpy()[chosen]]
        if not len(passed):
            return Work([], 0, 0)
        batches = self.table.batches(passed, self.train, place) or [_nothing()]
        counted = chosen[self.taught.cpu().numpy()[chosen]]
        return Work(batches, self.divisor(counted), self.table.tokens(passed))

    def begin(self, model: nn.Module, batches: list[Batch], place: World) -> None:  # noqa: ARG002
        model.eval()
        if not self._judged:
            self.prepare(model)
            self._judged = True

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        found = read_tokens(self.policy(model), batch, self.table, self.settings.temperature, entropy=True)
        losses = self.token_losses(model, found)
        self.count("tokens", torch.ones_like(found.entropies))
        self.count("entropy", found.entropies)
        return losses.sum(), torch.tensor(len(losses), device=losses.device)

    def validation(self) -> Iterator[Batch] | None:
        """None: a policy's loss says nothing of how good it is; the last weights are those to use."""
        return None

    def span(self) -> float | None:
        return float(np.mean([len(ids) for ids in self.prompts.ids])) + self.settings.new_tokens

    def metrics(self) -> dict[str, float]:
        """Of the last rollout and, of this process's share of the last step, what its tokens are like."""
        tokens = self._of_step.get("tokens", 0.0)
        means = {name: total / tokens for name, total in self._of_step.items() if name != "tokens"} if tokens else {}
        return self._of_rollout | means | ({"ratio_most": self._ratio} if means else {})

    def state(self) -> dict[str, Any]:
        return {"watch": self.watch.state(), "step": self._of_step}

    def restore(self, state: dict[str, Any]) -> None:
        self.watch.restore(state.get("watch", {}))
        self._of_step = dict(state.get("step", {}))

    def stops(self, place: World) -> bool:  # noqa: ARG002 - for heirs
        """Whether the rest of a period is left out, in all processes alike."""
        return False

    # ---- for the heirs

    def count(self, name: str, values: Tensor) -> None:
        """Add values (M,) of the tokens of a pass to what :meth:`metrics` will tell the mean of."""
        if torch.is_grad_enabled():
            self._of_step[name] = self._of_step.get(name, 0.0) + float(values.detach().sum())

    def note_ratio(self, log_p: Tensor, old: Tensor) -> None:
        """Remember the largest ratio of probabilities, new over old, of a step."""
        if torch.is_grad_enabled() and len(old):
            self._ratio = max(self._ratio, float((log_p.detach() - old).max().exp()))

    def judged(self, model: Any, more: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The log-probabilities (N,) of what is kept, and ``more`` of their states."""
        numbers = self.kept.nonzero()[:, 0].cpu().numpy()
        return judge(model, self.table, numbers, self.train, self.place, self.settings.temperature, more)

    @property
    def has_reference(self) -> bool:
        """Whether there is a policy as it was to compare with."""
        return self._switched or self._frozen is not None

    @contextmanager
    def reference(self) -> Iterator[Any]:
        """The policy as it was."""
        if self._switched:
            with adapters_off(self.model):
                yield self.model
        else:
            yield self._frozen

    def tell(self, **figures: float) -> None:
        """Add to what is logged of the rollout."""
        self._of_rollout |= figures

    # ---- the rollout

    def _roll_out(self, rollout: int, generator: torch.Generator) -> None:
        self.rollout = rollout
        tokens = self._of_step.get("tokens", 0.0)
        warnings = self.watch.look_at_entropy(self._of_step["entropy"] / tokens) if tokens else []
        seed = int(torch.randint(2**62, (1,), generator=generator))
        chosen = self._prompts(rollout)
        first, last = self.place.share(len(chosen))
        mine = chosen[first:last]
        found = self.sampler.sample(
            [self.prompts.ids[number] for number in mine],
            self.per_prompt,
            max_new_tokens=self.settings.new_tokens,
            temperature=self.settings.temperature,
            seed=seed,
            tokenizer=self.tokenizer,
            first=first * self.per_prompt,
        )
        self.scored = self._gathered(self._score(mine, found))
        self.table = SampledTokens.of(self.scored.rollouts, self.place.device)
        self.kept = self.taught = torch.ones(len(self.table), dtype=torch.bool, device=self.place.device)
        self._judged = False
        self._of_rollout = self._figures()
        self.value(self.scored, self.table)
        for warning in (*warnings, *self.watch.look(rollout, self.scored.rollouts, self._of_rollout)):
            self.note(f"rollout {rollout + 1}: {warning}")
        every = self.settings.samples_every
        if self.place.main and every and rollout % every == 0:
            for line in write_samples(
                self.folder, rollout, chosen, self.prompts.texts, self.scored.rollouts, self.scored.total.tolist()
            ):
                self.note(line)

    def _prompts(self, rollout: int) -> list[int]:
        """The prompts of a rollout: one epoch's order after the other's, without end."""
        count, each = len(self.prompts), self.train.rows // self.per_prompt
        places = range(rollout * each, (rollout + 1) * each)
        orders = {epoch: epoch_order(count, self.train.seed, epoch) for epoch in {place // count for place in places}}
        return [int(orders[place // count][place % count]) for place in places]

    def _score(self, numbers: Sequence[int], rollouts: list[Rollout]) -> Scored:
        """What a process's own rollouts, ``per_prompt`` for each of these prompts, are worth."""
        repeated = [number for number in numbers for _ in range(self.per_prompt)]
        if not repeated:
            return Scored([], torch.zeros(len(self.rewards.names), 0), torch.zeros(0))
        texts, completions = [self.prompts.texts[number] for number in repeated], [one.text for one in rollouts]
        each, total = self.rewards.score(texts, completions, self.prompts.columns_of(repeated))
        return Scored(
            rollouts,
            torch.as_tensor(np.asarray(each), dtype=torch.float32).reshape(len(self.rewards.names), -1),
            torch.as_tensor(np.asarray(total), dtype=torch.float32),
        )

    def _gathered(self, own: Scored) -> Scored:
        """The rollouts of all processes, in each. Rewards lie on the policy's device."""
        parts: list[Any] = [own]
        if self.place.size > 1:
            parts = [None] * self.place.size
            dist.all_gather_object(parts, own)
        return Scored(
            [one for part in parts for one in part.rollouts],
            torch.cat([part.rewards for part in parts], 1).to(self.place.device),
            torch.cat([part.total for part in parts]).to(self.place.device),
        )

    def _figures(self) -> dict[str, float]:
        total, rewards = self.scored.total, self.scored.rewards
        rollouts = self.scored.rollouts
        names = self.rewards.names
        single = {f"reward/{name}": float(one.mean()) for name, one in zip(names, rewards, strict=True)}
        return {
            "reward": float(total.mean()),
            "reward_std": float(total.std(correction=0)),
            **(single if len(names) > 1 else {}),
            "length": float(np.mean([len(one.completion) for one in rollouts])),
            "finished": float(np.mean([one.finished for one in rollouts])),
        }

    def _minibatch(self, rollout: int, number: int) -> Numbers:
        """The completions of one of a period's steps."""
        update, part = divmod(number, self.settings.minibatches)
        order = np.random.default_rng([self.train.seed, rollout, update]).permutation(len(self.table))
        return np.sort(np.array_split(order, self.settings.minibatches)[part])


def _nothing() -> Batch:
    """For a process that a step leaves without completions: one pass that teaches nothing."""
    return Batch(torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), IGNORE))
