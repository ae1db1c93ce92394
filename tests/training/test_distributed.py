"""Two processes are one with the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from scratchlm.training.distributed import World

from . import launching
from .launching import Ended

SETTINGS: dict[str, Any] = {
    **{"width": 16, "layers": 1, "heads": 2, "dropout": 0.0, "steps": 6, "batch_size": 5, "accumulation": 2},
    **{"epsilon": 1e-4, "validation_fraction": 0.3, "unknown": "token", "eval_every": 3, "log_every": 1},
    "device": "cpu",
}


def launch(size: int, **asked: Any) -> Ended:
    return launching.launch("one_process.py", size, {"settings": SETTINGS, **asked})


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_rows_are_shared_out_without_gap_or_overlap() -> None:
    import torch

    for rows in (1, 5, 8):
        for size in (1, 2, 3):
            shares = [World(torch.device("cpu"), rank, size).share(rows) for rank in range(size)]
            assert [row for first, last in shares for row in range(first, last)] == list(range(rows))


def test_two_processes_give_the_weights_and_losses_of_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert launch(1, out=str(one))[0][0] == 0
    ended = launch(2, out=str(two))
    assert [status for status, _, _ in ended] == [0, 0], ended
    for name in ("model.safetensors", "checkpoints/step-00000006/model.safetensors"):
        alone, together = load_file(one / name), load_file(two / name)
        assert alone.keys() == together.keys()
        for key in alone:
            assert float((alone[key] - together[key]).abs().max()) < 1e-6, key
    assert len(records(one)) == len(records(two)) == 6
    for alone, together in zip(records(one), records(two), strict=True):
        assert alone.keys() == together.keys()
        for key in {"step", "loss", "gradient_norm", "learning_rate", "validation_loss"} & alone.keys():
            assert together[key] == pytest.approx(alone[key], rel=1e-5)


@pytest.mark.slow
def test_one_interrupted_process_stops_both_and_they_resume_to_the_same_bits(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert [status for status, _, _ in launch(2, out=str(whole))] == [0, 0]
    ended = launch(2, out=str(cut), interrupt=[1, 5])
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert [json.loads(text)["stopped"] for _, text, _ in ended] == ["interrupted", "interrupted"]
    assert [json.loads(text)["steps"] for _, text, _ in ended] == [3, 3]
    ended = launch(2, out=str(cut), resume=True)
    assert [json.loads(text)["steps"] for _, text, _ in ended] == [6, 6]
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert [record["loss"] for record in records(cut)] == [record["loss"] for record in records(whole)]


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_an_error_in_one_process_ends_the_other(rank: int, tmp_path: Path) -> None:
    ended = launch(2, out=str(tmp_path / "run"), fail=[rank, 4])
    assert ended[rank][0] == 2
    assert "error: this process gives up" in ended[rank][2]
    assert ended[1 - rank][0] == 2
    assert "error: another process of the training has ended; see its message, and resume\n" in ended[1 - rank][2]


@pytest.mark.slow
def test_a_folder_in_use_is_told_once_and_ends_both(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    ended = launch(2, out=str(tmp_path / "run"))
    assert ended[0][0] == 2
    assert "already holds files" in ended[0][2]
    assert ended[1][0] != 0


@pytest.mark.slow
def test_torchrun_starts_the_command_line(tmp_path: Path) -> None:
    settings = [text for name, value in SETTINGS.items() for text in ("--set", f"{name}={value}")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "scratchlm", "train", "tinybert", "--out", str(tmp_path / "run"), "--json", *settings]
    done = subprocess.run(
        [*launcher, *command], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fit"]["steps"] == 6
