"""Schedules at the steps where they turn."""

from __future__ import annotations

import math
from typing import Any

import pytest

from scratchlm.training import TrainConfig
from scratchlm.training.schedules import learning_rate_factor


def factors(**fields: Any) -> list[float]:
    config = TrainConfig(steps=10, **fields)
    return [learning_rate_factor(step, config) for step in range(10)]


def test_warm_up_rises_in_equal_steps_and_reaches_the_peak() -> None:
    assert factors(warmup_steps=4, schedule="constant") == [0.25, 0.5, 0.75, *[1.0] * 7]


def test_linear_falls_in_equal_steps_and_the_last_step_still_learns() -> None:
    assert factors(schedule="linear") == pytest.approx([1 - step / 10 for step in range(10)])


def test_cosine_is_half_way_down_in_the_middle() -> None:
    found = factors(schedule="cosine", final_learning_rate_ratio=0.2, warmup_steps=1)
    assert found[0] == 1.0
    assert found[1] == 1.0
    assert found == sorted(found, reverse=True)
    assert found[4] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi / 3)))


def test_wsd_is_flat_and_then_falls_to_its_end() -> None:
    found = factors(schedule="wsd", decay_fraction=0.4, final_learning_rate_ratio=0.5)
    assert found[:6] == [1.0] * 6
    assert found[6:] == pytest.approx([0.9, 0.8, 0.7, 0.6])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "wsd"])
def test_no_schedule_leaves_the_range_from_zero_to_the_peak(schedule: str) -> None:
    for warmup in (0, 1, 9):
        for decay in (0.0, 0.01, 1.0):
            found = factors(schedule=schedule, warmup_steps=warmup, decay_fraction=decay)
            assert all(0 < factor <= 1 for factor in found)
