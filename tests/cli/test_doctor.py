"""What the doctor finds on this machine, and on machines that are not well."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from scratchlm import __version__, doctor, kernels
from scratchlm.cli.main import run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    kernels.available()  # compiled once, and not into each of these
    folder = tmp_path / "cache"
    monkeypatch.setenv("SCRATCHLM_CACHE", str(folder))
    return folder


def examined(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    status = run(["doctor", "--no-speed", "--json", *options])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert status == int(found["broken"])
    return found


def test_what_is_here_is_told(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = examined(capsys)
    assert found["versions"]["scratchlm"] == __version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["devices"]["memory"] == round(psutil.virtual_memory().total / 2**30, 1)
    assert found["devices"]["threads"] == torch.get_num_threads()
    assert found["caches"]["folder"] == str(cache)
    assert found["caches"]["models"] == []
    assert "speed" not in found
    assert not found["broken"]
    # What the tests themselves need is installed.
    assert {name: missing for name, missing in found["extras"].items() if missing} == {}
    assert {"agents", "rag", "serve", "finetune"} <= set(found["extras"])


def test_people_read_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--no-speed"]) == 0
    shown = capsys.readouterr().out
    assert shown.split()[:2] == ["scratchlm", __version__]
    assert "GiB of disk free" in shown


def test_how_fast_the_machine_is() -> None:
    found = doctor.speeds(doctor.caches()["models"])
    assert found["products_fp32"] > 0
    assert found["copies"] > 0
    assert "smollm2-135m-instruct" not in found  # which is not in this cache


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_is_here", lambda name: name not in ("fastapi", "lancedb"))
    found = doctor.extras()
    assert found["serve"] == ["fastapi"]
    assert found["rag"] == ["lancedb"]
    assert found["telemetry"] == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_cache_that_cannot_be_written_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    found = examined(capsys)
    assert found["broken"]
    tmp_path.chmod(0o700)


ILL: list[tuple[dict[str, Any], str]] = [
    ({"caches": {"folder": None}}, "!set SCRATCHLM_CACHE to a folder"),
    ({"caches": {"writable": False}}, "!cannot be written to; change its permissions"),
    ({"caches": {"disk_free": 0.3}}, "0.3 GiB of disk are free"),
    ({"caches": {"damaged": ["gpt2"]}}, "scratchlm models pull gpt2"),
    ({"devices": {"memory_free": 0.5}}, "0.5 GiB of memory are free"),
    ({"devices": {"threads": 8, "cores": 2}}, "set OMP_NUM_THREADS=2"),
    ({"devices": {"threads": 1, "cores": 4}}, "OMP_NUM_THREADS=1 leaves cores of 4 unused"),
]


@pytest.mark.parametrize(("changes", "said"), ILL, ids=[said for _, said in ILL])
def test_what_is_wrong_is_told_with_its_cure(
    changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = doctor.examine(speed=False)
    found["devices"] |= {"memory_free": 9.0, "threads": 2, "cores": 2}
    found["caches"] |= {"disk_free": 9.0}
    before = doctor.problems(found)
    for part, values in changes.items():
        found[part] |= values
    serious, others = doctor.problems(found)
    new = [line for line in (*serious, *others) if line not in (*before[0], *before[1])]
    assert len(new) == 1
    assert said.removeprefix("!") in new[0]
    assert (new[0] in serious) == said.startswith("!")


def test_kernels_that_are_off_and_a_terminal_without_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor.examine(speed=False)
    monkeypatch.setattr("scratchlm.kernels.available", lambda: False)
    monkeypatch.setattr(doctor.platform, "system", lambda: "Linux")
    monkeypatch.setattr(sys, "stdout", type("Narrow", (), {"encoding": "ascii"})())
    _, others = doctor.problems(found)
    assert any("install a C compiler, such as gcc" in line for line in others)
    assert any("set PYTHONUTF8=1" in line for line in others)


def test_no_home_at_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "cache_folder", lambda: None)
    found = examined(capsys)
    assert found["broken"]
    assert found["problems"][0].startswith("there is no home folder")
