"""Rewards: where they are found, what they add up to, and what is said of one that fails."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scratchlm.alignment.rewards import RewardSet, load_reward, parse_weight
from scratchlm.errors import UserError
from scratchlm.tokenizers import train_tokenizer

FILE = '''
"""Rewards of a user."""
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Setting:
    word: str = "please"

def polite(prompts, completions, **columns):
    return [float(Setting().word in text) for text in completions]

def near(prompts, completions, target):
    return [-abs(len(text) - wanted) for text, wanted in zip(completions, target)]

number = 3
'''
PROMPTS, COMPLETIONS = ["Ask.", "Say."], ["please", "no"]


@pytest.fixture
def rewards(tmp_path: Path) -> Path:
    path = tmp_path / "rewards.py"
    path.write_text(FILE)
    return path


def one(reward: Callable[..., Any]) -> RewardSet:
    return RewardSet(("mine",), (1.0,), (reward,))


def test_a_reward_is_found_in_a_file_or_a_module(rewards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_reward(f"{rewards}:polite")(PROMPTS, COMPLETIONS) == [1.0, 0.0]
    monkeypatch.syspath_prepend(str(rewards.parent))
    monkeypatch.delitem(sys.modules, "rewards", raising=False)
    assert load_reward("rewards:polite")(PROMPTS, COMPLETIONS) == [1.0, 0.0]


def test_a_check_is_found_by_its_name_with_its_arguments() -> None:
    assert load_reward("check:exact_answer")(PROMPTS, COMPLETIONS, answer=["Please", "yes"]) == [1.0, 0.0]
    assert load_reward('check:exact_answer("gold")')(PROMPTS, COMPLETIONS, gold=["Please", "yes"]) == [1.0, 0.0]
    assert load_reward(r'check:regex(r"\bno\b")')(PROMPTS, COMPLETIONS) == [0.0, 1.0]
    assert load_reward('check:banned_words(["no", "never"])')(PROMPTS, COMPLETIONS) == [1.0, 0.0]
    tokenizer = train_tokenizer("char", ["please no"], vocab_size=20)
    assert load_reward('check:length(most=4, unit="tokens")', tokenizer)(PROMPTS, COMPLETIONS) == [0.5, 1.0]


@pytest.mark.parametrize(
    ("spec", "name", "weight"),
    [
        ("check:arithmetic", "check:arithmetic", 1.0),
        ("check:arithmetic=0.5", "check:arithmetic", 0.5),
        ("check:length(most=4)", "check:length(most=4)", 1.0),
        ("check:length(most=4)=-2", "check:length(most=4)", -2.0),
        ('check:regex("a=b")=1e-1', 'check:regex("a=b")', 0.1),
        ("r.py:f=2", "r.py:f", 2.0),
    ],
)
def test_a_weight_stands_behind_a_reward(spec: str, name: str, weight: float) -> None:
    assert parse_weight(spec) == (name, weight)


def test_a_path_may_have_an_equals_sign(tmp_path: Path) -> None:
    folder = tmp_path / "lr=0.1"
    folder.mkdir()
    assert parse_weight(str(folder)) == (str(folder), 1.0)
    assert parse_weight(f"{folder}=2") == (str(folder), 2.0)


def test_rewards_add_up_by_their_weights(rewards: Path) -> None:
    found = RewardSet.load([f"{rewards}:polite=2", f"{rewards}:near=0.5", "check:arithmetic"])
    assert (found.names, found.weights) == (("polite", "near", "arithmetic"), (2.0, 0.5, 1.0))
    each, total = found.score(["2 + 3", "2 + 3"], ["please 5", "no"], {"target": [10, 1], "other": ["x", "y"]})
    assert each.tolist() == [[1.0, 0.0], [-2.0, -1.0], [1.0, 0.0]]
    assert total.tolist() == [2.0, -0.5]
    each, total = found.score([], [], {})
    assert (each.shape, total.shape) == ((3, 0), (0,))


def test_rewards_of_one_name_are_told_apart() -> None:
    found = RewardSet.load(["check:length(most=4)", "check:length(target=2)=3", "check:regex('a')"])
    assert found.names == ("length", "length_2", "regex")


@pytest.mark.parametrize(
    "given",
    [
        [1, 0],
        (True, False),
        np.array([1.0, 0.0]),
        torch.tensor([1.0, 0.0]),
        [np.float32(1), torch.tensor(0)],
        iter([1.0, 0.0]),
        {1.0: None, 0.0: None}.keys(),
    ],
)
def test_numbers_of_any_kind_will_do(given: Any) -> None:
    _, total = one(giving(given)).score(PROMPTS, COMPLETIONS)
    assert total.tolist() == [1.0, 0.0]


def test_a_reward_gets_the_columns_that_it_takes() -> None:
    seen: list[Any] = []

    def some(_prompts: list[str], _completions: list[str], a: list[int], b: Any = None) -> list[float]:
        seen.append((a, b))
        return [0.0, 0.0]

    def every(_prompts: list[str], _completions: list[str], **columns: Any) -> list[float]:
        seen.append(columns)
        return [0.0, 0.0]

    for reward in (some, every):
        one(reward).score(PROMPTS, COMPLETIONS, {"a": [1, 2], "c d": [3, 4]})
    assert seen == [([1, 2], None), {"a": [1, 2], "c d": [3, 4]}]


def test_what_a_reward_prints_is_no_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "loud.py"
    path.write_text(
        "print('read')\ndef loud(prompts, completions):\n    print('called')\n    return [0] * len(prompts)"
    )
    RewardSet.load([f"{path}:loud"]).score(PROMPTS, COMPLETIONS)
    assert capsys.readouterr() == ("", "read\ncalled\n")


def test_a_trained_reward_model_is_asked_for_by_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(folder: str) -> Callable[..., list[float]]:
        return lambda _prompts, completions, **_columns: [float(len(folder)) for _ in completions]

    monkeypatch.setattr("scratchlm.alignment.rewards.RewardModel.load", opened)
    found = RewardSet.load(["runs/taste=2"])
    assert found.names == ("taste",)
    assert found.score(PROMPTS, COMPLETIONS, {"a": [1, 2]})[1].tolist() == [20.0, 20.0]


def test_a_reward_may_change_its_lists() -> None:
    prompts, values = list(PROMPTS), [1, 2]

    def careless(prompts: list[str], completions: list[str], a: list[int]) -> list[float]:
        prompts.clear()
        a.clear()
        return [0.0 for _ in completions]

    one(careless).score(prompts, COMPLETIONS, {"a": values})
    assert (prompts, values) == (PROMPTS, [1, 2])


def failing(_prompts: list[str], completions: list[str]) -> list[float]:
    return [1 / len(text) for text in completions]


def together(_prompts: list[str], completions: list[str]) -> list[float]:
    if len(completions) > 1:
        raise RuntimeError
    return [0.0]


def told(_prompts: list[str], completions: list[str]) -> list[float]:
    if "" in completions:
        raise UserError("it has nothing to say")
    return [0.0 for _ in completions]


def needing(_prompts: list[str], completions: list[str], wanted: list[Any]) -> list[float]:
    return [float(len(wanted)) for _ in completions]


def giving(value: Any) -> Callable[..., Any]:
    return lambda _prompts, _completions: value


def leaving(_prompts: list[str], completions: list[str]) -> list[float]:
    sys.exit(len(completions))


class Strange:
    def __repr__(self) -> str:
        raise ValueError


LONG = "x\n" * 100
ROW = 'row 2 (prompt "Say.", completion "")'


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (failing, f"the reward mine raises ZeroDivisionError: division by zero at {ROW}; mend it"),
        (
            together,
            'the reward mine raises RuntimeError at 3 rows together, the first row 1 (prompt "Ask.", ',
        ),
        (leaving, 'the reward mine raises SystemExit: 1 at row 1 (prompt "Ask.", completion "please"); mend it'),
        (told, f"the reward mine raises UserError: it has nothing to say at {ROW}; mend it"),
        (giving([0.0, math.nan, 0.0]), f"the reward mine gives nan for {ROW}; let it return finite numbers"),
        (giving([0.0, -math.inf, 0.0]), f"the reward mine gives -inf for {ROW}; let it return finite numbers"),
        (
            giving(np.array([0.0, np.nan, 0.0])),
            f"the reward mine gives np.float64(nan) for {ROW}; let it return finite ",
        ),
        (giving([0.0, "1", 0.0]), f'the reward mine gives "1" for {ROW}; let it return finite numbers'),
        (giving([0.0, None, 0.0]), f"the reward mine gives None for {ROW}; let it return finite numbers"),
        (giving([0.0, [1.0], 0.0]), f"the reward mine gives [1.0] for {ROW}; let it return finite numbers"),
        (giving([0.0, 1j, 0.0]), f"the reward mine gives 1j for {ROW}; let it return finite numbers"),
        (
            giving([0.0, Strange(), 0.0]),
            f"the reward mine gives a Strange for {ROW}; let it return finite numbers",
        ),
        (
            giving([0.0]),
            f"the reward mine gives 1 numbers for 3 completions; the first without is {ROW}; let it return one ",
        ),
        (giving([0.0] * 4), "the reward mine gives 4 numbers for 3 completions; the last is row 3 "),
        (
            giving(None),
            "the reward mine gives None for 3 completions; let it return a list with a number for each",
        ),
        (giving(0.5), "the reward mine gives 0.5 for 3 completions; let it return a list with a number for each"),
        (giving("abc"), 'the reward mine gives "abc" for 3 completions; let it return a list'),
        (giving({"a": 1}), "the reward mine gives {'a': 1} for 3 completions; let it return a list"),
        (giving(torch.tensor(1.0)), "the reward mine gives tensor(1.) for 3 completions; let it return a list"),
        (needing, "the reward mine takes the column 'wanted', and the rows have: answer"),
    ],
)
def test_a_reward_that_fails_is_named_with_its_row(reward: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        one(reward).score(["Ask.", "Say.", LONG], ["please", "", LONG], {"answer": [1, 2, 3]})
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_check_without_its_column_says_which_there_are() -> None:
    with pytest.raises(UserError) as caught:
        RewardSet.load(["check:exact_answer"]).score(PROMPTS, COMPLETIONS, {"gold": ["a", "b"]})
    assert str(caught.value) == (
        "the check exact_answer reads the column 'answer', and the rows have: gold; name another with column="
    )
    with pytest.raises(
        UserError, match=r"the reward arithmetic raises ValueError: there is no expression in .* at row 2 "
    ):
        RewardSet.load(["check:arithmetic"]).score(["1 + 1", "Say."], COMPLETIONS)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("check:politeness", "there is no check 'politeness'; choose one of: exact_answer, arithmetic, "),
        ("check:regex", "the check regex: missing a required argument: 'pattern'; it takes: pattern, whole"),
        (
            "check:length(words=3)",
            "the check length: got an unexpected keyword argument 'words'; it takes: target, most, unit",
        ),
        (
            "check:length(most=open('x'))",
            "\"check:length(most=open('x'))\" is no check; write check:NAME or check:NAME(...)",
        ),
        ("check:length(", '"check:length(" is no check; write'),
        ("check:", '"check:" is no check; write'),
        ("check:a.b(1)", '"check:a.b(1)" is no check; write'),
        ("check:length(**{})", '"check:length(**{})" is no check; write'),
        ("check:" + "(" * 5000, " is no check; write"),
        (
            "none.py:polite",
            "there is no file none.py; name the file of the reward's function, such as rewards.py:polite",
        ),
        ("no_such_module:polite", "the module no_such_module cannot be imported: ModuleNotFoundError: No module named"),
        ("no-such-reward-model", "no-such-reward-model"),
        ("rewards.py", "'rewards.py' names no reward; give file.py:function, module:function, check:NAME, or a reward"),
        ("arithmetic", "'arithmetic' names no reward; did you mean check:arithmetic?"),
        ("length(most=3)", "'length(most=3)' names no reward; did you mean check:length(most=3)?"),
        ("math:", "'math:' names no reward; give file.py:function, module:function, check:NAME, or a reward model's"),
        ("math:a b", "'math:a b' names no reward"),
        ("math:sqroot", "math has no 'sqroot'; did you mean 'sqrt'?"),
        ("math:zzz", "math has no 'zzz'; name a function in it"),
        ("math:pi", "math:pi is no function; a reward is called with prompts, completions and columns"),
        ("fractions:Fraction", "fractions:Fraction is no function"),
        (
            "check:arithmetic=much",
            "the weight of the reward 'check:arithmetic' is 'much'; give a number, such as check:arithmetic=0.5",
        ),
        ("check:arithmetic=nan", "the weight of the reward 'check:arithmetic' is 'nan'; give a number"),
        ("check:arithmetic=", "the weight of the reward 'check:arithmetic' is ''; give a number"),
        ("check:arithmetic=0", "no reward weighs anything; name one with a weight, such as check:exact_answer=1"),
    ],
)
def test_what_is_no_reward_is_refused(spec: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        RewardSet.load([spec])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reward_that_is_named_twice_is_refused() -> None:
    with pytest.raises(UserError, match="the reward check:arithmetic is named twice; name it once, with its weight"):
        RewardSet.load(["check:arithmetic", "check:arithmetic=2"])
    with pytest.raises(UserError, match="no reward weighs anything"):
        RewardSet.load([])


@pytest.mark.parametrize("code", ["def f(:\n", "exit(1)\n", "import no_such_module\n", "raise RuntimeError('a\\nb')\n"])
def test_a_file_that_cannot_be_imported_is_told(tmp_path: Path, code: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(code)
    with pytest.raises(UserError) as caught:
        load_reward(f"{path}:f")
    assert str(caught.value).startswith(f"{path} cannot be imported: ")
    assert "\n" not in str(caught.value)
