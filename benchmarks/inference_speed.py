"""Inference with SmolLM2-135M-Instruct beside llama.cpp on the same GGUF file and transformers in float32.

    python benchmarks/inference_speed.py decode|prefill|batch-decode|prefix-reuse [--json] [--rounds N]

decode         one stream of 128 new tokens after a prompt of 32; also how much quantised arithmetic costs in
               perplexity, on 50 kB of this project's own manual
prefill        the logits of the last of 1,000 tokens
batch-decode   eight streams together, beside one stream; the peer is our own single stream
prefix-reuse   the first token of a second question on the same 1,000 tokens; the peer is the first question's

All are greedy and use two threads or as many as PyTorch does. Rounds alternate in one process; the figures are medians.
The peers' packages are optional (the extra `bench`): without one its ratio is null, and a line on stderr says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from generate_speed import machine
from scratchlm import kernels
from scratchlm.checkpoints.huggingface import save_huggingface
from scratchlm.generation.engine import Engine, Request
from scratchlm.generation.native import NativeModel
from scratchlm.generation.precision import perplexity
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.generation.weights import GGUFWeights
from scratchlm.language_model import LanguageModel
from scratchlm.opening import open_model

MODEL = "smollm2-135m-instruct"
GREEDY = SamplingConfig(greedy=True)
MANUAL = Path(__file__).resolve().parents[1] / "docs"


class Ours:
    """Our engine at the precision that `auto` chooses."""

    def __init__(self) -> None:
        self.model = LanguageModel(open_model(MODEL, weights=False), name=MODEL)
        self.engine = self.model.engine()

    def fresh(self) -> Engine:
        """The engine with nothing in its cache."""
        self.engine.forget()
        return self.engine

    def decode(self, ids: list[int], count: int) -> float:
        """Seconds for ``count`` tokens after the first, whose time is the prompt's."""
        times: list[float] = []

        def note(_token: object) -> bool:
            times.append(time.perf_counter())
            return False

        self.fresh().run([Request(ids, count + 1, GREEDY, on_token=note)])
        return times[-1] - times[0]

    def first_token(self, ids: list[int], *, fresh: bool = True) -> float:
        engine = self.fresh() if fresh else self.engine
        start = time.perf_counter()
        engine.run([Request(ids, 1, GREEDY)])
        return time.perf_counter() - start


class LlamaCpp:
    def __init__(self, file: Path) -> None:
        from llama_cpp import Llama

        self.model = Llama(
            str(file),
            n_ctx=2048,
            n_threads=torch.get_num_threads(),
            n_threads_batch=torch.get_num_threads(),
            verbose=False,
        )

    def decode(self, ids: list[int], count: int) -> float:
        times = []
        for number, _ in enumerate(self.model.generate(ids, temp=0.0, repeat_penalty=1.0, reset=True)):
            times.append(time.perf_counter())
            if number == count:
                break
        return times[-1] - times[0]

    def first_token(self, ids: list[int]) -> float:
        self.model.reset()
        start = time.perf_counter()
        self.model.eval(ids)
        return time.perf_counter() - start


class Transformers:
    """In float32, with the weights that the file stands for."""

    def __init__(self, file: Path) -> None:
        from transformers import AutoModelForCausalLM

        with tempfile.TemporaryDirectory() as folder:
            save_huggingface(open_model(file).model, folder)
            self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def decode(self, ids: list[int], count: int) -> float:
        """``generate`` itself: for ``count`` + 1 tokens, less for the first one."""
        spent = []
        for tokens in (1, count + 1):
            start = time.perf_counter()
            self.model.generate(
                torch.tensor([ids]), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0
            )
            spent.append(time.perf_counter() - start)
        return spent[1] - spent[0]

    @torch.inference_mode()
    def first_token(self, ids: list[int]) -> float:
        start = time.perf_counter()
        self.model(torch.tensor([ids]), logits_to_keep=1)
        return time.perf_counter() - start


def peers(file: Path) -> Iterator[tuple[str, Any]]:
    for name, kind in (("llama_cpp", LlamaCpp), ("transformers", Transformers)):
        try:
            yield name, kind(file)
        except ImportError:
            print(f"{name} is not installed, so its ratio is missing; pip install 'scratchlm[bench]'", file=sys.stderr)


def manual(ours: Ours, count: int) -> list[int]:
    """The first tokens of the project's manual."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted(MANUAL.glob("*.md")))
    return ours.model.tokenizer.encode(text[: 8 * count])[:count]


def rounds_of(work: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each one's seconds in alternating rounds, after one round that does not count."""
    spent: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, measure in work.items():
            seconds = measure()
            if number:
                spent[name].append(seconds)
        print(f"round {number} of {rounds}" if number else "warmed up", file=sys.stderr)
    return spent


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median of the rounds' ratios: what disturbs a round disturbs all of its runs."""
    return statistics.median(one / other for one, other in zip(slow, fast, strict=True))


def beside(
    ours: Ours, file: Path, rounds: int, measure: str, ids: list[int], amount: int, *more: Any
) -> dict[str, Any]:
    work = {"ours": lambda: getattr(ours, measure)(ids, *more)}
    for name, peer in peers(file):
        work[name] = lambda peer=peer: getattr(peer, measure)(ids, *more)
    spent = rounds_of(work, rounds)
    found: dict[str, Any] = {"ours": amount / statistics.median(spent["ours"]), "unit": "tokens/s"}
    for name in ("llama_cpp", "transformers"):
        found[name] = amount / statistics.median(spent[name]) if name in spent else None
        found[f"ratio_{name}"] = ratio(spent[name], spent["ours"]) if name in spent else None
    return found


def decode(ours: Ours, file: Path, rounds: int) -> dict[str, Any]:
    found = beside(ours, file, rounds, "decode", manual(ours, 32), 128, 128)
    found |= {"peer": found["llama_cpp"], "ratio": found["ratio_llama_cpp"]}
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted(MANUAL.glob("*.md")))[:50_000]
    ids = ours.model.tokenizer.encode(text)
    opened = open_model(MODEL, weights=False)
    assert opened.file is not None
    weights = GGUFWeights(opened.file)
    precision = ours.engine.backend.precision
    exact, used = (perplexity(NativeModel(weights, kind), ids, 512) for kind in ("fp32", precision))
    found |= {"precision": precision, "perplexity": used, "perplexity_fp32": exact, "perplexity_ratio": used / exact}
    return found


def prefill(ours: Ours, file: Path, rounds: int) -> dict[str, Any]:
    found = beside(ours, file, rounds, "first_token", manual(ours, 1000), 1000)
    return found | {"peer": found["transformers"], "ratio": found["ratio_transformers"]}


def batch_decode(ours: Ours, _file: Path, rounds: int) -> dict[str, Any]:
    ids, count = manual(ours, 256), 96

    def together() -> float:
        marks: list[float] = []

        def note(_token: object) -> bool:
            marks.append(time.perf_counter())
            return False

        streams = [Request(ids[32 * i : 32 * i + 32], count + 1, GREEDY, on_token=note) for i in range(8)]
        ours.fresh().run(streams)
        return marks[-1] - marks[7]  # from when all have their first token

    spent = rounds_of({"eight": together, "one": lambda: ours.decode(ids[:32], count)}, rounds)
    speeds = {"ours": 8 * count / statistics.median(spent["eight"]), "peer": count / statistics.median(spent["one"])}
    return {**speeds, "unit": "tokens/s", "ratio": 8 * ratio(spent["one"], spent["eight"])}


def prefix_reuse(ours: Ours, _file: Path, rounds: int) -> dict[str, Any]:
    shared, questions = manual(ours, 1040)[:1000], manual(ours, 1100)[1000:]

    def first() -> float:
        return ours.first_token([*shared, *questions[:20]])

    def second() -> float:  # follows `first` in every round, so the prefix is in the cache
        return ours.first_token([*shared, *questions[40:60]], fresh=False)

    spent = rounds_of({"first": first, "second": second}, rounds)
    seconds = {"ours": statistics.median(spent["second"]), "peer": statistics.median(spent["first"])}
    return {**seconds, "unit": "s", "ratio": ratio(spent["first"], spent["second"])}


BENCHES = {"decode": decode, "prefill": prefill, "batch-decode": batch_decode, "prefix-reuse": prefix_reuse}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=BENCHES)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    ours = Ours()
    file = open_model(MODEL, weights=False).located.path
    found = {"benchmark": arguments.name, **BENCHES[arguments.name](ours, file, arguments.rounds)}
    found |= {"kernels": kernels.status().split(" (")[0], "rounds": arguments.rounds, "machine": machine()}
    if arguments.json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key:20} {value:,.3f}" if isinstance(value, float) else f"{key:20} {value}")


if __name__ == "__main__":
    main()
