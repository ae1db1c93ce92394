"""Agents put together, and what they remember."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from scratchlm.agents.compositions import agent, agree, as_tool, decide, make_plan, plan_and_act, reflect, route
from scratchlm.agents.local_model import LocalAgentModel
from scratchlm.agents.loop import run_agent
from scratchlm.agents.settings import AgentSettings, Event
from scratchlm.agents.state import State
from scratchlm.errors import UserError
from scratchlm.generation.sampling import SamplingConfig

from ..retrieval.index_parts import Words, paragraphs
from .chat_tokenizers import CHATML
from .scripted import ScriptedModel, noting
from .tiny_models import Tiny

PLAN = ("plan", {"steps": ["Look.", "Count."]})


def test_an_agent_is_another_ones_tool() -> None:
    note, seen = noting()
    inner = agent(ScriptedModel(("note", {"text": "a"}), "Noted."), [note])
    outer = ScriptedModel(("helper", {"task": "Note a"}), "It is done.")
    state = run_agent("See that a is noted", outer, [as_tool(inner, "helper", "Notes things.")])
    assert (state.answer, state.calls[0].result, seen) == ("It is done.", "Noted.", [{"text": "a"}])


def test_an_agent_that_finds_nothing_is_a_tool_that_failed() -> None:
    inner = agent(ScriptedModel(""))
    state = run_agent("Ask", ScriptedModel(("helper", {"task": "x"}), "So."), [as_tool(inner, "helper", "")])
    assert state.calls[0].failed
    assert "no answer (empty)" in (state.calls[0].result or "")


class Endless(ScriptedModel):
    """Talks until someone stops it."""

    def __init__(self) -> None:
        super().__init__("")
        self.begun, self.stopped = threading.Event(), threading.Event()

    def respond(self, *_: Any, on_text: Any = None, **__: Any) -> Any:
        self.begun.set()
        try:
            for _ in range(3_000):
                on_text("and ")
                time.sleep(0.01)
        except BaseException:
            self.stopped.set()
            raise
        raise AssertionError("nobody has stopped it")


@pytest.mark.parametrize("helpers", [1, 2])
def test_an_agent_that_is_a_tool_is_cancelled_with_the_one_that_called_it(helpers: int) -> None:
    inner = Endless()
    helper = as_tool(agent(inner), "helper", "")
    model = ScriptedModel([("helper", {"task": f"Talk {n}"}) for n in range(helpers)], "So.")
    began = time.monotonic()
    state = run_agent("Have them talk", model, [helper], cancel=inner.begun.is_set)
    assert (state.status, state.reason) == ("stopped", "cancelled")
    assert inner.stopped.is_set()
    assert time.monotonic() - began < 10
    assert "it gave no answer (cancelled)" in (state.calls[0].result or "")


def test_a_tools_agent_ends_with_the_time_of_the_run_around_it_and_with_its_own() -> None:
    inner = Endless()
    middle = agent(ScriptedModel(("helper", {"task": "Talk"})), [as_tool(agent(inner), "helper", "")])
    outer = ScriptedModel(("middle", {"task": "Have them talk"}))
    state = run_agent("Go", outer, [as_tool(middle, "middle", "")], AgentSettings(max_seconds=0.3))
    assert (state.reason, inner.stopped.wait(10)) == ("seconds", True)
    late = Endless()
    outcome = as_tool(agent(late), "helper", "", timeout=0.3).run({"task": "Talk"})
    assert outcome.failed
    assert late.stopped.wait(10)


def test_a_tools_agent_ends_where_the_run_around_it_is_broken_off() -> None:
    inner = Endless()
    helper = as_tool(agent(inner), "helper", "", timeout=60)

    def broken(event: Event) -> None:
        if event.kind == "call":
            threading.Thread(target=break_off, daemon=True).start()

    def break_off() -> None:
        inner.begun.wait(10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # as Ctrl-C does

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            run_agent("Talk", ScriptedModel(("helper", {"task": "Talk"})), [helper], on_event=broken)
    finally:
        signal.signal(signal.SIGINT, before)
    assert inner.stopped.wait(10)


def test_a_run_beside_another_one_is_not_cancelled_with_it() -> None:
    run_agent("Hi", ScriptedModel("Hello."), cancel=lambda: True)
    assert run_agent("Hi", ScriptedModel("Hello.")).answer == "Hello."


def test_a_plan_is_made_and_done_step_by_step() -> None:
    tasks: list[str] = []

    def worker(task: str) -> State:
        tasks.append(task)
        return run_agent(task, ScriptedModel(f"Found {len(tasks)}."))

    states = plan_and_act("How many?", ScriptedModel(PLAN), worker)
    assert [state.answer for state in states] == ["Found 1.", "Found 2.", "Found 3."]
    assert tasks[1] == "How many?\n\nWhat is known:\n- Look.: Found 1.\n\nDo only this step: Count."
    assert tasks[2] == "How many?\n\nWhat is known:\n- Look.: Found 1.\n- Count.: Found 2."


def test_a_step_that_finds_nothing_ends_the_plan() -> None:
    states = plan_and_act("How many?", ScriptedModel(PLAN), agent(ScriptedModel("")))
    assert [state.status for state in states] == ["stopped"]


@pytest.mark.parametrize("rounds", [1, 3])
def test_an_answer_is_looked_at_again(rounds: int) -> None:
    judge = ScriptedModel(("judge", {"why": "it is too short", "right": False}), ("judge", {"why": "", "right": True}))
    worker = agent(ScriptedModel("A longer answer."))
    state = reflect(run_agent("Explain", ScriptedModel("No.")), judge, worker, rounds=rounds)
    assert state.answer == "A longer answer."
    assert "An earlier answer was: No.\nIt was found wanting: it is too short" in state.task
    assert len(judge.seen) == min(rounds, 2)


def test_a_right_answer_stays() -> None:
    state = run_agent("Explain", ScriptedModel("Yes."))
    judge = ScriptedModel(("judge", {"why": "", "right": True}))
    assert reflect(state, judge, agent(ScriptedModel(RuntimeError()))) is state


def test_a_task_goes_to_one_of_several() -> None:
    model = ScriptedModel(("choose", {"name": "cook"}), ("choose", {"name": "baker"}))
    assert route("Bake", model, {"baker": "bread", "smith": "iron"}) == "baker"
    assert "'cook' is not one of" in model.seen[1][-1]["content"]
    assert model.choices[0] == {"name": "choose"}
    with pytest.raises(UserError, match="no agent to choose"):
        route("Bake", model, {})


@pytest.mark.parametrize(
    "turn", ["I do not know.", ("plan", "broken"), ("other", {"steps": ["a"]}), ("plan", {})], ids=str
)
def test_a_model_that_cannot_decide_is_told_in_one_line(turn: Any) -> None:
    model = ScriptedModel(turn)
    with pytest.raises(UserError, match="scripted makes no plan that fits"):
        make_plan("How?", model)
    assert len(model.seen) == 3


def test_an_untrained_model_decides_in_the_form_that_is_asked() -> None:
    model = LocalAgentModel(Tiny(CHATML))
    said = decide(model, "Which?", "pick", {"which": {"enum": ["left", "right"]}, "sure": {"type": "boolean"}})
    assert said["which"] in ("left", "right")
    assert isinstance(said["sure"], bool)


# ---- memory


def test_a_full_context_is_summed_up_and_the_last_turn_stays() -> None:
    long, _ = noting(answer=lambda given: f"{given['text']} " * 100)
    turns = [("note", {"text": f"word{n}"}) for n in range(6)]

    class Summing(ScriptedModel):
        def respond(self, messages: Any, tools: Any = (), **more: Any) -> Any:
            if "Sum up" in messages[-1]["content"]:
                return ScriptedModel("word0 to word4 were noted.").respond(messages, tools, **more)
            return super().respond(messages, tools, **more)

    model, heard = Summing(*turns, "Done.", context=900), list[Event]()
    state = run_agent("Note words", model, [long], AgentSettings(max_new_tokens=100), on_event=heard.append)
    assert state.answer == "Done."
    last = model.seen[-1]
    assert last[0]["content"].startswith("Note words\n\nWhat has been done so far: word0 to word4 were noted.")
    assert last[-1]["content"].startswith("word5")
    assert model.count(last) < 900
    assert [event.kind for event in heard].count("summary") == len([e for e in heard if e.kind == "summary"]) > 0
    assert len(state.calls) == 6


@pytest.mark.parametrize("summarise", [True, False])
def test_old_results_are_shortened_first_and_turns_dropped_last(summarise: bool) -> None:
    long, _ = noting(answer=lambda given: f"{given['text']} " * 60)
    turns = [("note", {"text": f"word{n}"}) for n in range(5)]
    model = ScriptedModel(*turns, "", context=700)
    settings = AgentSettings(max_new_tokens=50, max_steps=6, summarise=summarise)
    run_agent("Note words", model, [long], settings)
    shortened = [m for seen in model.seen for m in seen if m["role"] == "tool" and "[shortened]" in m["content"]]
    assert shortened
    assert all(model.count(seen) < 700 for seen in model.seen)


def test_what_is_remembered_is_recalled_in_a_later_run(tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    from scratchlm.agents.remembering import memory_tools

    store = str(tmp_path / "memory")
    tools = memory_tools(store, Words(), cut=paragraphs)  # type: ignore[arg-type]
    turns = [("remember", {"text": text}) for text in ("The key lies under the stone.", "Anna likes tea.")]
    state = run_agent("Remember", ScriptedModel(*turns, ("remember", {"text": " "}), "Done."), tools)
    assert [call.result for call in state.calls[:2]] == ["kept", "kept"]
    assert state.calls[2].failed
    assert [one.effects for one in tools] == [True, False]
    again = memory_tools(store, Words(), cut=paragraphs)  # type: ignore[arg-type]
    state = run_agent(
        "Where?", ScriptedModel(("recall", {"query": "The key lies under the stone.", "count": 1}), "There."), again
    )
    assert "The key lies under the stone." in (state.calls[0].result or "")


def test_spans_have_the_times_and_names_of_a_trace(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from scratchlm.agents.replaying import read_trace
    from scratchlm.agents.telemetry import export_spans

    from .test_traces import traced

    failing, _ = noting(answer=OSError("no"))
    traced(tmp_path / "t.jsonl", ("note", {"text": "a"}), ("nothing", {}), "So.", tools=[failing])
    exporter = InMemorySpanExporter()
    export_spans(read_trace(tmp_path / "t.jsonl"), exporter)
    spans = exporter.get_finished_spans()
    names = [span.name for span in spans]
    assert names == ["chat scripted", "execute_tool note", "chat scripted", "chat scripted", "invoke_agent"]
    root = spans[-1]
    assert all(span.parent.span_id == root.context.span_id for span in spans[:-1])
    assert spans[0].attributes["gen_ai.usage.input_tokens"] == 100
    assert spans[1].status.status_code.name == "ERROR"
    assert root.end_time >= max(span.end_time for span in spans)
    assert json.loads(spans[0].to_json())["attributes"]["gen_ai.request.model"] == "scripted"


def test_agents_that_share_a_model_may_run_side_by_side() -> None:
    model = LocalAgentModel(Tiny(CHATML))
    settings = AgentSettings(max_new_tokens=30, sampling=SamplingConfig(temperature=1.0, seed=3))
    alone = run_agent("Say a", model, settings=settings).answer
    helper = as_tool(agent(model, settings=settings), "helper", "Says things.")
    calls = [("helper", {"task": "Say a"}), ("helper", {"task": "Say b"}), ("helper", {"task": "Say c"})]
    state = run_agent("Have them say a, b, c", ScriptedModel(calls, "Done."), [helper])
    assert state.calls[0].result == alone
    assert [call.result for call in state.calls if call.failed] == []


@pytest.mark.parametrize(
    ("said", "answer", "asked"),
    [
        (["12", "13", "12.", "9"], "12", 4),
        (["Paris", " paris. ", "PARIS", "Rome", "Rome"], "Paris", 3),  # which two others cannot overtake
        (["a", "b", "b", "a", "c"], "a", 5),  # of as many, the first
        (["", "b", "b"], "b", 3),  # no answer is no vote
        (["only"], "only", 1),
        (["", ""], "", 2),
    ],
)
def test_a_vote_takes_what_most_say(said: list[str], answer: str, asked: int) -> None:
    models = [ScriptedModel(one) for one in said]
    state = agree("Where?", [agent(model) for model in models])
    assert state.answer == answer
    assert sum(bool(model.seen) for model in models) == asked
    assert (state.status == "done") == bool(answer)


def test_a_vote_of_nobody() -> None:
    with pytest.raises(ValueError, match="at least one"):
        agree("Where?", [])
