"""A small server that plays the hub on this machine, well-behaved or not."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "somebody/small"
LARGE = ".safetensors"


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """What the server has, and how it behaves; tests change it as it runs."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {
            "config.json": b'{"model_type": "llama"}',
            "tokenizer.json": b"{}",
            "README.md": b"# small",
            "pytorch_model.bin": b"\x80\x04.",
            "model.safetensors": bytes(range(256)) * 4096,
            "onnx/model.onnx": b"onnx",
            "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
        }
        self.sent: dict[str, bytes] = {}
        """Content that is sent instead of what the metadata promises."""
        self.info_status: tuple[int, dict[str, str]] | None = None
        self.file_status: tuple[int, dict[str, str]] | None = None
        self.info_text: str | None = None
        """An answer of other words about the model."""
        self.info_delay = threading.Event()
        self.slow = False
        """Whether the answer about a model waits for ``info_delay``."""
        self.break_at: int | None = None
        """Close the connection once so many bytes of a large file have been sent, wherever it was begun."""
        self.stall_at: int | None = None
        """Stop sending there and wait for ``resume``."""
        self.stalled, self.resume = threading.Event(), threading.Event()
        self.gets: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.url = ""

    def info(self) -> dict[str, Any]:
        siblings = []
        for name, content in self.files.items():
            sibling: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_hash(content)}
            if name.endswith((LARGE, ".bin")):
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
        return {"id": MODEL, "modelId": MODEL, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Run the server; ``hub.url`` is what HF_ENDPOINT should be."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            if path.startswith("/api/models/"):
                if hub.slow:
                    hub.info_delay.wait(20)
                if hub.info_status or not path.startswith(f"/api/models/{MODEL}"):
                    return self._status(*(hub.info_status or (404, {"X-Error-Code": "RepoNotFound"})))
                content = (hub.info_text or json.dumps(hub.info())).encode()
                self._head(200, len(content), {"Content-Type": "application/json"})
                self.wfile.write(content)
                return None
            name = path.partition(f"/resolve/{COMMIT}/")[2]
            if hub.file_status:
                return self._status(*hub.file_status)
            if name not in hub.files:
                return self._status(404, {"X-Error-Code": "EntryNotFound"})
            return self._file(name, body)

        def _file(self, name: str, body: bool) -> None:
            promised = hub.files[name]
            content = hub.sent.get(name, promised)
            tag = hashlib.sha256(promised).hexdigest() if name.endswith(LARGE) else git_hash(promised)
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
            start = 0
            if body and (asked := self.headers.get("Range")):
                hub.ranges.append(asked)
                start = int(asked.removeprefix("bytes=").partition("-")[0])
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._head(206 if start else 200, len(content) - start, headers)
            if not body:
                return
            hub.gets[name] += 1
            large = name.endswith(LARGE)
            stall_at, break_at = hub.stall_at, hub.break_at
            if large and stall_at is not None:
                self.wfile.write(content[start:stall_at])
                self.wfile.flush()
                hub.stalled.set()
                hub.resume.wait(30)
                start = max(start, stall_at)
            if large and break_at is not None:
                self.wfile.write(content[start : max(break_at, start)])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
                return
            self.wfile.write(content[start:])

        def _status(self, status: int, headers: dict[str, str]) -> None:
            self._head(status, 0, headers)

        def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(length), **headers}.items():
                self.send_header(key, value)
            self.end_headers()

        def handle(self) -> None:
            try:
                super().handle()
            except (OSError, ValueError):  # the other side was killed, or the connection was closed above
                self.close_connection = True

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.resume.set()
        hub.info_delay.set()
        server.shutdown()
        server.server_close()
        thread.join()
