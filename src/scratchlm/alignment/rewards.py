"""Rewards: what completions are worth, told by plain functions.

A reward takes prompts, completions and whatever columns the rows have, and gives a number for each completion::

    def politeness(prompts: list[str], completions: list[str], **columns: list) -> list[float]:
        return [float("please" in text.lower()) for text in completions]
"""

from __future__ import annotations

import ast
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scratchlm.alignment.checks import CHECKS, MissingColumn
from scratchlm.alignment.reward_model import RewardModel
from scratchlm.checkpoints.catalogue import entries
from scratchlm.errors import UserError
from scratchlm.importing import FAILURES, load_named, said
from scratchlm.tokenizers import Tokenizer

Reward = Callable[..., Iterable[float]]
"""Of prompts (N), completions (N) and columns, each a list of N, by their names: N numbers."""
_PREFIX, _SHOWN = "check:", 80
_FORMS = "file.py:function, module:function, check:NAME, or a reward model's folder"


def load_reward(spec: str, tokenizer: Tokenizer | None = None) -> Reward:
    """The reward that ``spec`` names: ``file.py:function``, ``package.module:function``, ``check:NAME`` or
    ``check:NAME(arguments)`` for one of :mod:`~scratchlm.alignment.checks`, or a trained reward model's folder or name.

    The arguments of a check are Python's literals: ``check:length(most=40)``, ``check:regex(r"\\d+")``. A file's or a
    module's code is run, so let it be one that you trust.

    Args:
        tokenizer: counts tokens for checks that do.

    Raises:
        UserError: there is no such thing, it cannot be imported, or it is no function.
    """
    if spec.startswith(_PREFIX):
        return _check(spec, tokenizer)
    place, colon, name = spec.rpartition(":")
    if not colon and spec.partition("(")[0] in CHECKS:
        raise UserError(f"{spec!r} names no reward; did you mean {_PREFIX}{spec}?")
    if spec and not colon and not spec.endswith(".py") and (Path(spec).exists() or "/" in spec or spec in entries()):
        return RewardModel.load(spec)
    if not place or not name.isidentifier():
        raise UserError(f"{spec!r} names no reward; give {_FORMS}")
    found = load_named(place, name, "reward", "rewards.py:polite", _FORMS)
    if not callable(found) or isinstance(found, type):
        raise UserError(f"{spec} is no function; a reward is called with prompts, completions and columns")
    reward: Reward = found
    return reward


def parse_weight(spec: str) -> tuple[str, float]:
    """``rewards.py:polite=0.5`` -> the reward's name and its weight, 1 where none is given. The name of a path that
    there is may have a ``=`` itself.

    Raises:
        UserError: the weight is no number.
    """
    name, equals, weight = spec.rpartition("=")
    if not equals or spec.endswith(")") or Path(spec).exists():
        return spec, 1.0
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or not name:
        raise UserError(f"the weight of the reward {name!r} is {weight!r}; give a number, such as {name or 'NAME'}=0.5")
    return name, number


class _NoList(UserError):  # noqa: N818
    """A reward gives something that is no list."""


@dataclass(frozen=True)
class RewardSet:
    """R rewards, each with a name and a weight.

    Raises:
        ValueError: not as many of each.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    rewards: tuple[Reward, ...]

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.weights) == len(self.rewards) > 0:
            raise ValueError("as many names and weights as rewards, and one at least")

    @classmethod
    def load(cls, specs: Sequence[str], tokenizer: Tokenizer | None = None) -> RewardSet:
        """Of specs as :func:`load_reward` takes them, each with ``=WEIGHT`` behind it where it is not 1.

        Raises:
            UserError: one of them is no reward, one is named twice, or all weigh nothing.
        """
        parsed = [parse_weight(spec) for spec in specs]
        if not parsed or not any(weight for _, weight in parsed):
            raise UserError(f"no reward weighs anything; name one with a weight, such as {_PREFIX}exact_answer=1")
        twice = [spec for n, (spec, _) in enumerate(parsed) if spec in [other for other, _ in parsed[:n]]]
        if twice:
            raise UserError(f"the reward {twice[0]} is named twice; name it once, with its weight")
        rewards = tuple(load_reward(spec, tokenizer) for spec, _ in parsed)
        return cls(_names([spec for spec, _ in parsed]), tuple(weight for _, weight in parsed), rewards)

    def score(
        self, prompts: Sequence[str], completions: Sequence[str], columns: Mapping[str, Sequence[Any]] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What each of N completions is worth: by each reward (R, N), and all together, weighted (N,).

        Raises:
            UserError: a reward raises, or gives something that is not N finite numbers. The line names the reward, and
                shows the row, counted from 1.
            ValueError: not as many prompts, or values of a column, as completions.
        """
        given = dict(columns or {})
        for name, values in (("prompts", prompts), *given.items()):
            if len(values) != len(completions):
                raise ValueError(f"{len(completions)} completions, but {len(values)} {name}")
        found = np.zeros((len(self.rewards), len(completions)), np.float32)
        for number, (name, reward) in enumerate(zip(self.names, self.rewards, strict=True)):
            if len(completions):
                found[number] = _scored(name, reward, list(prompts), list(completions), given)
        return found, np.asarray(self.weights, np.float32) @ found


def _scored(
    name: str, reward: Reward, prompts: list[str], completions: list[str], columns: dict[str, Sequence[Any]]
) -> list[float]:
    taken = _taken(name, reward, columns)

    def ask(rows: slice) -> list[Any]:
        own = {key: list(values[rows]) for key, values in taken.items()}
        with redirect_stdout(sys.stderr):
            given = reward(prompts[rows], completions[rows], **own)
        if (
            isinstance(given, str | bytes | Mapping)
            or not isinstance(given, Iterable)
            or getattr(given, "ndim", 1) == 0
        ):
            raise _NoList(
                f"the reward {name} gives {_short(given)} for {len(completions)} completions; let it return a list "
                "with a number for each"
            )
        return list(given)

    def where(row: int) -> str:
        return f"row {row + 1} (prompt {_short(prompts[row])}, completion {_short(completions[row])})"

    try:
        found = ask(slice(None))
    except (MissingColumn, _NoList):
        raise
    except FAILURES as error:
        raise UserError(_failure(name, error, ask, len(completions), where)) from error
    if len(found) != len(completions):
        few = len(found) < len(completions)
        place = f"the first without is {where(len(found))}" if few else f"the last is {where(len(completions) - 1)}"
        raise UserError(
            f"the reward {name} gives {len(found)} numbers for {len(completions)} completions; {place}; let it return "
            "one for each"
        )
    values = []
    for row, value in enumerate(found):
        number = _number(value)
        if number is None or not math.isfinite(number):
            raise UserError(f"the reward {name} gives {_short(value)} for {where(row)}; let it return finite numbers")
        values.append(number)
    return values


def _failure(
    name: str, error: BaseException, ask: Callable[[slice], Any], count: int, where: Callable[[int], str]
) -> str:
    """One line about a reward that raises: the rows are tried one by one to find the one it raises at."""
    for row in range(count):
        try:
            ask(slice(row, row + 1))
        except FAILURES as again:
            return f"the reward {name} raises {said(again)} at {where(row)}; mend it"
    return f"the reward {name} raises {said(error)} at {count} rows together, the first {where(0)}; mend it"


def _taken(name: str, reward: Reward, columns: dict[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """The columns that a function takes: all, where it takes any."""
    try:
        parameters = list(inspect.signature(reward).parameters.values())
    except (TypeError, ValueError):  # such as a function that is written in C
        return columns
    named = {one.name for one in parameters[2:] if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    for one in parameters[2:]:
        if one.name in named and one.default is one.empty and one.name not in columns:
            has = f": {', '.join(columns)}" if columns else " none but the prompt"
            raise MissingColumn(
                f"the reward {name} takes the column {one.name!r}, and the rows have{has}; add it, or give it a default"
            )
    first = {one.name for one in parameters[:2]}
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return {key: values for key, values in columns.items() if key not in first}
    return {key: values for key, values in columns.items() if key in named}


def _number(value: Any) -> float | None:
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    return float(value) if isinstance(value, int | float | np.integer | np.floating | np.bool_) else None


def _short(value: Any) -> str:
    """On one line, and not too long."""
    try:
        text = " ".join((value if isinstance(value, str) else repr(value)).split())
    except Exception:  # a value's own repr may do anything
        text = f"a {type(value).__name__}"
    text = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    return f'"{text}"' if isinstance(value, str) else text


def _names(specs: Sequence[str]) -> tuple[str, ...]:
    """Short names: of the check, the function or the folder; where two are alike, with a number behind."""
    names: list[str] = []
    for spec in specs:
        bare = spec.removeprefix(_PREFIX).partition("(")[0] if spec.startswith(_PREFIX) else spec.rpartition(":")[2]
        short = Path(bare).name or bare
        same = sum(name == short or name.startswith(f"{short}_") for name in names)
        names.append(f"{short}_{same + 1}" if short in names else short)
    return tuple(names)


def _check(spec: str, tokenizer: Tokenizer | None) -> Reward:
    name, arguments, options = _call(spec)
    if name not in CHECKS:
        raise UserError(f"there is no check {name!r}; choose one of: {', '.join(CHECKS)}")
    make = CHECKS[name]
    takes = inspect.signature(make).parameters
    if "tokenizer" in takes and "tokenizer" not in options:
        options["tokenizer"] = tokenizer
    try:
        inspect.signature(make).bind(*arguments, **options)
    except TypeError as error:
        shown = ", ".join(one for one in takes if one != "tokenizer")
        raise UserError(f"the check {name}: {error}; it takes: {shown}") from error
    return make(*arguments, **options)


def _call(spec: str) -> tuple[str, list[Any], dict[str, Any]]:
    """``check:length(most=40)`` -> length, [], {"most": 40}."""
    text = spec.removeprefix(_PREFIX)
    if text.isidentifier():
        return text, [], {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at "\d" in a text that is not r"..."
            call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("it is no call")
        options = {str(one.arg): ast.literal_eval(one.value) for one in call.keywords if one.arg is not None}
        if len(options) != len(call.keywords):
            raise ValueError("a name is missing")
        return call.func.id, [ast.literal_eval(one) for one in call.args], options
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise UserError(
            f'{_short(spec)} is no check; write {_PREFIX}NAME or {_PREFIX}NAME(...), such as {_PREFIX}regex(r"[0-9]+")'
        ) from error
