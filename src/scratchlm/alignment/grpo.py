"""Group relative policy optimisation and its kin: a completion is as good as it is better than others to its prompt.

There is no value head: the group says what was to be expected (Shao et al. 2024, section 4.1; Ahmadian et al. 2024 for
RLOO). What later papers have found wrong with the first form can be set: advantages that are not divided by the group's
deviation and a constant divisor (Liu et al. 2025, Dr. GRPO), a mean over tokens, a clip that is higher above and
completions left out that were cut off (Yu et al. 2025, DAPO), and a ratio of whole completions (Zheng et al. 2025,
GSPO).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from scratchlm.alignment.policy import PolicyConfig, PolicyTask, Prompts, Rewards
from scratchlm.alignment.policy_losses import clipped_policy_losses, group_advantages, importance_weights, token_kl
from scratchlm.alignment.rollouts import Scored
from scratchlm.alignment.sampled import Found, Numbers, SampledTokens
from scratchlm.data import Plan
from scratchlm.ranges import check_choice, check_number, check_whole
from scratchlm.tokenizers import Tokenizer
from scratchlm.training.distributed import World

Advantages = Literal["grpo", "dr_grpo", "rloo"]
Level = Literal["token", "sequence"]
Aggregation = Literal["token", "sequence", "constant"]
Overlong = Literal["keep", "mask"]
Kl = Literal["k2", "k3"]


@dataclass(frozen=True)
class GrpoConfig(PolicyConfig):
    """How a policy learns from groups of completions.

    Raises:
        UserError: from ``__post_init__``, for a value out of range; the line names the field.
    """

    completions: int = 8
    """Of each prompt; ``batch_size`` counts completions, and is a multiple of it."""
    advantages: Advantages = "grpo"
    """What is taken from a reward is its group's mean; ``grpo`` divides by the group's deviation as well, and ``rloo``
    takes the mean of the others."""
    beta: float = 0.0
    """How dear it is to leave the reference; 0 leaves the reference out."""
    kl: Kl = "k3"
    """How the distance is estimated from the sampled tokens (Schulman 2020); k1 would have no gradient on average."""
    clip_low: float = 0.2
    clip_high: float = 0.2
    """How far below and above 1 a ratio still teaches; a higher ``clip_high`` keeps rare tokens alive."""
    level: Level = "token"
    """The ratio of each token, or of the whole ``sequence`` (its geometric mean over tokens)."""
    loss: Aggregation = "token"
    """The mean over all tokens, over completions of their tokens' mean (``sequence``), or over completions of their
    tokens' sum divided by ``new_tokens`` (``constant``)."""
    overlong: Overlong = "keep"
    """``mask``: completions that were cut off teach nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("completions", self.completions, 2)
        check_choice("advantages", self.advantages, get_args(Advantages))
        check_choice("kl", self.kl, get_args(Kl))
        check_choice("level", self.level, get_args(Level))
        check_choice("loss", self.loss, get_args(Aggregation))
        check_choice("overlong", self.overlong, get_args(Overlong))
        check_number("beta", self.beta)
        check_number("clip_low", self.clip_low, above=0.0, most=1.0)
        check_number("clip_high", self.clip_high, above=0.0)


class Grpo(PolicyTask):
    """Learning from groups; the arguments are those of :class:`~scratchlm.alignment.policy.PolicyTask`."""

    def __init__(
        self,
        train: Plan,
        prompts: Prompts,
        config: GrpoConfig,
        model: Any,
        tokenizer: Tokenizer,
        rewards: Rewards,
        place: World,
        *,
        note: Callable[[str], None] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.config = config
        super().__init__(
            *(train, prompts, config, model, tokenizer, rewards, place),
            per_prompt=config.completions,
            note=note,
            folder=folder,
        )

    @property
    def needs_reference(self) -> bool:
        return self.config.beta > 0

    def value(self, scored: Scored, table: SampledTokens) -> None:
        groups = scored.total.reshape(-1, self.per_prompt)
        advantages = group_advantages(groups, self.config.advantages).reshape(-1)
        differs = (groups.amax(1) > groups.amin(1)).repeat_interleave(self.per_prompt)
        if self.config.overlong == "mask":
            self.taught = torch.tensor([one.finished for one in scored.rollouts], device=differs.device)
        self.kept = self.taught
        if not self.needs_reference:  # without an advantage there is no gradient, so that time can be saved
            self.kept = self.taught & differs & (advantages != 0)
        table.values["advantages"] = table.per_token(advantages)
        self.tell(advantage_std=float(advantages.std(correction=0)), groups_that_differ=float(differs.float().mean()))

    def prepare(self, model: Any) -> None:
        if self.period > 1:
            self.table.values["old"], _ = self.judged(model)
        if self.needs_reference:
            with self.reference() as before:
                self.table.values["reference"], _ = self.judged(before)

    def token_losses(self, model: Any, found: Found) -> Tensor:  # noqa: ARG002
        config, values, numbers = self.config, self.table.values, found.numbers
        log_p, owners = found.log_probabilities, self.table.owners[numbers]
        # Before the only update of a rollout, what was is what is.
        old = values["old"][numbers] if "old" in values else log_p.detach()
        losses, clipped = clipped_policy_losses(
            log_p,
            old,
            values["advantages"][numbers],
            low=config.clip_low,
            high=config.clip_high,
            level=config.level,
            sequences=owners if config.level == "sequence" else None,
        )
        if config.sampling_precision != "fp32":
            losses = losses * importance_weights(old, self.table.sampler[numbers], config.importance_cap)
        if config.beta:
            reference = values["reference"][numbers]
            losses = losses + config.beta * token_kl(log_p, reference, config.kl)
            self.count("kl_a_token", token_kl(log_p, reference, "k3"))
        self.count("clip_fraction", clipped.float())
        self.note_ratio(log_p, old)
        if config.loss == "sequence":
            losses = losses / self.table.lengths[owners]
        return losses

    def metrics(self) -> dict[str, float]:
        """As of every policy; ``kl`` is nats a completion."""
        found = super().metrics()
        if "kl_a_token" in found:
            found["kl"] = found["kl_a_token"] * float(self.table.lengths.float().mean())
        return found

    def divisor(self, numbers: Numbers) -> int:
        if self.config.loss == "token":
            return super().divisor(numbers)
        return len(numbers) * (self.config.new_tokens if self.config.loss == "constant" else 1)
