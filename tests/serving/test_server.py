"""What a client meets that asks wrongly, too much, too slowly, or leaves; and the end of a server."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from scratchlm.errors import UserError
from scratchlm.serving.server import Server
from scratchlm.serving.settings import Keys, ServerSettings

from .conftest import CONTEXT, serving, wait_for

CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
LONG = {**CHAT, "max_tokens": CONTEXT - 100, "stream": True, "temperature": 0}


def place(server: Server) -> tuple[str, int]:
    parts = urlsplit(server.url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def ask(server: Server, body: Any, path: str = "/v1/chat/completions", method: str = "POST", **headers: str) -> Any:
    """Status, headers and JSON of an answer."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    with closing(http.client.HTTPConnection(*place(server), timeout=20)) as connection:
        connection.request(method, path, data, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read())


def begun(server: Server, body: Any = LONG) -> socket.socket:
    """A request whose answer has begun to come, and is not read."""
    made = socket.create_connection(place(server), timeout=20)
    data = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    made.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    assert made.recv(15).startswith(b"HTTP/1.1 200")
    return made


def load(server: Server, name: str = "chat") -> tuple[int, int]:
    loaded = server.models.served[name].loaded
    return (0, 0) if loaded is None else loaded.load


BAD: list[tuple[Any, int, str, str | None]] = [
    (b"{", 400, "no valid JSON", None),
    (b"[1, 2", 400, "no valid JSON", None),
    (b"null", 400, "missing|wrong", None),
    (b'"text"', 400, "wrong", None),
    (b"[" * 100_000, 400, "JSON|parsing", None),
    (b"\xff\xfe{}", 400, "JSON|parsing", None),
    ({}, 400, "Missing required parameter: 'model'", "model"),
    ({"model": "chat"}, 400, "Missing", "messages"),
    ({**CHAT, "model": "nobody"}, 404, "does not exist", "model"),
    ({**CHAT, "model": "\ud800"}, 404, "does not exist|Invalid", "model"),
    ({**CHAT, "model": 5}, 400, "string", "model"),
    ({**CHAT, "messages": []}, 400, "at least 1", "messages"),
    ({**CHAT, "messages": "hello"}, 400, "list", "messages"),
    ({**CHAT, "messages": [{"role": "king", "content": "x"}]}, 400, "system", "messages.0.role"),
    ({**CHAT, "messages": [{"role": "user"}]}, 400, "needs content", "messages.0"),
    ({**CHAT, "messages": [{"role": "tool", "content": "x"}]}, 400, "tool_call_id", "messages.0"),
    (
        {**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "text",
        "messages.0.content.0.type",
    ),
    ({**CHAT, "temprature": 1}, 400, "Unrecognized request argument supplied: temprature", "temprature"),
    ({**CHAT, "temperature": 2.5}, 400, "less than or equal to 2", "temperature"),
    ({**CHAT, "temperature": "hot"}, 400, "number", "temperature"),
    (json.dumps({**CHAT, "temperature": float("nan")}).encode(), 400, "finite|number", "temperature"),
    ({**CHAT, "top_p": -1}, 400, "greater", "top_p"),
    ({**CHAT, "n": 0}, 400, "greater", "n"),
    ({**CHAT, "n": 1000}, 400, "128", "n"),
    ({**CHAT, "max_tokens": -1}, 400, "greater", "max_tokens"),
    ({**CHAT, "max_tokens": 10**9}, 400, "maximum context length", "messages"),
    ({**CHAT, "max_tokens": 1, "max_completion_tokens": 2}, 400, "differ", None),
    ({**CHAT, "presence_penalty": 3}, 400, "less", "presence_penalty"),
    ({**CHAT, "logit_bias": {"5": 101}}, 400, "less", "logit_bias.5"),
    ({**CHAT, "logit_bias": {"five": 1}}, 400, "pattern", "logit_bias.five"),
    ({**CHAT, "logit_bias": {"99999999": 1}}, 400, "no token of chat; its tokens are 0 to", "logit_bias"),
    ({**CHAT, "logit_bias": {str(n): 1 for n in range(2000)}}, 400, "1024", "logit_bias"),
    ({**CHAT, "stop": [""]}, 400, "stop", "stop"),
    ({**CHAT, "stop": ["a"] * 17}, 400, "16", "stop"),
    ({**CHAT, "top_logprobs": 3}, 400, "logprobs", None),
    ({**CHAT, "logprobs": True, "top_logprobs": 21}, 400, "20", "top_logprobs"),
    ({**CHAT, "stream_options": {"include_usage": True}}, 400, "stream", None),
    ({**CHAT, "seed": 2**64}, 400, "less", "seed"),
    ({**CHAT, "tool_choice": "required"}, 400, "needs tools", None),
    ({**CHAT, "tools": [{"type": "function", "function": {"name": "a b"}}]}, 400, "pattern", "tools.0.function.name"),
    ({**CHAT, "tools": [{"type": "function", "function": {"name": "a"}}] * 2}, 400, "same name", None),
    ({**CHAT, "response_format": {"type": "xml"}}, 400, "json_object", "response_format"),
    ({**CHAT, "response_format": {"type": "json_schema"}}, 400, "Missing", None),
    (
        {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "many"}}}},
        *(400, "schema is wrong", None),
    ),
    ({**CHAT, "response_format": {"type": "json_object"}, "max_tokens": 1}, 400, "at least 2 tokens", None),
    ({**CHAT, "messages": [{"role": "user", "content": "x" * 2000}]}, 400, "maximum context length", "messages"),
    ({**CHAT, "model": "plain"}, 400, "no chat template", None),
    ({**CHAT, "model": "encoder"}, 400, "writes no text", "model"),
]


@pytest.mark.parametrize(("body", "status", "said", "param"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_a_wrong_request_is_told_in_openais_form(
    server: Server, body: Any, status: int, said: str, param: str | None
) -> None:
    for streams in (False, True):
        sent = {**body, "stream": True} if streams and isinstance(body, dict) else body
        if streams and isinstance(body, dict) and "stream_options" in body:
            continue
        found, headers, answer = ask(server, sent)
        assert found == status, answer
        assert headers["Content-Type"] == "application/json"
        error = answer["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert any(one in error["message"] for one in said.split("|")), error
        assert "\n" not in error["message"]
        if param is not None:
            assert error["param"] == param
    assert ask(server, CHAT)[0] == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"model": "chat", "prompt": []}, "at least 1"),
        ({"model": "chat", "prompt": [[]]}, "no tokens"),
        ({"model": "chat", "prompt": [1, 99_999]}, "vocabulary"),
        ({"model": "chat", "prompt": [-1]}, "vocabulary"),
        ({"model": "chat", "prompt": ["x"] * 129}, "128"),
        ({"model": "chat", "prompt": "x", "suffix": "y"}, "suffix"),
        ({"model": "chat", "prompt": "x", "best_of": 3}, "best_of"),
        ({"model": "chat", "prompt": "x", "logprobs": 50}, "20"),
        ({"model": "chat", "prompt": "x" * 2000}, "maximum context length"),
    ],
)
def test_a_wrong_completion(server: Server, body: Any, said: str) -> None:
    status, _, answer = ask(server, body, "/v1/completions")
    assert status == 400
    assert said in answer["error"]["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"model": "encoder", "input": []}, "at least 1"),
        ({"model": "encoder", "input": ["x"] * 2049}, "2048"),
        ({"model": "encoder", "input": [10**6]}, "vocabulary"),
        ({"model": "encoder", "input": "x", "dimensions": 10**6}, "dimensions"),
        ({"model": "encoder", "input": "x", "encoding_format": "hex"}, "base64"),
        ({"model": "encoder", "input": [1, "x"]}, "valid"),
    ],
)
def test_a_wrong_embedding(server: Server, body: Any, said: str) -> None:
    status, _, answer = ask(server, body, "/v1/embeddings")
    assert status == 400
    assert said in answer["error"]["message"]


def test_paths_and_methods_that_are_none(server: Server) -> None:
    for path, method, status in (("/v1/nothing", "POST", 404), ("/v1/chat/completions", "GET", 405)):
        found, _, answer = ask(server, None, path, method)
        assert found == status
        assert answer["error"]["message"]


def test_a_page_from_elsewhere_cannot_use_a_name_that_means_this_machine(server: Server) -> None:
    assert ask(server, CHAT, Host="evil.example:80")[0] == 403
    assert ask(server, CHAT, Host="localhost:1")[0] == 200
    assert ask(server, CHAT, **{"Content-Type": "text/plain"})[0] == 400  # what a page may send unasked


def test_health_and_metrics(server: Server) -> None:
    assert ask(server, None, "/health", "GET")[2]["status"] == "ok"
    ask(server, CHAT)
    with closing(http.client.HTTPConnection(*place(server), timeout=20)) as connection:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    for name in (
        'scratchlm_requests_total{path="/v1/chat/completions",status="200"}',
        "scratchlm_completion_tokens_total",
        "scratchlm_first_token_seconds_bucket",
        'scratchlm_waiting{model="chat"} 0.0',
    ):
        assert name in text


def test_no_page_of_another_origin_is_let_in_unless_told(server: Server, models: Path) -> None:
    asked = {"Origin": "https://chat.example", "Access-Control-Request-Method": "POST"}
    with closing(http.client.HTTPConnection(*place(server), timeout=20)) as connection:
        connection.request("OPTIONS", "/v1/chat/completions", headers=asked)
        assert connection.getresponse().headers["Access-Control-Allow-Origin"] is None
    with serving(str(models / "chat"), cors=("https://chat.example",)) as told:
        headers = ask(told, CHAT, Origin="https://chat.example")[1]
        assert headers["Access-Control-Allow-Origin"] == "https://chat.example"
        assert ask(told, CHAT, Origin="https://other.example")[1]["Access-Control-Allow-Origin"] is None


def test_keys(models: Path) -> None:
    keys = Keys(("first-key-0123456789", "other-key-0123456789"))
    with serving(str(models / "chat"), keys=keys) as server:
        for given in ("first-key-0123456789", "other-key-0123456789"):
            openai.OpenAI(base_url=server.url, api_key=given).models.list()
        for header in ("", "Bearer", "Bearer wrong-key-0123456789", "Basic first-key-0123456789", "Bearer é"):
            status, headers, answer = ask(server, CHAT, Authorization=header.encode("utf-8").decode("latin-1"))
            assert status == 401
            assert answer["error"]["type"] == "authentication_error"
            assert headers["WWW-Authenticate"] == "Bearer"
        assert ask(server, None, "/metrics", "GET")[0] == 401
        assert ask(server, None, "/health", "GET")[0] == 200


# ---- too much, too slow, gone


@pytest.fixture(scope="module")
def narrow(models: Path) -> Iterator[Server]:
    """One slot, a short line, little patience."""
    with serving(str(models / "chat"), slots=1, queue=2, patience=1.0, body=4096) as found:
        yield found


def test_a_client_that_leaves_frees_its_slot(narrow: Server) -> None:
    gone = begun(narrow)
    assert load(narrow)[0] == 1
    gone.close()
    wait_for(lambda: load(narrow) == (0, 0), 5)
    assert narrow.models.served["chat"].users == 0


def test_one_that_leaves_without_streaming_does_too(narrow: Server) -> None:
    made = socket.create_connection(place(narrow))
    data = json.dumps({**LONG, "stream": False}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    made.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    wait_for(lambda: load(narrow)[0] == 1)
    made.close()
    wait_for(lambda: load(narrow) == (0, 0), 5)


def test_a_full_line_is_told_when_to_come_back(narrow: Server) -> None:
    held = [begun(narrow)]
    others = [threading.Thread(target=ask, args=(narrow, CHAT)) for _ in range(1)]
    for one in others:
        one.start()
    wait_for(lambda: load(narrow)[1] == 1)
    status, headers, answer = ask(narrow, CHAT)
    assert status == 429
    assert int(headers["Retry-After"]) >= 1
    assert answer["error"]["type"] == "rate_limit_error"
    held[0].close()
    for one in others:
        one.join(20)
    assert ask(narrow, CHAT)[0] == 200


def test_a_body_that_is_too_large(narrow: Server) -> None:
    large = {**CHAT, "messages": [{"role": "user", "content": "x" * 5000}]}
    assert ask(narrow, large)[0] == 413
    with closing(socket.create_connection(place(narrow), timeout=20)) as made:
        made.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        made.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n1000\r\n" + b"x" * 4096 + b"\r\n")
        assert made.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "sent", [b"", b"POST /v1/chat", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"]
)
def test_a_client_that_does_not_send_its_request_is_cut_off(narrow: Server, sent: bytes) -> None:
    with closing(socket.create_connection(place(narrow), timeout=20)) as made:
        made.sendall(sent)
        start, got = time.monotonic(), b""
        try:
            while piece := made.recv(4096):
                got += piece
        except ConnectionResetError:
            pass
        assert time.monotonic() - start < 10
        assert got == b"" or got.startswith(b"HTTP/1.1 408")


def test_a_client_that_does_not_read_is_cut_off(models: Path) -> None:
    with serving(str(models / "chat"), patience=0.5) as server:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        made.connect(place(server))
        body = {**LONG, "n": 60, "logprobs": True, "top_logprobs": 20}
        data = json.dumps(body).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        made.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        wait_for(lambda: load(server)[0] > 0)
        wait_for(lambda: load(server) == (0, 0) and not server.server_state.connections, 30)
        made.close()
        assert ask(server, CHAT)[0] == 200


def test_greedy_answers_under_load_are_those_of_each_alone(server: Server) -> None:
    client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
    prompts = [f"{'Say it again, ' * (n % 4)}number {n}." for n in range(16)]

    def answer(prompt: str) -> str:
        made = client.completions.create(model="chat", prompt=prompt, temperature=0, max_tokens=5 + len(prompt) % 30)
        return str(made.choices[0].text)

    alone = [answer(prompt) for prompt in prompts]
    together: list[str] = [""] * len(prompts)

    def run(n: int) -> None:
        together[n] = answer(prompts[n])

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(prompts))]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert together == alone


# ---- the start and the end


def test_what_runs_is_finished_when_the_server_stops(models: Path) -> None:
    with serving(str(models / "chat"), grace=20) as server:
        made = begun(server, {**LONG, "max_tokens": 300})
        server.should_exit = True
        text = b""
        while piece := made.recv(65536):
            text += piece
        assert b'"finish_reason":"length"' in text or b'"finish_reason":"stop"' in text
        assert b"data: [DONE]" in text


def test_what_runs_too_long_is_broken_off(models: Path) -> None:
    start = time.monotonic()
    with serving(str(models / "chat"), grace=0, slots=1) as server:
        held = [begun(server, {**LONG, "n": 100})]
    assert time.monotonic() - start < 15
    held[0].close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"host": "0.0.0.0"}, "--open"),
        ({"host": "example.com"}, "--open"),
        ({"slots": 0}, "slots"),
        ({"port": 70_000}, "port"),
        ({"memory": 0.0}, "memory"),
        ({"cors": ("chat.example",)}, "origin"),
        ({"context": 2}, "context"),
        ({"patience": 0.0}, "patience"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ServerSettings(**settings)
    assert ServerSettings(host="0.0.0.0", open=True).loopback is False
    assert ServerSettings(host="0.0.0.0", keys=Keys(("k" * 20,))).loopback is False


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nabcdefghijklmnop\n\n")
    keys = Keys.read(file, {"SCRATCHLM_API_KEYS": "0123456789abcdef, fedcba9876543210"})
    assert all(keys.owner(one) for one in ("abcdefghijklmnop", "0123456789abcdef", "fedcba9876543210"))
    assert keys.owner("abcdefghijklmnoq") is None
    assert keys.owner("") is None
    file.write_text("short\n")
    with pytest.raises(UserError, match="16 ASCII"):
        Keys.read(file, {})
    file.write_text("# nothing\n")
    with pytest.raises(UserError, match="no key"):
        Keys.read(file, {})
    with pytest.raises(UserError, match="key-file"):
        Keys.read(tmp_path / "none", {})
