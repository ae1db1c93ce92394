"""What a run keeps in mind when its context is full: first old results are shortened, then old turns are summed up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from scratchlm.agents.model import AgentModel, Reply
from scratchlm.agents.settings import AgentSettings
from scratchlm.agents.state import State
from scratchlm.errors import UserError
from scratchlm.generation.sampling import SamplingConfig

_SHORT, _SUMMARY_TOKENS, _A_MESSAGE = 200, 160, 16
"""Characters of an old result; tokens of a summary; tokens that a message takes beside its text, at most."""
_ASK = (
    "Sum up in a few sentences what has been done for this task so far and what was found out: names, numbers and "
    "results. Do not solve the task."
)
_SO_FAR = "What has been done so far: "


def fit_messages(
    state: State, model: AgentModel, tools: Sequence[Mapping[str, Any]], settings: AgentSettings
) -> Reply | None:
    """Make the messages fit the model's context beside the answer that is to come.

    The task and the last turn always stay. The model itself writes the summary, as a turn whose tokens count; of one
    that writes none the old turns are dropped.

    Returns:
        What the model was asked to sum up, if it was.

    Raises:
        UserError: the task and the last turn alone do not fit.
    """
    room = model.context - min(settings.max_new_tokens, model.context // 4)
    if _surely_fits(state, tools, room) or _count(state, model, tools) <= room:
        return None
    first, last = _turns(state.messages)
    for message in state.messages[first:last]:
        if message["role"] == "tool" and len(message["content"]) > _SHORT:
            message["content"] = f"{message['content'][:_SHORT]}… [shortened]"
    if _count(state, model, tools) <= room:
        return None
    reply = None
    if last > first:
        old = state.messages[first:last]
        if settings.summarise:
            reply = _summed_up(state, model, old, room, settings)
            state.summary = reply.text.strip() or state.summary
        del state.messages[first:last]
        # The conversation keeps its order: the task, what came of it, the last turn.
        task = state.messages[first - 1]
        asked = task["content"].partition(f"\n\n{_SO_FAR}")[0]
        told = f"{asked}\n\n{_SO_FAR}{state.summary}" if state.summary else asked
        state.messages[first - 1] = {**task, "content": told}
    if (needed := _count(state, model, tools)) > room:
        raise UserError(
            f"the task, the tools and the last results take {needed:,} tokens, and the model has room for {room:,}; "
            "give fewer tools, tools that say less, or a model with a longer context"
        )
    return reply


def _count(state: State, model: AgentModel, tools: Sequence[Mapping[str, Any]]) -> int:
    return model.count(state.messages, tools)


def _surely_fits(state: State, tools: Sequence[Mapping[str, Any]], room: int) -> bool:
    """A token has at least a byte, so that a count of bytes spares counting tokens as long as there is much room."""
    size = len(json.dumps([state.messages, list(tools)], ensure_ascii=False).encode())
    return size + _A_MESSAGE * (len(state.messages) + len(tools)) <= room


def _turns(messages: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Where the old turns begin (after the task) and where the last one does."""
    first = next((n for n, m in enumerate(messages) if m["role"] == "user"), 0) + 1
    last = max((n for n, m in enumerate(messages) if m["role"] == "assistant"), default=len(messages))
    return first, max(first, last)


def _summed_up(
    state: State, model: AgentModel, old: Sequence[Mapping[str, Any]], room: int, settings: AgentSettings
) -> Reply:
    """What the model says of the old turns, shown to it as text."""
    lines = [_SO_FAR + state.summary] if state.summary else []
    for message in old:
        calls = [f"called {c['function']['name']}({c['function']['arguments']})" for c in message.get("tool_calls", ())]
        said = f"{message['role']}: {message['content']}" if message["content"] else ""
        lines += [line for line in (said, *calls) if line]
    text = "\n".join(lines)
    while True:
        asked = [{"role": "user", "content": f"The task: {state.task}\n\n{text}\n\n{_ASK}"}]
        if model.count(asked) <= room or len(text) < _SHORT:
            break
        text = text[len(text) // 4 :]  # the oldest goes first
    most = min(_SUMMARY_TOKENS, settings.max_new_tokens)
    reply = model.respond(asked, choice="none", max_new_tokens=most, sampling=SamplingConfig(greedy=True))
    state.prompt_tokens += reply.prompt_tokens
    state.completion_tokens += reply.completion_tokens
    return reply
