"""A run that was killed, however often and wherever, ends in the same bits as one that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("killed_runs.py")


def killed_runs(folder: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_runs_killed_at_random_moments_resume_to_the_same_bits(tmp_path: Path) -> None:
    result = killed_runs(tmp_path, "random", "3", "1")
    assert result["differing"] == []
    assert result["moments"] == 3
    assert result["steps"] == list(range(1, 25))


def test_runs_killed_while_they_write_resume_to_the_same_bits(tmp_path: Path) -> None:
    result = killed_runs(tmp_path, "disk", "4")
    assert result["differing"] == []
    assert result["killed"] == result["moments"] == 8


@pytest.mark.slow
def test_runs_killed_at_twenty_random_moments_resume_to_the_same_bits(tmp_path: Path) -> None:
    result = killed_runs(tmp_path, "random", "20", "2")
    assert result["differing"] == []
    assert result["killed"] == 20


@pytest.mark.slow
def test_runs_killed_at_a_third_of_all_disk_operations_resume_to_the_same_bits(tmp_path: Path) -> None:
    result = killed_runs(tmp_path, "disk", "50")
    assert result["differing"] == []
    assert result["killed"] == result["moments"] == 100


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_tunings_killed_while_they_write_resume_to_the_same_bits(method: str, tmp_path: Path) -> None:
    result = killed_runs(tmp_path, "disk", "4", method)
    assert result["differing"] == []
    assert result["killed"] == result["moments"] == 8
    assert result["steps"] == list(range(1, 25))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_tunings_killed_at_random_moments_resume_to_the_same_bits(method: str, tmp_path: Path) -> None:
    result = killed_runs(tmp_path, "random", "10", "3", method)
    assert result["differing"] == []
    assert result["killed"] == 10


@pytest.mark.parametrize(
    "method", ["lora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("full", "qlora"))]
)
def test_a_tuning_stopped_by_ctrl_c_says_how_to_go_on_and_that_ends_in_the_same_bits(
    method: str, tmp_path: Path
) -> None:
    """What was asked for beside the settings (the task, the columns, what is held out) is remembered."""
    result = killed_runs(tmp_path, "interrupt", "7", method)
    assert result["statuses"] == [0, 130, 0]
    assert result["interrupted"] == 7
    assert result["said"].startswith("scratchlm finetune ")
    assert result["differing"] == []
