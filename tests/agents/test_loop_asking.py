"""Who is asked before a call, where a run can be ended, and what is heard of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from scratchlm.agents.loop import run_agent
from scratchlm.agents.model import Reply, ToolCall
from scratchlm.agents.settings import AgentSettings, Event
from scratchlm.agents.state import State
from scratchlm.agents.tool import Tool

from .scripted import ScriptedModel, noting

CALL = ("note", {"text": "a"})


def results(state: State) -> list[str]:
    return [call.result or "" for call in state.calls]


def sending() -> tuple[Tool, list[Any]]:
    return noting("send", effects=True)


SEND = ("send", {"text": "hello"})


@pytest.mark.parametrize("pattern", ["send", "se*", "*", "send(*hello*)", "effects", "s?nd", "[rs]end"])
def test_a_call_that_fits_a_pattern_is_asked_about(pattern: str) -> None:
    send, seen = sending()
    asked: list[ToolCall] = []

    def ask(call: ToolCall, why: str) -> bool:
        asked.append(call)
        assert why == "approval"
        return len(asked) > 1

    model = ScriptedModel(SEND, ("send", {"text": "hello again"}), "Sent.")
    state = run_agent("Send", model, [send], AgentSettings(approve=(pattern,)), ask=ask)
    assert [call.name for call in asked] == ["send", "send"]
    assert seen == [{"text": "hello again"}]
    assert results(state)[0] == "error: the user did not allow this call."


@pytest.mark.parametrize("pattern", ["sen", "read", "send()", "send(*goodbye*)", "Send"])
def test_other_calls_are_not(pattern: str) -> None:
    send, seen = sending()
    run_agent("Send", ScriptedModel(SEND, "Sent."), [send], AgentSettings(approve=(pattern,)), ask=lambda *_: False)
    assert len(seen) == 1


def test_a_refusal_says_why() -> None:
    send, _ = sending()
    state = run_agent(
        "Send", ScriptedModel(SEND, "So."), [send], AgentSettings(approve=("*",)), ask=lambda *_: "not on Sundays"
    )
    assert results(state) == ["error: the user did not allow this call: not on Sundays"]


def test_without_anyone_to_ask_the_run_waits_and_can_go_on(tmp_path: Path) -> None:
    send, seen = sending()
    file = tmp_path / "state.json"
    settings = AgentSettings(approve=("send",))
    state = run_agent("Send", ScriptedModel(SEND), [send], settings, file=file)
    assert (state.status, state.reason, seen) == ("waiting", "approval", [])
    model = ScriptedModel("Sent.")
    state = run_agent(State.load(file), model, [send], settings, ask=lambda *_: True, file=file)
    assert (state.status, state.answer, len(seen)) == ("done", "Sent.", 1)
    assert [message["role"] for message in model.seen[0]] == ["user", "assistant", "tool"]


def test_someones_thinking_is_no_time_of_the_run() -> None:
    send, _ = sending()
    settings = AgentSettings(approve=("*",), max_seconds=0.2)
    state = run_agent("Send", ScriptedModel(SEND, "So."), [send], settings, ask=lambda *_: not time.sleep(0.3))
    assert state.status == "done"


def test_cancelled_between_turns_in_a_turn_and_before_a_call() -> None:
    note, seen = noting()
    heard: list[Event] = []

    def after(kind: str) -> State:
        heard.clear()
        model = ScriptedModel(Reply("Let me see.", (ToolCall("", *("note", '{"text": "a"}')),)), "So it is.")
        return run_agent("Note", model, [note], on_event=heard.append, cancel=lambda: heard[-1].kind == kind)

    for kind, steps, made in (("start", 0, 0), ("text", 0, 0), ("reply", 1, 0), ("told", 1, 1)):
        seen.clear()
        state = after(kind)
        assert (kind, state.status, state.reason, len(state.steps), len(seen)) == (
            *(kind, "stopped", "cancelled"),
            *(steps, made),
        )


def test_what_was_cancelled_before_its_call_goes_on_with_it() -> None:
    note, seen = noting()
    heard: list[Event] = []
    model = ScriptedModel(CALL, "So.")
    state = run_agent("Note", model, [note], on_event=heard.append, cancel=lambda: heard[-1].kind == "reply")
    assert (state.reason, seen) == ("cancelled", [])
    assert run_agent(state, model, [note]).answer == "So."
    assert len(seen) == 1


def test_every_event_comes_in_order() -> None:
    heard: list[Event] = []
    turns = Reply("I see.", (ToolCall("", "note", '{"text": "a"}'),)), "It is 3."
    run_agent("1 + 2?", ScriptedModel(*turns), [noting()[0]], on_event=heard.append)
    assert [(event.kind, event.step) for event in heard] == [
        *(("start", 0), ("step", 1), ("text", 1), ("text", 1), ("reply", 1), ("call", 1), ("result", 1), ("told", 1)),
        *(("step", 2), ("text", 2), ("text", 2), ("text", 2), ("reply", 2), ("end", 2)),
    ]
    assert "".join(event.text for event in heard if event.step == 2) == "It is 3. "
    assert heard[6].call is not None
    assert heard[6].call.result == "noted"


def test_a_finished_run_stays_as_it_is() -> None:
    state = run_agent("Hi", ScriptedModel("Hello."), [])
    assert run_agent(state, ScriptedModel(RuntimeError("asked again")), []) is state


def test_a_stopped_run_goes_on_with_a_larger_budget() -> None:
    note, _ = noting()
    model = ScriptedModel(*[("note", {"text": str(n)}) for n in range(4)], "So.")
    state = run_agent("Note", model, [note], AgentSettings(max_steps=3))
    assert state.reason == "steps"
    assert run_agent(state, model, [note], AgentSettings(max_steps=9)).answer == "So."
