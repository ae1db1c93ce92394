"""Traces: what is in them and what is not, replayed to the same state, shown, and made into rows."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from scratchlm.agents.call_format import OURS, format_of
from scratchlm.agents.loop import run_agent
from scratchlm.agents.model import Reply, ToolCall
from scratchlm.agents.redaction import MARK, Redactor
from scratchlm.agents.replaying import read_trace, replay, trace_tree, training_rows
from scratchlm.agents.settings import AgentSettings
from scratchlm.agents.state import State
from scratchlm.agents.traces import TraceWriter
from scratchlm.data import read_records
from scratchlm.errors import UserError

from .chat_tokenizers import chatty, published
from .scripted import ScriptedModel, noting

CALL = ("note", {"text": "a"})
OTHER = ("note", {"text": "b"})


def traced(path: Path, *turns: Any, tools: Any = None, task: str = "Note a", **more: Any) -> State:
    writer = TraceWriter(path, secrets=more.pop("secrets", ()))
    tools = [noting()[0]] if tools is None else tools
    state = run_agent(task, more.pop("model", None) or ScriptedModel(*turns), tools, on_event=writer, **more)
    writer.close()
    return state


def same(a: State, b: State) -> None:
    """All but when and how long."""
    kept = [{**one.as_json(), "seconds": 0.0} for one in (a, b)]
    for one in kept:
        one["steps"] = [{**step, "began": 0.0} for step in one["steps"]]
    assert kept[0] == kept[1]


RUNS: dict[str, dict[str, Any]] = {
    "answer": {"turns": ["Hello."]},
    "a call": {"turns": [CALL, "So."]},
    "thoughts": {"turns": [Reply("I see.", (ToolCall("", "note", '{"text": "a"}'),), raw="I see. <tool"), "So."]},
    "several": {"turns": [[CALL, OTHER], CALL, "So."]},
    "twins": {"turns": [[CALL, CALL], "So."]},
    "faults": {"turns": [Reply("", (ToolCall("", "", "", "no JSON"),), raw="<tool"), ("nothing", {}), CALL, "So."]},
    "bad arguments": {"turns": [("note", "{"), ("note", "{"), "So."]},
    "empty": {"turns": [""]},
    "empty once": {"turns": ["", "So."]},
    "loop": {"turns": [CALL]},
    "steps": {"turns": [CALL, OTHER], "settings": AgentSettings(max_steps=2)},
    "tokens": {"turns": [CALL, OTHER, "So."], "settings": AgentSettings(max_tokens=150)},
    "cost": {"turns": [CALL, "So."], "settings": AgentSettings(max_cost=0.00001, prices=(1.0, 1.0))},
    "length": {"turns": [Reply("Once", finish_reason="length")]},
    "system": {"turns": [CALL, "So."], "settings": AgentSettings(system="Be kind.")},
    "refused": {"turns": [CALL, "So."], "settings": AgentSettings(approve=("*",)), "ask": lambda *_: "not now"},
    "allowed": {"turns": [CALL, OTHER, "So."], "settings": AgentSettings(approve=("*",)), "ask": lambda *_: True},
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_replay_has_the_same_state(tmp_path: Path, name: str) -> None:
    more = dict(RUNS[name])
    state = traced(tmp_path / "t.jsonl", *more.pop("turns"), **more)
    (run,) = read_trace(tmp_path / "t.jsonl")
    same(replay(run), state)


def test_failed_calls_and_effects_are_replayed_without_the_tools(tmp_path: Path) -> None:
    failing, _ = noting("note", answer=OSError("no"))
    send, sent = noting("send", effects=True)
    turns = CALL, CALL, ("send", {"text": "x"}), CALL, "So."
    state = traced(tmp_path / "t.jsonl", *turns, tools=[failing, send])
    (run,) = read_trace(tmp_path / "t.jsonl")
    same(replay(run), state)
    assert len(sent) == 1


def test_a_replay_with_tools_calls_them_and_notices_another_result(tmp_path: Path) -> None:
    traced(tmp_path / "t.jsonl", CALL, "So.")
    (run,) = read_trace(tmp_path / "t.jsonl")
    note, seen = noting()
    assert replay(run, [note]).answer == "So."
    assert seen == [{"text": "a"}]
    with pytest.raises(UserError, match=r"turn 2 of the trace was asked something else.*noted.*another"):
        replay(run, [noting(answer="another")[0]])


def test_a_replay_notices_a_changed_trace(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    traced(file, CALL, "So.")
    file.write_text(file.read_text().replace('"result": "noted"', '"result": "forged"'))
    with pytest.raises(UserError, match="something else"):
        replay(read_trace(file)[0])


def test_a_context_that_was_full_is_replayed_too(tmp_path: Path) -> None:
    long, _ = noting(answer=lambda given: f"{given['text']} " * 100)
    turns = [("note", {"text": f"word{n}"}) for n in range(8)]
    model = ScriptedModel(*turns, "So.", context=700)
    state = traced(tmp_path / "t.jsonl", model=model, tools=[long])
    (run,) = read_trace(tmp_path / "t.jsonl")
    assert any(turn["kind"] == "summary" for turn in run.turns)
    again = replay(run)
    assert (again.answer, len(again.steps)) == (state.answer, len(state.steps))
    assert [call.result for call in again.calls] == [call.result for call in state.calls]


def test_several_runs_share_a_file_and_one_goes_on_in_it(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    traced(file, "One.", task="first")
    note, _ = noting()
    model = ScriptedModel(CALL, UserError("gone"), "Two.")
    with pytest.raises(UserError):
        traced(file, model=model, tools=[note], task="second", file=tmp_path / "s.json")
    writer = TraceWriter(file)
    state = run_agent(State.load(tmp_path / "s.json"), model, [note], on_event=writer)
    first, second = read_trace(file)
    assert (first.start["task"], second.start["task"]) == ("first", "second")
    same(replay(second), state)


def test_each_turn_has_its_prompt_its_tokens_and_what_was_forced(tmp_path: Path) -> None:
    call = ToolCall("", "note", '{"text": "a"}')
    reply = Reply("", (call,), 7, 3, 0.5, "end", "raw", (1, 2), (4, 5, 6), (True, False, True))
    traced(tmp_path / "t.jsonl", reply, "So.", settings=AgentSettings(system="Be kind."))
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["start", "reply", "result", "reply", "end"]
    first, second = lines[1], lines[3]
    assert (first["ids"], first["sampled"], first["forced"], first["seconds"]) == ([4, 5, 6], "101", 1, 0.5)
    assert (first["kept"], [m["role"] for m in first["new"]]) == (0, ["system", "user"])
    assert (second["kept"], [m["role"] for m in second["new"]]) == (2, ["assistant", "tool"])
    assert lines[0]["tools"][0]["function"]["name"] == "note"
    assert (tmp_path / "t.jsonl").stat().st_mode & 0o777 == 0o600


# ---- secrets

SECRETS = {
    "environment": "hunter2-and-more",
    "openai": "sk-proj-" + "a1B2" * 8,
    "github": "ghp_" + "x9" * 18,
    "aws": "AKIA" + "ABCD1234EFGH5678",
    "google": "AIza" + "Sy" * 17,
    "jwt": "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl",
    "key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----",
    "password": "password=correct-horse",
    "said": '"api_key": "0123456789ab"',
    "header": "Authorization: Bearer abcdef0123456789abcdef",
    "url": "postgres://bob:s3cr3tpw@db/x",
    "named": 'mine "quoted"\nsecret',
}
CORES = {
    **SECRETS,
    "key": "MIIEow",
    "password": "correct-horse",
    "said": "0123456789ab",
    "header": "abcdef0123456789abcdef",
    "url": "s3cr3tpw",
}


@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_reaches_a_trace_whoever_says_it(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", SECRETS["environment"])
    secret, core = SECRETS[name], CORES[name]
    tell, _ = noting(answer=f"it is {secret} indeed")
    call = ToolCall("", "note", json.dumps({"text": f"{secret} x"}))
    turns = Reply(f"I use {secret}", (call,), raw=f"I use {secret}", ids=(1, 2)), f"It is {secret}"
    settings = AgentSettings(system=f"Know {secret}")
    state = traced(
        tmp_path / "t.jsonl", *turns, tools=[tell], task=f"Use {secret}", settings=settings, secrets=[SECRETS["named"]]
    )
    assert core in state.answer
    text = (tmp_path / "t.jsonl").read_text()
    forms = {core, json.dumps(core)[1:-1], json.dumps(json.dumps(core)[1:-1])[1:-1], core.split("\n")[0]}
    assert not [form for form in forms if form in text]
    lines = [json.loads(line) for line in text.splitlines()]
    assert all(MARK in json.dumps(line) for line in lines)
    assert lines[1]["ids"] == []  # which spell it, too
    (run,) = read_trace(tmp_path / "t.jsonl")
    assert MARK in replay(run).answer


def test_a_secret_in_other_spellings_is_one() -> None:
    secret = "pa/ss word&1"
    hidden = Redactor([secret], {})
    for spelled in (secret, "pa%2Fss%20word%261", base64.b64encode(secret.encode()).decode(), secret.encode().hex()):
        assert "word" not in hidden.text(spelled)
        assert MARK in hidden.text(f"x {spelled} y")


@pytest.mark.parametrize(
    "text",
    [
        *("The token count is 12.", "See https://example.org/a:b@c", "sk-short", "A secret garden", "keyboard: qwerty"),
        *("the password is not known", "passwords are long", "Max tokens 512, temperature 0.7", "eyJ is no JWT"),
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor((), {"HOME": "/root", "API_KEY": "short", "SSH_AUTH_SOCK": "/tmp/agent.sock"}).text(text) == text


def test_a_secret_of_two_letters_is_refused() -> None:
    with pytest.raises(UserError, match="fewer than 4"):
        Redactor(["ab"], {})


def test_long_texts_are_redacted_too() -> None:
    """Patterns that try everything would hang here."""
    hidden = Redactor(["some secret"], {})
    for text in (
        "a" * 200_000,
        "sk-" * 60_000,
        "token " * 30_000,
        "://" * 60_000,
        "x_" * 100_000,
        "-----BEGIN " * 9_000,
    ):
        assert hidden.text(f"{text} some secret").endswith(MARK)


# ---- reading


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n\n", "{\n", "[]\n", "3\n", '{"kind": "start"}\n', '{"kind": "reply", "run": "x"}\n', '"x"\n'),
        *("[" * 99_999 + "\n", '{"kind": "start", "run": "x", "version": 9}\n', '{"kind": "odd", "run": "x"}\n'),
        "\x00\n",
    ],
)
def test_what_is_no_trace_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match=r"t\.jsonl") as told:
        read_trace(file)
    assert "\n" not in str(told.value)


def test_no_file_no_text_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no trace"):
        read_trace(tmp_path / "none.jsonl")
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        read_trace(tmp_path / "b")
    with pytest.raises(UserError, match="cannot be read"):
        read_trace(tmp_path)
    with pytest.raises(UserError, match="cannot write"):
        TraceWriter(tmp_path)


def test_a_line_that_breaks_off_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    traced(file, CALL, "So.")
    text = file.read_text()
    file.write_text(text[: text.rindex('"end"') + 20])
    (run,) = read_trace(file)
    assert run.end is None
    assert len(run.replies) == 2
    assert training_rows([run]) == []


def test_the_tree_tells_turns_calls_and_results(tmp_path: Path) -> None:
    call = ToolCall("", "note", '{"text": "[bold]a"}')
    traced(tmp_path / "t.jsonl", Reply("I note.", (call,), 100, 10, sampled=(True, False)), ("no", {}), "So it is.")
    console = Console(width=100, file=io.StringIO())
    console.print(trace_tree(read_trace(tmp_path / "t.jsonl")[0]))
    text = console.file.getvalue()
    for part in ("Note a", "done (answered)", "turn 1", "1 of them forced", "I note.", 'note({"text": "[bold]a"})'):
        assert part in text
    for part in ("noted [", "ms]", "there is no tool 'no'", "[not made]", "So it is."):
        assert part in text


# ---- rows


def test_rows_of_answered_runs_are_chats_that_can_be_learned(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    traced(file, CALL, "So.")
    traced(file, ("nothing", {}), CALL, "Then.")
    traced(file, CALL)
    runs = read_trace(file)
    rows = training_rows(runs)
    assert [row["messages"][-1]["content"] for row in rows] == ["So.", "Then."]
    assert [message["role"] for message in rows[0]["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert rows[0]["tools"] == [noting()[0].schema()]
    assert len(training_rows(runs, clean=True)) == 1
    plain = training_rows(runs, OURS)[0]
    assert "tools" not in plain
    assert [message["role"] for message in plain["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    shown = training_rows(runs, format_of(chatty(published("qwen2_5"))))[0]
    assert shown["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"text": "a"}
    for name, kept in (("rows", rows), ("plain", [plain]), ("shown", [shown])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
        assert read_records(tmp_path / f"{name}.jsonl").task == "chat"
