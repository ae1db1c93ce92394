"""Clients that load a server: plain sockets, so that they take little of the machine that they measure."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

Make = Callable[[int, int], dict[str, Any]]
"""The body of a client's request, of the client's number and the request's."""


@dataclass
class Load:
    """What some clients got together."""

    seconds: float = 0.0
    tokens: int = 0
    firsts: list[float] = field(default_factory=list)
    """Seconds from each request to its first piece of text."""

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds

    def first(self, share: float) -> float:
        """The seconds within which so many of the first tokens came."""
        ordered = sorted(self.firsts)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


async def ask(url: str, body: dict[str, Any]) -> tuple[float, int]:
    """Send a streamed request; the seconds to its first text, and the tokens that came: as the server counts them, or
    the pieces where it does not tell (llama-cpp-python's sends one for each token)."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    data = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    head = f"POST {parts.path}/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    start = time.perf_counter()
    writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
    first, pieces, usage, seen = 0.0, 0, b"", b""
    async for line in reader:
        seen = seen[-500:] + line
        spaceless = line.replace(b'": ', b'":')
        if b'"content":"' in spaceless and b'"content":""' not in spaceless:
            first, pieces = first or time.perf_counter() - start, pieces + 1
        if b'"usage":{' in spaceless:
            usage = line
    writer.close()
    if not pieces or b"[DONE]" not in seen:
        raise RuntimeError(f"the server broke off an answer: {seen.decode()}")
    found = json.loads(usage.partition(b"data: ")[2] or b"{}")
    return first, int(found["usage"]["completion_tokens"]) if "usage" in found else pieces


def load(url: str, clients: int, requests: int, make: Make, apart: float = 0.0) -> Load:
    """So many clients, each of which asks again as soon as it has its answer, so many times. They begin so many seconds
    apart."""

    async def client(number: int, found: Load) -> None:
        await asyncio.sleep(apart * number)
        for n in range(requests):
            first, tokens = await ask(url, make(number, n))
            found.firsts.append(first)
            found.tokens += tokens

    async def run() -> Load:
        found, start = Load(), time.perf_counter()
        await asyncio.gather(*(client(number, found) for number in range(clients)))
        found.seconds = time.perf_counter() - start
        return found

    return asyncio.run(run())


def joined(loads: list[Load]) -> Load:
    """The medians of several turns: of the rates, and all first tokens together."""
    rate = statistics.median(one.rate for one in loads)
    tokens = sum(one.tokens for one in loads)
    return Load(tokens / rate, tokens, [first for one in loads for first in one.firsts])
