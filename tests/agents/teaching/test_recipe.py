"""The recipe from a model that knows nothing to two runs, and what it takes from its user."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import scratchlm
from scratchlm import UserError, language_model
from scratchlm.agents.teaching.recipe import ALIGNED, TUNED, Teaching, measure, show_teaching, teach_tools
from scratchlm.agents.teaching.tasks import make_tasks
from scratchlm.checkpoints.huggingface import save_huggingface
from scratchlm.data import IGNORE, encode_records, read_records
from scratchlm.models import ModelConfig, build_model
from scratchlm.opening import open_model
from scratchlm.tokenizers import Tokenizer
from scratchlm.training import Reporter

from ..chat_tokenizers import chatty

SMALL: dict[str, Any] = {
    "width": 16, "layers": 2, "heads": 2, "positions": "rotary", "norm": "rmsnorm", "activation": "swiglu",
    "norm_eps": 1e-5,
    "context": 4096, "dropout": 0.0, "qkv_bias": False, "out_bias": False, "ffn_bias": False,
    "ffn_width": 32, "head_bias": False,
}  # fmt: skip
LITTLE = Teaching(rows=16, rollouts=1, tasks=6)
FAST = {"max_length": 4096, "steps": 2, "pass_tokens": 8192}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer: Tokenizer = chatty()
    torch.manual_seed(0)
    model = build_model(ModelConfig(architecture="decoder", vocab_size=tokenizer.vocab_size, **SMALL))
    folder = tmp_path_factory.mktemp("chat")
    save_huggingface(model, folder, tokenizer)
    return folder


@pytest.fixture(scope="module")
def taught(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("taught") / "out"
    return out, teach_tools(str(base), out, LITTLE, settings=FAST, reporter=Reporter(quiet=True))


def test_both_runs_open_and_differ(base: Path, taught: tuple[Path, dict[str, Any]]) -> None:
    out, _ = taught
    weights = [open_model(str(place)).model.state_dict() for place in (base, out / TUNED, out / ALIGNED)]
    name = next(name for name in weights[0] if "qkv" in name)
    assert not torch.equal(weights[0][name], weights[1][name])
    assert weights[1].keys() == weights[2].keys()


def test_four_bits_are_no_choice_for_a_taught_model(
    base: Path, taught: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []

    def choose(*_: object, adapted: bool) -> str:
        told.append(adapted)
        return "fp32"

    monkeypatch.setattr(language_model, "choose_precision", choose)
    for place in (base, taught[0] / TUNED):
        scratchlm.load(str(place)).engine()
    assert told == [False, True]


def test_what_is_told(taught: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    out, told = taught
    assert json.loads((out / "report.json").read_text()) == told
    for stage in ("before", TUNED, ALIGNED):
        assert 0 <= told[stage]["right"] <= 1
        assert len(told[stage]) == 7
    assert told["tuning_seconds"] > 0
    assert told["aligning_processor_seconds"] > 0
    show_teaching(told)
    shown = capsys.readouterr().out
    assert "no tool" in shown
    assert re.search(r"tuning took \d+:\d\d", shown)


def test_only_the_models_own_turns_are_learned(taught: tuple[Path, dict[str, Any]]) -> None:
    rows = read_records(taught[0] / "rows.jsonl")
    assert (rows.task, len(rows.rows)) == ("chat", 16)
    tokenizer = chatty()
    examples = encode_records(rows, tokenizer, max_length=8192)
    for number, row in enumerate(rows.rows):
        _, targets = examples[number]
        learned = tokenizer.decode([int(one) for one in targets if one != IGNORE])
        said = [message["content"] for message in row.messages if message["role"] == "assistant"]
        assert learned == "".join(f"{text}<|im_end|>" for text in said)


def test_a_finished_recipe_has_nothing_left_to_do(base: Path, taught: tuple[Path, dict[str, Any]]) -> None:
    out, told = taught
    with pytest.raises(UserError, match=r"taught into already.*--resume"):
        teach_tools(str(base), out, LITTLE, reporter=Reporter(quiet=True))
    with pytest.raises(UserError, match="begun with rows 16, not 32"):
        teach_tools(str(base), out, Teaching(rows=32), resume=True, reporter=Reporter(quiet=True))
    again = teach_tools(str(base), out, LITTLE, settings=FAST, resume=True, reporter=Reporter(quiet=True))
    assert [again[stage] for stage in ("before", TUNED, ALIGNED)] == [told[s] for s in ("before", TUNED, ALIGNED)]


def test_a_folder_that_is_anothers(base: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear")
    for resume in (False, True):
        with pytest.raises(UserError, match="already holds files"):
            teach_tools(str(base), tmp_path, LITTLE, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_settings_are_looked_at_before_anything_is_measured(base: Path, tmp_path: Path) -> None:
    for wrong, words in (
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"rank": 0}, "rank"),
        ({"layout": "x"}, "layout"),
    ):
        with pytest.raises(UserError, match=words):
            teach_tools(str(base), tmp_path / "new", LITTLE, settings=wrong)
    assert not (tmp_path / "new").exists()


def test_a_model_that_answers_right_is_measured_so(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = make_tasks("validation", 12)
    known = [task.answer if task.family in ("dates", "units") else "no" for task in tasks]
    monkeypatch.setattr("scratchlm.agents.teaching.recipe.solve", lambda *_given: known)
    found = measure(str(base), tasks)
    assert (found["right"], found["dates"], found["arithmetic"]) == (4 / 12, 1.0, 0.0)


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        ({"rows": 3}, "rows is 3"),
        ({"rollouts": -1}, "rollouts is -1"),
        ({"tasks": 0.5}, "tasks"),
        ({"seed": -2}, "seed"),
    ],
)
def test_numbers_out_of_range(given: dict[str, Any], cure: str) -> None:
    with pytest.raises(UserError, match=cure):
        Teaching(**given)


def test_a_model_without_chats(tmp_path: Path) -> None:
    tokenizer = chatty(None)
    model = build_model(ModelConfig(architecture="decoder", vocab_size=tokenizer.vocab_size, **SMALL))
    save_huggingface(model, tmp_path / "plain", tokenizer)
    with pytest.raises(UserError, match="no chat template"):
        teach_tools(str(tmp_path / "plain"), tmp_path / "out", LITTLE)
    assert not (tmp_path / "out").exists()
