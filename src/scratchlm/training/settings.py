"""Settings by name: from a recipe, from a YAML file, from ``--set key=value``, each overriding the one before."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from scratchlm.errors import UserError
from scratchlm.models import ModelConfig
from scratchlm.training.config import TrainConfig
from scratchlm.training.tuning_config import Method, TuningConfig, tuned_train_config

DIAL = "depth"
"""The one model setting that is no field: the size dial of the preset ``modern``."""
NOT_SETTABLE = {"vocab_size", "architecture"}
"""The tokenizer decides the one, the preset the other."""


def _types(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


MODEL_FIELDS: dict[str, Any] = {
    name: hint for name, hint in (_types(ModelConfig) | {DIAL: int}).items() if name not in NOT_SETTABLE
}
TRAIN_FIELDS: dict[str, Any] = _types(TrainConfig)
TUNING_FIELDS: dict[str, Any] = _types(TuningConfig)


def split_settings(values: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check names and types; return (model settings, training settings).

    Args:
        origin: where the values come from, for the error ("--set", or a file's name).

    Raises:
        UserError: an unknown name, or a value of the wrong type.
    """
    model, train = _sorted(values, origin, (MODEL_FIELDS, TRAIN_FIELDS), "docs/training.md")
    return model, train


def split_tuning(values: Mapping[str, Any], origin: str, own: type | None = None) -> tuple[dict[str, Any], ...]:
    """The same for a tuning: (model settings, training settings, tuning settings, those of the dataclass ``own``)."""
    tables = (MODEL_FIELDS, TRAIN_FIELDS, TUNING_FIELDS, {} if own is None else _types(own))
    return tuple(_sorted(values, origin, tables, "docs/fine-tuning.md" if own is None else "docs/alignment.md"))


def _sorted(
    values: Mapping[str, Any], origin: str, tables: Sequence[Mapping[str, Any]], book: str
) -> list[dict[str, Any]]:
    """The values that belong to each table, converted."""
    found: list[dict[str, Any]] = [{} for _ in tables]
    for name, value in values.items():
        number = next((n for n, fields in enumerate(tables) if name in fields), None)
        if number is None:
            near = difflib.get_close_matches(name, [known for fields in tables for known in fields], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"see {book} for their names"
            raise UserError(f"{origin}: there is no setting {name!r}; {hint}")
        found[number][name] = _convert(name, value, tables[number][name], origin)
    return found


def gather_settings(
    path: str | Path | None, assignments: Iterable[str], check: Callable[[Mapping[str, Any], str], Any]
) -> dict[str, Any]:
    """The settings of a file, and over them those of ``--set``. ``check`` is told where each comes from.

    Raises:
        UserError: from ``check``, or a file or an assignment that cannot be read.
    """
    from_file = {} if path is None else read_settings(path)
    check(from_file, str(path))
    given = parse_assignments(assignments)
    check(given, "--set")
    return from_file | given


def parse_assignments(assignments: Iterable[str], option: str = "--set", example: str = "steps=200") -> dict[str, Any]:
    """``["steps=200", "dropout=0"]`` -> ``{"steps": 200, "dropout": 0}``, values read as YAML.

    Raises:
        UserError: one is not of the form key=value; the line names the option and shows an example.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.strip():
            raise UserError(f"{option} takes key=value, such as {example}, not {assignment!r}")
        try:
            values[name.strip()] = yaml.safe_load(text) if text.strip() else ""
        except yaml.YAMLError:
            values[name.strip()] = text
    return values


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file.

    Raises:
        UserError: it is missing, not YAML, or not a table of key: value.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no settings file {path}; check --config") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise UserError(f"{path}{line} is not valid YAML ({problem}); write lines of the form 'steps: 200'") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; write settings as 'steps: 200' in a text file") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); check --config") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise UserError(f"{path} does not hold settings; write lines of the form 'steps: 200'")
    return values


def _convert(name: str, value: Any, hint: Any, origin: str) -> Any:
    """``value`` as the field's type: YAML reads 3e-4 as text and 1 as a whole number, which are fine for a float."""
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in allowed and (value is None or value == "none"):
        return None
    if bool in allowed:
        if isinstance(value, bool):
            return value
    elif float in allowed and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif int in allowed and not isinstance(value, bool):
        if isinstance(value, int):
            return value
        if isinstance(value, str) and value.replace("_", "").isdigit():
            return int(value)
    elif not {int, float} & set(allowed) and not isinstance(value, dict | list | float | None):
        return str(value).lower() if isinstance(value, bool) else str(value)
    raise UserError(f"{origin}: {name} is {value!r}; give {_words(allowed)}")


def _words(allowed: tuple[Any, ...]) -> str:
    if bool in allowed:
        return "true or false"
    if float in allowed:
        return "a number"
    if int in allowed:
        return "a whole number"
    choices = [choice for hint in allowed for choice in typing.get_args(hint)]
    return f"one of: {', '.join(choices)}" if choices else "a word"


def check_tuning(values: Mapping[str, Any], method: Method) -> None:
    """See whether a fine-tuning would take these settings, before anything is read, measured or written.

    Raises:
        UserError: an unknown name, a wrong type, or a value out of range.
    """
    _, train, tuning, _ = split_tuning(values, "settings")
    TuningConfig(**tuning)
    tuned_train_config(method, train.get("steps", 10), {"warmup_steps": 0} | train, 1)
