"""Our server with SmolLM2-135M-Instruct under the load of eight clients beside one, and llama-cpp-python's server.

    python benchmarks/serving_speed.py [--clients N] [--rounds N] [--json]

Each server is a process of its own. A client asks a question of about 60 tokens (no two alike) after the system message
that all share, takes the stream of 64 to 128 tokens, and asks the next at once; the clients begin a tenth of a second
apart. One client and all take turns; rates are medians, times to the first token are over all. llama-cpp-python is
optional (the extra `bench`): without it its figures are null, and a line on stderr says so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from generate_speed import machine
from scratchlm.data.corpora import corpus_text
from scratchlm.exporting import export_model
from serving_load import Load, joined, load

MODEL = "smollm2-135m-instruct"
ASKED, APART = 24, 0.1
"""Words of a question; seconds between the clients' beginnings."""
WORDS = corpus_text("rumi-life").split()


def question(client: int, number: int) -> dict[str, Any]:
    """A question that nobody has asked before."""
    dice = random.Random(f"{client} {number} {time.perf_counter_ns()}")
    start = dice.randrange(len(WORDS) - ASKED)
    text = " ".join(WORDS[start : start + ASKED])
    asked = f"{dice.randrange(10**6)}. Tell me more about this: {text}"
    messages = [{"role": "user", "content": asked}]
    return {"model": MODEL, "messages": messages, "max_tokens": dice.randrange(64, 129), "temperature": 0}


@contextmanager
def served(command: list[str], port: int) -> Iterator[str]:
    """A server in a process, from its first answer to its end."""
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, stderr=told, stdout=subprocess.DEVNULL, env=os.environ)
        try:
            url = f"http://127.0.0.1:{port}/v1"
            for _ in range(1200):
                try:
                    urllib.request.urlopen(f"{url}/models", timeout=5).read()
                    break
                except OSError:
                    if process.poll() is not None:
                        told.seek(0)
                        raise SystemExit(told.read().decode()[-2000:]) from None
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def measured(url: str, clients: int, rounds: int, requests: int) -> tuple[Load, Load]:
    """One client's load and that of all, turn by turn."""
    load(url, clients, 1, question)
    alone: list[Load] = []
    together: list[Load] = []
    for _ in range(rounds):
        alone.append(load(url, 1, requests, question))
        together.append(load(url, clients, requests, question, APART))
    return joined(alone), joined(together)


def figures(alone: Load, together: Load) -> dict[str, Any]:
    return {
        "tokens_per_second_alone": alone.rate,
        "tokens_per_second": together.rate,
        "first_token_alone": statistics.median(alone.firsts),
        "first_token_p50": together.first(0.5),
        "first_token_p95": together.first(0.95),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=6, help="of each client in a round")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    sizes = (asked.clients, asked.rounds, asked.requests)
    ours_command = [sys.executable, "-m", "scratchlm", "serve", MODEL, "--port", "8731", "--context", "1024"]
    with served(ours_command, 8731) as url:
        ours = measured(url, *sizes)
    servers: dict[str, Any] = {"ours": figures(*ours), "llama_cpp": None}
    found: dict[str, Any] = {"name": "serve", "unit": "tokens/s", "ours": ours[1].rate, "peer": ours[0].rate}
    found["ratio"] = ours[1].rate / ours[0].rate
    found["ratio_llama_cpp"] = None
    found["first_token_ratio"] = ours[1].first(0.95) / statistics.median(ours[0].firsts)
    if find_spec("llama_cpp") is None:
        print(
            "llama-cpp-python is missing, so its server is not measured: pip install 'scratchlm[bench]'",
            file=sys.stderr,
        )
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = export_model(MODEL, "gguf", Path(folder) / "model.gguf", kind="q8_0")
            command = [
                sys.executable,
                "-m",
                "llama_cpp.server",
                "--model",
                str(file),
                "--n_ctx",
                "8192",
                "--port",
                "8732",
            ]
            more = ("--n_threads", "2", "--interrupt_requests", "false")  # else a new client breaks off the one before
            with served([*command, *more], 8732) as url:
                peer = measured(url, *sizes)
        servers["llama_cpp"] = figures(*peer)
        found["ratio_llama_cpp"] = ours[1].rate / peer[1].rate
    found |= {"servers": servers, "clients": asked.clients, "machine": machine()}
    if asked.json:
        print(json.dumps(found))
        return
    for name, one in servers.items():
        if one is not None:
            print(
                f"{name}: {one['tokens_per_second_alone']:.0f} tokens/s alone, {one['tokens_per_second']:.0f} with "
                f"{asked.clients} clients; first token {1000 * one['first_token_alone']:.0f} ms alone, with all "
                f"{1000 * one['first_token_p50']:.0f} (median), {1000 * one['first_token_p95']:.0f} (p95)"
            )
    print(
        f"{asked.clients} clients against one: {found['ratio']:.2f} x the tokens, "
        f"p95 of the first {found['first_token_ratio']:.2f} x"
        + (f"; {found['ratio_llama_cpp']:.2f} x llama-cpp-python's server" if servers["llama_cpp"] else "")
    )


if __name__ == "__main__":
    main()
