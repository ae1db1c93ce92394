"""The engine: what a request gets does not depend on who else is there, what is cached, or what is guessed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from scratchlm import kernels
from scratchlm.errors import UserError
from scratchlm.generation.backends import Backend, NativeBackend, TorchBackend, UncachedBackend
from scratchlm.generation.beam import beam_search
from scratchlm.generation.engine import Engine, Request
from scratchlm.generation.lookup import propose
from scratchlm.generation.native import NativeModel, Segment
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.generation.weights import ModuleWeights
from scratchlm.models import Decoder, ModelConfig, build_model

VOCABULARY, CONTEXT = 40, 64
DRAWN = SamplingConfig(temperature=1.3, top_k=20)
GREEDY = SamplingConfig(greedy=True)


def build(**options: Any) -> Decoder:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "context": CONTEXT, "width": 32, "layers": 2, "heads": 4, "init_std": 0.2}
    model = build_model(ModelConfig(**(sizes | {"positions": "rotary"} | options)))
    assert isinstance(model, Decoder)
    return model.eval()


@pytest.fixture(params=["native", "torch", "uncached"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "native" and not kernels.available():
        pytest.skip("no C compiler here")
    return str(request.param)


def backend(kind: str, slots: int = 3, **options: Any) -> Backend:
    model = build(**options)
    if kind == "native":
        return NativeBackend(NativeModel(ModuleWeights(model)), slots)
    return TorchBackend(model, slots) if kind == "torch" else UncachedBackend(model, slots)


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def tokens(engine: Engine, request: Request) -> list[int]:
    return [token.id for token in engine.run([request])[0].tokens]


def requests() -> list[Request]:
    """Of many lengths, more than there are slots, some past the context."""
    sizes = [(3, 20), (30, 5), (1, 90), (60, 12), (64, 3), (90, 8), (17, 1)]
    return [
        Request(prompt(length, i), budget, DRAWN if i % 2 else GREEDY, seed=5, sample=i)
        for i, (length, budget) in enumerate(sizes)
    ]


def test_a_request_gets_the_same_tokens_alone_and_in_company(kind: str) -> None:
    alone = [tokens(Engine(backend(kind)), request) for request in requests()]
    together = Engine(backend(kind), chunk=16).run(requests())
    assert [[token.id for token in ticket.tokens] for ticket in together] == alone
    assert [len(ids) for ids in alone] == [20, 5, 90, 12, 3, 8, 1]


def test_all_backends_give_the_same_tokens() -> None:
    kinds = ["native", "torch", "uncached"] if kernels.available() else ["torch", "uncached"]
    found = [[[t.id for t in ticket.tokens] for ticket in Engine(backend(k)).run(requests())] for k in kinds]
    assert all(one == found[0] for one in found)


def test_requests_are_let_in_while_others_run(kind: str) -> None:
    engine = Engine(backend(kind))
    expected = tokens(Engine(backend(kind)), Request(prompt(5, 9), 6, GREEDY))
    first = engine.submit(Request(prompt(8), 30, GREEDY))
    for _ in range(10):
        engine.step()
    late = engine.submit(Request(prompt(5, 9), 6, GREEDY))
    while late.finish_reason is None:
        engine.step()
    assert [token.id for token in late.tokens] == expected
    assert first.finish_reason is None
    assert engine.load == (1, 0)


def test_a_long_prompt_does_not_stop_the_others(kind: str) -> None:
    if kind == "uncached":
        pytest.skip("it computes whole sequences")
    engine = Engine(backend(kind), chunk=8)
    running = engine.submit(Request(prompt(3), 40, GREEDY))
    engine.step()
    engine.submit(Request(prompt(60, 2), 2, GREEDY))
    before = len(running.tokens)
    for _ in range(5):
        engine.step()
    assert len(running.tokens) == before + 5


@pytest.mark.parametrize("kind", ["native", "torch"], indirect=True)
def test_a_beginning_that_is_cached_is_not_computed_again(kind: str) -> None:
    engine = Engine(backend(kind))
    shared = prompt(40)
    first = engine.run([Request([*shared, 1, 2], 4, GREEDY)])[0]
    second = engine.run([Request([*shared, 3], 4, GREEDY)])[0]
    third = engine.run([Request([*shared, 1, 2], 4, GREEDY)])[0]
    assert (first.reused, second.reused, third.reused) == (0, 40, 41)
    assert [t.id for t in second.tokens] == tokens(Engine(backend(kind)), Request([*shared, 3], 4, GREEDY))
    assert [t.id for t in third.tokens] == [t.id for t in first.tokens]


@pytest.mark.parametrize("kind", ["native", "torch"], indirect=True)
def test_requests_of_one_prompt_read_it_once(kind: str) -> None:
    counted: list[int] = []

    class Counting(Engine):
        def _plan(self) -> Any:
            segments, chosen = super()._plan()
            counted.append(sum(len(segment.ids) for segment in segments if segment.prompt))
            return segments, chosen

    engine = Counting(backend(kind), chunk=16)
    tickets = engine.run([Request(prompt(50), 3, DRAWN, seed=1, sample=i) for i in range(3)])
    assert sum(counted) == 50 + 1 + 1
    assert len({tuple(t.id for t in ticket.tokens) for ticket in tickets}) == 3


def test_a_cached_text_is_not_spoilt_by_one_that_begins_like_it(kind: str) -> None:
    engine = Engine(backend(kind))
    long = engine.submit(Request(prompt(40), 20, GREEDY))
    engine.step()
    engine.run([Request(prompt(40)[:30], 20, DRAWN, seed=3)])
    while long.finish_reason is None:
        engine.step()
    assert [t.id for t in long.tokens] == tokens(Engine(backend(kind)), Request(prompt(40), 20, GREEDY))


def test_nothing_is_computed_for_a_budget_of_zero(kind: str) -> None:
    ticket = Engine(backend(kind)).run([Request([1], 0)])[0]
    assert (ticket.tokens, ticket.finish_reason) == ([], "length")


@torch.inference_mode()
def test_a_full_window_keeps_its_last_half_and_counts_positions_anew(kind: str) -> None:
    """The rule itself, written out once more: after 64 tokens the window is the last 32, and grows again."""
    model = build(positions="learned")
    found = tokens(Engine(backend(kind, positions="learned")), Request(prompt(60), 80, GREEDY))
    window = prompt(60)
    for token in found:
        assert token == int(model(torch.tensor([window]))[0, -1].argmax())
        window.append(token)
        if len(window) > CONTEXT:
            window = window[-CONTEXT // 2 :]


@torch.inference_mode()
def test_of_a_prompt_longer_than_the_context_the_end_is_seen(kind: str) -> None:
    model = build()
    expected = int(model(torch.tensor([prompt(150)[-CONTEXT:]]))[0, -1].argmax())
    assert tokens(Engine(backend(kind)), Request(prompt(150), 1, GREEDY)) == [expected]


def test_a_step_reads_no_more_of_all_prompts_than_a_chunk(kind: str) -> None:
    if kind == "uncached":
        pytest.skip("it computes whole sequences")
    read: list[int] = []

    class Counting(Engine):
        def _plan(self) -> Any:
            segments, chosen = super()._plan()
            read.append(sum(len(segment.ids) for segment in segments if segment.prompt))
            return segments, chosen

    Counting(backend(kind), chunk=10).run([Request(prompt(25, seed), 2, GREEDY) for seed in range(3)])
    assert max(read) == 10
    assert sum(read) == 75


def test_a_request_needs_a_token_and_sensible_numbers() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Request([], 3)
    with pytest.raises(ValueError, match="negative"):
        Request([1], -1)


def test_texts_end_at_an_end_token_at_the_callers_word_and_when_cancelled(kind: str) -> None:
    free = tokens(Engine(backend(kind)), Request(prompt(6), 30, DRAWN, seed=2))
    ended = Engine(backend(kind)).run([Request(prompt(6), 30, DRAWN, seed=2, end_ids=frozenset({free[7]}))])[0]
    assert ([t.id for t in ended.tokens], ended.finish_reason) == (free[: free.index(free[7]) + 1], "end")

    seen: list[int] = []
    stopped = Engine(backend(kind)).run(
        [Request(prompt(6), 30, DRAWN, seed=2, on_token=lambda t: bool(seen.append(t.id)) or len(seen) == 4)]  # type: ignore[func-returns-value]
    )[0]
    assert (seen, stopped.finish_reason) == (free[:4], "stop")

    engine = Engine(backend(kind), chunk=8)
    one, other = engine.submit(Request(prompt(6), 30, DRAWN, seed=2)), engine.submit(Request(prompt(9, 4), 5, GREEDY))
    waiting = [engine.submit(Request(prompt(5), 5, GREEDY)) for _ in range(3)]
    for _ in range(3):
        engine.step()
    engine.cancel(one)
    engine.cancel(waiting[-1])
    while engine.step():
        pass
    assert (one.finish_reason, waiting[-1].finish_reason, other.finish_reason) == ("cancelled", "cancelled", "length")
    assert len(other.tokens) == 5
    assert engine.load == (0, 0)


@pytest.mark.parametrize(
    "sampling", [GREEDY, DRAWN, SamplingConfig(temperature=0.7, top_p=0.8)], ids=["greedy", "k", "p"]
)
def test_guessing_changes_no_token(kind: str, sampling: SamplingConfig) -> None:
    """Also past the context, and although many guesses hit: the text repeats itself."""
    text = prompt(7) * 6
    plain = Request(text, 60, sampling, seed=4)
    guessed = Request(text, 60, sampling, seed=4, speculate=5)
    engine = Engine(backend(kind))
    assert tokens(engine, guessed) == tokens(Engine(backend(kind)), plain)


@pytest.mark.parametrize("kind", ["native", "torch"], indirect=True)
def test_right_guesses_save_passes(kind: str) -> None:
    passes = 0

    class Counting(Engine):
        def step(self) -> bool:
            nonlocal passes
            passes += 1
            return super().step()

    engine = Counting(backend(kind))
    text = tokens(engine, Request(prompt(4), 12, GREEDY))
    period = prompt(4) + text
    # The model is made to repeat itself by a prompt that it has already continued so.
    passes = 0
    found = tokens(engine, Request([*period, *period[:4]], 30, SamplingConfig(temperature=0.05), seed=0, speculate=6))
    assert len(found) == 30
    assert passes < 30


def test_guessing_leaves_the_distribution_as_it_is() -> None:
    """Over many seeds the first tokens after a repeated phrase come with the model's own probabilities."""
    model = build()
    text = [*prompt(6), *prompt(6)[:3]]
    expected = model(torch.tensor([text]))[0, -1].softmax(-1).detach()
    engine = Engine(TorchBackend(model, 8))
    count = 1500
    sampled = engine.run([Request(text, 3, seed=seed, speculate=3) for seed in range(count)])
    observed = torch.zeros(VOCABULARY)
    for ticket in sampled:
        observed[ticket.tokens[0].id] += 1
    kept = expected * count >= 5
    chi2 = float(((observed - expected * count)[kept] ** 2 / (expected * count)[kept]).sum())
    freedom = int(kept.sum())
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom)


def test_log_probabilities_are_the_models_own(kind: str) -> None:
    ticket = Engine(backend(kind)).run([Request(prompt(6), 5, DRAWN, seed=2, log_probabilities=3)])[0]
    text = prompt(6)
    model = build()
    for token in ticket.tokens:
        scores = model(torch.tensor([text]))[0, -1].log_softmax(-1)
        assert token.log_probability == pytest.approx(float(scores[token.id]), abs=1e-4)
        best = scores.topk(3)
        assert [i for i, _ in token.top] == best.indices.tolist()
        assert [p for _, p in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        text.append(token.id)
    plain = Engine(backend(kind)).run([Request(prompt(6), 1)])[0]
    assert plain.tokens[0].log_probability is None


def test_a_penalty_sees_prompt_and_text(kind: str) -> None:
    sampling = SamplingConfig(greedy=True, repetition_penalty=1e9)
    found = tokens(Engine(backend(kind)), Request([3, 5, 7], 12, sampling, speculate=4))
    assert len({3, 5, 7, *found}) == 15


def test_a_request_that_fails_leaves_the_engine_usable(kind: str) -> None:
    engine = Engine(backend(kind))

    def fail(_token: object) -> bool:
        raise UserError("enough")

    with pytest.raises(UserError, match="enough"):
        engine.run([Request(prompt(5), 5, GREEDY, on_token=fail), Request(prompt(9, 1), 5, GREEDY)])
    assert engine.load == (0, 0)
    assert tokens(engine, Request(prompt(5), 5, GREEDY)) == tokens(Engine(backend(kind)), Request(prompt(5), 5, GREEDY))


def test_guesses_are_what_followed_the_same_tokens_before() -> None:
    assert propose([1, 2, 3, 9, 8, 1, 2, 3], 3) == [9, 8, 1]
    assert propose([5, 1, 2, 7, 6, 1, 2, 8, 1, 2], 2) == [8, 1]  # the latest place
    assert propose([1, 2, 3, 4], 5) == []
    assert propose([7, 1, 9, 1], 5) == []  # one token alone says too little
    assert propose([1], 5) == []
    assert propose([], 5) == []
    assert propose([4, 4, 4], 5) == [4]


def exhaustive(
    model: Decoder, text: list[int], length: int, end: int | None, penalty: float
) -> list[tuple[float, list[int]]]:
    """All continuations of up to ``length`` tokens (shorter only where they end), scored."""
    done: list[tuple[float, list[int]]] = []
    going: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(length):
        rows = torch.tensor([[*text, *ids] for _, ids in going])
        scores = model(rows)[:, -1].double().log_softmax(-1)
        children = [
            (total + float(row[token]), [*ids, token])
            for (total, ids), row in zip(going, scores, strict=True)
            for token in range(row.numel())
        ]
        done += [(total, ids) for total, ids in children if ids[-1] == end]
        going = [(total, ids) for total, ids in children if ids[-1] != end]
    return sorted(((total / len(ids) ** penalty, ids) for total, ids in done + going), reverse=True)


@pytest.mark.parametrize("kind", ["native", "torch"], indirect=True)
@pytest.mark.parametrize("penalty", [0.0, 1.0])
@torch.inference_mode()
def test_a_wide_beam_finds_the_best_texts_of_all(kind: str, penalty: float) -> None:
    model = build(vocab_size=7)
    wide = beam_search(
        backend(kind, 50, vocab_size=7), [1, 2], beams=50, max_new_tokens=3, end_ids={4}, length_penalty=penalty
    )
    best = exhaustive(model, [1, 2], 3, 4, penalty)
    assert [beam.ids for beam in wide[:5]] == [ids for _, ids in best[:5]]
    assert [beam.score for beam in wide[:5]] == pytest.approx([score for score, _ in best[:5]], abs=1e-4)


@pytest.mark.parametrize("kind", ["native", "torch"], indirect=True)
def test_one_beam_is_greedy(kind: str) -> None:
    (beam,) = beam_search(backend(kind), prompt(6), beams=1, max_new_tokens=10)
    assert beam.ids == tokens(Engine(backend(kind)), Request(prompt(6), 10, GREEDY))


def test_a_beam_search_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="slots"):
        beam_search(backend("torch", 2), [1], beams=3, max_new_tokens=1)
    with pytest.raises(ValueError, match="context"):
        beam_search(backend("torch", 2), [1] * 60, beams=2, max_new_tokens=10)


def test_segments_come_back_in_the_order_in_which_they_were_given(kind: str) -> None:
    if kind == "uncached":
        pytest.skip("it has no generated tokens")
    one = backend(kind)
    first, second = prompt(5), prompt(9, 1)
    one.logits([Segment(0, first, 0)])
    expected = [backend(kind).logits([Segment(0, second, 0)])[0].clone()]
    mixed = one.logits([Segment(1, second, 0), Segment(0, [3], 5, prompt=False)])
    torch.testing.assert_close(mixed[0], expected[0], atol=1e-5, rtol=1e-5)
