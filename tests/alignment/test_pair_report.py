"""What is said of rewards, against figures worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from scratchlm.alignment.pair_report import BINS, plot_calibration, report_pairs

GAPS = [2.0, -1.0, 0.0, 3.0, 0.5]
MARGINS = [3.0, 1.0, 1.0, 3.0, 2.0]


def rewards(gaps: list[float]) -> np.ndarray:
    return np.array([value for gap in gaps for value in (1 + gap / 2, 1 - gap / 2)], np.float32)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_figures_are_those_of_the_definition() -> None:
    report = report_pairs(rewards(GAPS), MARGINS)
    right = [1, 0, 0.5, 1, 1]
    assert report.pairs == 5
    assert report.accuracy == pytest.approx(sum(right) / 5)
    low, high = report.interval
    assert 0 < low < report.accuracy < high < 1
    assert report.loss == pytest.approx(sum(-math.log(sigmoid(gap)) for gap in GAPS) / 5)
    assert report.gap == pytest.approx(0.9)
    assert report.mean == pytest.approx(1)
    assert report.spread == pytest.approx(math.sqrt(sum((gap / 2) ** 2 for gap in GAPS) / 5))
    assert [(part.low, part.pairs, part.accuracy) for part in report.by_margin] == [
        (1.0, 2, 0.25),
        (2.0, 1, 1.0),
        (3.0, 2, 1.0),
    ]
    assert json.loads(json.dumps(report.figures()))["by_margin"][0]["mean"] == 1.0


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_accuracy() -> None:
    report = report_pairs(rewards(GAPS), MARGINS)
    bins: dict[int, list[tuple[float, float]]] = {}
    for gap, right in zip(GAPS, [1, 0, 0.5, 1, 1], strict=True):
        confidence = sigmoid(abs(gap))
        bins.setdefault(int((confidence - 0.5) * 2 * BINS), []).append((confidence, right))
    assert [part.pairs for part in report.by_confidence] == [len(bins[n]) for n in sorted(bins)]
    expected = sum(abs(sum(c for c, _ in one) - sum(r for _, r in one)) for one in bins.values()) / 5
    assert report.calibration_error == pytest.approx(expected)


def test_rewards_that_are_as_sure_as_right_have_no_calibration_error_and_louder_ones_have() -> None:
    draw = np.random.default_rng(0)
    gaps = draw.uniform(0, 4, 20_000)
    signs = np.where(draw.random(len(gaps)) < 1 / (1 + np.exp(-gaps)), 1, -1)
    true = report_pairs(rewards(list(gaps * signs)), np.zeros(len(gaps)))
    loud = report_pairs(rewards(list(3 * gaps * signs)), np.zeros(len(gaps)))
    assert true.calibration_error < 0.01
    assert loud.calibration_error > 0.05
    assert loud.accuracy == true.accuracy
    assert true.by_margin == ()  # which are all the same


def test_the_surest_of_all_and_many_margins_have_their_parts() -> None:
    report = report_pairs(rewards([900.0, -900.0, 5.0, 1.0]), [1, 1, 1, 1])
    assert sum(part.pairs for part in report.by_confidence) == 4
    assert report.by_confidence[-1].high == 1
    many = report_pairs(rewards([1.0] * 400), np.arange(400) / 100)
    assert 5 <= len(many.by_margin) <= 8
    assert sum(part.pairs for part in many.by_margin) == 400
    assert {part.pairs for part in many.by_margin} <= {49, 50, 51}


def test_what_is_no_pair_is_refused() -> None:
    for values, margins in (([1.0, 2.0], []), ([1.0], [1.0]), ([], [])):
        with pytest.raises(ValueError, match="a pair has two rewards and one margin"):
            report_pairs(np.array(values), margins)


def test_the_calibration_is_drawn(tmp_path: Path) -> None:
    picture = plot_calibration(report_pairs(rewards(GAPS), MARGINS), tmp_path / "new" / "calibration.png", title="x_$")
    assert picture.read_bytes().startswith(b"\x89PNG")
