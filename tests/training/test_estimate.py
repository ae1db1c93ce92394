"""Dry runs: what they say, that they write nothing, and what they propose where the machine is too small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scratchlm.errors import UserError
from scratchlm.training import Reporter, train
from scratchlm.training import estimate as module
from scratchlm.training.estimate import Estimate, estimate, show_estimate, size

TINY: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2, "context": 8, "batch_size": 4, "device": "cpu"}


def asked(tmp_path: Path, preset: str = "tinygpt", **settings: Any) -> Estimate:
    return estimate(preset, None, tmp_path / "run", settings=TINY | settings)


@pytest.mark.parametrize("preset", ["tinygpt", "tinybert", "transformer"])
def test_a_dry_run_counts_and_measures_and_writes_nothing(preset: str, tmp_path: Path) -> None:
    found = asked(tmp_path, preset, **({"context": 40} if preset == "transformer" else {}), steps=8, warmup_steps=1)
    assert list(tmp_path.iterdir()) == []
    assert found.fits
    assert found.problem == ""
    assert found.step_seconds is not None
    assert found.seconds is not None
    assert found.seconds >= 8 * found.step_seconds > 0
    settings = TINY | {"context": 40, "steps": 8, "warmup_steps": 1}
    if preset != "transformer":
        settings |= {"context": 8}
    result = train(preset, None, tmp_path / "run", settings=settings, reporter=Reporter(quiet=True))
    assert found.parameters == sum(parameter.numel() for parameter in result.model.parameters())
    on_disk = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert on_disk < found.disk_bytes
    json.dumps(found.to_dict())


def test_memory_grows_with_the_batch_by_what_a_row_leaves_behind(tmp_path: Path) -> None:
    few, many = asked(tmp_path, batch_size=8), asked(tmp_path, batch_size=4096, context=32)
    assert many.memory_bytes - few.memory_bytes > 4096 * 32 * 16 * 4 * 5  # at least a few activations of each layer


def test_where_a_batch_does_not_fit_a_smaller_one_with_accumulation_is_proposed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one_row = asked(tmp_path, batch_size=1).memory_bytes
    both_rows = asked(tmp_path, batch_size=10_001).memory_bytes
    row = (both_rows - one_row) / 10_000
    monkeypatch.setattr(module, "available_memory", lambda _device: module.PROCESS_BYTES + 1e6 + 40 * row)
    found = asked(tmp_path, batch_size=6_000, accumulation=2)
    assert not found.fits
    assert "memory" in found.problem
    assert found.suggestion["batch_size"] * found.suggestion["accumulation"] == 12_000
    assert found.suggestion["batch_size"] < 6_000
    assert found.step_seconds is not None
    show_estimate(found)
    shown = capsys.readouterr().out
    assert f"--set batch_size={found.suggestion['batch_size']}" in shown


def test_a_model_that_cannot_fit_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory", lambda _device: 1e3)
    monkeypatch.setattr(module, "new_model", lambda _plan: pytest.fail("it was built"))
    found = asked(tmp_path)
    assert not found.fits
    assert "choose a smaller model" in found.problem
    assert found.seconds is None
    assert found.suggestion == {}


def test_a_full_disk_is_told_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk:
        free = 1000

    monkeypatch.setattr(module.shutil, "disk_usage", lambda _path: Disk)
    found = asked(tmp_path)
    assert not found.fits
    assert "choose another disk for --out" in found.problem


def test_a_dry_run_refuses_what_a_training_would(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        estimate("tinygpt", None, tmp_path / "file", settings=TINY)
    with pytest.raises(UserError, match="did you mean 'steps'"):
        asked(tmp_path, stepz=3)
    with pytest.raises(UserError, match="no file, folder or corpus"):
        estimate("tinygpt", "nowhere.txt", tmp_path / "run")


@pytest.mark.parametrize(("count", "text"), [(999, "1 kB"), (1.5e6, "1.5 MB"), (2e9, "2.0 GB"), (3e12, "3.0 TB")])
def test_sizes_are_written_with_their_unit(count: float, text: str) -> None:
    assert size(count) == text
