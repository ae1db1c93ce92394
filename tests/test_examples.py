"""The examples run, as a reader would run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scratchlm.checkpoints.catalogue import find_pulled

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))
TRAIN = [path for path in EXAMPLES if path.stem in ("encoder", "decoder")]


@pytest.mark.parametrize("path", TRAIN, ids=lambda path: path.stem)
def test_an_example_runs_and_prints_what_its_model_scores(path: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, path, "5"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no model can do better than" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_example_of_tuning_leaves_an_adapter_and_a_classifier(tmp_path: Path) -> None:
    (path,) = (path for path in EXAMPLES if path.stem == "finetune")
    done = subprocess.run([sys.executable, path, "5"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    score, files, *predictions = done.stdout.splitlines()
    before, after = (float(part.split()[-1]) for part in score.split(","))
    assert after < before
    assert files == "['adapter_config.json', 'adapter_model.safetensors']"
    assert [line.partition(":")[0] for line in predictions] == ["a warm play , bright", "a sour song"]
    assert list(tmp_path.iterdir()) == []


def test_the_example_of_alignment_learns_to_be_judged_well(tmp_path: Path) -> None:
    (path,) = (path for path in EXAMPLES if path.stem == "alignment")
    done = subprocess.run([sys.executable, path, "16"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    judge, rewards, text = done.stdout.splitlines()
    assert float(judge.split()[-4].rstrip("%")) > 80
    before, after = (float(part.split()[-1]) for part in rewards.split(","))
    assert after > before
    assert text
    assert list(tmp_path.iterdir()) == []


def test_the_example_with_real_models_answers_and_compares(tmp_path: Path) -> None:
    for model in ("smollm2-135m-instruct", "all-minilm-l6-v2"):
        if find_pulled(model) is None:
            pytest.skip(f"it needs {model}; fetch it with: scratchlm models pull {model}")
    (path,) = (path for path in EXAMPLES if path.stem == "real_model")
    done = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "The capital of Italy is Rome" in done.stdout
    assert [line[:4] for line in done.stdout.splitlines()[-2:]] == ["0.27", "0.06"]
    assert list(tmp_path.iterdir()) == []


def test_there_is_an_example_for_each_of_the_tutorials_models() -> None:
    assert {path.stem for path in EXAMPLES} >= {"encoder", "decoder"}


def test_the_example_of_retrieval_answers_and_says_where_it_stands(tmp_path: Path) -> None:
    pytest.importorskip("lancedb", reason="lancedb is not installed")
    if find_pulled("all-minilm-l6-v2") is None:
        pytest.skip("it needs all-minilm-l6-v2; fetch it with: scratchlm models pull all-minilm-l6-v2")
    (path,) = (path for path in EXAMPLES if path.stem == "retrieval")
    done = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts, found, designer, height, owner = done.stdout.splitlines()
    assert counts == "2 documents, 2 chunks"
    assert found.endswith("bridge.md, lines 1-4")
    assert "Karl Osterberg designed it" in designer
    assert designer.endswith("(bridge.md, line 3)")
    assert "31 metres high" in height
    assert "do not answer" in owner
    assert list(tmp_path.iterdir()) == []
