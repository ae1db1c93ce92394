"""The goals of alignment: what each learns of its rows, and what is measured before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from scratchlm.alignment.grpo import Grpo, GrpoConfig
from scratchlm.alignment.kto import Kto, KtoConfig
from scratchlm.alignment.measuring import plain_perplexity
from scratchlm.alignment.pair_config import PairConfig
from scratchlm.alignment.pair_report import PairReport, judge_pairs, plot_calibration
from scratchlm.alignment.policy import PolicyConfig, PolicyTask, Prompts
from scratchlm.alignment.policy_measuring import plot_policy, policy_figures
from scratchlm.alignment.ppo import Ppo, PpoConfig
from scratchlm.alignment.preference import Preference, PreferenceConfig
from scratchlm.alignment.reward_model import Pairwise, RewardConfig, pair_margins
from scratchlm.alignment.rewards import RewardSet
from scratchlm.data import Plan
from scratchlm.data.rated_pairs import Pairing
from scratchlm.errors import UserError
from scratchlm.evaluation.tuned import Measured, Report
from scratchlm.models import Head
from scratchlm.training import Reporter, Tuning
from scratchlm.training.goals import Goal
from scratchlm.training.tasks import FineTune
from scratchlm.training.tuning_config import Method


class AlignmentGoal(Goal):
    """A goal that also says what is measured."""

    takes_rewards = False
    """Whether it learns from rewards, which are then needed."""

    @classmethod
    def config_for(cls, settings: Mapping[str, Any]) -> type[Any] | None:  # noqa: ARG003 - for heirs
        """The dataclass of the settings that these are some of."""
        return cls.config

    def __init__(self, reporter: Reporter, settings: Mapping[str, Any], rewards: Sequence[str] = ()) -> None:
        """
        Args:
            settings: of the run; some of them decide which rows are read.
            rewards: such as ``check:exact_answer`` or ``rewards.py:politeness=0.5``.

        Raises:
            UserError: the goal needs rewards and there are none, or the other way round.
        """
        if bool(rewards) != self.takes_rewards:
            name = self.verb.split()[-1]
            raise UserError(
                f"{name} learns from rewards; name at least one, such as --reward check:exact_answer"
                if self.takes_rewards
                else f"{name} learns from rows and takes no reward; leave --reward out"
            )
        check_names(type(self), settings, settings, "settings")
        self.reporter, self.rewards = reporter, tuple(rewards)
        self.config = self.config_for(settings)

    def figures(self, tuning: Tuning) -> dict[str, Any]:
        """What there is to say of the model as it is now."""
        raise NotImplementedError

    def draw(self, tuning: Tuning, report: Report, folder: Path) -> None:
        """The pictures of a finished run, beside the curves that every run has."""

    def pairing(self, own: Any) -> Pairing | None:
        return Pairing(own.pair_margin, own.pairs_per_text) if isinstance(own, PairConfig) else None


class Aligned(Measured):
    """Measures an alignment before and after, as its goal says."""

    def figures(self, tuning: Tuning, when: str) -> dict[str, Any]:
        assert isinstance(tuning.goal, AlignmentGoal)
        self.reporter.note(f"{when}: measuring")
        return tuning.goal.figures(tuning)

    def draw(self, tuning: Tuning, report: Report, folder: Path) -> None:
        assert isinstance(tuning.goal, AlignmentGoal)
        tuning.goal.draw(tuning, report, folder)


def check_whole_model(tuning: Tuning) -> None:
    """Raises UserError unless the model is a decoder, all of it in each process."""
    if tuning.start.config.architecture != "decoder":
        raise UserError(f"{tuning.question.model} is no decoder, and only a decoder has a policy; choose one")
    if tuning.config.sharding != "none" and tuning.place.size > 1:
        raise UserError("alignment needs the whole model in each process; leave sharding out")


class RewardGoal(AlignmentGoal):
    """A reward model: which of two texts people prefer."""

    verb = "align reward"
    config = RewardConfig
    rows = "preference"

    def head(self, task: str) -> Head | None:  # noqa: ARG002 - one number, whatever the rows
        return "reward"

    def defaults(self, task: str, method: Method) -> dict[str, Any]:  # noqa: ARG002
        return {"learning_rate": 3e-5 if method == "full" else 3e-4}

    def learn(self, tuning: Tuning, plan: Plan, held_out: Plan | None) -> FineTune:
        margins = [pair_margins(tuning.splits.train, tuning.train)]
        if tuning.held_out is not None and tuning.splits.validation is not None:
            margins.append(pair_margins(tuning.splits.validation, tuning.held_out))
        self.margins = margins[-1]
        self.ends = None if tuning.start.config.architecture == "encoder" else tuning.tokenizer.eos_ids
        return Pairwise(plan, held_out, np.concatenate(margins), tuning.own, ends=self.ends)

    def report(self, tuning: Tuning) -> PairReport | None:
        """On the held-out pairs; None where there are none."""
        plan = tuning.task.held_out
        if plan is None or tuning.held_out is None:
            return None
        given = replace(plan, examples=tuning.held_out)
        return judge_pairs(tuning.model.to(tuning.place.device), given, self.margins, tuning.place, ends=self.ends)

    def figures(self, tuning: Tuning) -> dict[str, Any]:
        found = self.report(tuning)
        return {} if found is None else found.figures()

    def draw(self, tuning: Tuning, report: Report, folder: Path) -> None:  # noqa: ARG002
        found = self.report(tuning)
        if found is not None:
            plot_calibration(found, folder / "calibration.png", title=tuning.run.path.resolve().name)


class PreferenceGoal(AlignmentGoal):
    """DPO and its kin."""

    verb = "align dpo"
    config: type[Any] | None = PreferenceConfig

    def __init__(self, reporter: Reporter, settings: Mapping[str, Any], rewards: Sequence[str] = ()) -> None:
        super().__init__(reporter, settings, rewards)
        self.rows = "kto" if self.config is KtoConfig else "preference"

    @classmethod
    def config_for(cls, settings: Mapping[str, Any]) -> type[Any] | None:
        return KtoConfig if settings.get("loss") == "kto" else PreferenceConfig

    def head(self, task: str) -> Head | None:  # noqa: ARG002 - a policy speaks
        return None

    def defaults(self, task: str, method: Method) -> dict[str, Any]:  # noqa: ARG002
        return {"learning_rate": 1e-5 if method == "full" else 1e-4}

    def learn(self, tuning: Tuning, plan: Plan, held_out: Plan | None) -> FineTune:
        check_whole_model(tuning)

        def note(text: str) -> None:
            self.reporter.note(f"the reference's log-probabilities: {text}")

        given = plan, held_out, tuning.own, tuning.model, tuning.place, note
        return Kto(*given) if self.rows == "kto" else Preference(*given, steps=tuning.config.steps)

    def figures(self, tuning: Tuning) -> dict[str, Any]:
        assert isinstance(tuning.task, Preference | Kto)
        found = tuning.task.figures()
        if tuning.own.plain_text != "none":
            found["plain_perplexity"] = plain_perplexity(tuning, tuning.own.plain_text)
        return found


class PolicyGoal(AlignmentGoal):
    """Learning from rewards: what GRPO and PPO have in common."""

    rows = "rollout"
    takes_rewards = True

    def head(self, task: str) -> Head | None:  # noqa: ARG002 - a policy speaks
        return None

    def description(self) -> dict[str, Any]:
        return {**super().description(), "rewards": list(self.rewards)}

    def defaults(self, task: str, method: Method) -> dict[str, Any]:  # noqa: ARG002
        rate = 1e-5 if method == "full" else 1e-4
        return {"learning_rate": rate, "batch_size": 64, "schedule": "constant", "warmup_steps": 0, "log_every": 1}

    def per_prompt(self, own: PolicyConfig) -> int:  # noqa: ARG002 - for heirs
        """Completions of each prompt in a rollout."""
        return 1

    def steps_per_epoch(self, plan: Plan, own: PolicyConfig) -> int:
        prompts = max(1, plan.rows // self.per_prompt(own))
        return -(-len(plan.examples) // prompts) * own.period

    def learn(self, tuning: Tuning, plan: Plan, held_out: Plan | None) -> FineTune:  # noqa: ARG002 - judged by rewards
        check_whole_model(tuning)
        self.set = RewardSet.load(self.rewards, tuning.tokenizer)
        self.held_out = None
        if tuning.held_out is not None and tuning.splits.validation is not None:
            self.held_out = Prompts.of(tuning.held_out, tuning.splits.validation)
        return self.task(tuning, plan, Prompts.of(tuning.train, tuning.splits.train))

    def task(self, tuning: Tuning, plan: Plan, prompts: Prompts) -> PolicyTask:
        """The task, from the prompts to learn from."""
        raise NotImplementedError

    def figures(self, tuning: Tuning) -> dict[str, Any]:
        assert isinstance(tuning.task, PolicyTask)
        return {} if self.held_out is None else policy_figures(tuning, tuning.task, self.held_out)

    def draw(self, tuning: Tuning, report: Report, folder: Path) -> None:  # noqa: ARG002
        plot_policy(tuning.run.path / "metrics.jsonl", folder / "reward.png", tuning.run.path.resolve().name)


class GrpoGoal(PolicyGoal):
    """Group relative policy optimisation and its kin."""

    verb = "align grpo"
    config = GrpoConfig

    def per_prompt(self, own: PolicyConfig) -> int:
        assert isinstance(own, GrpoConfig)
        return own.completions

    def task(self, tuning: Tuning, plan: Plan, prompts: Prompts) -> PolicyTask:
        given = (plan, prompts, tuning.own, tuning.model, tuning.tokenizer, self.set, tuning.place)
        return Grpo(*given, note=self.reporter.note, folder=tuning.run.path)


class PpoGoal(PolicyGoal):
    """Proximal policy optimisation."""

    verb = "align ppo"
    config = PpoConfig

    def task(self, tuning: Tuning, plan: Plan, prompts: Prompts) -> PolicyTask:
        given = (plan, prompts, tuning.own, tuning.model, tuning.tokenizer, self.set, tuning.place)
        return Ppo(*given, note=self.reporter.note, folder=tuning.run.path)


GOALS: dict[str, type[AlignmentGoal]] = {"reward": RewardGoal, "dpo": PreferenceGoal, "ppo": PpoGoal, "grpo": GrpoGoal}


CONFIGS: dict[str, type[Any]] = {
    **{"reward": RewardConfig, "dpo": PreferenceConfig, "dpo with loss=kto": KtoConfig},
    **{"ppo": PpoConfig, "grpo": GrpoConfig},
}
"""The settings that each goal alone has."""


def check_names(goal: type[AlignmentGoal], settings: Mapping[str, Any], given: Iterable[str], origin: str) -> None:
    """Refuse a setting that is another goal's, before it is taken for a slip of the pen.

    Args:
        settings: all there are, some of which decide what others there may be.
        given: the names of those that come from ``origin``.

    Raises:
        UserError: there is one; the line says whose it is.
    """
    names = {whose: {field.name for field in fields(config)} for whose, config in CONFIGS.items()}
    (own,) = (whose for whose, config in CONFIGS.items() if config is goal.config_for(settings))
    for name in given:
        others = [whose for whose, theirs in names.items() if name in theirs]
        if others and own not in others:
            raise UserError(f"{origin}: {name} is a setting of {', '.join(others)}, not of {own}; leave it out")


def check_goal(name: str) -> type[AlignmentGoal]:
    """The goal of a name.

    Raises:
        UserError: there is none.
    """
    if name not in GOALS:
        raise UserError(f"there is no goal {name!r}; choose one of: {', '.join(GOALS)}")
    return GOALS[name]
