"""EleutherAI's evaluation harness asks our server as it asks any other (``--model local-completions``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import scratchlm
from scratchlm.serving.server import Server

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'lm_eval[api]'")
pytestmark = pytest.mark.slow

QUESTIONS = [
    {"question": "The sea is", "choices": [" blue", " a long story", " 42"], "answer": 0},
    {"question": "Bees dance", "choices": [" never", " to tell the way", " é"], "answer": 1},
    {"question": "Tea", "choices": [" grows", " is a number", " sings"], "answer": 2},
]


def task(folder: Path, name: str, **settings: Any) -> dict[str, Any]:
    """A task of the harness on a file of ours; nothing is fetched."""
    file = folder / "questions.json"
    file.write_text("\n".join(map(json.dumps, QUESTIONS)), encoding="utf-8")
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}, "test_split": "test"}
    return {"task": name, **data, "doc_to_text": "{{question}}", "target_delimiter": "", **settings}


def test_the_harness_scores_and_generates(
    server: Server, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    choice = task(
        *(tmp_path, "choice"),
        **{"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}"},
        metric_list=[{"metric": "acc"}],
    )
    writes = task(
        *(tmp_path, "writes"),
        **{"output_type": "generate_until", "doc_to_target": "{{choices[0]}}"},
        generation_kwargs={"until": ["\n\n"], "max_gen_toks": 8, "temperature": 0.0},
        metric_list=[{"metric": "exact_match"}],
    )
    found = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": "chat",
            "base_url": f"{server.url}/completions",
            "tokenizer": str(models / "chat"),
            "num_concurrent": 2,
            "max_length": 512,
        },
        tasks=[choice, writes],
        log_samples=True,
        bootstrap_iters=0,
    )
    local = scratchlm.load(models / "chat", device="cpu")

    def log_likelihood(text: str, continuation: str) -> float:
        before = local.tokenizer.encode(text)
        ids = before + local.tokenizer.encode(continuation)
        with torch.no_grad():
            scores = local.model(torch.tensor([ids]))[0].log_softmax(-1)
        return sum(float(scores[place - 1, ids[place]]) for place in range(len(before), len(ids)))

    right = 0
    for sample in found["samples"]["choice"]:
        asked = sample["doc"]
        own = [log_likelihood(asked["question"], choice) for choice in asked["choices"]]
        told = [float(answer[0][0]) for answer in sample["resps"]]
        assert told == pytest.approx(own, abs=2e-3)
        right += own.index(max(own)) == asked["answer"]
    assert found["results"]["choice"]["acc,none"] == pytest.approx(right / len(QUESTIONS))
    for sample in found["samples"]["writes"]:
        own_text = local.generate(sample["doc"]["question"], greedy=True, max_new_tokens=8)[0].completion
        assert sample["resps"][0][0] == own_text.split("\n\n")[0]
