"""The engine under constraints: forced tokens are fed without being drawn, beside others as alone, guessed or not."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
import torch

from scratchlm import kernels
from scratchlm.errors import UserError
from scratchlm.generation.backends import NativeBackend, TorchBackend, UncachedBackend
from scratchlm.generation.constraints import Constraint, Grammar
from scratchlm.generation.engine import Engine, Request, Ticket
from scratchlm.generation.generate import generate
from scratchlm.generation.native import NativeModel
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.generation.weights import ModuleWeights

from .constrained import CONTEXT, KINDS, engine_of, model_of, tokenizer_of

ROWS = {
    "type": "array",
    "items": {"type": "object", "properties": {"name": {"type": "string"}, "age": {"enum": [30, 33]}}},
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "tags": ROWS},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WILD = SamplingConfig(temperature=2.0)
GRAMMAR = Grammar.json_schema(SCHEMA)


def asked(seed: int, grammar: Grammar | None = GRAMMAR, budget: int = 60, kind: str = "bpe", **options: Any) -> Request:
    tokenizer = tokenizer_of(kind)
    options = {"sampling": WILD, "end_ids": tokenizer.eos_ids} | options
    constraint = None if grammar is None else grammar.constraint(tokenizer)
    return Request(tokenizer.encode("a b c"), budget, seed=seed, constraint=constraint, **options)


def told(ticket: Ticket) -> list[tuple[int, bool]]:
    return [(token.id, token.forced) for token in ticket.tokens]


def text_of(ticket: Ticket, kind: str = "bpe") -> str:
    tokenizer = tokenizer_of(kind)
    ids = [token.id for token in ticket.tokens if token.id not in tokenizer.eos_ids]
    return b"".join(map(tokenizer.bytes_of, ids)).decode()


def test_beside_others_as_alone() -> None:
    """Constrained and free requests of many kinds, more than there are slots."""
    grammars = [GRAMMAR, None, Grammar.regex("[a-c]{3}( [0-9]+)+"), None, Grammar.choices(["name", "age: 7"]), GRAMMAR]
    settings = [WILD, SamplingConfig(temperature=1.0, top_k=5), SamplingConfig(greedy=True)]

    def requests() -> list[Request]:
        return [asked(n, grammar, 30 + n, sampling=settings[n % 3]) for n, grammar in enumerate(grammars)]

    together = [told(ticket) for ticket in engine_of("bpe", rows=3).run(requests())]
    alone = [told(engine_of("bpe", rows=1).run([request])[0]) for request in requests()]
    assert together == alone
    assert any(forced for _, forced in together[0])
    assert not any(forced for _, forced in together[1])


@pytest.mark.parametrize("kind", ["torch", "uncached", "native"])
def test_every_backend_says_the_same(kind: str) -> None:
    if kind == "native" and not kernels.available():
        pytest.skip("no C compiler here")
    model = model_of("bpe")
    backends = {
        "torch": lambda: TorchBackend(model, 2),
        "uncached": lambda: UncachedBackend(model, 2),
        "native": lambda: NativeBackend(NativeModel(ModuleWeights(model)), 2),
    }
    # One token at a time, every mask and every end worked out beside the engine.
    for seed in range(3):
        (ticket,) = Engine(backends[kind]()).run([asked(seed, budget=40, sampling=SamplingConfig(greedy=True))])
        constraint, window, said = (
            GRAMMAR.constraint(tokenizer_of("bpe")),
            tokenizer_of("bpe").encode("a b c"),
            list[int](),
        )
        constraint.check(40, model.config.vocab_size)
        said += constraint.begin(40)
        while not constraint.ended:
            logits = model.logits(model.hidden(torch.tensor([window + said]))[0, -1]).float()
            token = int(logits.masked_fill(~constraint.masks()[0], -torch.inf).argmax())
            said += constraint.take(token, 40 - len(said))[0]
        assert [token.id for token in ticket.tokens] == said


@pytest.mark.parametrize("kind", KINDS)
def test_guesses_change_nothing(kind: str) -> None:
    for seed in range(4):
        texts = [
            told(engine_of(kind).run([asked(seed, budget=70, kind=kind, sampling=sampling, speculate=speculate)])[0])
            for speculate in (0, 5)
            for sampling in (SamplingConfig(temperature=0.3),)
        ]
        assert texts[0] == texts[1]


def test_guesses_are_taken_where_they_hold() -> None:
    """A text that repeats itself: fewer passes with guesses than without, and the same text."""
    grammar = Grammar.regex("(ab[01]){12}!")
    passes = []
    for speculate in (0, 6):
        engine = engine_of("char")
        request = asked(0, grammar, 80, "char", sampling=SamplingConfig(greedy=True), speculate=speculate)
        ticket, count = engine.submit(request), 0
        while ticket.finish_reason is None:
            engine.step()
            count += 1
        passes.append((count, told(ticket)))
    assert passes[0][1] == passes[1][1]
    assert passes[1][0] < passes[0][0]


def test_forced_tokens_cost_no_pass_of_their_own() -> None:
    engine = engine_of("bpe")
    ticket, steps = engine.submit(asked(1, budget=60)), 0
    while ticket.finish_reason is None:
        engine.step()
        steps += 1
    drawn = sum(not token.forced for token in ticket.tokens)
    alone = sum(token.forced for token in ticket.tokens)
    assert alone >= 6  # {"name": " and the like
    assert steps <= drawn + alone - 5
    json.loads(text_of(ticket))


def test_a_text_that_is_all_forced_needs_no_model() -> None:
    engine = engine_of("bpe")
    ticket = engine.submit(asked(0, Grammar.choices(["name age"])))
    assert engine.step() is False
    assert (ticket.finish_reason, text_of(ticket)) == ("end", "name age")
    assert all(token.forced for token in ticket.tokens)


def test_every_token_is_told_once_and_in_order() -> None:
    heard: list[int] = []
    (ticket,) = engine_of("bpe").run([asked(3, on_token=lambda token: heard.append(token.id) or False)])
    assert heard == [token.id for token in ticket.tokens]


def test_log_probabilities_are_the_models_own() -> None:
    """As without a constraint, for each token that was drawn; none for what was forced."""
    request = asked(2, budget=40, log_probabilities=2)
    (ticket,) = engine_of("bpe").run([request])
    ids = [*request.ids, *(token.id for token in ticket.tokens)]
    model = model_of("bpe")
    scores = model.logits(model.hidden(torch.tensor([ids]))[0]).float().log_softmax(-1)
    drawn = 0
    for place, token in enumerate(ticket.tokens, len(request.ids)):
        if token.log_probability is None:
            assert token.forced
            continue
        drawn += 1
        assert token.log_probability == pytest.approx(scores[place - 1, token.id].item(), abs=1e-3)
        assert token.top[0][0] == int(scores[place - 1].argmax())
    assert drawn >= 5


def test_penalties_and_filters_work_on_what_is_allowed() -> None:
    for sampling in (
        SamplingConfig(temperature=1.5, top_p=0.5),
        SamplingConfig(temperature=1.5, top_k=1),
        SamplingConfig(temperature=1.5, min_p=0.5),
        SamplingConfig(temperature=1.0, repetition_penalty=1.8),
    ):
        (ticket,) = engine_of("bpe").run([asked(5, sampling=sampling)])
        json.loads(text_of(ticket))


def test_a_text_longer_than_the_context_stays_valid() -> None:
    grammar = Grammar.json_schema({"type": "string", "minLength": 2 * CONTEXT})
    (ticket,) = engine_of("char").run([asked(0, grammar, 3 * CONTEXT, "char")])
    assert len(json.loads(text_of(ticket, "char"))) >= 2 * CONTEXT


def test_a_budget_that_ends_gives_the_shortest_end() -> None:
    least = GRAMMAR.least(tokenizer_of("bpe"))
    for budget in range(least, least + 12):
        (ticket,) = engine_of("bpe").run([asked(budget, budget=budget)])
        json.loads(text_of(ticket))
        assert len(ticket.tokens) <= budget
        if ticket.finish_reason == "length":
            assert ticket.tokens[-1].forced


def test_one_that_is_refused_leaves_none_behind() -> None:
    engine = engine_of("bpe")
    with pytest.raises(UserError, match="needs at least"):
        engine.run([asked(0), asked(1, budget=3)])
    assert engine.load == (0, 0)


def test_cancelled_ones_do_not_disturb_the_rest() -> None:
    engine = engine_of("bpe", rows=2)
    first, second, third = (engine.submit(asked(n)) for n in range(3))
    engine.step()
    engine.step()
    engine.cancel(first)
    engine.cancel(third)
    while second.finish_reason is None:
        engine.step()
    assert (first.finish_reason, third.finish_reason) == ("cancelled", "cancelled")
    assert told(second) == told(engine_of("bpe").run([asked(1)])[0])


def test_a_matcher_that_fails_ends_its_own_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What llguidance cannot follow any more is told to the one who asked; the others go on."""
    masks = Constraint.masks
    broken = asked(0)

    def failing(self: Constraint, draft: Any = ()) -> torch.Tensor:
        if self is broken.constraint:
            raise UserError("the schema could not be followed: too complex")
        return masks(self, draft)

    monkeypatch.setattr(Constraint, "masks", failing)
    engine = engine_of("bpe")
    bad, good = engine.submit(broken), engine.submit(asked(1))
    while good.finish_reason is None:
        engine.step()
    assert bad.finish_reason == "error"
    assert "too complex" in str(bad.error)
    json.loads(text_of(good))
    broken.constraint = GRAMMAR.constraint(tokenizer_of("bpe"))
    with pytest.raises(UserError, match="too complex"):
        engine.run([broken])


def test_masks_are_made_beside_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a thread of their own, begun before the pass and read after it."""
    threads: list[str] = []
    masks = Constraint.masks
    monkeypatch.setattr(
        Constraint,
        "masks",
        lambda self, draft=(): threads.append(threading.current_thread().name) or masks(self, draft),
    )
    engine = engine_of("bpe")
    logits = engine.backend.logits
    order: list[int] = []
    monkeypatch.setattr(
        engine.backend, "logits", lambda segments, stop: order.append(len(threads)) or logits(segments, stop)
    )
    ticket = engine.submit(asked(0))
    while ticket.finish_reason is None:
        engine.step()
    assert threads
    assert {name.startswith("scratchlm-masks") for name in threads} == {True}


@pytest.mark.skipif(not kernels.available(), reason="no C compiler here")
def test_a_pass_that_is_given_up_leaves_constraints_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [{"seed": seed, "budget": 40, "speculate": speculate} for seed in range(3) for speculate in (0, 5)]
    backend = engine_of("bpe").backend
    expected = [told(ticket) for ticket in Engine(backend).run([asked(**one) for one in requests])]
    engine, busy, overlaps = Engine(backend), threading.Event(), []
    allows, blocked = Constraint.allows, Constraint.blocked

    def slow(self: Constraint, draft: Any = ()) -> Any:
        busy.set()
        time.sleep(0.002)
        busy.clear()
        return blocked(self, draft)

    monkeypatch.setattr(Constraint, "blocked", slow)
    monkeypatch.setattr(Constraint, "allows", lambda self, ids: (overlaps.append(busy.is_set()), allows(self, ids))[1])
    tickets = [engine.submit(asked(**one)) for one in requests]
    while any(ticket.finish_reason is None for ticket in tickets):
        engine.hurry()
        engine.step()
    assert [told(ticket) for ticket in tickets] == expected
    assert overlaps
    assert not any(overlaps)  # a matcher is asked by one thread at a time


@pytest.mark.parametrize("kind", [*KINDS, "word"])
def test_generate_gives_the_text_and_nothing_else(kind: str) -> None:
    """Also where a tokenizer writes a space before the first token."""
    model, tokenizer = model_of(kind), tokenizer_of(kind)
    grammar = Grammar.choices(["yes", "no", "not sure"])
    shown: dict[int, str] = {}
    found = generate(
        model,
        tokenizer,
        ["yes", "no"] if kind == "word" else ["a", "b "],
        samples=4,
        max_new_tokens=12,
        sampling=SamplingConfig(temperature=2.0, seed=1),
        grammar=grammar,
        on_text=lambda number, text: shown.__setitem__(number, shown.get(number, "") + text),
    )
    assert {one.completion for one in found} <= {"yes", "no", "not sure"}
    assert [shown[number] for number in range(8)] == [one.completion for one in found]
    assert {one.finish_reason for one in found} == {"end"}
