"""Fine-tuning by two processes, each with the whole model or a share of it, is fine-tuning by one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from scratchlm.checkpoints import RunFolder
from scratchlm.errors import UserError

from .launching import launch
from .several_processes import main

METHODS, WAYS = ("full", "lora"), ("none", "full")
CASES = [(method, way) for method in METHODS for way in WAYS]
SAME = {"step", "loss", "learning_rate", "gradient_norm", "validation_loss"}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All the trainings of this file: those of one process here, those of two by processes that are started once."""
    folder = tmp_path_factory.mktemp("done")

    def job(name: str, method: str, way: str = "none", **more: Any) -> dict[str, Any]:
        more["copies"] = [str(folder / copy) for copy in more.get("copies", [])]
        return {"out": str(folder / name), "method": method, "sharding": way, **more}

    alone = [job(f"one-{method}", method) for method in (*METHODS, "qlora")]
    alone += [
        job(f"cut-{method}", method, interrupt=3, copies=[f"1to2-{method}-{way}" for way in WAYS]) for method in METHODS
    ]
    main(alone)
    both = [job("two-qlora-full", "qlora", "full"), job("disk", "full", "full", trouble="disk")]
    for method, way in CASES:
        both += [
            job(f"two-{method}-{way}", method, way),
            job(f"2to2-{method}-{way}", method, way, interrupt=3, copies=[f"2to1-{method}-{way}"]),
            job(f"2to2-{method}-{way}", method, way, resume=True),
            job(f"1to2-{method}-{way}", method, way, resume=True),
        ]
    ends = launch("several_processes.py", 2, [*both, job("killed", "full", "full", trouble="kill")])
    assert ends[0][0] == -signal.SIGKILL, ends
    assert ends[1][0] != 0
    kept = sorted(path.name for path in (folder / "killed" / "checkpoints").iterdir())
    assert kept == [".step-00000004.partial", "step-00000002"]
    again = [job(f"2to1-{method}-{way}", method, resume=True) for method, way in CASES]
    main([*again, job("killed", "full", resume=True)])
    return folder


def ended(folder: Path, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"ended-{rank}.json").read_text())
    return found


def check_alike(folder: Path, reference: Path, *, exactly: bool = False) -> None:
    """The same losses, held-out losses and weights to use."""
    lines = [
        [{key: value for key, value in json.loads(line).items() if key in SAME} for line in file.open()]
        for file in (folder / "metrics.jsonl", reference / "metrics.jsonl")
    ]
    assert len(lines[0]) == len(lines[1]) == 4
    for found, wanted in zip(*lines, strict=True):
        assert found == (wanted if exactly else pytest.approx(wanted, rel=1e-5))
    names = {path.name for path in reference.glob("*.safetensors")}
    assert {path.name for path in folder.glob("*model.safetensors")} <= names
    for name in names:
        found, wanted = load_file(folder / name), load_file(reference / name)
        assert found.keys() == wanted.keys()
        for key, tensor in wanted.items():
            torch.testing.assert_close(found[key], tensor, rtol=0, atol=0 if exactly else 1e-5, msg=f"{name} {key}")


@pytest.mark.parametrize(("method", "way"), [*CASES, ("qlora", "full")])
def test_two_processes_teach_what_one_does(method: str, way: str, done: Path) -> None:
    two = done / f"two-{method}-{way}"
    check_alike(two, done / f"one-{method}")
    first, second = (load_file(two / f"final-{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert ended(two) == ended(two, 1)
    assert ended(two)["best"] < 3.4


@pytest.mark.parametrize(("method", "way"), CASES)
def test_what_two_processes_began_one_finishes(method: str, way: str, done: Path) -> None:
    check_alike(done / f"2to1-{method}-{way}", done / f"one-{method}")


@pytest.mark.parametrize(("method", "way"), CASES)
def test_what_one_process_began_two_finish(method: str, way: str, done: Path) -> None:
    check_alike(done / f"1to2-{method}-{way}", done / f"one-{method}")


@pytest.mark.parametrize(("method", "way"), CASES)
def test_two_processes_resume_to_the_same_bits(method: str, way: str, done: Path) -> None:
    check_alike(done / f"2to2-{method}-{way}", done / f"two-{method}-{way}", exactly=True)


def test_a_process_holds_and_writes_a_share_and_no_pickles(done: Path) -> None:
    checkpoint = done / "two-full-full" / "checkpoints" / "step-00000004"
    assert {path.name for path in checkpoint.iterdir()} == {"shares", "state.json"}
    files = sorted((checkpoint / "shares").iterdir())
    assert [path.suffix for path in files] == [".safetensors"] * 2
    sizes = [sum(t.numel() for t in load_file(path).values()) for path in files]
    assert sizes[1] > 0.4 * sum(sizes)
    whole = RunFolder(done / "one-full").latest_checkpoint()
    shared = RunFolder(done / "two-full-full").latest_checkpoint()
    assert whole is not None
    assert shared is not None
    for of_one, of_two in zip(
        (whole.model_tensors(), whole.optimizer_tensors()),
        (shared.model_tensors(), shared.optimizer_tensors()),
        strict=True,
    ):
        assert of_one.keys() == of_two.keys()
        for name, tensor in of_one.items():
            torch.testing.assert_close(of_two[name], tensor, rtol=0, atol=1e-5)


def test_frozen_weights_are_in_no_checkpoint(done: Path) -> None:
    for name in ("one-lora", "two-lora-none", "two-lora-full", "two-qlora-full"):
        checkpoint = RunFolder(done / name).latest_checkpoint()
        assert checkpoint is not None
        tensors = checkpoint.model_tensors()
        assert len(tensors) > 10
        assert all(".adapters.default." in key for key in tensors)


def test_a_full_disk_is_told_in_one_line_and_keeps_the_last_checkpoint(done: Path) -> None:
    for rank in range(2):
        message = ended(done / "disk", rank)["error"]
        assert "cannot write a checkpoint" in message
        assert "the disk is full; the checkpoint at step 2 is intact" in message
        assert "\n" not in message
    assert [path.name for path in (done / "disk" / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_kill_while_shares_are_written_leaves_the_last_checkpoint_to_go_on_from(done: Path) -> None:
    check_alike(done / "killed", done / "one-full")


@pytest.mark.parametrize("damage", ["lost", "cut", "other"])
def test_a_damaged_share_is_named_in_one_line(damage: str, done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "two-full-full", tmp_path / "run")
    checkpoint = RunFolder(tmp_path / "run").latest_checkpoint()
    assert checkpoint is not None
    share = sorted((checkpoint.path / "shares").iterdir())[1]
    if damage == "lost":
        share.unlink()
    else:
        share.write_bytes(share.read_bytes()[:100] if damage == "cut" else b"\xff" * 200)
    with pytest.raises(UserError, match=r"shares (lacks the share|is damaged).* delete the folder") as error:
        checkpoint.model_tensors()
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_killed_process_is_started_again_by_torchrun_and_the_run_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    settings = ["sharding=full", "width=16", "layers=1", "heads=2", "dropout=0.0", "steps=100", "save_every=5"]
    settings += ["unknown=token", "device=cpu", "validation_fraction=0.2", "eval_every=50"]
    arguments = [text for setting in settings for text in ("--set", setting)]

    def command(out: str, processes: int) -> list[str]:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:1", "--max-restarts", "2"]
        torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--nproc-per-node", str(processes)]
        train = ["-m", "scratchlm", "train", "tinybert", "--out", str(tmp_path / out), "--json", "--resume"]
        return [*torchrun, *train, *arguments]

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    started = subprocess.Popen(command("cut", 2), env=environment, stdout=pipe, stderr=pipe, text=True)
    try:
        end = time.monotonic() + 120
        while not list((tmp_path / "cut" / "checkpoints").glob("step-*")) and time.monotonic() < end:
            time.sleep(0.05)
        workers = [one for one in psutil.Process(started.pid).children() if "scratchlm" in one.cmdline()]
        assert len(workers) == 2
        workers[1].kill()
        output, errors = started.communicate(timeout=200)
    finally:
        started.kill()
    assert started.returncode == 0, errors
    assert json.loads(output)["fit"]["steps"] == 100
    whole = subprocess.run(command("whole", 2), env=environment, capture_output=True, check=True)
    assert json.loads(whole.stdout)["fit"]["steps"] == 100
    wanted, found = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
