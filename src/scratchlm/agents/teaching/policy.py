"""GRPO through the tools: a policy is rewarded for answers that are right, whatever calls it finds them by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scratchlm.agents.teaching.answers import check
from scratchlm.agents.teaching.rollouts import ToolSampler
from scratchlm.agents.teaching.task import Task
from scratchlm.alignment.goals import GrpoGoal, check_whole_model
from scratchlm.alignment.policy import Columns, PolicyTask, Prompts
from scratchlm.data import Plan
from scratchlm.training import Reporter, Tuning
from scratchlm.training.tasks import FineTune

NUMBER = "task"
"""The column of a prompt's row that has the number of its task."""


class RightAnswers:
    """One point for an answer that is right, none for another."""

    names = ("right",)

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks

    def score(self, prompts: list[str], completions: list[str], columns: Columns) -> tuple[Any, Any]:  # noqa: ARG002
        """(1, N) and (N,)."""
        pairs = zip(columns[NUMBER], completions, strict=True)
        right = np.array([float(check(self._tasks[number], text)) for number, text in pairs])
        return right[None], right


class ToolGoal(GrpoGoal):
    """GRPO on tasks with tools. The rows are prompts with the numbers of their tasks; what is held out is measured by
    whoever taught, on other templates."""

    verb = "teach-tools"
    takes_rewards = False

    def __init__(self, reporter: Reporter, settings: Mapping[str, Any], tasks: Sequence[Task]) -> None:
        super().__init__(reporter, settings)
        self._tasks = tasks

    def learn(self, tuning: Tuning, plan: Plan, held_out: Plan | None) -> FineTune:  # noqa: ARG002
        check_whole_model(tuning)
        self.set: Any = RightAnswers(self._tasks)
        self.held_out = None
        return self.task(tuning, plan, Prompts.of(tuning.train, tuning.splits.train))

    def task(self, tuning: Tuning, plan: Plan, prompts: Prompts) -> PolicyTask:
        made = super().task(tuning, plan, prompts)
        numbers = (columns[NUMBER] for columns in prompts.columns)
        tasks = {tuple(ids): self._tasks[n] for ids, n in zip(prompts.ids, numbers, strict=True)}
        made.sampler = ToolSampler(made.sampler, tasks)
        return made
