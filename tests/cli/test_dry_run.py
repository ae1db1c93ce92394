"""--dry-run says what a training would take, and trains nothing."""

from __future__ import annotations

from pathlib import Path

from .conftest import SMALL, Command


def test_a_dry_run_prints_an_estimate_and_writes_nothing(command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    found = command("train", "tinygpt", "--out", str(run), *SMALL, "--dry-run", "--json").json
    assert found["parameters"] > 1000
    assert found["fits"] is True
    assert min(found["memory_bytes"], found["disk_bytes"], found["seconds"]) > 0
    table = command("train", "tinygpt", "--out", str(run), *SMALL, "--dry-run").out
    assert all(word in table for word in ("parameters", "memory", "disk", "time"))
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_refuses_what_a_training_would(command: Command, tmp_path: Path) -> None:
    outcome = command("train", "tinygpt", "--out", str(tmp_path / "run"), "--set", "steps=0", "--dry-run")
    assert (outcome.status, outcome.err) == (2, "error: steps is 0; give a whole number of at least 1\n")
