"""The page of agents, and what it asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

import scratchlm
from scratchlm.agents.local_model import LocalAgentModel
from scratchlm.agents.loop import run_agent
from scratchlm.agents.settings import AgentSettings
from scratchlm.agents.shipped import open_tools
from scratchlm.serving.server import Server
from scratchlm.serving.studio import agents
from scratchlm.serving.studio.settings import StudioSettings

from ..agents.scripted import ScriptedModel
from ..serving.conftest import serving, wait_for
from .conftest import findings, home

SUM = ("calculator", {"expression": "0.175 * 2480"})
WRITE = ("write_file", {"path": "a.txt", "text": "tea"})


@pytest.fixture
def works(models: Path, tmp_path: Path) -> Iterator[Server]:
    places = StudioSettings(runs=tmp_path / "runs", home=tmp_path / "made")
    with serving(str(models / "chat"), studio=places) as found:
        yield found


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ScriptedModel]:
    """Has the next run's model say these turns."""

    def use(*turns: Any) -> ScriptedModel:
        model = ScriptedModel(*turns)
        monkeypatch.setattr(agents, "ServedModel", lambda *_: model)
        return model

    return use


def events(server: Server, on_event: Callable[[dict[str, Any]], None] = lambda _: None, **asked: Any) -> list[Any]:
    """Everything that is told of a run."""
    body = {"model": "chat", "task": "Work", "tools": ["calculator"]} | asked
    found: list[Any] = []
    with httpx.stream("POST", f"{home(server)}studio/api/agents/run", json=body, timeout=60) as answer:
        if answer.status_code != 200:
            return [json.loads(answer.read())]
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                found.append(json.loads(line.removeprefix("data: ")))
                on_event(found[-1])
    return found


def decide(server: Server, said: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Answers the calls that ask for leave."""
    run: list[str] = []

    def hear(event: dict[str, Any]) -> None:
        if event["kind"] == "start":
            run.append(event["run"])
        if event["kind"] == "ask":
            body = {"run": run[0], "call": event["call"]["id"], **said}
            url = f"{home(server)}studio/api/agents/answer"
            assert httpx.post(url, json=body).status_code == 200
            assert httpx.post(url, json=body).status_code == 404

    return hear


@pytest.mark.parametrize("seed", [3, 4])
def test_a_run_on_the_served_model_is_that_in_process(works: Server, models: Path, seed: int) -> None:
    local = LocalAgentModel(scratchlm.load(str(models / "chat")))
    task, settings = f"Note {seed}", AgentSettings(max_steps=3, max_new_tokens=60)
    here = run_agent(task, local, open_tools(["calculator"]), settings)
    told = events(works, task=task, max_steps=3, max_new_tokens=60)
    end = told[-1]
    assert (end["kind"], end["status"], end["reason"]) == ("end", here.status, here.reason)
    assert end["answer"].strip() == here.answer
    assert (end["prompt_tokens"], end["completion_tokens"]) == (here.prompt_tokens, here.completion_tokens)
    calls = [(one["name"], one["arguments"]) for event in told if event["kind"] == "reply" for one in event["calls"]]
    assert calls == [(one.name, one.arguments) for one in here.calls]
    words = "".join(event["text"] for event in told if event["kind"] == "text")
    replies = [event["text"] for event in told if event["kind"] == "reply"]
    assert words.strip() == "".join(replies).strip()
    trace = [json.loads(line) for line in Path(end["trace"]).read_text().splitlines()]
    assert (trace[0]["kind"], trace[-1]["kind"]) == ("start", "end")
    assert trace[0]["run"] == told[0]["run"]


def test_the_trace_grows_in_the_order_of_what_happens(works: Server, scripted: Callable[..., Any]) -> None:
    scripted(SUM, "It is 434.")
    told = events(works)
    assert [event["kind"] for event in told if event["kind"] != "text"] == [
        *("start", "step", "reply", "call", "result", "step", "reply", "end")
    ]
    result = next(event["call"] for event in told if event["kind"] == "result")
    assert (result["result"], result["made"], result["failed"]) == ("434", True, False)
    assert told[-1]["answer"] == "It is 434."


@pytest.mark.parametrize(
    ("said", "written", "result"),
    [
        ({"allow": True}, True, "a.txt"),
        ({"allow": False}, False, "did not allow this call."),
        ({"allow": False, "said": "Not that one"}, False, "Not that one"),
    ],
)
def test_a_change_asks_for_leave(
    works: Server, tmp_path: Path, scripted: Callable[..., Any], said: dict[str, Any], written: bool, result: str
) -> None:
    scripted(WRITE, "Done.")
    told = events(works, decide(works, said), tools=["files"])
    assert [event["call"]["name"] for event in told if event["kind"] == "ask"] == ["write_file"]
    assert (tmp_path / "made/files/a.txt").exists() is written
    (call,) = [event["call"] for event in told if event["kind"] == "result"]
    assert result in call["result"]
    assert call["made"] is written


@pytest.mark.parametrize(("ask", "asks"), [("always", 2), ("effects", 1), ("never", 0)])
def test_who_is_asked_is_chosen(works: Server, scripted: Callable[..., Any], ask: str, asks: int) -> None:
    scripted(SUM, WRITE, "Done.")
    told = events(works, decide(works, {"allow": True}), tools=["calculator", "files"], ask=ask)
    assert sum(event["kind"] == "ask" for event in told) == asks
    assert told[-1]["reason"] == "answered"


def test_web_asks_before_anything_leaves_the_machine(works: Server, scripted: Callable[..., Any]) -> None:
    scripted(("fetch", {"url": "http://example.com/"}), "Done.")
    told = events(works, decide(works, {"allow": False}), tools=["web"])
    assert [event["call"]["name"] for event in told if event["kind"] == "ask"] == ["fetch"]


@pytest.mark.usefixtures("slowly")
@pytest.mark.parametrize("waits", [True, False], ids=["asked", "writing"])
def test_who_leaves_cancels(works: Server, scripted: Callable[..., Any], tmp_path: Path, waits: bool) -> None:
    if waits:
        scripted(WRITE, "Done.")
    body = {"model": "chat", "task": "Work", "tools": ["files"], "max_new_tokens": 900, "temperature": 1}
    with httpx.stream("POST", f"{home(works)}studio/api/agents/run", json=body) as answer:
        for line in answer.iter_lines():
            if '"kind":"ask"' in line or (not waits and '"kind":"step"' in line):
                break
    (trace,) = (tmp_path / "made/traces").iterdir()
    wait_for(lambda: '"kind": "end"' in trace.read_text())
    assert json.loads(trace.read_text().splitlines()[-1])["reason"] == "cancelled"
    assert not (tmp_path / "made/files/a.txt").exists()
    wait_for(lambda: works.models.served["chat"].users == 0)


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"tools": ["files:/"]}, 400, "no tool 'files:/'"),
        ({"tools": ["python-full"]}, 400, "no tool"),
        ({"tools": ["os:system"]}, 400, "no tool"),
        ({"tools": ["documents:nobody"]}, 400, "no tool"),
        ({"task": " "}, 400, "task"),
        ({"max_steps": 0}, 400, "max_steps"),
        ({"ask": "sometimes"}, 400, "ask"),
        ({"model": "nobody"}, 404, "does not exist"),
    ],
)
def test_what_cannot_be_run_is_refused(studio: Server, changes: dict[str, Any], status: int, said: str) -> None:
    body = {"model": "chat", "task": "Work", "tools": []} | changes
    answer = httpx.post(f"{home(studio)}studio/api/agents/run", json=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


def test_a_model_that_fails_is_told(works: Server, scripted: Callable[..., Any]) -> None:
    scripted(scratchlm.errors.UserError("the model is gone"))
    assert events(works)[-1]["error"]["message"] == "the model is gone"
    wait_for(lambda: works.models.served["chat"].users == 0)  # which is so a moment after the last event


def test_too_many_at_a_time_are_refused(works: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "_MOST", 0)
    assert "wait until one has ended" in events(works)[0]["error"]["message"]


# ---- the page


def told_of(server: Server, path: str) -> Any:
    return httpx.get(f"{home(server)}studio/api/agents/traces{path}", timeout=20).json()


def test_an_earlier_run_is_told_again_as_it_was(works: Server, scripted: Callable[..., Any], tmp_path: Path) -> None:
    assert told_of(works, "") == {"traces": []}
    scripted([SUM, ("calculator", "{")], "It is 434.")
    told = events(works)
    run = told[0]["run"]
    (row,) = told_of(works, "")["traces"]
    assert {name: row[name] for name in ("run", "task", "turns", "status", "answer")} == {
        **{"run": run, "task": "Work", "turns": 2, "status": "done", "answer": "It is 434."}
    }
    again = told_of(works, f"/{run}")
    assert (again["task"], again["model"]) == ("Work", row["model"])
    for kind in ("start", "reply", "result", "end"):
        then, now = ([one for one in some if one["kind"] == kind] for some in (told, again["events"]))
        assert len(then) == len(now)
        for before, after in zip(then, now, strict=True):
            for name, value in before.items():
                if isinstance(value, dict):
                    assert value == {key: after[name][key] for key in value}
                elif name not in ("calls", "step") or kind in ("reply", "result"):
                    assert after[name] == value
    traces = tmp_path / "made/traces"
    lines = (traces / f"{run}.jsonl").read_text().splitlines(keepends=True)
    (traces / f"{'0' * 16}.jsonl").write_text("".join(lines[:2]))
    (traces / f"{'1' * 16}.jsonl").write_text("no trace\n")
    (traces / "notes.jsonl").write_text("{}")
    rows = {one["run"]: one for one in told_of(works, "")["traces"]}
    assert len(rows) == 3
    assert rows["0" * 16]["status"] == "broken off"
    assert "no line of a trace" in rows["1" * 16]["error"]
    assert [one["kind"] for one in told_of(works, f"/{'0' * 16}")["events"]] == ["start", "reply"]
    assert "no line of a trace" in told_of(works, f"/{'1' * 16}")["error"]["message"]
    for name in ("notes", "f" * 16, "..%2f..%2fsecret"):
        assert httpx.get(f"{home(works)}studio/api/agents/traces/{name}").status_code == 404


def test_the_page_opens_an_earlier_run(works: Server, scripted: Callable[..., Any], visit: Callable[..., Page]) -> None:
    scripted(SUM, "It is 434.")
    events(works, task="How much is it?")
    page = visit(works, "agents")
    page.get_by_text("Earlier runs (1)").click()
    page.get_by_role("link", name="How much is it?").click()
    expect(page.get_by_role("region", name="The answer")).to_contain_text("It is 434.")
    expect(page.get_by_role("region", name="The task")).to_have_text("How much is it?")
    expect(page.locator(".result")).to_have_text("434")
    assert findings(page) == []
    scripted("Nothing to do.")
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_role("region", name="The answer")).to_contain_text("Nothing to do.")
    expect(page.get_by_role("region", name="The task")).to_have_count(0)
    expect(page.get_by_text("Earlier runs (2)")).to_be_visible()


def test_the_page_shows_the_trace_and_the_answer(
    works: Server, scripted: Callable[..., Any], visit: Callable[..., Page]
) -> None:
    scripted([SUM, ("calculator", "{")], "It is 434.")
    page = visit(works, "agents")
    expect(page.get_by_role("checkbox", name="calculator")).to_be_checked()
    expect(page.get_by_role("checkbox", name=re.compile("^python"))).not_to_be_checked()
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_role("region", name="The answer")).to_contain_text("It is 434.")
    trace = page.get_by_role("list", name="The trace")
    expect(trace.get_by_role("listitem")).to_have_count(2)
    expect(trace.locator(".call").first).to_contain_text('calculator({"expression": "0.175 * 2480"})')
    expect(trace.locator(".result").first).to_have_text("434")
    expect(trace.locator(".call.failed")).to_have_count(1)
    expect(page.locator("#said")).to_have_text("The agent has answered.")
    assert findings(page) == []


def test_the_page_asks_and_tells_the_model_why_not(
    works: Server, scripted: Callable[..., Any], visit: Callable[..., Page], tmp_path: Path
) -> None:
    model = scripted(WRITE, ("write_file", {"path": "b.txt", "text": "tea"}), "Done.")
    page = visit(works, "agents")
    page.get_by_role("checkbox", name=re.compile("^files")).check()
    page.get_by_role("button", name="Begin").click()
    asked = page.get_by_role("group", name="May write_file be called?")
    expect(asked).to_be_visible()
    assert findings(page) == []
    asked.get_by_label("If refused, tell the model").fill("Name it b.txt")
    asked.get_by_role("button", name="Refuse").click()
    page.get_by_role("listitem").nth(1).get_by_role("button", name="Allow").click()
    expect(page.get_by_role("region", name="The answer")).to_contain_text("Done.")
    assert "Name it b.txt" in model.seen[1][-1]["content"]
    assert [path.name for path in (tmp_path / "made/files").iterdir()] == ["b.txt"]


def test_cancel_ends_what_waits(works: Server, scripted: Callable[..., Any], visit: Callable[..., Page]) -> None:
    scripted(WRITE, "Done.")
    page = visit(works, "agents?model=chat")
    page.get_by_role("checkbox", name=re.compile("^files")).check()
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_role("button", name="Allow")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Cancelled.")).to_be_visible()
    expect(page.get_by_role("button", name="Allow")).to_have_count(0)
    wait_for(lambda: works.models.served["chat"].users == 0)
