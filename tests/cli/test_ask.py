"""The verb ask: quoted and written answers, conversations, and what they cite."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from .conftest import Command, Outcome
from .library import DOCUMENTS

pytest.importorskip("lancedb", reason="lancedb is not installed")


@pytest.fixture
def ask(command: Command, library: Path) -> Command:
    def call(*arguments: str) -> Outcome:
        outcome = command("ask", "--store", str(library / "store"), "--threshold", "0", *arguments)
        assert outcome.status == 0, outcome.err
        return outcome

    return call


def test_an_answer_is_quoted_with_its_place(ask: Command) -> None:
    for style in ((), ("--style", "quote")):
        outcome = ask("Who decoded the waggle dance?", *style)
        answer, *places = outcome.out.splitlines()
        assert answer.startswith("The waggle dance was decoded by Karl von Frisch in 1927. [1]")
        assert places[0].startswith("[1] guide/bees.md, line")
        assert outcome.err == ""
    told = ask("Who decoded the waggle dance?", "--explain").out
    assert "looked for: Who decoded the waggle dance?" in told
    assert told.splitlines()[-1].startswith("ms: search ")


def test_an_answer_as_json_points_at_characters(ask: Command) -> None:
    found = ask("Who decoded the waggle dance?", "--json", "-k", "2").json
    assert found["question"] == found["asked"] == "Who decoded the waggle dance?"
    assert (found["refused"], found["supported"]) == (False, True)
    assert 0 <= found["confidence"] <= 1
    sentence = found["sentences"][0]
    assert found["text"][sentence["start"] : sentence["end"]] == sentence["text"]
    (cited,) = sentence["citations"]
    assert DOCUMENTS[cited["file"]][cited["start"] : cited["end"]] == cited["quote"]
    assert cited["quote"] == sentence["text"]
    assert 1 <= len(found["hits"]) <= 2
    assert {"search", "evidence", "total"} <= set(found["timings"])


def test_no_answer_where_none_is_sure_enough_or_found(ask: Command) -> None:
    for options in (("--threshold", "1"), ("--mode", "bm25", "--kind", "code")):
        found = ask("Who decoded the waggle dance?", "--json", *options).json
        assert (found["refused"], found["supported"], found["sentences"]) == (True, False, [])
        assert found["text"] == "The sources do not answer this question."


def test_an_answer_is_narrowed_and_found_anew(ask: Command) -> None:
    found = ask("Who decoded the waggle dance?", "--json", "--path", "guide/tea.md", "--rerank", "words").json
    assert {hit["file"] for hit in found["hits"]} == {"guide/tea.md"}
    assert "reranked" in found["hits"][0]["scores"]


def test_a_follow_up_question_knows_the_one_before(ask: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = "When was the lighthouse of Arkona built?\n\nHow high is it?\n/quit\nWho decoded the waggle dance?\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    first, second = (json.loads(line) for line in ask("--json").out.splitlines())
    assert first["asked"] == first["question"] == "When was the lighthouse of Arkona built?"
    assert "1827" in first["text"]
    assert second["question"] == "How high is it?"
    assert "lighthouse of Arkona" in second["asked"]
    assert "nineteen metres" in second["text"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    told = ask().out.splitlines()
    assert len([line for line in told if line.startswith("[1] notes.txt, line 1")]) == 2


class _Chat(BaseHTTPRequestHandler):
    text = "The waggle dance was decoded by Karl von Frisch [1]. It was invented in Peru [1]."

    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.seen.append((self.path, self.headers.get("Authorization"), body))
        data = json.dumps({"choices": [{"message": {"content": self.text}, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), _Chat)
    server.seen = []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_an_endpoint_writes_and_what_it_makes_up_is_marked(
    ask: Command, endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCHLM_ENDPOINT_KEY", "s3cret")
    url = f"http://127.0.0.1:{endpoint.server_port}/v1"
    typed = ("Who decoded the waggle dance?", "--endpoint", url, "--model", "big", "--max-new-tokens", "50")
    found = ask(*typed, "--json").json
    assert found["text"] == _Chat.text
    assert [one["supported"] for one in found["sentences"]] == [True, False]
    assert found["supported"] is False
    path, key, body = endpoint.seen[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer s3cret")
    assert (body["model"], body["max_tokens"]) == ("big", 50)
    assert "decoded by Karl von Frisch in 1927" in json.dumps(body["messages"])

    outcome = ask(*typed)
    assert outcome.out.startswith(_Chat.text + "\n[1] guide/bees.md, line")
    assert outcome.err == "not supported by what it cites: It was invented in Peru.\n"
    assert ask(*typed, "--threshold", "1").out == "The sources do not answer this question.\n"
    assert len(endpoint.seen) == 2  # who is refused costs no answer


def test_without_a_key_none_is_sent(ask: Command, endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCRATCHLM_ENDPOINT_KEY", raising=False)
    ask("Who decoded the waggle dance?", "--endpoint", f"http://127.0.0.1:{endpoint.server_port}/v1", "--model", "big")
    assert endpoint.seen[0][1] is None
