"""What a policy has become: its rewards on held-out prompts before and after, and the course of its training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from scratchlm.alignment.policy import PolicyTask, Prompts
from scratchlm.alignment.rollouts import Rollout, sample_rollouts
from scratchlm.alignment.sampled import SampledTokens, judge
from scratchlm.alignment.watching import distinct_2
from scratchlm.evaluation.plots import BLUE, GREY, ORANGE, figure_style, read_metrics, save_figure
from scratchlm.training import Tuning

SEED = 1_000_003
"""Of the completions that are measured, before and after alike, whatever the training's seed."""
SHOWN = 5
"""Completions that a report holds."""


def policy_figures(tuning: Tuning, task: PolicyTask, prompts: Prompts) -> dict[str, Any]:
    """Of held-out prompts, one completion of each, as in training and (``greedy``) with the likeliest tokens alone: the
    mean reward with the interval that holds the true mean in 95 of 100 cases, each reward's mean, tokens, how varied
    they are and, where there is a reference, nats a completion that the policy has left it by (``kl``)."""
    count = min(len(prompts), tuning.tuning.eval_prompts)
    if not count:
        return {}
    numbers = list(range(count))
    figures: dict[str, Any] = {"prompts": count}
    for name, temperature in (("", task.settings.temperature), ("greedy_", 0.0)):
        found = sample_rollouts(
            tuning.model,  # type: ignore[arg-type]
            tuning.tokenizer,
            [prompts.ids[number] for number in numbers],
            max_new_tokens=task.settings.new_tokens,
            temperature=temperature,
            seed=SEED,
        )
        texts = [one.text for one in found]
        each, total = task.rewards.score(prompts.texts[:count], texts, prompts.columns_of(numbers))
        mean, half = interval(torch.as_tensor(np.asarray(total), dtype=torch.float64))
        figures |= {f"{name}reward": mean, f"{name}reward_interval": [mean - half, mean + half]}
        if name:
            continue
        rows = np.asarray(each, dtype=float).reshape(len(task.rewards.names), -1)
        figures["rewards"] = {one: float(row.mean()) for one, row in zip(task.rewards.names, rows, strict=True)}
        figures |= {
            "tokens_a_completion": float(np.mean([len(one.completion) for one in found])),
            "finished": float(np.mean([one.finished for one in found])),
            "distinct_2": distinct_2([one.completion for one in found]),
        }
        distance = left(tuning, task, found)
        figures |= {} if distance is None else {"kl": distance}
        figures["samples"] = [
            {"prompt": prompts.texts[number], "completion": texts[number], "reward": float(total[number])}
            for number in numbers[:SHOWN]
        ]
    return figures


def interval(values: Tensor) -> tuple[float, float]:
    """The mean of values (N,), and half the width of the interval that holds the true one in 95 of 100 cases."""
    spread = float(values.std()) if len(values) > 1 else 0.0
    return float(values.mean()), 1.96 * spread / math.sqrt(len(values))


def left(tuning: Tuning, task: PolicyTask, found: list[Rollout]) -> float | None:
    """Nats a completion by which the policy's rollouts are likelier by it than by the reference; None without one."""
    if not task.has_reference:
        return None
    table = SampledTokens.of(found, tuning.place.device)
    numbers = np.arange(len(found))
    model, temperature = tuning.model.to(tuning.place.device), task.settings.temperature
    own, _ = judge(model, table, numbers, task.train, tuning.place, temperature)
    with task.reference() as before:
        theirs, _ = judge(before, table, numbers, task.train, tuning.place, temperature)
    return float(table.sums(own - theirs).mean())


def plot_policy(metrics: Path, out: Path, title: str = "") -> Path:
    """Draw the reward over the rollouts, and the reward against the distance from the reference.

    Raises:
        UserError: there are no metrics, or ``out`` cannot be written.
    """
    records = [record for record in read_metrics(metrics) if "reward" in record]
    steps, rewards = [record["step"] for record in records], [record["reward"] for record in records]
    distances = [record.get("kl") for record in records]
    known = all(distance is not None for distance in distances)
    with figure_style():
        figure = Figure(figsize=(12 if known else 7, 4.2), layout="constrained")
        panels = figure.subplots(1, 2 if known else 1, squeeze=False)[0]
        panels[0].plot(steps, rewards, color=GREY, linewidth=0.8)
        panels[0].plot(steps, _smooth(rewards), color=BLUE, linewidth=2)
        panels[0].set(xlabel="step", ylabel="mean reward of a rollout")
        if known:
            drawn = panels[1].scatter(distances, rewards, c=steps, s=14, cmap="viridis")
            panels[1].plot(_smooth([float(d or 0.0) for d in distances]), _smooth(rewards), color=ORANGE, linewidth=1.2)
            panels[1].set(xlabel="nats from the reference", ylabel="mean reward")
            figure.colorbar(drawn, ax=panels[1], label="step")
        if title:
            figure.suptitle(title)
        return save_figure(figure, Path(out), dpi=130)


def _smooth(values: list[float], share: float = 0.9) -> list[float]:
    """A running mean that begins at the first value."""
    found: list[float] = []
    for value in values:
        found.append(value if not found else share * found[-1] + (1 - share) * value)
    return found
