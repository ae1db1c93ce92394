"""What a shell is told when it completes a command line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from scratchlm.cli.main import run


def completed(line: str) -> list[str]:
    """What bash would offer behind a line, by typer's protocol."""
    words = line.split(" ")
    told = {"_SCRATCHLM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    found = subprocess.run(
        [sys.executable, "-m", "scratchlm"], env={**os.environ, **told}, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("scratchlm mod", ["models"]),
        ("scratchlm models in", ["info"]),
        ("scratchlm models pull --so", ["--source"]),
        ("scratchlm models info smollm2-135m-i", ["smollm2-135m-instruct"]),
        ("scratchlm finetune tinyg", ["tinygpt"]),
        ("scratchlm models pull --source p", ["package"]),
        ("scratchlm nothing-like-this", []),
    ],
)
def test_a_line_is_completed(line: str, offered: list[str]) -> None:
    assert completed(line) == offered


def test_the_script_for_the_shell_is_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: ("bash", "/bin/bash"))  # whatever runs the tests
    assert run(["--show-completion"]) == 0
    assert "_SCRATCHLM_COMPLETE=complete_bash" in capsys.readouterr().out
