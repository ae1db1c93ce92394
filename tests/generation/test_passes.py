"""What is computed in which pass: given up, one after the other, or together; no token changes by it."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

from scratchlm import kernels
from scratchlm.generation.engine import Engine, Request
from scratchlm.generation.sampling import sample

from .test_engine import DRAWN, GREEDY, backend, prompt, requests, tokens
from .test_engine import kind as kind


class Hurried(Engine):
    """Told before every step that a request is about to come."""

    idle = steps = 0

    def step(self) -> bool:
        self.hurry()
        self.steps += 1
        assert self.steps < 2000, "passes are given up for ever"
        before = [(ticket.fed, len(ticket.tokens)) for ticket in self._running]
        worked = super().step()
        self.idle += before == [(ticket.fed, len(ticket.tokens)) for ticket in self._running]
        return worked


def test_a_pass_that_is_given_up_is_made_again_and_changes_no_token(kind: str) -> None:
    asked = [replace(request, speculate=2 if request.sample % 3 else 0) for request in requests()]
    expected = [[token.id for token in ticket.tokens] for ticket in Engine(backend(kind), chunk=16).run(asked)]
    engine = Hurried(backend(kind), chunk=16)
    assert [[token.id for token in ticket.tokens] for ticket in engine.run(asked)] == expected
    assert (engine.idle > 20) == (kind == "native")  # the others compute theirs to the end


def test_a_pass_is_given_up_once_and_never_one_that_reads_a_prompt() -> None:
    if not kernels.available():
        pytest.skip("no C compiler here")
    engine = Engine(backend("native"))
    first = engine.submit(Request(prompt(5), 9, GREEDY))
    counts = []
    for _ in range(5):
        engine.hurry()
        engine.step()
        counts.append(len(first.tokens))
    assert counts == [1, 1, 2, 2, 3]  # the next one could be given up
    second = engine.submit(Request(prompt(5, 2), 9, GREEDY))
    engine.hurry()
    engine.step()
    assert (len(first.tokens), len(second.tokens)) == (3, 1)
    engine.step()  # asked for before that pass, not since
    assert (len(first.tokens), len(second.tokens)) == (4, 2)


def test_passes_given_up_at_any_moment_change_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernels.available():
        pytest.skip("no C compiler here")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    sizes: dict[str, Any] = {"width": 256, "layers": 8, "context": 128}
    asked = [Request(prompt(length, length), 60, DRAWN, sample=length) for length in (5, 20, 40)]
    expected = [[token.id for token in ticket.tokens] for ticket in Engine(backend("native", **sizes)).run(asked)]
    engine, done, passes = Engine(backend("native", **sizes)), threading.Event(), 0

    def hurry() -> None:
        while not done.wait(0.0003):
            engine.hurry()

    thread = threading.Thread(target=hurry)
    thread.start()
    try:
        found = [engine.submit(request) for request in asked]
        while engine.step():
            passes += 1
    finally:
        done.set()
        thread.join()
    assert passes > 62  # the prompts in two, then 59 of a token each
    assert [[token.id for token in ticket.tokens] for ticket in found] == expected


@pytest.mark.parametrize(
    ("kind", "length", "passes"),
    [("native", 40, [40, 40, 40]), ("native", 10, [30]), ("torch", 40, [120])],
    indirect=["kind"],
)
def test_prompts_that_fill_a_pass_are_read_one_after_the_other(kind: str, length: int, passes: list[int]) -> None:
    engine, read = Engine(backend(kind, slots=4)), []
    running = engine.submit(Request(prompt(3), 20, GREEDY))
    engine.step()
    tickets = [engine.submit(Request(prompt(length, seed), 3, GREEDY)) for seed in range(5, 8)]
    for _ in passes:
        before = sum(ticket.fed for ticket in tickets)
        engine.step()
        read.append(sum(ticket.fed for ticket in tickets) - before)
    assert read == passes
    assert len(running.tokens) == 1
    assert [len(ticket.tokens) for ticket in tickets] == [1, 1, 1]
    engine.step()
    assert len(running.tokens) == 2


def test_texts_that_are_drawn_alike_are_drawn_together_each_by_its_seed(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [Request(prompt(4), 6, replace(DRAWN, seed=seed), seed=seed) for seed in (1, 2)]
    alone = [tokens(Engine(backend(kind)), request) for request in asked]
    assert alone[0] != alone[1]
    rows: list[int] = []
    real = sample
    monkeypatch.setattr(
        "scratchlm.generation.engine.sample", lambda logits, *rest: (rows.append(len(logits)), real(logits, *rest))[1]
    )
    together = Engine(backend(kind)).run(asked)
    assert [[token.id for token in ticket.tokens] for ticket in together] == alone
    assert max(rows) == 2
