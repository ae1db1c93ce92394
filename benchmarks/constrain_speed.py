"""How fast a model writes under a constraint, beside the same model writing freely.

    python benchmarks/constrain_speed.py [--json] [--rounds N] [--model MODEL]

SmolLM2-135M writes each schema at temperature 1. After every pass of it the same pass is made once more, with the same
tokens, without engine and constraint; and then a pass of a free text, of one token. So all three meet the same noise.
Medians over the rounds. Reading the prompt and compiling the grammar are left out; ``compile_ms`` says what the latter
took.

``ratio`` is tokens a second, constrained over free, for the same number of passes: a forced token needs none of its
own, and rides along in the next. ``ratio_work`` is the time of the bare passes over ours: what the engine, masks and
the check that an end is in reach cost. ``ratio_passes`` is passes a second over those of free text, whose passes are of
one token each. All are geometric means over the schemas.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import torch

from generate_speed import machine
from scratchlm import api
from scratchlm.errors import UserError
from scratchlm.generation.constraints import Grammar
from scratchlm.generation.engine import Engine, Request
from scratchlm.generation.native import Segment, Stop
from scratchlm.generation.sampling import SamplingConfig, sample
from scratchlm.language_model import LanguageModel

TEXT = {"type": "string"}
PERSON = {
    "type": "object",
    "properties": {"name": TEXT, "age": {"type": "integer"}, "jobs": {"type": "array", "items": TEXT, "minItems": 4}},
    "required": ["name", "age", "jobs"],
    "additionalProperties": False,
}
CALLS = {
    "type": "array",
    "minItems": 4,
    "items": {
        "type": "object",
        "properties": {
            "name": {"enum": ["calculator", "search", "weather", "dates"]},
            "arguments": {
                "type": "object",
                "properties": {"query": TEXT, "most": {"type": "integer", "minimum": 1, "maximum": 20}},
                "required": ["query", "most"],
                "additionalProperties": False,
            },
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    },
}
GRAMMARS: dict[str, Grammar] = {
    "story": Grammar.json_schema(
        {"type": "object", "properties": {"story": TEXT | {"minLength": 150}}, "required": ["story"]}
    ),
    "people": Grammar.json_schema({"type": "array", "items": PERSON, "minItems": 3}),
    "calls": Grammar.json_schema(CALLS),
    "numbers": Grammar.json_schema({"type": "array", "items": {"type": "number"}, "minItems": 30}),
    "anything": Grammar.json_schema({"type": "array", "items": True, "minItems": 20}),
    "lines": Grammar.regex(r"([0-9]{2}\. [A-Z][^\n]{20,60}\n){6}"),
}
PROMPT = "Write JSON about some people, their stories and what they ask for.\n"


class Stepping:
    """A request that is worked on alone, step by step; its prompt is read, and the first token drawn, at once."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self._engine, self._logits, self.passes = engine, engine.backend.logits, list[Segment]()
        engine.forget()
        self.ticket = engine.submit(request)
        while all(token.forced for token in self.ticket.tokens):
            engine.step()
        self.before = len(self.ticket.tokens)
        engine.backend.logits = self._kept  # type: ignore[method-assign]

    def _kept(self, segments: list[Segment], stop: Stop | None = None) -> torch.Tensor:
        self.passes += segments
        return self._logits(segments, stop)

    def step(self) -> float:
        """Seconds of one pass."""
        start = time.perf_counter()
        self._engine.step()
        return time.perf_counter() - start

    def close(self) -> None:
        self._engine.cancel(self.ticket)
        self._engine.step()
        self._engine.backend.logits = self._logits  # type: ignore[method-assign]


@torch.inference_mode()
def again(engine: Engine, segment: Segment, sampling: SamplingConfig) -> float:
    """Seconds of the same pass and a draw, without an engine and a constraint, in a slot of its own."""
    start = time.perf_counter()
    one = Segment(engine.backend.slots - 1, segment.ids, segment.start, segment.prompt, segment.wanted)
    sample(engine.backend.logits([one]), sampling, torch.rand(1, dtype=torch.float64)).tolist()
    return time.perf_counter() - start


def turn(ours: Engine, theirs: Engine, asked: Request, ids: list[int]) -> tuple[int, int, float, float, float]:
    """Tokens, passes, and the seconds of the constrained ones, of the same without the constraint, and of free ones."""
    constrained, free = Stepping(ours, asked), Stepping(theirs, Request(ids, 10**6, asked.sampling))
    theirs.backend.logits(
        [Segment(theirs.backend.slots - 1, [*ids, *(t.id for t in constrained.ticket.tokens)][:-1], 0)]
    )
    spent = [0.0, 0.0, 0.0]
    while constrained.ticket.finish_reason is None:
        spent[0] += constrained.step()
        spent[1] += again(theirs, constrained.passes[-1], asked.sampling)
        spent[2] += free.step()
    tokens, passes = len(constrained.ticket.tokens) - constrained.before, len(constrained.passes)
    constrained.close()
    free.close()
    return tokens, passes, spent[0], spent[1], spent[2]


def measure(ours: LanguageModel, theirs: LanguageModel, grammar: Grammar, rounds: int, budget: int) -> dict[str, Any]:
    """The figures of one grammar."""
    tokenizer, sampling = ours.tokenizer, SamplingConfig()
    ids = tokenizer.encode(PROMPT)
    start = time.perf_counter()
    least = grammar.least(tokenizer)
    compiled = time.perf_counter() - start
    turns = []
    for seed in range(rounds + 1):  # the first warms up
        constraint = grammar.constraint(tokenizer)
        asked = Request(ids, budget, sampling, seed=seed, end_ids=tokenizer.eos_ids, constraint=constraint)
        turns.append(turn(ours.engine(), theirs.engine(), asked, ids))
    turns = turns[1:]
    return {
        "ratio": statistics.median(tokens / passes * free / own for tokens, passes, own, _, free in turns),
        "ratio_work": statistics.median(same / own for _, _, own, same, _ in turns),
        "ratio_passes": statistics.median(free / own for _, _, own, _, free in turns),
        "ours": statistics.median(tokens / own for tokens, _, own, *_ in turns),
        "peer": statistics.median(passes / free for _, passes, *_, free in turns),
        "tokens": sum(one[0] for one in turns),
        "passes": sum(one[1] for one in turns),
        "least": least,
        "compile_ms": 1000 * compiled,
    }


def run(model: str, rounds: int, budget: int) -> dict[str, Any]:
    loaded, other = api.load(model), api.load(model)  # two, so that each finds the other's weights in the caches
    each = {name: measure(loaded, other, grammar, rounds, budget) for name, grammar in GRAMMARS.items()}
    means = {
        key: statistics.geometric_mean(figures[key] for figures in each.values())
        for key in ("ratio", "ratio_work", "ratio_passes", "ours", "peer")
    }
    return {
        **means,
        "unit": "tokens/s",
        "precision": loaded.engine().backend.precision,
        "schemas": each,
        "machine": machine(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Decoding under constraints beside free decoding.")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=160, help="tokens of a constrained text")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        found = run(options.model, options.rounds, options.budget)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(found))
        return 0
    print("             constrained     free   ratio  same work  passes a second   tokens  passes  compiled")
    for name, one in (*found["schemas"].items(), ("in all", found)):
        counts = f"{one['tokens']:>7} {one['passes']:>7} {one['compile_ms']:>6.0f} ms" if "tokens" in one else ""
        print(
            f"{name:<12} {one['ours']:>9.1f}/s {one['peer']:>6.1f}/s {one['ratio']:>6.2f}x {one['ratio_work']:>9.2f}x "
            f"{one['ratio_passes']:>14.2f}x {counts}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
