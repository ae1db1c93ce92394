"""``scratchlm agent`` and ``scratchlm traces``, with a model behind an address on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ..agents.test_endpoint_model import chunk, piece, stream
from ..retrieval.test_answers_endpoint import error, serving
from .conftest import Command

PEER = Path(__file__).parents[1] / "agents" / "mcp_peer.py"
ASKED = {"role": "user", "content": "What is 12 * 34?"}


def calculating(handler: Any) -> None:
    """Calls the calculator, and says what it gave."""
    last = handler.server.seen[-1][2]["messages"][-1]
    if last["role"] == "tool":
        return stream(chunk({"content": f"It is {last['content']}."}, "stop"))(handler)
    call = piece(0, "x", "calculator", '{"expression": "12 * 34"}')
    return stream(chunk({"content": "I reckon."}), chunk(call, "tool_calls"))(handler)


def test_a_task_is_done_shown_and_traced(command: Command, tmp_path: Path) -> None:
    trace, state, rows = (tmp_path / name for name in ("t.jsonl", "s.json", "rows.jsonl"))
    with serving(calculating) as (url, seen):
        outcome = command(
            *("agent", "What is 12 * 34?", "--endpoint", url, "--model", "big", "--tools", "calculator, dates,"),
            *("--trace", str(trace), "--state", str(state), "--system", "Be brief."),
        )
    assert (outcome.status, outcome.out) == (0, "It is 408.\n")
    assert outcome.err.splitlines() == ["I reckon.", 'calculator({"expression": "12 * 34"})', "-> 408"]
    assert seen[0][2]["messages"] == [{"role": "system", "content": "Be brief."}, ASKED]
    assert [tool["function"]["name"] for tool in seen[0][2]["tools"]][:2] == ["calculator", "today"]
    shown = command("traces", "show", str(trace))
    assert shown.status == 0
    assert "It is 408." in shown.out
    played = command("traces", "replay", str(trace), "--json")
    assert json.loads(played.out) == {"runs": [{"answer": "It is 408.", "status": "done", "reason": "answered"}]}
    again = command("traces", "replay", str(trace), "--tools", "calculator,dates")
    assert again.out == "What is 12 * 34? -> It is 408.: the same 2 turns, 1 calls\n"
    made = command("traces", "to-sft", str(trace), "--out", str(rows), "--clean")
    assert made.out == f"1 rows of 1 runs in {rows}\n"
    (row,) = map(json.loads, rows.read_text().splitlines())
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant", "tool", "assistant"]
    pytest.importorskip("opentelemetry.sdk")
    spans = [json.loads(line) for line in command("traces", "spans", str(trace)).out.splitlines()]
    assert spans[1]["name"] == "execute_tool calculator"


def test_json_is_one_object_and_nothing_else(command: Command) -> None:
    with serving(calculating) as (url, _):
        outcome = command("agent", "12?", "--endpoint", url, "--model", "b", "--tools", "calculator", "--json")
    assert outcome.err == ""
    told = json.loads(outcome.out)
    assert (told["answer"], told["status"], told["steps"], told["calls"][0]["result"]) == (
        "It is 408.",
        "done",
        2,
        "408",
    )


def finding(handler: Any) -> None:
    """The model's turns, and the API's answer."""
    if handler.path.endswith("/towns"):
        body = handler.server.seen[-1][2]
        return handler.send(200, json.dumps({"made": body, "key": handler.headers["X-Key"]}).encode())
    last = handler.server.seen[-1][2]["messages"][-1]
    if last["role"] == "tool":
        return stream(chunk({"content": f"It says {last['content']}"}, "stop"))(handler)
    call = piece(0, "x", "make_town", '{"name": "Moss"}')
    return stream(chunk(call, "tool_calls"))(handler)


def test_tools_from_an_openapi_document(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    picture = {"required": True, "content": {"image/png": {}}}
    paths = {
        "/towns": {"post": {"operationId": "make-town", "requestBody": body}},
        "/pictures": {"put": {"operationId": "draw", "requestBody": picture}},
    }
    components = {"securitySchemes": {"mine": {"type": "apiKey", "in": "header", "name": "X-Key"}}}
    document = {"openapi": "3.1.0", "paths": paths, "security": [{"mine": []}], "components": components}
    (tmp_path / "api.json").write_text(json.dumps(document))
    monkeypatch.setenv("SCRATCHLM_KEY_MINE", "a-key-of-mine")
    trace = tmp_path / "t.jsonl"
    with serving(finding) as (url, seen):
        given = ("agent", "Make Moss", "--endpoint", url, "--model", "b", "--openapi", str(tmp_path / "api.json"))
        outcome = command(*given, "--base-url", url, "--tools", "dates", "--trace", str(trace))
        assert outcome.status == 0
        assert outcome.out == 'It says {"made": {"name": "Moss"}, "key": "[secret]"}\n'
        assert outcome.err.splitlines()[0].startswith("draw is left out: its body is image/png")
        assert "a-key-of-mine" not in trace.read_text() + outcome.err
        names = [one["function"]["name"] for one in seen[0][2]["tools"]]
        assert (names[0], names[-1]) == ("today", "make_town")
        outcome = command(*given, "--base-url", url, "--operations", "make-town", "--approve", "effects")
        assert "waiting (approval)" in outcome.err
        assert "left out" not in outcome.err


def test_tools_of_mcp_servers_in_a_run_that_waits_goes_on_and_is_replayed(command: Command, tmp_path: Path) -> None:
    notes, state, trace = (tmp_path / name for name in ("notes", "s.json", "t.jsonl"))

    def noting(handler: Any) -> None:
        last = handler.server.seen[-1][2]["messages"][-1]
        if last["role"] == "tool":
            return stream(chunk({"content": f"It is {last['content']}."}, "stop"))(handler)
        call = piece(0, "x", "note", json.dumps({"text": "hello", "file": str(notes)}))
        return stream(chunk(call, "tool_calls"))(handler)

    server = f"{sys.executable} {PEER}"
    with serving(noting) as (url, seen):
        given = "--endpoint", url, "--model", "b", "--state", str(state), "--trace", str(trace), "--mcp", server
        outcome = command("agent", "Note it.", *given, "--mcp", server, "--tools", "calculator", "--approve", "effects")
        assert outcome.status == 1
        assert [line[:18] for line in outcome.err.splitlines()] == ["waiting (approval)"]
        names = [one["function"]["name"] for one in seen[0][2]["tools"]]
        assert (names[0], names[1], names[-1]) == ("calculator", "add", "peer_1_die")
        assert not notes.exists()
        outcome = command("agent", "--resume", *given)
    assert (outcome.status, outcome.out) == (0, "It is written.\n")
    assert notes.read_text() == "hello\n"
    played = command("traces", "replay", str(trace), "--json")
    assert json.loads(played.out) == {"runs": [{"answer": "It is written.", "status": "done", "reason": "answered"}]}
    assert notes.read_text() == "hello\n"


def test_without_an_answer_the_status_is_one(command: Command) -> None:
    with serving(stream(chunk({"content": ""}, "stop"))) as (url, _):
        outcome = command("agent", "12?", "--endpoint", url, "--model", "b")
    assert (outcome.status, outcome.out, outcome.err) == (1, "", "stopped (empty) after 3 turns\n")


def test_a_call_that_needs_leave_waits_and_goes_on(command: Command, tmp_path: Path) -> None:
    state = tmp_path / "s.json"
    with serving(calculating) as (url, _):
        given = "--endpoint", url, "--model", "b", "--tools", "calculator", "--state", str(state)
        outcome = command("agent", "12?", *given, "--approve", "calc*")
        assert outcome.status == 1
        assert "waiting (approval) after 1 turns; go on with: scratchlm agent --resume" in outcome.err
        outcome = command("agent", "--resume", *given)
    assert (outcome.status, outcome.out) == (0, "It is 408.\n")


def test_a_server_that_fails_leaves_a_run_to_go_on_with(command: Command, tmp_path: Path) -> None:
    state = tmp_path / "s.json"
    given = "--model", "b", "--tools", "calculator", "--state", str(state)
    with serving(error(500)) as (url, _):
        outcome = command("agent", "12?", "--endpoint", url, *given)
    assert outcome.status == 2
    assert len(outcome.err.splitlines()) == 1
    with serving(calculating) as (url, _):
        assert command("agent", "--resume", "--endpoint", url, *given).out == "It is 408.\n"


def test_a_secret_of_the_environment_stays_out(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDINARY", "swordfish")
    with serving(stream(chunk({"content": "It is swordfish."}, "stop"))) as (url, _):
        trace = tmp_path / "t.jsonl"
        outcome = command(
            *("agent", "Word?", "--endpoint", url, "--model", "b", "--trace", str(trace), "--secret", "ORDINARY")
        )
    assert outcome.out == "It is swordfish.\n"
    assert "swordfish" not in trace.read_text()
