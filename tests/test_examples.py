"""The examples run, as a reader would run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_prints_what_its_model_scores(path: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, path, "5"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no model can do better than" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_there_is_an_example_for_each_of_the_tutorials_models() -> None:
    assert {path.stem for path in EXAMPLES} >= {"encoder", "decoder"}
