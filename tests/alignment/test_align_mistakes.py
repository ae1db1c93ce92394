"""A mistake in an alignment's rows, rewards, options or files gets one line: what is wrong, where, and what to do."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scratchlm.cli.main import run

from ..training.test_finetune_mistakes import contents, half_run
from ..training.tuned_models import rows, save_model, sentence, write_rows

Command = Callable[[str], list[str]]

LIST = Path(__file__).with_name("align_mistakes.txt")
"""What is typed after "align", with --out where it is missing and --data where the goal has usual rows, and below it
what is said; "..." stands for words of other libraries."""
TABLE = [tuple(pair.splitlines()) for pair in LIST.read_text(encoding="utf-8").split("\n\n")]
USUAL = {"reward": "pairs.jsonl", "dpo": "pairs.jsonl", "ppo": "prompts.jsonl", "grpo": "prompts.jsonl"}
SHORT = ["--set", "steps=1", "--set", "device=cpu", "--set", "rank=2"]

REWARDS = """
import numpy

WORDS = ["please", "thanks"]
class Reward: ...
def good(prompts, completions): return [len(text) / 10 for text in completions]
def raises(prompts, completions): return [1 / 0 for _ in completions]
def nan(prompts, completions): return [float("nan")] + [0.0] * (len(completions) - 1)
def infinite(prompts, completions): return numpy.full(len(completions), numpy.inf)
def few(prompts, completions): return [0.0] * (len(completions) - 1)
def many(prompts, completions): return [0.0] * (len(completions) + 1)
def one(prompts, completions): return 1.0
def nothing(prompts, completions): pass
def words(prompts, completions): return ["good"] * len(completions)
def leaves(prompts, completions): raise SystemExit(3)
def asks(prompts, completions, answer): return [float(a == b) for a, b in zip(answer, completions)]
def takes_none(): return [0.0]
def tires(prompts, completions, asked=[]):
    asked.append(1)
    return [0.5] * len(completions) if len(asked) < 3 else []
"""


def lines(*values: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, rows, rewards and runs, good ones and others."""
    folder = tmp_path_factory.mktemp("mistakes")
    for family in ("gpt2", "llama", "bert"):
        save_model(folder / family, family)
    save_model(folder / "classifier", "gpt2", head="classify", labels=("a", "b"), tied_embeddings=False)
    half_run(folder / "trained", "tinygpt")
    words = [sentence(number, 2 + number % 4) for number in range(60)]
    pairs = [{"prompt": words[n], "chosen": f" {words[n + 20]}", "rejected": f" {words[n + 40]}"} for n in range(20)]
    write_rows(folder / "pairs.jsonl", pairs)
    write_rows(
        folder / "judged.jsonl", [{"prompt": p["prompt"], "completion": p["chosen"], "label": True} for p in pairs]
    )
    write_rows(folder / "prompts.jsonl", [{"prompt": text} for text in words[:20]])
    write_rows(folder / "rows.jsonl", rows("prompt"))
    pair, judged = pairs[0], {"prompt": "the sea", "completion": " is cold", "label": True}
    user, told = {"role": "user", "content": "the sea"}, {"role": "assistant", "content": "is cold"}
    other = {"role": "assistant", "content": "is red"}
    for name, text in {
        "rewards.py": REWARDS,
        "broken.py": "def good(prompts, completions) return 1",
        "missing.py": "import no_such_package_here",
        "plain.txt": "the sea is cold\n",
        "empty.jsonl": "",
        "notes.jsonl": lines({"note": "the sea"}),
        "same.jsonl": lines(pair, pair | {"rejected": pair["chosen"]}),
        "no-rejected.jsonl": lines(pair, {"prompt": "the sea", "chosen": "red"}),
        "null-chosen.jsonl": lines(pair, pair | {"chosen": None}),
        "empty-rejected.jsonl": lines(pair, pair | {"rejected": " "}),
        "mixed.jsonl": lines(pair, pair | {"rejected": [told]}),
        "margin.jsonl": lines(pair | {"margin": 1}, pair | {"margin": -1}),
        "nan-margin.jsonl": '{"chosen": "sea", "rejected": "red", "margin": NaN}\n',
        "word-margin.jsonl": lines(pair | {"margin": "much"}),
        "last-user.jsonl": lines({"chosen": [user, told, user], "rejected": [user, told]}),
        "far.jsonl": lines({"chosen": [user, told, user, told], "rejected": [user, other, user, told]}),
        "role.jsonl": lines({"chosen": [user, told], "rejected": [user, {"role": "bot", "content": "red"}]}),
        "chats.jsonl": lines(*[{"chosen": [user, told], "rejected": [user, other]}] * 3),
        "long-prompts.jsonl": lines(
            *[{"prompt": sentence(n, 20), "chosen": " sea", "rejected": " red"} for n in range(4)]
        ),
        "rated.jsonl": lines({"text": "the sea", "rating": 1}, {"text": "red", "rating": "bad"}),
        "close.jsonl": lines({"text": "the sea", "rating": 1}, {"text": "red", "rating": 1.5}),
        "one-pair.jsonl": lines(pair),
        "label.jsonl": lines(judged, judged | {"label": "maybe"}),
        "no-label.jsonl": lines(judged, {"prompt": "the sea", "completion": "red"}),
        "null-label.jsonl": lines(judged, judged | {"label": None}),
        "one-judged.jsonl": lines(judged),
        "no-prompt.jsonl": lines({"prompt": "the sea"}, {"answer": "red"}),
        "empty-prompt.jsonl": lines({"prompt": "the sea"}, {"prompt": " "}),
        "number-prompt.jsonl": lines({"prompt": "the sea"}, {"prompt": 7}),
        "answered.jsonl": lines({"prompt": [user, told]}),
        "chat-prompts.jsonl": lines({"prompt": [user]}, {"prompt": [user]}),
        "sums.jsonl": lines({"prompt": "the sea"}, {"prompt": "the red sea"}),
        "answers.jsonl": lines(*[{"prompt": text, "answer": None} for text in words[:12]]),
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "empty-folder").mkdir()
    rewarded = ["--reward", "rewards.py:good", "--set", "new_tokens=3", "--set", "batch_size=8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for verb, data, name, more in (
            ("align dpo", "pairs.jsonl", "dpo-run", ["--set", "plain_text=none"]),
            ("align grpo", "prompts.jsonl", "grpo-run", rewarded),
            ("align dpo", "judged.jsonl", "kto-run", ["--set", "plain_text=none", "--set", "loss=kto"]),
            ("finetune", "rows.jsonl", "tuned", []),
        ):
            asked = [*verb.split(), "llama", "--data", data, "--out", name, "--validation", "0"]
            assert run([*asked, *SHORT, *more]) == 0
    return folder


@pytest.fixture
def refused(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the program in the folder; what it says on standard error, whose last line is the mistake."""
    monkeypatch.delenv("SCRATCHLM_DEBUG", raising=False)
    monkeypatch.chdir(folder)

    def call(typed: str) -> list[str]:
        capfd.readouterr()
        status = run(typed_in(typed))
        out, err = capfd.readouterr()
        assert (status, out) == (2, ""), err
        return err.splitlines()

    return call


def typed_in(typed: str) -> list[str]:
    words = shlex.split(typed)
    goal = next(iter(words), "")
    words += ["--data", USUAL[goal]] if "--data" not in words and goal in USUAL else []
    words += ["--out", "new"] if "--out" not in words and words else []
    return ["align", *words]


@pytest.mark.parametrize(("typed", "line"), TABLE, ids=[typed for typed, _ in TABLE])
def test_a_mistake_gets_its_line_and_leaves_nothing(typed: str, line: str, refused: Command, folder: Path) -> None:
    before = contents(folder)
    told = refused(typed.removeprefix("$ "))[-1]
    assert re.fullmatch(".*".join(map(re.escape, line.split("..."))), told), told
    assert contents(folder) == before


def test_a_reward_that_fails_later_leaves_what_was_learned(refused: Command, tmp_path: Path) -> None:
    more = "--validation 0 --set new_tokens=3 --set batch_size=8 --set steps=4 --set save_every=1 --set log_every=1"
    told = refused(f"grpo llama --reward rewards.py:tires --out {tmp_path / 'run'} {more}")[-1]
    assert told.startswith("error: the reward tires gives 0 numbers for 8 completions")
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()][-1] == "step-00000002"


def test_the_list_is_long() -> None:
    assert len(TABLE) > 80


@pytest.mark.parametrize("goal", ["dpo", "grpo"])
def test_an_aligned_run_cannot_be_measured_on_its_rows(
    goal: str, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    more = ["--set", "plain_text=none"] if goal == "dpo" else ["--reward", "rewards.py:good", "--set", "new_tokens=3"]
    more += ["--set", "batch_size=8", "--set", "eval_prompts=2"]
    asked = ["align", goal, "llama", "--data", USUAL[goal], "--out", str(tmp_path / "held"), "--validation", "4"]
    assert run([*asked, *SHORT, *more]) == 0
    capfd.readouterr()
    assert run(["eval", str(tmp_path / "held")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith("held was aligned: see its report.json; to measure it on a text, name one with --data")
