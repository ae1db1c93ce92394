"""An alignment that was killed, however often and wherever, ends in the same bits as one that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("killed_alignments.py")
GOALS = ["reward", "dpo", "kto", "grpo", "ppo"]


def killed(folder: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["differing"] == []
    return result


def test_ppo_killed_while_it_writes_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """The goal with most to remember: a value head, its optimizer, a rollout that several steps learn from."""
    result = killed(tmp_path, "disk", "3", "ppo")
    assert result["killed"] == 6
    assert result["steps"] == list(range(1, 13))


@pytest.mark.slow
@pytest.mark.parametrize("goal", GOALS)
def test_alignments_killed_while_they_write_resume_to_the_same_bits(goal: str, tmp_path: Path) -> None:
    result = killed(tmp_path, "disk", "6", goal)
    assert result["killed"] == result["moments"] == 12


@pytest.mark.parametrize("goal", ["kto", *(pytest.param(one, marks=pytest.mark.slow) for one in GOALS if one != "kto")])
def test_an_alignment_stopped_by_ctrl_c_says_how_to_go_on_and_that_ends_in_the_same_bits(
    goal: str, tmp_path: Path
) -> None:
    """The rewards, the loss that decides which rows are read, and what is held out are remembered."""
    result = killed(tmp_path, "interrupt", "7", goal)
    assert result["statuses"] == [0, 130, 0]
    assert result["interrupted"] == (8 if goal in ("grpo", "ppo") else 7)  # a rollout's steps are taken to the end
    assert result["said"].startswith("scratchlm align ")


@pytest.mark.slow
@pytest.mark.parametrize("goal", GOALS)
def test_alignments_killed_at_random_moments_resume_to_the_same_bits(goal: str, tmp_path: Path) -> None:
    assert killed(tmp_path, "random", "4", "3", goal)["killed"] == 4
