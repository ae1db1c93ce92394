"""Fetching pages: what is asked, what never is, and the limits. The servers are on this machine, which counts as public
only here."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scratchlm.agents import web
from scratchlm.agents.shipped import open_tools
from scratchlm.agents.web import WebLimits, fetch_page, is_public
from scratchlm.errors import UserError

INJECTIONS = Path(__file__).parents[1] / "retrieval" / "injections"
CASES = json.loads((INJECTIONS / "cases.json").read_text(encoding="utf-8"))
asked: list[tuple[str, dict[str, str]]] = []
ADDRESSES = {"page.example.org": "127.0.0.1", "private.example.org": "127.0.0.2", "mixed.example.org": "127.0.0.1"}


class Pages(BaseHTTPRequestHandler):
    """What each path answers."""

    def do_GET(self) -> None:
        asked.append((self.path, dict(self.headers)))
        path = self.path.partition("?")[0]
        if path.startswith("/to/"):
            self.answer(302, "", location=path.removeprefix("/to/").replace("PORT", str(self.server.server_port)))
        elif path == "/loop":
            self.answer(302, "", location="/loop")
        elif path == "/nowhere":
            self.answer(302, "")
        elif path == "/html":
            self.answer(
                200, "<title>A page</title><h1>Head</h1><p>Some <b>text</b>.</p><script>x</script>", "text/html"
            )
        elif path == "/latin":
            self.answer(200, "café".encode("latin-1"), "text/plain; charset=iso-8859-1")
        elif path == "/json":
            self.answer(200, '{"a": 1}', "application/json")
        elif path == "/picture":
            self.answer(200, b"\x89PNG", "image/png")
        elif path == "/zipped":
            self.answer(200, b"\x1f\x8b", "text/plain", encoding="gzip")
        elif path == "/large":
            self.answer(200, b"x" * 200_000, "text/plain")
        elif path == "/short":
            self.answer(200, b"x" * 10, "text/plain", length=1_000)
        elif path == "/empty":
            self.answer(200, b" ", "text/plain")
        elif path == "/drip":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.1)
        elif path == "/headers":
            for _ in range(100):
                self.wfile.write(b"H")
                time.sleep(0.1)
        elif path == "/v6":
            self.answer(302, "", location="http://[::1]/html")
        elif path.startswith("/injections/"):
            text = (INJECTIONS / path.removeprefix("/injections/")).read_text(encoding="utf-8")
            self.answer(200, text, "text/plain; charset=utf-8")
        else:
            self.answer(404, "not here")

    def answer(self, status: int, body: str | bytes, kind: str = "text/plain", **more: Any) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(more.get("length", len(data))))
        for name, key in (("Location", "location"), ("Content-Encoding", "encoding")):
            if key in more:
                self.send_header(name, more[key])
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server whose machine, 127.0.0.1 and no other, counts as public."""
    found = socket.getaddrinfo

    def look_up(host: str, *rest: Any, **more: Any) -> Any:
        more_addresses = found("10.0.0.1", *rest, **more) if host == "mixed.example.org" else []
        return [*found(ADDRESSES.get(host, host), *rest, **more), *more_addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1" or is_public(address))
    monkeypatch.setattr(Pages, "handle_expect_100", lambda _: True)
    asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        server.daemon_threads, server.block_on_close = True, False
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://page.example.org:{server.server_port}"
        server.shutdown()


def test_pages_are_fetched_as_text(site: str) -> None:
    assert fetch_page(f"{site}/html") == "A page\n\n# Head\n\nSome **text**."
    assert fetch_page(f"{site}/latin") == "café"
    assert fetch_page(f"{site}/json?é=1#part") == '{"a": 1}'
    path, headers = asked[-1]
    assert path == "/json?%C3%A9=1"
    assert headers["Host"] == site.removeprefix("http://")
    assert not {"Cookie", "Authorization", "Referer"} & headers.keys()


def test_redirections_are_followed(site: str) -> None:
    assert fetch_page(f"{site}/to/http://page.example.org:PORT/json") == '{"a": 1}'
    assert fetch_page(f"{site}/to//json") == '{"a": 1}'


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/missing", "answers 404 Not Found"),
        ("/picture", "is image/png, which is no text"),
        ("/zipped", "an encoding that was not asked for"),
        ("/large", "has more than 100,000 bytes"),
        ("/short", "broke off its answer"),
        ("/empty", "holds no text"),
        ("/loop", "redirects more than 5 times"),
        ("/nowhere", "redirects to nowhere"),
        ("/drip", "takes longer than 0.5 s"),
        ("/headers", "takes longer than 0.5 s"),
        ("/to/http://127.0.0.2:PORT/html", "127.0.0.2, which is not public"),
        ("/to/http://private.example.org:PORT/html", "127.0.0.2, which is not public"),
        ("/to/http://10.0.0.1/", "which is not public"),
        ("/to/http://169.254.169.254/latest/meta-data/", "which is not public"),
        ("/v6", "which is not public"),
        ("/to/file:///etc/passwd", "is no web address"),
        ("/to/gopher://page.example.org/", "is no web address"),
        ("/to/http://user:word@page.example.org:PORT/html", "name or password"),
    ],
)
def test_what_is_not_given_is_told(path: str, says: str, site: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        fetch_page(f"{site}{path}", WebLimits(seconds=0.5 if "longer" in says else 20, size=100_000))
    assert says in str(error.value)
    assert not [one for one, _ in asked if one == "/html"]


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/",
        "http://127.0.0.1/",
        "http://127.1/",
        "http://0x7f000001/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://0/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[fe80::1]/",
        "http://[fc00::1]/",
        "http://10.1.2.3/",
        "http://172.16.0.1/",
        "http://192.168.1.1:8080/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://[ff02::1]/",
        "https://127.0.0.1/",
        "http://127.0.0.1:22/",
    ],
)
def test_no_private_address_is_asked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: Any, **__: Any) -> None:
        pytest.fail("it was asked")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(ValueError, match=r"which is not public|is not known"):
        fetch_page(url)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


def test_all_addresses_of_a_name_must_be_public(site: str) -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.1, which is not public"):
        fetch_page(site.replace("page.", "mixed.") + "/html")
    assert asked == []


def test_a_name_is_looked_up_once_and_that_address_is_asked(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that gives another address the second time gains nothing."""
    looked: list[str] = []
    found = socket.getaddrinfo

    def look_up(host: str, *rest: Any, **more: Any) -> Any:
        if host == "page.example.org":
            looked.append(host)
            return found("127.0.0.1" if len(looked) == 1 else "127.0.0.2", *rest, **more)
        return found(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert fetch_page(f"{site}/json") == '{"a": 1}'
    assert looked == ["page.example.org"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is no web address"),
        ("page.example.org", "is no web address"),
        ("ftp://page.example.org/", "is no web address"),
        ("http://", "is no web address"),
        ("javascript:alert(1)", "is no web address"),
        ("http://page.example.org:99999/", "is no web address"),
        ("http://page.example.org:0/", "no port 0"),
        ("http://[::1", "is no web address"),
        ("http://a b.example.org/", "white space"),
        ("http://pagé.example.org/", "not ASCII"),
        ("http://page.example.org@127.0.0.1/", "name or password"),
        ("http://no-such-host.invalid/", "is not known"),
        ("http://" + "a" * 300 + ".org/", "is not known"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_no_address_is_told(url: str, says: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        fetch_page(url)
    assert says in str(error.value)


def test_lines_in_an_address_do_not_become_headers(site: str) -> None:
    with pytest.raises(ValueError, match=r"control characters|cannot be asked|answers 404"):
        fetch_page(f"{site}/json HTTP/1.1\r\nX-Own: 1\r\n\r\n")
    assert not [headers for _, headers in asked if "X-Own" in headers]


def test_hosts_can_be_named(site: str) -> None:
    port = site.rpartition(":")[2]
    (fetch,) = open_tools(["web:example.org", "web:docs.python.org"])
    assert fetch.run({"url": f"{site}/json"}).text == '{"a": 1}'
    for host in ("127.0.0.1", "badexample.org", "example.org.evil.net"):
        outcome = fetch.run({"url": f"http://{host}:{port}/json"})
        assert outcome.text == f"error: {host} is not allowed; these hosts are: example.org, docs.python.org"
    assert fetch.run({"url": f"{site}/to/http://127.0.0.1:PORT/json"}).text.startswith(
        "error: 127.0.0.1 is not allowed"
    )


def test_the_web_is_off_unless_named() -> None:
    assert [tool.name for tool in open_tools(["web"])] == ["fetch"]
    with pytest.raises(UserError, match="is no host; give one such as"):
        open_tools(["web:http://x"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"])
def test_what_a_page_tells_the_model_to_say_does_not_reach_it(case: dict[str, str], site: str) -> None:
    text = fetch_page(f"{site}/injections/{case['file']}")
    assert case["gold"] in text
    assert case["wants"].casefold() not in text.casefold()
    assert "<|im_" not in text
    assert "parts that speak to the reader's model]" in text


def test_encrypted_pages_are_asked_under_their_name(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate must be the host's, although the connection goes to an address."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=page.example.org", "-addext", "subjectAltName=DNS:page.example.org"]
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads, server.block_on_close = True, False
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with server:
        address = f"https://page.example.org:{server.server_port}/json"
        with pytest.raises(ValueError, match="certificate verify failed"):
            fetch_page(address)
        make = ssl.create_default_context
        monkeypatch.setattr(ssl, "create_default_context", lambda: make(cafile=str(certificate)))
        assert fetch_page(address) == '{"a": 1}'
        monkeypatch.setitem(ADDRESSES, "other.example.org", "127.0.0.1")
        with pytest.raises(ValueError, match="Hostname mismatch"):
            fetch_page(address.replace("page.", "other."))
        with pytest.raises(ValueError, match="cannot be asked"):
            fetch_page(site.replace("http:", "https:"))
        server.shutdown()
