"""A model that says what it was told to say, and tools that keep note of their calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scratchlm.agents.model import Choice, Reply, ToolCall
from scratchlm.agents.tool import Tool
from scratchlm.generation.sampling import SamplingConfig

Turn = str | tuple[str, Any] | list[Any] | Reply | BaseException | Callable[..., Any]


class ScriptedModel:
    """Its turns in order: a text, a call as (name, arguments), several calls, a whole reply, an error to raise, or a
    function of the messages that gives one of these. After the last, the last again."""

    def __init__(self, *turns: Turn, context: int = 100_000) -> None:
        self.name, self.context, self.turns = "scripted", context, list(turns)
        self.seen: list[list[dict[str, Any]]] = []
        self.choices: list[Choice] = []

    def count(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> int:
        return len(json.dumps([list(messages), list(tools)])) // 4

    def respond(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        choice: Choice = "auto",
        max_new_tokens: int = 512,
        sampling: SamplingConfig | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        del tools, max_new_tokens, sampling
        turn = self.turns[min(len(self.seen), len(self.turns) - 1)]
        self.seen.append(json.loads(json.dumps(list(messages))))
        self.choices.append(choice)
        if callable(turn):
            turn = turn(messages)
        if isinstance(turn, BaseException):
            raise turn
        reply = made(turn)
        if on_text is not None:
            for word in reply.text.split(" ") if reply.text else []:
                on_text(f"{word} ")
        return reply


def made(turn: Any) -> Reply:
    """A turn as a reply of ten tokens."""
    if isinstance(turn, Reply):
        return turn
    if isinstance(turn, str):
        return Reply(turn, prompt_tokens=100, completion_tokens=10, raw=turn)
    calls = []
    for one in turn if isinstance(turn, list) else [turn]:
        name, arguments = one
        given = arguments if isinstance(arguments, str) else json.dumps(arguments)
        calls.append(ToolCall("", name, given))
    return Reply("", tuple(calls), prompt_tokens=100, completion_tokens=10)


def noting(name: str = "note", effects: bool = False, answer: Any = "noted", **more: Any) -> tuple[Tool, list[Any]]:
    """A tool that takes any text, and the list of what it was called with."""
    seen: list[Any] = []

    def call(arguments: dict[str, Any]) -> Any:
        seen.append(arguments)
        if isinstance(answer, BaseException):
            raise answer
        return answer(arguments) if callable(answer) else answer

    schema = {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
        "additionalProperties": False,
    }
    return Tool(name, "Note a text.", schema, call, effects=effects, **more), seen
