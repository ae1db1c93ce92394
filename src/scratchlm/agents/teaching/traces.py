"""Correct traces: the turns in which a task is solved, with what its tools really say, as rows to learn from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from scratchlm.agents.call_format import CallFormat, call_id
from scratchlm.agents.model import ToolCall
from scratchlm.agents.teaching.task import Result, Task
from scratchlm.agents.teaching.tasks import tools_of


def trace_of(task: Task) -> list[dict[str, Any]]:
    """The messages of a task that is solved: its question, each call and its result, the answer.

    Raises:
        RuntimeError: a tool fails, so that the steps are no way to the answer.
    """
    messages: list[dict[str, Any]] = [{"role": "user", "content": task.question}]
    tools = {tool.name: tool for tool in tools_of(task)}
    results: list[str] = []
    for number, step in enumerate(task.steps, 1):
        arguments = {name: _filled(value, results) for name, value in step.arguments.items()}
        outcome = tools[step.tool].run(arguments)
        if outcome.failed:
            raise RuntimeError(f"{task.question}: {step.tool}({arguments}): {outcome.text}")
        call = ToolCall(call_id(number), step.tool, json.dumps(arguments, ensure_ascii=False))
        messages.append({"role": "assistant", "content": "", "tool_calls": [call.as_json()]})
        messages.append({"role": "tool", "tool_call_id": call.id, "name": call.name, "content": outcome.text})
        results.append(outcome.text)
    return [*messages, {"role": "assistant", "content": task.answer}]


def _filled(value: Any, results: list[str]) -> Any:
    if isinstance(value, Result):
        return results[value.number]
    return value.format(*results) if isinstance(value, str) and "{" in value else value


def rows_of(tasks: Iterable[Task], form: CallFormat, whole: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
    """Chats to learn from, as a model of this form of calls sees them; those with the same tools one after another.

    Args:
        whole: for a family n: one of n traces is told to its end, and the others end with their first call. Where all
            that is hard is in that call, a third of the tokens is saved so.
    """
    rows = []
    seen: Counter[str] = Counter()
    for task in tasks:
        trace = trace_of(task)
        if seen[task.family] % (whole or {}).get(task.family, 1):
            trace = trace[:2]
        seen[task.family] += 1
        messages, tools = form.prompt(trace, [tool.schema() for tool in tools_of(task)])
        rows.append({"messages": messages, **({"tools": tools} if tools else {})})
    return sorted(rows, key=lambda row: json.dumps([row.get("tools"), row["messages"][0]]))
