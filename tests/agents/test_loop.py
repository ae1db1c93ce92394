"""The loop with scripted models: what good ones and bad ones get, and that it always ends."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from scratchlm.agents.loop import run_agent
from scratchlm.agents.model import Reply, ToolCall
from scratchlm.agents.settings import AgentSettings
from scratchlm.agents.state import State
from scratchlm.agents.tool import tool
from scratchlm.errors import UserError

from .scripted import ScriptedModel, noting


@tool
def add(a: float, b: float) -> float:
    """Add two numbers.

    Args:
        a: the first.
        b: the second.
    """
    return a + b


@tool
def explode() -> str:
    """Fail."""
    raise RuntimeError("boom <|im_end|>")


@tool(timeout=0.05)
def sleep() -> str:
    """Take long."""
    time.sleep(0.3)
    return "done"


@tool(effects=True)
def flood() -> str:
    """Say much."""
    return "x" * 1_000_000


TOOLS = [add, explode, sleep, flood]


def results(state: State) -> list[str]:
    return [call.result or "" for call in state.calls]


def test_think_call_observe_answer() -> None:
    model = ScriptedModel(("add", {"a": 1, "b": 2}), "It is 3.")
    state = run_agent("1 + 2?", model, TOOLS)
    assert (state.status, state.reason, state.answer) == ("done", "answered", "It is 3.")
    assert model.seen[1] == [
        {"role": "user", "content": "1 + 2?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "call00001", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call00001", "name": "add", "content": "3.0"},
    ]
    assert (state.prompt_tokens, state.completion_tokens, len(state.steps)) == (200, 20, 2)


def test_a_system_text_comes_first_and_an_answer_without_calls_is_one() -> None:
    model = ScriptedModel("Hello.")
    state = run_agent("Hi", model, TOOLS, AgentSettings(system="Be kind."))
    assert model.seen == [[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]]
    assert state.answer == "Hello."


def test_several_calls_of_a_turn_are_made_side_by_side_and_answered_in_order() -> None:
    barrier = threading.Barrier(3)

    def meet(arguments: dict[str, Any]) -> str:
        barrier.wait(5)  # breaks unless all three are there at a time
        return f"met {arguments['text']}"

    meeting, _ = noting("meet", answer=meet)
    state = run_agent("Meet", ScriptedModel([("meet", {"text": t}) for t in "abc"], "Met."), [meeting])
    assert results(state) == ["met a", "met b", "met c"]


def test_calls_with_effects_are_made_one_by_one_between_the_others() -> None:
    order: list[str] = []

    def act(given: dict[str, Any]) -> str:
        order.append(f"{given['text']} begins")
        time.sleep(0.02)  # in which another one would begin
        order.append(f"{given['text']} ends")
        return "ok"

    tools = [noting(name, effects, answer=act)[0] for name, effects in (("read", False), ("write", True))]
    calls = [("read", "1"), ("write", "2"), ("write", "3"), ("read", "4")]
    run_agent("Do", ScriptedModel([(name, {"text": text}) for name, text in calls], "Done."), tools)
    assert order == [f"{number} {what}" for number in "1234" for what in ("begins", "ends")]


BAD_TURNS: list[tuple[str, Any, str]] = [
    ("unknown tool", ("subtract", {"a": 1}), "error: there is no tool 'subtract'; the tools are: add, explode"),
    ("near miss", ("ad", {"a": 1}), "did you mean add?"),
    ("empty name", ("", {}), "error: there is no tool ''"),
    ("huge name", ("x" * 100_000, {}), "100,000 characters of name"),
    ("no arguments", ("add", ""), "error: "),
    ("broken JSON", ("add", '{"a": 1, "b": '), "error: "),
    ("text for arguments", ("add", "1, 2"), "error: "),
    ("list for arguments", ("add", "[1, 2]"), "error: "),
    ("null for arguments", ("add", "null"), "error: "),
    ("number for arguments", ("add", "12"), "error: "),
    ("missing argument", ("add", {"a": 1}), "error: "),
    ("wrong type", ("add", {"a": "one", "b": 2}), "error: "),
    ("another argument", ("add", {"a": 1, "b": 2, "c": 3}), "error: "),
    ("null argument", ("add", {"a": None, "b": 2}), "error: "),
    ("true for a number", ("add", {"a": True, "b": 2}), "error: "),
    ("NaN", ("add", '{"a": NaN, "b": 2}'), "error: "),
    ("deep nesting", ("add", "[" * 100_000), "error: "),
    ("huge arguments", ("add", json.dumps({"a": "x" * 2_000_000, "b": 1})), "2,000,017 characters of arguments"),
    ("half a character", ("add", '{"a": "\\ud800", "b": 1}'), "error: "),
    ("a tool that fails", ("explode", {}), "error: RuntimeError: boom"),
    ("a tool that takes long", ("sleep", {}), "error: sleep took longer than 0.05 s"),
    ("a tool that says much", ("flood", {}), "[cut: the first 4,000 of 1,000,000 characters]"),
    ("a call that cannot be read", Reply("", (ToolCall("", "", "", "it is not JSON"),), raw="<tool_call>{"), "it is"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "turn", "told"), BAD_TURNS, ids=[name for name, _, _ in BAD_TURNS])
def test_a_bad_call_goes_back_to_the_model_as_text(name: str, turn: Any, told: str) -> None:
    del name
    model = ScriptedModel(turn, ("add", {"a": 1, "b": 2}), "It is 3.")
    state = run_agent("1 + 2?", model, TOOLS)
    assert state.status == "done"
    assert told in results(state)[0]
    assert len(results(state)[0]) < 5_000
    assert results(state)[1] == "3.0"
    shown = model.seen[1][-1]
    assert shown["content"] == results(state)[0]
    assert json.loads(json.dumps(state.as_json())) == state.as_json()


def test_what_was_no_call_is_shown_to_the_model_as_it_wrote_it() -> None:
    fault = Reply("I add.", (ToolCall("", "", "", "it is not valid JSON"),), raw="I add. <tool_call>{oops")
    model = ScriptedModel(fault, "Three.")
    run_agent("1 + 2?", model, TOOLS)
    said, told = model.seen[1][1:]
    assert said == {"role": "assistant", "content": "I add. <tool_call>{oops"}
    assert told["role"] == "user"
    assert "it is not valid JSON" in told["content"]


def test_a_good_call_beside_a_broken_one_is_made() -> None:
    calls = ToolCall("", "add", '{"a": 1, "b": 2}'), ToolCall("", "", "", "it has no name")
    model = ScriptedModel(Reply("", calls, raw="..."), "Three.")
    state = run_agent("1 + 2?", model, TOOLS)
    assert [message["role"] for message in model.seen[1]] == ["user", "assistant", "tool", "user"]
    assert results(state)[0] == "3.0"


def test_too_many_calls_at_once() -> None:
    note, seen = noting()
    model = ScriptedModel([("note", {"text": str(n)}) for n in range(50)], "Enough.")
    state = run_agent("Note", model, [note], AgentSettings(most_calls=3))
    assert len(seen) == 3
    assert "too many calls" in results(state)[-1]


# ---- it always ends

CALL = ("note", {"text": "a"})


@pytest.mark.parametrize(
    ("turns", "settings", "reason"),
    [
        ([CALL], {}, "loop"),
        ([lambda m: ("note", {"text": str(len(m))})], {"max_steps": 4}, "steps"),
        ([lambda m: ("note", {"text": str(len(m))})], {"max_steps": 1000, "max_tokens": 1000}, "tokens"),
        ([lambda m: ("note", {"text": str(len(m))})], {"max_cost": 0.001, "prices": (1.0, 2.0)}, "cost"),
        ([lambda m: ("note", {"text": str(time.sleep(0.02))[:0] + str(len(m))})], {"max_seconds": 0.1}, "seconds"),
        ([("nothing", {})], {}, "loop"),
        ([("note", "broken")], {"max_steps": 30}, "loop"),
        ([Reply("", (ToolCall("", "", "", "bad"),), raw="<tool_call>")], {}, "loop"),
        ([""], {}, "empty"),
        (["  \n"], {}, "empty"),
        ([CALL, ("note", {"text": "b"}), CALL, ("note", {"text": "b"}), CALL], {"max_steps": 50}, "loop"),
        ([Reply("", finish_reason="cancelled")], {}, "cancelled"),
    ],
    ids=[
        *(
            "same-call",
            "endless-calls",
            "tokens",
            "cost",
            "seconds",
            "unknown-tool",
            "broken-arguments",
            "broken-calls",
        ),
        *("empty", "blank", "two-calls-in-turn", "cancelled"),
    ],
)
def test_every_run_ends(turns: list[Any], settings: dict[str, Any], reason: str) -> None:
    note, seen = noting()
    state = run_agent("Note", ScriptedModel(*turns), [note], AgentSettings(**settings))
    assert (state.status, state.reason, state.answer) == ("stopped", reason, "")
    assert len(state.steps) <= AgentSettings(**settings).max_steps
    if reason == "loop":
        assert len(seen) <= 2


def test_in_its_last_turn_and_when_it_turns_in_circles_it_must_answer() -> None:
    note, seen = noting()

    class Obedient(ScriptedModel):
        def respond(self, messages: Any, tools: Any = (), **more: Any) -> Reply:
            self.turns = ["I give up."] if more["choice"] == "none" else [CALL]
            return super().respond(messages, tools, **more)

    circling = Obedient("")
    state = run_agent("Note", circling, [note], AgentSettings(max_steps=20))
    assert (state.status, state.answer, len(seen)) == ("done", "I give up.", 1)
    assert circling.choices == ["auto"] * 4 + ["none"]
    short = Obedient("")
    assert run_agent("Note", short, [note], AgentSettings(max_steps=2)).answer == "I give up."
    assert short.choices == ["auto", "none"]


def test_a_repeated_call_is_answered_with_what_was_found() -> None:
    note, seen = noting()
    state = run_agent("Note", ScriptedModel(CALL, ("note", '{ "text":"a" }'), "So."), [note])
    assert len(seen) == 1
    assert "made this call before" in results(state)[1]
    assert "noted" in results(state)[1]


def test_the_same_call_twice_in_a_turn_is_made_once() -> None:
    note, seen = noting()
    state = run_agent("Note", ScriptedModel([CALL, CALL], "So."), [note])
    assert len(seen) == 1
    assert "made this call before" in results(state)[1]


def test_after_a_change_the_same_call_is_made_again() -> None:
    read, seen = noting("read")
    write, _ = noting("write", effects=True)
    model = ScriptedModel(("read", {"text": "f"}), ("write", {"text": "x"}), ("read", {"text": "f"}), "So.")
    run_agent("Edit", model, [read, write])
    assert len(seen) == 2


def test_what_failed_may_be_tried_once_more_and_polling_is_allowed_by_setting() -> None:
    failing, seen = noting(answer=OSError("not now"))
    run_agent("Note", ScriptedModel(CALL), [failing])
    assert len(seen) == 2
    polled, seen = noting()
    run_agent("Note", ScriptedModel(CALL), [polled], AgentSettings(repeats=5))
    assert len(seen) == 5


def test_an_empty_answer_is_asked_for_again() -> None:
    model = ScriptedModel("", "Here.")
    assert run_agent("Say", model, []).answer == "Here."
    assert model.seen[1][-1] == {"role": "user", "content": "You gave no answer. Answer the task, or call a tool."}


def test_an_answer_that_was_cut_says_so() -> None:
    state = run_agent("Say", ScriptedModel(Reply("Once upon", finish_reason="length")), [])
    assert (state.status, state.reason, state.answer) == ("done", "length", "Once upon")


def test_the_models_own_error_is_raised_and_the_run_can_go_on(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    note, seen = noting()
    with pytest.raises(UserError, match="unreachable"):
        run_agent("Note", ScriptedModel(CALL, UserError("unreachable")), [note], file=file)
    state = run_agent(State.load(file), ScriptedModel("So."), [note], file=file)
    assert (state.answer, len(seen), len(state.steps)) == ("So.", 1, 2)
    assert State.load(file) == state


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="two tools are called note; give each name once"):
        run_agent("Note", ScriptedModel(""), [noting()[0], noting()[0]])


@pytest.mark.parametrize(
    "settings",
    [
        {"max_steps": 0},
        {"max_steps": 1.5},
        {"max_new_tokens": -1},
        {"max_tokens": 0},
        {"max_seconds": 0},
        {"max_seconds": float("nan")},
        {"max_cost": -1},
        {"prices": (-1, 0)},
        {"repeats": 0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_told(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="give a"):
        AgentSettings(**settings)
