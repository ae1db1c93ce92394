"""The forms of rows that alignment learns from: pairs of which one is preferred, judged completions, prompts.

They are taken only where their task is asked for, so that no tuning learns a rejected text by mistake.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scratchlm.data.record_rows import (
    BadRow,
    Record,
    Shape,
    Task,
    Values,
    checked_text,
    field_of,
    label_of,
    listed,
    message_of,
    shown,
    text_of,
)

Messages = tuple[dict[str, Any], ...]
_TRUE, _FALSE = ("true", "1"), ("false", "0")
_ASKS = ("user", "tool")
"""Roles whose turn an assistant answers."""


def number_of(value: Any, name: str) -> float:
    """A finite number, or its text, as a table has it.

    Raises:
        BadRow: it is none.
    """
    try:
        number = math.inf if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except (ValueError, OverflowError):
        number = math.inf
    if math.isnan(number):
        raise BadRow(f"{name} is NaN")
    if math.isinf(number):
        raise BadRow(f"{name} is {shown(value)}, which is no number")
    return number


def _pair(values: Values, columns: Mapping[str, str], _task: Task) -> Record:
    """Two completions of a prompt, or two chats that differ in their last turn."""
    margin = 0.0
    if columns.get("margin") in values:
        margin = number_of(field_of(values, columns["margin"]), repr(columns["margin"]))
        if margin < 0:
            raise BadRow(f"{columns['margin']!r} is {margin:g}; a margin is at least 0")
    names = columns["chosen"], columns["rejected"]
    ways = [_turns(field_of(values, name), name) for name in names]
    if isinstance(ways[0], str) != isinstance(ways[1], str):
        raise BadRow(f"of {names[0]!r} and {names[1]!r} one is a text, the other a list of messages; give both alike")
    if ways[0] == ways[1]:
        raise BadRow(f"{names[0]!r} and {names[1]!r} are the same, so neither is preferred")
    plain = isinstance(ways[0], str)
    asked = "prompt" in columns and (plain or columns["prompt"] in values)  # two chats hold their prompt themselves
    prompt: str | Messages = _prompt(values, columns["prompt"], empty=True) if asked else ""
    if not plain:
        shared, texts = _split(ways, names)
        return Record(messages=_joined(prompt, shared, columns), texts=texts, margin=margin)
    if isinstance(prompt, str):
        return Record(prompt=prompt, texts=tuple(ways), margin=margin)
    return Record(messages=prompt, texts=tuple(ways), margin=margin)


def _split(chats: Sequence[Messages], names: tuple[str, str]) -> tuple[Messages, tuple[str, ...]]:
    """The turns that two chats share, and the answer in which each ends."""
    same = next((n for n, (a, b) in enumerate(zip(*chats, strict=False)) if a != b), min(map(len, chats)))
    answers = []
    for chat, name in zip(chats, names, strict=True):
        if len(chat) != same + 1:
            raise BadRow(f"{names[0]!r} and {names[1]!r} differ in more than their last turn")
        if chat[-1]["role"] != "assistant":
            raise BadRow(f"{name!r} ends in a turn of the {chat[-1]['role']}; answers of the assistant are compared")
        if chat[-1].get("tool_calls"):
            raise BadRow(f"{name!r} ends in a call of a tool, and only texts can be compared")
        answers.append(chat[-1]["content"])
    return chats[0][:same], tuple(answers)


def _joined(prompt: str | Messages, shared: Messages, columns: Mapping[str, str]) -> Messages:
    """The turns before the answers: those of the prompt, or those that the two chats share."""
    given = prompt if not isinstance(prompt, str) else ({"role": "user", "content": prompt},) if prompt.strip() else ()
    if not shared:
        if not given:
            raise BadRow(f"{columns['chosen']!r} has no turn before the answer")
        return given
    if given and given != shared and not (isinstance(prompt, str) and given[0] in shared):
        raise BadRow(f"{columns['prompt']!r} is not what {columns['chosen']!r} begins with")
    return shared


def _judged(values: Values, columns: Mapping[str, str], _task: Task) -> Record:
    """A completion, and whether it is a good one."""
    prompt = _prompt(values, columns["prompt"], empty=True)
    completion = _turns(field_of(values, columns["completion"]), columns["completion"])
    word = label_of(field_of(values, columns["label"]), repr(columns["label"])).lower()
    if word not in (*_TRUE, *_FALSE):
        raise BadRow(f"{columns['label']!r} is {shown(word)}; write true for a good completion, or false")
    labels = ("true" if word in _TRUE else "false",)
    if not isinstance(completion, str):
        if len(completion) != 1 or completion[0]["role"] != "assistant":
            raise BadRow(f"{columns['completion']!r} is not one turn of the assistant")
        completion = completion[0]["content"]
        if isinstance(prompt, str):
            prompt = ({"role": "user", "content": checked_text(prompt, repr(columns["prompt"]))},)
    if isinstance(prompt, str):
        return Record(prompt=prompt, text=completion, labels=labels)
    return Record(messages=(*prompt, {"role": "assistant", "content": completion}), labels=labels)


def _rated(values: Values, columns: Mapping[str, str], _task: Task) -> Record:
    rating = number_of(field_of(values, columns["rating"]), repr(columns["rating"]))
    return Record(text=text_of(values, columns["text"]), rating=rating)


def _asked(values: Values, columns: Mapping[str, str], _task: Task) -> Record:
    """A prompt to be answered; whatever else the row has is for the rewards."""
    prompt = _prompt(values, columns["prompt"], empty=False)
    extra = {name: value for name, value in values.items() if name != columns["prompt"]}
    if isinstance(prompt, str):
        return Record(prompt=prompt, extra=extra)
    return Record(messages=prompt, extra=extra)


def _prompt(values: Values, column: str, *, empty: bool) -> str | Messages:
    """A text, or the turns of a chat before the assistant's."""
    value = field_of(values, column)
    if not isinstance(value, list):
        return checked_text(value, repr(column), empty=empty)
    found: Messages = _turns(value, column)
    if found[-1]["role"] not in _ASKS:
        raise BadRow(f"{column!r} ends in a turn of the {found[-1]['role']}; end it in the user's")
    return found


def _turns(value: Any, column: str) -> Any:
    """A text, or messages."""
    if not isinstance(value, list):
        return checked_text(value, repr(column))
    return tuple(message_of(one, f"{column!r}, message {n},") for n, one in enumerate(listed(value, column), 1))


PREFERENCE_SHAPES = (
    Shape("chosen + rejected", "preference", ("chosen", "rejected"), _pair, ("prompt", "margin")),
    Shape("text + rating", "preference", ("text", "rating"), _rated),
    Shape("prompt + completion + label", "kto", ("prompt", "completion", "label"), _judged),
    Shape("prompt", "rollout", ("prompt",), _asked),
)
"""In the order in which they are tried."""
