"""What a server asks of the engine: penalties on counts, log-probabilities of prompts, going on after a failure."""

from __future__ import annotations

import pytest
import torch

from scratchlm.generation.engine import Engine, Request
from scratchlm.generation.native import Segment, Stop
from scratchlm.generation.sampling import SamplingConfig

from .test_engine import GREEDY, VOCABULARY, backend, build, prompt
from .test_engine import kind as kind


@pytest.mark.parametrize("penalty", [{"presence_penalty": 2.0}, {"frequency_penalty": 0.7, "presence_penalty": -0.2}])
def test_penalties_on_counts_are_of_the_new_text_alone(kind: str, penalty: dict[str, float]) -> None:
    model, text, said = build(), prompt(5), [0.0] * VOCABULARY
    for _ in range(15):
        logits = model(torch.tensor([text]))[0, -1]
        taken = [n * penalty.get("frequency_penalty", 0) + (n > 0) * penalty.get("presence_penalty", 0) for n in said]
        text.append(int((logits - torch.tensor(taken)).argmax()))
        said[text[-1]] += 1
    engine = Engine(backend(kind))
    others = [Request(prompt(4, 2), 9, GREEDY), Request(prompt(5), 15, GREEDY)]
    found = engine.run([Request(prompt(5), 15, SamplingConfig(greedy=True, **penalty), speculate=4), *others])
    assert [token.id for token in found[0].tokens] == text[5:]
    assert [token.id for token in found[2].tokens] != text[5:]


@pytest.mark.parametrize("length", [1, 2, 8, 9, 40])
@pytest.mark.parametrize("new", [0, 3])
def test_a_prompts_own_log_probabilities(kind: str, length: int, new: int) -> None:
    engine = Engine(backend(kind), chunk=8)
    ids = prompt(length, 3)
    engine.run([Request(ids, 1, GREEDY)])  # the cache has the prompt now, which is scored all the same
    scored = Request(ids, new, GREEDY, log_probabilities=2, prompt_log_probabilities=True)
    plain = Request(ids, 3, GREEDY)
    tickets = engine.run([plain, scored, plain])
    expected = build()(torch.tensor([ids]))[0].log_softmax(-1)
    got = tickets[1].prompt_tokens
    assert [token.id for token in got] == ids
    assert got[0].log_probability is None
    for place, token in enumerate(got[1:]):
        assert token.log_probability == pytest.approx(float(expected[place, token.id]), abs=1e-4)
        assert [i for i, _ in token.top] == expected[place].topk(2).indices.tolist()
    assert tickets[1].finish_reason == "length"
    assert [t.id for t in tickets[1].tokens] == [t.id for t in tickets[0].tokens][:new]
    assert [t.id for t in tickets[2].tokens] == [t.id for t in tickets[0].tokens]
    assert engine.load == (0, 0)


def test_after_a_failed_step_the_engine_goes_on_with_those_that_wait(kind: str) -> None:
    made = backend(kind, slots=2)
    engine, logits, calls = Engine(made), made.logits, 0

    def broken(segments: list[Segment], stop: Stop | None = None) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError("no more")
        return logits(segments, stop)

    made.logits = broken  # type: ignore[method-assign]
    tickets = [engine.submit(Request(prompt(5, seed), 6, GREEDY)) for seed in range(3)]
    assert engine.step()
    assert engine.step()
    with pytest.raises(MemoryError):
        engine.step()
    assert engine.abandon() == tickets[:2]
    while engine.step():
        pass
    assert [t.finish_reason for t in tickets] == [None, None, "length"]
    alone = Engine(backend(kind, slots=2)).run([Request(prompt(5, 2), 6, GREEDY)])[0]
    assert [t.id for t in tickets[2].tokens] == [t.id for t in alone.tokens]
