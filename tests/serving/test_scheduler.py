"""Turns, cancelling, failures and the end of the thread that drives an engine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from scratchlm.generation.backends import TorchBackend
from scratchlm.generation.engine import Engine, Request, Ticket, Token
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.models import Decoder, ModelConfig, build_model
from scratchlm.serving.errors import ApiError
from scratchlm.serving.fairness import FairQueue
from scratchlm.serving.scheduler import Job, News, Scheduler
from scratchlm.serving.texts import Text

from ..agents.chat_tokenizers import chatty

GREEDY = SamplingConfig(greedy=True)


def engine(slots: int = 2) -> Engine:
    torch.manual_seed(0)
    model = build_model(ModelConfig(30, context=64, width=16, layers=1, heads=2, positions="rotary", init_std=0.2))
    assert isinstance(model, Decoder)
    return Engine(TorchBackend(model.eval(), slots))


def job(client: str = "a", *, length: int = 3, new: int = 4, first: int = 1, on_token: Any = None) -> Job:
    ids = [(first + n) % 30 for n in range(length)]
    return Job(Request(ids, new, GREEDY, on_token=on_token), client, News())


async def ended(*jobs: Job) -> None:
    async with asyncio.timeout(20):
        while not all(one.ended for one in jobs):
            await asyncio.sleep(0.005)


# ---- whose turn it is


def test_the_client_with_fewest_tokens_is_next() -> None:
    line: FairQueue[int] = FairQueue()
    for n in range(4):
        line.add("greedy", n)
    line.add("modest", 10)
    assert line.take() == ("greedy", 0)
    line.charge("greedy", 100)
    assert line.take() == ("modest", 10)
    line.charge("modest", 30)
    line.add("modest", 11)
    assert line.take() == ("modest", 11)
    line.charge("modest", 90)
    assert line.take() == ("greedy", 1)
    assert len(line) == 2
    assert line.waiting("greedy") == 2


def test_nobody_saves_up_turns_by_staying_away() -> None:
    line: FairQueue[int] = FairQueue()
    line.add("old", 0)
    line.add("old", 1)
    line.take()
    line.charge("old", 500)
    line.add("new", 2)
    line.charge("new", 10)
    assert line.take() == ("old", 1)  # the newcomer began where the least of the others was
    line.leave("old")
    line.leave("old")
    line.take()
    line.leave("new")
    line.add("old", 3)
    line.add("third", 4)
    line.charge("old", 1)
    assert line.take() == ("third", 4)  # nobody was there: all begin anew


def test_what_waits_can_be_taken_out() -> None:
    line: FairQueue[int] = FairQueue()
    line.add("a", 1)
    assert line.remove("a", 1)
    assert not line.remove("a", 1)
    assert len(line) == 0
    assert line.all() == []


async def test_a_modest_client_does_not_wait_for_a_greedy_ones_line() -> None:
    order: list[str] = []
    scheduler = Scheduler(engine(1), 1, 64, on_end=lambda one: order.append(one.client))
    many = [job("greedy", new=6, first=n) for n in range(6)]
    one = job("modest", new=6)
    scheduler.admit(many)
    scheduler.admit([one])
    await ended(*many, one)
    assert order.index("modest") <= 2
    scheduler.close()


async def test_special_tokens_are_shown_only_where_asked_for_and_stop_texts_never() -> None:
    words = chatty()
    special, end = words.id_of("<|im_start|>"), next(iter(words.eos_ids))
    for skip, shown in ((True, "ab"), (False, "a<|im_start|>b")):
        text = Text(0, words, [1], 9, GREEDY, "a", News(), skip_special=skip, stop=["cd"], log_probabilities=0)
        for letter in ("a", special, "b", "c"):
            token = letter if isinstance(letter, int) else words.encode(letter)[0]
            assert text.request.on_token is not None
            assert not text.request.on_token(Token(token, -1.0))
        assert text.request.on_token(Token(words.encode("d")[0], -1.0))
        text.ticket = Ticket(text.request, 64)
        text.ticket.finish_reason = "stop"
        text.finish()
        piece = text.fetch()
        assert piece is not None
        assert piece.text == shown
        assert len(piece.tokens) == 3
        assert text.finish_reason == "stop"
    assert Text(0, words, [1], 9, GREEDY, "a", News()).request.end_ids == {end}


# ---- cancelling, limits, failures


async def test_cancelled_jobs_end_whether_they_run_or_wait() -> None:
    scheduler = Scheduler(engine(1), 1, 8)
    running, waiting, last = job(new=100_000), job(new=100_000), job(new=3)
    scheduler.admit([running, waiting, last])
    while not running.first:
        await asyncio.sleep(0.005)
    scheduler.cancel([waiting])
    await ended(waiting)
    assert waiting.ticket is None
    scheduler.cancel([running])
    await ended(running, last)
    assert running.ticket is not None
    assert running.ticket.finish_reason == "cancelled"
    assert last.ticket is not None
    assert last.ticket.finish_reason == "length"
    assert scheduler.load == (0, 0)
    scheduler.close()


async def test_a_full_queue_says_when_to_come_back() -> None:
    scheduler = Scheduler(engine(1), 1, 4)
    long = job("a", new=100_000)
    scheduler.admit([long])
    while not long.first:
        await asyncio.sleep(0.005)
    waiting = [job("a", new=1) for _ in range(2)]
    scheduler.admit(waiting)
    with pytest.raises(ApiError, match="of yours") as own:
        scheduler.admit([job("a")])
    others = [job("b", new=1), job("c", new=1)]
    for one in others:
        scheduler.admit([one])
    with pytest.raises(ApiError, match="too many requests") as all_of_them:
        scheduler.admit([job("d")])
    for caught in (own, all_of_them):
        assert caught.value.status == 429
        assert int(caught.value.headers["Retry-After"]) >= 1
    scheduler.cancel([long])
    await ended(long, *waiting, *others)
    scheduler.admit([again := job("d")])
    await ended(again)
    scheduler.close()


async def test_a_failed_step_ends_those_in_it_and_no_others() -> None:
    made = engine(2)
    logits, fail = made.backend.logits, [False]

    def sometimes(segments: Any, stop: Any) -> torch.Tensor:
        if fail[0]:
            fail[0] = False
            raise RuntimeError("secret insides")
        return logits(segments, stop)

    made.backend.logits = sometimes  # type: ignore[method-assign]
    scheduler = Scheduler(made, 2, 8)
    hit = [job(new=100_000), job(new=100_000, first=5)]
    scheduler.admit(hit)
    while not all(one.first for one in hit):
        await asyncio.sleep(0.005)
    waiting = job(new=4, first=9)
    scheduler.admit([waiting])
    fail[0] = True
    await ended(*hit, waiting)
    for one in hit:
        assert isinstance(one.error, ApiError)
        assert one.error.status == 500
        assert "secret" not in str(one.error)
    assert waiting.error is None
    assert waiting.ticket is not None
    alone = engine().run([Request([9, 10, 11], 4, GREEDY)])[0]
    assert [token.id for token in waiting.ticket.tokens] == [token.id for token in alone.tokens]
    scheduler.close()


async def test_a_job_that_cannot_begin_hits_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    made = engine(2)
    submit = made.submit

    def broken(request: Request) -> Ticket:
        if request.ids[0] == 7:
            raise RuntimeError("secret insides")
        return submit(request)

    monkeypatch.setattr(made, "submit", broken)
    scheduler = Scheduler(made, 2, 8)
    bad, good = job(first=7), job(first=5)
    scheduler.admit([bad, good])
    await ended(bad, good)
    assert isinstance(bad.error, ApiError)
    assert "secret" not in str(bad.error)
    assert good.error is None
    scheduler.close()


async def test_the_engine_is_hurried_for_those_that_get_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    made, hurried = engine(2), []
    monkeypatch.setattr(made, "hurry", lambda: hurried.append(1))
    scheduler = Scheduler(made, 2, 8)
    running = [job(new=100_000), job(new=100_000, first=5)]
    for one in running:
        scheduler.admit([one])
        while not one.first:
            await asyncio.sleep(0.005)
    assert len(hurried) == 2
    scheduler.admit([job()])
    assert len(hurried) == 2
    scheduler.close()


async def test_closing_finishes_what_is_there() -> None:
    scheduler = Scheduler(engine(1), 1, 8)
    jobs = [job(new=20, first=n) for n in range(3)]
    scheduler.admit(jobs)
    await asyncio.to_thread(scheduler.close, 20.0)
    assert all(one.ended and one.ticket is not None and one.ticket.finish_reason == "length" for one in jobs)
    with pytest.raises(ApiError, match="shutting down"):
        scheduler.admit([job()])


async def test_closing_without_time_cancels() -> None:
    scheduler = Scheduler(engine(1), 1, 8)
    jobs = [job(new=1_000_000), job(new=1_000_000)]
    scheduler.admit(jobs)
    await asyncio.to_thread(scheduler.close, 0.05)
    assert all(one.ended for one in jobs)
