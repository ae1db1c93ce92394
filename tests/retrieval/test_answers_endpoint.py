"""A chat model behind an address, played by a server on this machine."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from scratchlm.errors import UserError
from scratchlm.retrieval.endpoint import Endpoint

ASK = [{"role": "user", "content": "Who?"}]
Reply = Callable[["_Handler"], None]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server: Any = self.server
        server.seen.append((self.path, dict(self.headers), json.loads(body)))
        server.reply(self)

    def log_message(self, *_: Any) -> None:
        pass

    def send(self, status: int, data: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(reply: Reply) -> Iterator[tuple[str, list[Any]]]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.reply, server.seen, server.daemon_threads = reply, [], True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", server.seen
    finally:
        server.shutdown()
        server.server_close()


def event(text: str | None, finish: str | None = None) -> bytes:
    delta = {} if text is None else {"content": text}
    return b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"


def stream(*parts: bytes) -> Reply:
    return lambda handler: handler.send(200, b"".join(parts), "text/event-stream; charset=utf-8")


def error(status: int, data: bytes = b"", **headers: str) -> Reply:
    return lambda handler: handler.send(status, data, **headers)


def test_a_stream_is_heard_as_it_comes_and_the_key_is_sent() -> None:
    reply = stream(b": hello\n\n", event(""), event("Karl "), event("Öst"), event(None, "stop"), b"data: [DONE]\n\n")
    with serving(reply) as (url, seen):
        heard: list[str] = []
        text = Endpoint(url, "big", "s3cret").chat(ASK, max_new_tokens=9, on_text=heard.append)
    assert text == "Karl Öst"
    assert heard == ["Karl ", "Öst"]
    path, headers, body = seen[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer s3cret"
    assert body == {"model": "big", "messages": ASK, "max_tokens": 9, "temperature": 0, "stream": True}


def test_without_a_key_none_is_sent() -> None:
    with serving(stream(event("x"), b"data: [DONE]\n\n")) as (url, seen):
        Endpoint(f"{url}/", "big").chat(ASK, max_new_tokens=9)
    assert "Authorization" not in seen[0][1]
    assert seen[0][0] == "/v1/chat/completions"


def test_an_endpoint_that_does_not_stream() -> None:
    data = json.dumps({"choices": [{"message": {"content": "Karl"}}]}).encode()
    with serving(error(200, data)) as (url, _):
        assert Endpoint(url, "big").chat(ASK, max_new_tokens=9) == "Karl"


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        (error(401), "does not accept the key"),
        (error(403), "does not allow this"),
        (error(404, b'{"error": {"message": "no such model"}}'), r"has no model 'big'.*no such model"),
        (error(400, b'{"error": {"message": "too\\nlong"}}'), r"refuses the request \(too long\)"),
        (error(429), "asked too often"),
        (error(500, b"<html>oops</html>"), "failed with status 500; look at its log"),
        (error(503, b'{"detail": "loading"}'), r"status 503 \(loading\)"),
        (error(307, Location="http://elsewhere.test/"), "sends elsewhere, to http://elsewhere.test/"),
        (
            error(
                200,
                b"<html>a web page</html>",
            ),
            r"no form of OpenAI's \('<html>a web page",
        ),
        (error(200, b"[]"), "no form of OpenAI's"),
        (error(200, b'{"choices": [{"message": null}]}'), "no form of OpenAI's"),
        (error(200, b'{"error": {"message": "out of memory"}}'), "says:.*out of memory"),
        (error(200, b'{"choices": []}'), "empty answer"),
        (stream(b"data: {broken\n\n"), "no form of OpenAI's"),
        (stream(event("Karl")), "broke off"),
        (stream(event("Karl"), b'data: {"error": {"message": "died"}}\n\n'), "says:.*died"),
        (stream(b"data: [DONE]\n\n"), "empty answer"),
    ],
)
def test_what_goes_wrong_is_one_line(reply: Reply, line: str) -> None:
    with serving(reply) as (url, _), pytest.raises(UserError, match=line) as caught:
        Endpoint(url, "big", "s3cret").chat(ASK, max_new_tokens=9)
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match="cannot be reached"):
        Endpoint(f"http://127.0.0.1:{port}/v1", "big").chat(ASK, max_new_tokens=9)


def test_a_name_that_leads_nowhere() -> None:
    with pytest.raises(UserError, match="cannot be reached"):
        Endpoint("http://nowhere.invalid/v1", "big", timeout=5).chat(ASK, max_new_tokens=9)


@pytest.mark.parametrize("begin", [False, True])
def test_an_endpoint_that_takes_too_long(begin: bool) -> None:
    def reply(handler: _Handler) -> None:
        if begin:
            handler.send_response(200)
            handler.send_header("Content-Type", "text/event-stream")
            handler.end_headers()
            handler.wfile.write(event("Karl"))
            handler.wfile.flush()
        time.sleep(1.0)

    with serving(reply) as (url, _), pytest.raises(UserError, match=r"within 0\.2 seconds"):
        Endpoint(url, "big", timeout=0.2).chat(ASK, max_new_tokens=9)


def test_an_endpoint_that_hangs_up() -> None:
    def reply(handler: _Handler) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True

    with serving(reply) as (url, _), pytest.raises(UserError, match=r"cannot be reached|broke off"):
        Endpoint(url, "big").chat(ASK, max_new_tokens=9)


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://host/v1", "file:///etc/passwd", "http://", "http://a b/v1", "http://host:x/v1"]
)
def test_no_address(url: str) -> None:
    with pytest.raises(UserError, match="is no address of an endpoint"):
        Endpoint(url, "big")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"url": "http://me:s3cret@host/v1"}, "holds a user or password"),
        ({"model": " "}, "needs a model's name"),
        ({"timeout": 0}, "timeout is 0 seconds"),
        ({"timeout": float("nan")}, "timeout"),
        ({"context": 0}, "context is 0 tokens"),
        ({"key": "a b"}, "key has spaces"),
        ({"key": "schlüssel"}, "beyond ASCII"),
    ],
)
def test_bad_options(options: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        Endpoint(**{"url": "http://localhost:1/v1", "model": "big", **options})


def test_the_estimate_of_tokens_grows_with_the_text() -> None:
    endpoint = Endpoint("http://localhost:1/v1", "big")
    short, long = ([{"role": "user", "content": "word " * n}] for n in (10, 1000))
    assert endpoint.count(short) < 60
    assert 1000 < endpoint.count(long) < 2500
