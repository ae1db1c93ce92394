"""Models behind an address: calls whole, in pieces, without an index, in the text; and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from scratchlm.agents.endpoint_model import EndpointModel
from scratchlm.agents.loop import run_agent
from scratchlm.agents.model import Reply
from scratchlm.agents.settings import AgentSettings
from scratchlm.errors import UserError
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.retrieval.endpoint import Endpoint

from ..retrieval.test_answers_endpoint import error, serving
from .scripted import noting

ASK = [{"role": "user", "content": "What is it?"}]
NOTE = noting()[0].schema()


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish}], **more}).encode() + b"\n\n"


def piece(index: int | None, number: str | None, name: str | None, arguments: Any) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    own = {key: value for key, value in (("index", index), ("id", number)) if value is not None}
    return {"tool_calls": [{**own, "type": "function", "function": function}]}


def stream(*parts: bytes) -> Callable[[Any], None]:
    return lambda handler: handler.send(200, b"".join([*parts, b"data: [DONE]\n\n"]), "text/event-stream")


def whole(message: dict[str, Any], finish: str = "tool_calls", **more: Any) -> Callable[[Any], None]:
    data = {"choices": [{"message": message, "finish_reason": finish}], **more}
    return lambda handler: handler.send(200, json.dumps(data).encode())


def ask(reply: Any, **more: Any) -> tuple[Reply, dict[str, Any], list[str]]:
    heard: list[str] = []
    with serving(reply) as (url, seen):
        given = EndpointModel(Endpoint(url, "big")).respond(ASK, [NOTE], on_text=heard.append, **more)
    return given, seen[0][2], heard


A, B = '{"text": "a"}', '{"text": "b"}'
STREAMS: dict[str, tuple[list[bytes], list[tuple[str, str]]]] = {
    "whole": ([chunk(piece(0, "x1", "note", A), "tool_calls")], [("note", A)]),
    "in pieces": (
        [chunk(piece(0, "x1", "note", ""))]
        + [chunk(piece(0, None, None, letter)) for letter in A]
        + [chunk({}, "tool_calls")],
        [("note", A)],
    ),
    "two, mixed": (
        [
            chunk(piece(0, "x1", "note", '{"text"')),
            chunk(piece(1, "x2", "note", '{"text": ')),
            chunk(piece(0, None, None, ': "a"}')),
            chunk(piece(1, None, None, '"b"}')),
            chunk({}, "tool_calls"),
        ],
        [("note", A), ("note", B)],
    ),
    "the same index": (
        [chunk(piece(0, "x1", "note", A)), chunk(piece(0, "x2", "note", B)), chunk({}, "stop")],
        [("note", A), ("note", B)],
    ),
    "no index": (
        [chunk(piece(None, "x1", "note", A)), chunk(piece(None, "x2", "note", B)), chunk({}, "stop")],
        [("note", A), ("note", B)],
    ),
    "an object": ([chunk(piece(0, "x1", "note", {"text": "a"}), "tool_calls")], [("note", A)]),
    "the name again": (
        [chunk(piece(0, "x1", "note", '{"text": ')), chunk(piece(0, "x1", "note", '"a"}')), chunk({}, "stop")],
        [("note", A)],
    ),
    "no id": ([chunk(piece(0, None, "note", A), "tool_calls")], [("note", A)]),
    "no arguments": ([chunk(piece(0, "x1", "note", None), "tool_calls")], [("note", "{}")]),
    "in the text": (
        [chunk({"content": 'So. <tool_call>\n{"name": "note", "arguments": {"text": "a"}}\n</tool_call>'}, "stop")],
        [("note", A)],
    ),
    "nonsense": ([chunk({"tool_calls": ["x", {"function": 3, "index": 0}, None]}, "stop")], [("", "{}")]),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_calls_in_a_stream(name: str) -> None:
    parts, calls = STREAMS[name]
    reply, _, _ = ask(stream(*parts))
    assert [(call.name, call.arguments) for call in reply.calls] == calls
    assert all(call.id for call in reply.calls)


def test_calls_and_usage_without_a_stream() -> None:
    message = {"content": None, "tool_calls": [{"id": "x1", "function": {"name": "note", "arguments": A}}]}
    reply, _, heard = ask(whole(message, usage={"prompt_tokens": 12, "completion_tokens": 7}))
    assert (reply.calls[0].name, reply.prompt_tokens, reply.completion_tokens, heard) == ("note", 12, 7, [])


def test_usage_after_the_end_of_a_stream() -> None:
    last = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}\n\n'
    reply, _, heard = ask(stream(chunk({"content": "Fo"}), chunk({"content": "ur."}, "length"), last))
    assert reply.text == "Four."
    assert (reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("length", 5, 2)
    assert heard == ["Fo", "ur."]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        *(("auto", "auto"), ("none", "none"), ("required", "required")),
        ({"name": "note"}, {"type": "function", "function": {"name": "note"}}),
    ],
)
def test_what_is_sent(choice: Any, sent: Any) -> None:
    _, body, _ = ask(stream(chunk({"content": "So."}, "stop")), choice=choice, max_new_tokens=9)
    assert (body["tools"], body["tool_choice"], body["max_tokens"], body["temperature"]) == ([NOTE], sent, 9, 0)
    drawn = SamplingConfig(temperature=0.5, top_p=0.9, seed=3)
    _, body, _ = ask(stream(chunk({"content": "So."}, "stop")), choice=choice, sampling=drawn)
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.5, 0.9, 3)


def test_the_loop_through_a_server() -> None:
    note, seen = noting()

    def reply(handler: Any) -> None:
        asked = handler.server.seen[-1][2]["messages"]
        if asked[-1]["role"] == "tool":
            stream(chunk({"content": f"It says {asked[-1]['content']}."}, "stop"))(handler)
        else:
            stream(chunk({"content": "I note."}), chunk(piece(0, "abc", "note", A), "tool_calls"))(handler)

    with serving(reply) as (url, requests):
        state = run_agent("Note a", EndpointModel(Endpoint(url, "big")), [note])
    assert (state.answer, seen, state.steps[0].text) == ("It says noted.", [{"text": "a"}], "I note.")
    sent = requests[1][2]["messages"]
    assert sent[1]["tool_calls"][0]["function"] == {"name": "note", "arguments": A}
    assert sent[2] == {"role": "tool", "tool_call_id": sent[1]["tool_calls"][0]["id"], "content": "noted"}


def test_broken_arguments_are_not_sent_back_to_the_server() -> None:
    note, _ = noting()
    answers = iter(
        [stream(chunk(piece(0, "x", "note", '{"text": '), "stop")), stream(chunk({"content": "So."}, "stop"))]
    )
    with serving(lambda handler: next(answers)(handler)) as (url, requests):
        state = run_agent("Note", EndpointModel(Endpoint(url, "big")), [note])
    assert requests[1][2]["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}"
    assert state.calls[0].failed


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        (error(400, b'{"error": {"message": "no tools here"}}'), "no tools here"),
        (error(500), "status 500"),
        (stream(b"data: {broken\n\n"), "no form of OpenAI's"),
        (lambda handler: handler.send(200, chunk({"content": "half"}), "text/event-stream"), "broke off"),
    ],
    ids=["refused", "failed", "broken", "broke-off"],
)
def test_what_goes_wrong_is_one_line_and_the_run_can_go_on(reply: Any, line: str, tmp_path: Any) -> None:
    with serving(reply) as (url, _), pytest.raises(UserError, match=line):
        run_agent("Note", EndpointModel(Endpoint(url, "big")), [], file=tmp_path / "state.json")
    assert (tmp_path / "state.json").exists()


def test_an_empty_answer_of_a_server_is_asked_for_again() -> None:
    answers = iter([stream(chunk({}, "stop")), stream(chunk({"content": "Here."}, "stop"))])
    with serving(lambda handler: next(answers)(handler)) as (url, _):
        state = run_agent("Say", EndpointModel(Endpoint(url, "big")), [], AgentSettings(prices=(1.0, 1.0)))
    assert state.answer == "Here."
    assert state.cost > 0


def test_cancelled_in_the_middle_of_a_stream() -> None:
    heard: list[str] = []
    with serving(stream(chunk({"content": "a"}), chunk({"content": "b"}), chunk({}, "stop"))) as (url, _):
        state = run_agent(
            "Say",
            EndpointModel(Endpoint(url, "big")),
            [],
            on_event=lambda event: heard.append(event.text) if event.kind == "text" else None,
            cancel=lambda: "a" in heard,
        )
    assert (state.reason, heard) == ("cancelled", ["a"])


def test_the_count_is_rather_too_high() -> None:
    model = EndpointModel(Endpoint("http://localhost:1/v1", "big"))
    assert model.count(ASK, [NOTE]) > model.count(ASK) > 10
