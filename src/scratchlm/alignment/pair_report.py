"""How well rewards tell which of two texts people preferred, and whether they are as sure as they are right."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from scratchlm.alignment.measuring import wilson
from scratchlm.alignment.reward_model import Margins, judge_examples
from scratchlm.data import Plan
from scratchlm.evaluation.plots import BLUE, GREY, figure_style, save_figure
from scratchlm.training.distributed import World

BINS = 10
"""Of confidences, from a half to one."""
_MOST_MARGINS = 8
"""Different margins that are told apart; more of them are told in so many ranges with as many pairs each."""


@dataclass(frozen=True)
class Part:
    """Some of the pairs."""

    low: float
    high: float
    """They are those of which something, a margin or a confidence, is at least ``low`` and below ``high``; 1, the
    surest, is among the last."""
    mean: float
    """Of it."""
    pairs: int
    accuracy: float
    interval: tuple[float, float]
    """That holds the true accuracy in 95 of 100 cases (Wilson 1927)."""


@dataclass(frozen=True)
class PairReport:
    """What there is to say of the rewards of P pairs."""

    pairs: int
    accuracy: float
    """How often the chosen text has the higher reward; half where both have the same."""
    interval: tuple[float, float]
    """As a part's. Pairs that share texts are taken for independent ones, so it is too narrow for those."""
    loss: float
    """Mean of -log sigmoid(gap), in nats; log 2 = 0.693 of rewards that tell nothing."""
    gap: float
    """Mean of the chosen one's reward less the rejected one's."""
    mean: float
    spread: float
    """Mean and standard deviation of all rewards."""
    calibration_error: float
    """By how much confidence and accuracy differ, on average over the pairs (Guo et al. 2017, equation 3)."""
    by_margin: tuple[Part, ...]
    """None where all pairs have the same margin."""
    by_confidence: tuple[Part, ...]
    """Confidence is the sigmoid of the gap's size: how sure the rewards are of the one that they prefer."""

    def figures(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def judge_pairs(
    model: nn.Module, plan: Plan, margins: Margins, place: World, *, ends: Collection[int] | None
) -> PairReport:
    """The report on a model's rewards of all pairs of a plan, whose margins (P,) these are."""
    return report_pairs(judge_examples(model, plan, place, ends=ends), margins)


def report_pairs(rewards: NDArray[np.floating], margins: Sequence[float] | NDArray[np.floating]) -> PairReport:
    """The report on rewards (2 P,), of each pair the chosen text's first, with margins (P,).

    Raises:
        ValueError: no pair, or not two rewards of each.
    """
    values, apart = np.asarray(rewards, np.float64), np.asarray(margins, np.float64)
    if len(values) != 2 * len(apart) or not len(apart):
        raise ValueError(f"{len(values)} rewards and {len(apart)} margins; a pair has two rewards and one margin")
    gaps = values[0::2] - values[1::2]
    right = (gaps > 0) + 0.5 * (gaps == 0)
    confidence = 1 / (1 + np.exp(-np.abs(gaps)))
    by_confidence = _parts(confidence, right, np.linspace(0.5, 1, BINS + 1))
    accuracy = float(right.mean())
    return PairReport(
        len(gaps),
        accuracy,
        wilson(accuracy, len(gaps)),
        float(np.logaddexp(0, -gaps).mean()),
        float(gaps.mean()),
        float(values.mean()),
        float(values.std()),
        sum(part.pairs * abs(part.accuracy - part.mean) for part in by_confidence) / len(gaps),
        _by_margin(apart, right),
        by_confidence,
    )


def plot_calibration(report: PairReport, out: str | Path, *, title: str = "") -> Path:
    """Draw how often the rewards are right against how sure they are, and below it how many pairs are how sure.

    Raises:
        UserError: ``out`` cannot be written.
    """
    parts = report.by_confidence
    means, accuracies = [part.mean for part in parts], [part.accuracy for part in parts]
    below = [max(0.0, part.accuracy - part.interval[0]) for part in parts]
    above = [max(0.0, part.interval[1] - part.accuracy) for part in parts]
    with figure_style():
        figure = Figure(figsize=(6.4, 6.4), layout="constrained")
        curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        curve.plot([0.5, 1], [0.5, 1], color=GREY, linestyle="--", linewidth=1.2, label="as sure as right")
        curve.errorbar(
            means, accuracies, yerr=[below, above], color=BLUE, marker="o", capsize=3, label="held-out pairs, 95 %"
        )
        curve.set_ylabel("share of pairs that are right")
        curve.set_ylim(0, 1.03)
        curve.legend(loc="lower right")
        error = f"accuracy {report.accuracy:.1%}, calibration error {report.calibration_error:.3f}"
        curve.set_title(f"{title}: {error}" if title else error, loc="left", parse_math=False)
        width = 0.5 / BINS
        counts.bar([part.low + width / 2 for part in parts], [part.pairs for part in parts], 0.9 * width, color=GREY)
        counts.set_ylabel("pairs")
        counts.set_xlabel("confidence, the sigmoid of the gap between the rewards")
        return save_figure(figure, Path(out), dpi=130)


def _by_margin(margins: NDArray[np.float64], right: NDArray[np.float64]) -> tuple[Part, ...]:
    different = np.unique(margins)
    if len(different) < 2:
        return ()
    if len(different) > _MOST_MARGINS:
        different = np.unique(np.quantile(margins, np.arange(_MOST_MARGINS) / _MOST_MARGINS, method="lower"))
    return _parts(margins, right, np.append(different, margins.max() + 1))


def _parts(of: NDArray[np.float64], right: NDArray[np.float64], edges: NDArray[np.float64]) -> tuple[Part, ...]:
    """The pairs from each edge to below the next, the last one's included; without those parts that are empty."""
    owner = np.clip(np.searchsorted(edges, of, side="right") - 1, 0, len(edges) - 2)
    found = []
    for number in np.unique(owner):
        mine = owner == number
        accuracy, count = float(right[mine].mean()), int(mine.sum())
        low, high = float(edges[number]), float(edges[number + 1])
        found.append(Part(low, high, float(of[mine].mean()), count, accuracy, wilson(accuracy, count)))
    return tuple(found)
