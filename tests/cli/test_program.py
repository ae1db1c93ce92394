"""The program as a whole: its help, its speed of start, and how it ends when the world fails it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scratchlm import __version__
from scratchlm.models import PRESETS

from .conftest import Command

PROGRAM = [sys.executable, "-m", "scratchlm"]


def _run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


def test_help_and_version_load_no_torch() -> None:
    code = (
        "import sys; from scratchlm.cli.main import run\n"
        "for words in (['--help'], ['train', '--help'], ['--version'], ['no-such-verb']): run(words)\n"
        "print([name for name in ('torch', 'numpy', 'matplotlib', 'tokenizers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_importing_the_package_loads_no_torch_until_it_is_used() -> None:
    code = "import sys, scratchlm; print('torch' in sys.modules); scratchlm.load; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_without_a_command_the_help_is_shown(command: Command) -> None:
    outcome = command()
    assert (outcome.status, outcome.err) == (0, "")
    assert all(verb in outcome.out for verb in ("demo", "train", "eval", "generate", "fill", "plot", "bench"))


def test_the_help_names_every_preset_and_writes_the_mask_as_it_is_typed(command: Command) -> None:
    shown = command("train", "--help").out
    assert [name for name in PRESETS if name not in shown] == []
    assert "[MASK]" in command("fill", "--help").out


def test_the_version_is_the_packages(command: Command) -> None:
    assert command("--version").out == f"scratchlm {__version__}\n"


def test_a_mistake_ends_a_process_with_one_line_and_status_2() -> None:
    done = _run("generate", "nope", "--prompt", "Rumi")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no run 'nope'")
    assert done.stderr.count("\n") == 1


def test_a_name_with_a_line_break_still_gets_one_line(command: Command) -> None:
    outcome = command("eval", "two\nlines\x1b[31m")
    assert outcome.err.count("\n") == 1
    assert "\x1b" not in outcome.err


def test_a_traceback_is_shown_to_who_asks_for_it() -> None:
    done = _run("eval", "nope", env={**os.environ, "SCRATCHLM_DEBUG": "1"})
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_a_fault_of_ours_is_told_apart_from_the_users(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("weights")

    monkeypatch.setattr("scratchlm.api.load", broken)
    outcome = command("eval", "run")
    assert outcome.status == 1
    assert outcome.err.startswith("error: a fault of scratchlm itself (KeyError: 'weights'); run it again with")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(("number", "cure"), [(28, "free some space"), (13, "change its permissions")])
def test_the_systems_refusals_are_one_line_with_a_cure(
    command: Command, monkeypatch: pytest.MonkeyPatch, number: int, cure: str
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr("scratchlm.api.load", refused)
    outcome = command("eval", "run")
    assert outcome.status == 2
    assert outcome.err.startswith(f"error: some/file: {os.strerror(number)}; {cure}")
    assert outcome.err.count("\n") == 1


def test_ctrl_c_ends_with_130_and_no_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scratchlm.api.load", interrupted)
    outcome = command("eval", "run")
    assert (outcome.status, outcome.out, outcome.err) == (130, "", "")


def test_a_reader_that_leaves_is_no_error(runs: Path) -> None:
    arguments = ["generate", str(runs / "gpt"), "--prompt", "Rumi", "--max-new-tokens", "20000"]
    with subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        told = process.stderr.read()
        assert process.wait(timeout=60) == 141
    assert told == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*PROGRAM, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: No space left on device; free some space, or choose another disk\n"


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_in_a_training_saves_and_tells_how_to_go_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["train", "tinygpt", "--out", str(run), "--set", "layers=1", "--set", "steps=100000"]
    with subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, told = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert f"scratchlm train tinygpt --data rumi --out {run} --resume" in told
    assert "Traceback" not in told
    assert list((run / "checkpoints").glob("step-*"))
