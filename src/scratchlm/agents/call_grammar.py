"""The grammar of a model's turn: free text, and from where a call begins only calls that fit the tools' schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from scratchlm.agents.call_format import CallFormat
from scratchlm.agents.model import Choice
from scratchlm.errors import UserError
from scratchlm.generation.constraints import JSON_STYLE, Grammar

MOST_CALLS = 8
"""Calls in a turn."""


def call_grammar(
    form: CallFormat, tools: Sequence[Mapping[str, Any]], choice: Choice = "auto", most: int = MOST_CALLS
) -> Grammar:
    """What a turn may be.

    A schema with parts that cannot be promised leaves its tool's arguments free beyond being an object; the tool checks
    them in any case.

    Args:
        choice: see :data:`~scratchlm.agents.model.Choice`. For "none" a text in which no call begins.
        most: calls in a turn.

    Raises:
        UserError: the choice names no tool, or llguidance is missing.
    """
    functions = [tool["function"] for tool in tools]
    if isinstance(choice, Mapping):
        functions = [one for one in functions if one["name"] == choice["name"]]
        if not functions:
            raise UserError(f"there is no tool {choice['name']!r} to choose")
    begins = form.opening or '{"name": '
    text = f"TEXT: /(?s:.+)/ & ~/{'(?s:.*)' if form.opening else ''}{_in_regex(begins)}(?s:.*)/"
    if choice == "none" or not functions:
        return Grammar.lark(f"start: TEXT\n{text}")
    rules = [*_calls(form, most), *(rule for number, one in enumerate(functions) for rule in _tool(form, number, one))]
    rules.append("one: " + " | ".join(f"tool{number}" for number in range(len(functions))))
    if choice != "auto":
        return Grammar.lark(
            "\n".join([f"start: {_quoted(form.opening)} rest" if form.opening else "start: rest", *rules])
        )
    if not form.opening:
        return Grammar.lark("\n".join(["start: TEXT | rest", text, *rules]))
    opening = f"opening[lazy]: /(?s:.*){_in_regex(form.opening)}/"
    return Grammar.lark("\n".join(["start: TEXT | opening rest", opening, text, *rules]))


def _calls(form: CallFormat, most: int) -> list[str]:
    """What follows the first opening mark."""
    gap, closing = _quoted(form.gap), _quoted(form.gap + form.closing)
    if form.style == "single":
        return [f"rest: {gap} one {closing}"]
    if form.style == "list":
        again = _again('", " one', most)
        return [f'rest: {gap} "[" one {again} "]" {closing}']
    if form.style == "named":
        again = _again(f"{_quoted(form.opening)} one", most)
        return [f"rest: one {again}"]
    again = _again(f"{_quoted(chr(10) + form.opening + form.gap)} one {closing}", most)
    return [f"rest: {gap} one {closing} {again}"]


def _again(rule: str, most: int) -> str:
    """What may follow the first of ``most``."""
    return f"({rule}){{0,{most - 1}}}" if most > 1 else ""


def _tool(form: CallFormat, number: int, function: Mapping[str, Any]) -> list[str]:
    schema = dict(function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False})
    try:
        Grammar.json_schema(schema)
    except UserError:
        schema = {"type": "object"}
    arguments = f"arguments{number}: %json {json.dumps({**schema, 'x-guidance': JSON_STYLE})}"
    if form.style == "named":
        return [f"tool{number}: {_quoted(function['name'] + '[ARGS]')} arguments{number}", arguments]
    before = f'{{"name": {json.dumps(function["name"])}, "{form.arguments}": '
    return [f'tool{number}: {_quoted(before)} arguments{number} "}}"', arguments]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _in_regex(text: str) -> str:
    return re.escape(text).replace("/", r"\/").replace('"', r"\"") if text else ""
