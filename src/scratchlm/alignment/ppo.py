"""Proximal policy optimisation: each token is as good as what comes after it turns out better than was expected.

Schulman et al. 2017, as Ziegler et al. 2019 and Ouyang et al. 2022 use it for language: the reward comes with the last
token, every token pays for leaving the reference, and a value head learns what to expect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scratchlm.alignment.actor_critic import ActorCritic
from scratchlm.alignment.policy import PolicyConfig, PolicyTask, Prompts, Rewards
from scratchlm.alignment.policy_losses import (
    AdaptiveKL,
    clipped_policy_losses,
    clipped_value_losses,
    gae,
    importance_weights,
    token_kl,
    whiten,
)
from scratchlm.alignment.rollouts import Scored
from scratchlm.alignment.sampled import Found, SampledTokens
from scratchlm.data import Plan
from scratchlm.ranges import check_number, check_whole
from scratchlm.tokenizers import Tokenizer
from scratchlm.training.distributed import World


@dataclass(frozen=True)
class PpoConfig(PolicyConfig):
    """How a policy learns by PPO.

    Raises:
        UserError: from ``__post_init__``, for a value out of range; the line names the field.
    """

    updates: int = 4
    """How often a completion is learned from."""
    gamma: float = 1.0
    """What a reward loses in worth with each token that it is away."""
    lam: float = 0.95
    """How far advantages look before they trust the value head (Schulman et al. 2016): 1 for to the end."""
    clip: float = 0.2
    """How far from 1 a ratio still teaches."""
    value_clip: float = 0.2
    """How far an update may take a value from what it was; 0 for any distance."""
    value_coefficient: float = 0.1
    """The weight of the value head's loss."""
    value_leads: bool = True
    """Whether the value head's loss changes the policy's trunk, which the two share."""
    value_warmup: int = 0
    """The first rollouts, in which the value head learns alone."""
    kl_coefficient: float = 0.05
    """What a token pays for each nat that it is likelier than in the reference; 0 for no reference."""
    kl_target: float = 0.0
    """Nats a completion: the coefficient adapts to keep them (Ziegler et al. 2019, section 2.2); 0 to leave it."""
    kl_horizon: int = 10_000
    """Completions in which it may adapt."""
    target_kl: float = 0.0
    """Nats a token from the policy that sampled at which the rest of the updates is left out; 0 for never."""
    whiten_advantages: bool = True
    """Advantages get a mean of 0 and a deviation of 1 over a rollout."""
    entropy_bonus: float = 0.0
    """What a token is paid for each nat of its surprise, as a part of the reward."""
    end_penalty: float = 0.0
    """What a completion that was cut off loses."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma", "lam"):
            check_number(name, getattr(self, name), most=1.0)
        check_number("clip", self.clip, above=0.0)
        check_whole("value_warmup", self.value_warmup, 0)
        check_whole("kl_horizon", self.kl_horizon, 1)
        for name in ("value_clip", "value_coefficient", "kl_coefficient", "kl_target", "target_kl"):
            check_number(name, getattr(self, name))
        for name in ("entropy_bonus", "end_penalty"):
            check_number(name, getattr(self, name))


class Ppo(PolicyTask):
    """Learning by PPO; the arguments are those of :class:`~scratchlm.alignment.policy.PolicyTask`.

    What is trained is :meth:`learner`'s answer for the policy.
    """

    def __init__(
        self,
        train: Plan,
        prompts: Prompts,
        config: PpoConfig,
        model: Any,
        tokenizer: Tokenizer,
        rewards: Rewards,
        place: World,
        *,
        note: Callable[[str], None] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.config = config
        super().__init__(*(train, prompts, config, model, tokenizer, rewards, place), note=note, folder=folder)
        self.kl = AdaptiveKL(config.kl_coefficient, config.kl_target or 1.0, config.kl_horizon)
        self.critic = ActorCritic(model, leads=config.value_leads)
        self._stopped = False

    def learner(self, model: nn.Module) -> nn.Module:
        """The policy with its value head, for the policy itself."""
        if model not in (self.model, self.critic):
            raise ValueError("the task was made for another model")
        return self.critic

    def product(self, model: nn.Module) -> nn.Module:  # noqa: ARG002
        """The policy alone, which is what a run leaves."""
        return self.model

    def policy(self, model: Any) -> Any:
        return model.policy

    @property
    def needs_reference(self) -> bool:
        return self.config.kl_coefficient > 0

    def value(self, scored: Scored, table: SampledTokens) -> None:  # noqa: ARG002
        """The value head has to look first: see :meth:`prepare`."""
        self._stopped = False

    def prepare(self, model: Any) -> None:
        table, config = self.table, self.config
        old, values = self.judged(model.policy, model.values)
        rewards = -config.entropy_bonus * old
        if self.needs_reference:
            with self.reference() as before:
                reference, _ = self.judged(before)
            distance = old - reference
            rewards = rewards - self.kl.coefficient * distance
            whole = float(table.sums(distance).mean())
            self.tell(kl=whole, kl_a_token=float(distance.mean()), kl_coefficient=self.kl.coefficient)
            if config.kl_target:
                self.kl.update(whole, len(table))
        finished = torch.tensor([one.finished for one in self.scored.rollouts], device=old.device)
        last = table.lengths.cumsum(0) - 1
        begun = table.lengths > 0
        scores = self.scored.total - config.end_penalty * (~finished).float()
        rewards = rewards.index_add(0, last[begun], scores[begun])
        rows, mask = table.rows(rewards)
        found, returns = gae(rows, table.rows(values)[0], mask, config.gamma, config.lam)
        advantages = whiten(found, mask) if config.whiten_advantages else found
        table.values |= {"old": old, "values": values, "advantages": advantages[mask], "returns": returns[mask]}
        left = (returns[mask] - values).var(correction=0) / returns[mask].var(correction=0).clamp(min=1e-8)
        self.tell(
            explained_variance=float(1 - left),
            value=float(values.mean()),
            advantage_std=float(found[mask].std(correction=0)),
        )

    def token_losses(self, model: Any, found: Found) -> Tensor:
        config, numbers = self.config, found.numbers
        table = {name: one[numbers] for name, one in self.table.values.items()}
        log_p, old = found.log_probabilities, table["old"]
        losses, clipped = clipped_policy_losses(log_p, old, table["advantages"], low=config.clip, high=config.clip)
        if config.sampling_precision != "fp32":
            losses = losses * importance_weights(old, self.table.sampler[numbers], config.importance_cap)
        warming = self.rollout < config.value_warmup
        values = model.values(found.states, alone=warming)
        wrong = clipped_value_losses(values, table["values"], table["returns"], config.value_clip)
        self.count("clip_fraction", clipped.float())
        self.count("value_loss", wrong)
        self.count("kl_of_updates", token_kl(old, log_p.detach(), "k3"))
        self.note_ratio(log_p, old)
        if warming:
            losses = 0.0 * losses  # so that all parameters still take part, which several processes rely on
        return losses + config.value_coefficient * wrong

    def stops(self, place: World) -> bool:
        if self.config.target_kl and not self._stopped:
            kl, tokens = place.sum([self._of_step.get(name, 0.0) for name in ("kl_of_updates", "tokens")])
            self._stopped = kl > self.config.target_kl * tokens
        return self._stopped

    def state(self) -> dict[str, Any]:
        return super().state() | {"kl_coefficient": self.kl.coefficient}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.kl.coefficient = state.get("kl_coefficient", self.kl.coefficient)
