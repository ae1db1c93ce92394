"""Our server under abuse for minutes: 16 clients that ask, leave, send nonsense or read too slowly.

    python benchmarks/serving_soak.py [--minutes 30] [--clients 16] [--model NAME] [--json]

Of each client's requests most are good ones, greedy, of one of 24 questions, streamed or whole; the others break off,
are no requests, or are read a byte now and then. What each question is answered when it is asked alone is known from
the start, and every good answer must be that. At the end nothing may be left running, and the memory may have grown by
5 % at most since a tenth of the time had passed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psutil

from generate_speed import machine
from scratchlm.data.corpora import corpus_text
from serving_speed import served

PORT = 8733
WORDS = corpus_text("rumi-life").split()
NONSENSE = (b"{", b"null", b"[" * 5000, b'{"model": "x"}', b'{"model": 3, "messages": []}', b"\xff" * 100)
BAD_HEADS = (
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x16\x03\x01\x02\x00",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n\r\n",
)


def questions(model: str) -> list[dict[str, Any]]:
    """Of several lengths, some with the same beginning; two with a schema."""
    made = []
    for n in range(24):
        dice = random.Random(n)
        start = dice.randrange(60)
        content = f"{'About the poet: ' if n % 3 else ''}{n} {' '.join(WORDS[start : start + dice.randrange(4, 60)])}"
        body = {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0}
        body["max_tokens"] = dice.randrange(8, 64)
        if n % 12 == 0:
            shape = {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 12}},
                "required": ["name"],
            }
            form = {"type": "json_schema", "json_schema": {"name": "one", "schema": shape}}
            body |= {"response_format": form, "max_tokens": 48}
        made.append(body)
    return made


@dataclass
class Soak:
    """What has happened."""

    url: str
    asked: list[dict[str, Any]]
    right: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0

    async def send(self, body: bytes, head: bytes | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        start = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(head or start + f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode())
        writer.write(body)
        return reader, writer

    async def answer(self, body: dict[str, Any]) -> str | None:
        """The text of a good request; None where too many wait."""
        start = time.perf_counter()
        reader, writer = await self.send(json.dumps(body).encode())
        data = await asyncio.wait_for(reader.read(), 300)
        writer.close()
        self.slowest = max(self.slowest, time.perf_counter() - start)
        status = int(data[9:12])
        if status == 429:
            return None
        _, _, rest = data.partition(b"\r\n\r\n")
        if status != 200:
            raise RuntimeError(data.decode("utf-8", "replace")[:500])
        if not body.get("stream"):
            return str(json.loads(rest)["choices"][0]["message"]["content"])
        parts = [json.loads(line[6:]) for line in rest.splitlines() if line.startswith(b"data: {")]
        if b"data: [DONE]" not in rest:
            raise RuntimeError(f"a stream broke off: {rest[-300:]!r}")
        return "".join(one["choices"][0]["delta"].get("content") or "" for one in parts)

    async def client(self, number: int, end: float) -> None:
        dice = random.Random(number)
        while time.monotonic() < end:
            n = dice.randrange(len(self.asked))
            body = dict(self.asked[n], stream=bool(dice.randrange(2)))
            kind = dice.choices(("good", "leaves", "nonsense", "slow"), (70, 12, 12, 6))[0]
            self.counts[kind] += 1
            try:
                await getattr(self, f"_{kind}")(body, n, dice)
            except (OSError, RuntimeError, TimeoutError, ValueError, IndexError) as error:
                self.wrong.append(f"{kind} {n}: {type(error).__name__}: {error}")

    async def _good(self, body: dict[str, Any], n: int, _dice: random.Random) -> None:
        said = await self.answer(body)
        if said is None:
            self.counts["429"] += 1
            await asyncio.sleep(1)
        elif said != self.right[n]:
            self.wrong.append(f"question {n} alone: {self.right[n]!r}, under load: {said!r}")

    async def _leaves(self, body: dict[str, Any], _n: int, dice: random.Random) -> None:
        reader, writer = await self.send(json.dumps(body | {"max_tokens": 500}).encode())
        if dice.randrange(2):
            await asyncio.wait_for(reader.read(50), 300)
        await asyncio.sleep(dice.random() / 2)
        writer.transport.abort()

    async def _nonsense(self, _body: dict[str, Any], _n: int, dice: random.Random) -> None:
        broken = dice.randrange(3) == 0
        reader, writer = await self.send(dice.choice(NONSENSE), dice.choice(BAD_HEADS) if broken else None)
        data = await asyncio.wait_for(reader.read(300), 60)
        writer.close()
        if data and not data.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")):
            raise RuntimeError(f"nonsense was answered with {data[:200]!r}")

    async def _slow(self, body: dict[str, Any], _n: int, dice: random.Random) -> None:
        asked = body | {"stream": True, "max_tokens": 60, "n": 8, "logprobs": True, "top_logprobs": 20}
        reader, writer = await self.send(json.dumps(asked).encode())
        for _ in range(dice.randrange(4, 12)):
            await asyncio.wait_for(reader.read(1), 300)
            await asyncio.sleep(0.5)
        writer.transport.abort()


def gauges(url: str) -> dict[str, float]:
    """What runs and what waits."""
    page = urllib.request.urlopen(url.removesuffix("v1") + "metrics", timeout=30).read().decode()
    lines = [
        line.split() for line in page.splitlines() if line.startswith(("scratchlm_running{", "scratchlm_waiting{"))
    ]
    return {name: float(value) for name, value in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    command = [sys.executable, "-m", "scratchlm", "serve", given.model, "--port", str(PORT), "--context", "1024"]
    memory: list[tuple[float, float]] = []
    with served([*command, "--patience", "5"], PORT) as url:
        name = json.loads(urllib.request.urlopen(f"{url}/models").read())["data"][0]["id"]
        soak = Soak(url, questions(name))
        (process,) = [one for one in psutil.Process().children() if str(PORT) in one.cmdline()]

        async def run() -> None:
            for body in soak.asked:
                soak.right.append(await soak.answer(body) or "")
            # Once to the end of every slot: a slot's memory is taken as it fills, and stays.
            await soak.answer({**soak.asked[1], "n": 8, "temperature": 2, "max_tokens": 850})
            start = time.monotonic()
            end = start + 60 * given.minutes
            clients = [asyncio.create_task(soak.client(n, end)) for n in range(given.clients)]
            while time.monotonic() < end:
                await asyncio.sleep(1)
                memory.append((time.monotonic() - start, process.memory_info().rss))
            await asyncio.gather(*clients)

        asyncio.run(run())
        time.sleep(8)
        left = gauges(url)
        connections = len(process.net_connections("tcp")) if hasattr(process, "net_connections") else -1
    part = 60 * given.minutes / 10
    begun = statistics.median(rss for at, rss in memory if part <= at <= 2 * part)
    ended = statistics.median(rss for at, rss in memory if at >= 9 * part)
    found = {
        "minutes": given.minutes,
        "clients": given.clients,
        "requests": dict(soak.counts),
        "wrong": len(soak.wrong),
        "left_running": sum(left.values()),
        "memory_begun": begun,
        "memory_ended": ended,
        "memory_growth": ended / begun - 1,
        "connections_left": connections,
        "slowest_answer_seconds": soak.slowest,
        "machine": machine(),
    }
    for line in soak.wrong[:20]:
        print(line, file=sys.stderr)
    print(json.dumps(found) if given.json else "\n".join(f"{key}: {value}" for key, value in found.items()))
    good = not soak.wrong and not found["left_running"] and abs(found["memory_growth"]) <= 0.05
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
