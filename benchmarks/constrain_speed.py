"""How fast a model writes under a constraint, beside the same model writing freely.

    python benchmarks/constrain_speed.py [--json] [--rounds N] [--model MODEL]

Each schema is written by SmolLM2-135M at temperature 1; then as many tokens are written freely as that took passes of
the model; then the passes of the constrained text are made once more, the same tokens in the same pieces, and a token
is drawn after each without any constraint. The three take turns; compared are medians over the rounds. Reading the
prompt and compiling the grammar are left out; ``compile_ms`` says what the latter took.

``ratio`` is tokens a second, constrained over free, for the same number of passes: a forced token needs none of its
own, and rides along in the next. ``ratio_work`` is the time of the same passes without the constraint over that with
it: what masks and the check that an end is in reach cost. ``ratio_passes`` is passes a second over those of free text,
whose passes are of one token each. All are geometric means over the schemas.
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
from scratchlm.generation.native import Segment
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


def write(engine: Engine, request: Request) -> tuple[int, list[Segment], float]:
    """The tokens after the prompt was read and the first was drawn, the passes that made them, and their seconds."""
    engine.forget()
    ticket = engine.submit(request)
    while all(token.forced for token in ticket.tokens):
        engine.step()
    before, passes, logits = len(ticket.tokens), list[Segment](), engine.backend.logits
    engine.backend.logits = lambda segments: passes.extend(segments) or logits(segments)  # type: ignore[method-assign]
    try:
        start = time.perf_counter()
        while ticket.finish_reason is None:
            engine.step()
        spent = time.perf_counter() - start
    finally:
        engine.backend.logits = logits  # type: ignore[method-assign]
    if ticket.error is not None:
        raise ticket.error
    return len(ticket.tokens) - before, passes, spent


@torch.inference_mode()
def again(engine: Engine, passes: list[Segment], sampling: SamplingConfig) -> float:
    """Seconds that the same passes take, with a draw after each: they overwrite what they wrote in the cache."""
    start = time.perf_counter()
    for one in passes:
        sample(engine.backend.logits([one]), sampling, torch.rand(1, dtype=torch.float64)).tolist()
    return time.perf_counter() - start


def measure(loaded: LanguageModel, grammar: Grammar, rounds: int, budget: int) -> dict[str, Any]:
    """The figures of one grammar."""
    tokenizer, engine = loaded.tokenizer, loaded.engine()
    ids, sampling = tokenizer.encode(PROMPT), SamplingConfig(seed=0)
    start = time.perf_counter()
    least = grammar.least(tokenizer)
    compiled = time.perf_counter() - start
    turns: list[tuple[float, float, float]] = []
    tokens, passes = 0, list[Segment]()
    for _ in range(rounds + 1):  # the first warms up
        asked = Request(ids, budget, sampling, end_ids=tokenizer.eos_ids, constraint=grammar.constraint(tokenizer))
        tokens, passes, ours = write(engine, asked)
        work = again(engine, passes, sampling)
        _, alone, free = write(engine, Request(ids, len(passes) + 1, sampling))
        assert len(alone) == len(passes)
        turns.append((ours, work, free))
    ours, work, free = (statistics.median(times) for times in zip(*turns[1:], strict=True))
    return {
        "ratio": tokens / len(passes) * free / ours,
        "ratio_work": work / ours,
        "ratio_passes": free / ours,
        "ours": tokens / ours,
        "peer": len(passes) / free,
        "tokens": tokens,
        "passes": len(passes),
        "least": least,
        "compile_ms": 1000 * compiled,
    }


def run(model: str, rounds: int, budget: int) -> dict[str, Any]:
    loaded = api.load(model)
    each = {name: measure(loaded, grammar, rounds, budget) for name, grammar in GRAMMARS.items()}
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
