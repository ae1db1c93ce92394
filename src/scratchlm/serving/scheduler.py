"""One thread that drives one engine: texts come from many clients, take turns for its slots, and are told step by step.

The event loop never waits for the engine, nor the engine for a client: what a step has brought lies with its text until
the loop fetches it, and one call wakes all that have news.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter

from scratchlm.errors import UserError
from scratchlm.generation.engine import Engine, Request, Ticket
from scratchlm.serving.errors import ApiError, log
from scratchlm.serving.fairness import WRITTEN, FairQueue

_MOST_WAIT = 60
"""Seconds that a client is told to wait at most before it asks again."""


class News:
    """Tells a coroutine that something new has come for one of its jobs."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Until there is news since the last time."""
        await self._event.wait()
        self._event.clear()

    def tell(self) -> None:
        """From the loop's own thread."""
        self._event.set()


class Job:
    """One text that is to be made, for one client."""

    def __init__(self, request: Request, client: str, news: News) -> None:
        self.request, self.client, self.news = request, client, news
        self.ticket: Ticket | None = None
        self.error: BaseException | None = None
        """Why it came to nothing."""
        self.ended = False
        """Whether all has come; nothing changes any more."""
        self.arrived = perf_counter()
        self.begun = self.first = self.last = 0.0
        """Seconds on the same clock: when it got its slot, its first token, its end; 0 for not yet."""
        self.charged = 0

    def finish(self) -> None:
        """Called by the engine's thread when no more tokens come."""


class Scheduler:
    """Gives the jobs of many clients to one engine.

    Args:
        engine: nobody else steps it.
        slots: jobs that run at a time; no more than the engine has.
        queue: jobs that may wait. One client's may be half of them.
        name: of the model, for the thread.
        on_end: told of each job that has ended, in the engine's thread.
    """

    def __init__(
        self, engine: Engine, slots: int, queue: int, name: str = "", on_end: Callable[[Job], None] | None = None
    ) -> None:
        self.engine, self.slots, self.queue = engine, min(slots, engine.backend.slots), queue
        self._on_end = on_end
        self._line: FairQueue[Job] = FairQueue()
        self._running: list[Job] = []
        self._cancelled: list[Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._seconds = 1.0
        """What a job takes, about."""
        self._thread = threading.Thread(target=self._work, name=f"scratchlm-engine {name}", daemon=True)
        self._thread.start()

    @property
    def load(self) -> tuple[int, int]:
        """Jobs that run, and jobs that wait."""
        return len(self._running), len(self._line)

    def admit(self, jobs: Sequence[Job]) -> None:
        """Take the jobs of one request in. From any thread.

        Raises:
            ApiError: too many wait (429, with the seconds to wait), or the server is going down (503).
        """
        client = jobs[0].client
        with self._changed:
            if self._closing:
                raise ApiError(503, "the server is shutting down", headers={"Retry-After": "5"})
            waiting, own = len(self._line), self._line.waiting(client)
            if waiting >= self.queue or own >= max(self.queue // 2, 1):
                after = max(1, min(_MOST_WAIT, round(waiting * self._seconds / self.slots)))
                what = "too many requests are waiting" if waiting >= self.queue else "too many of yours are waiting"
                raise ApiError(
                    429, f"{what}; try again in {after} s", code="queue_full", headers={"Retry-After": str(after)}
                )
            for job in jobs:
                self._line.add(client, job)
            if len(self._running) < self.slots:
                self.engine.hurry()
            self._changed.notify()

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Nobody wants these any more. From any thread; what has ended stays as it is."""
        with self._changed:
            self._cancelled += [job for job in jobs if not job.ended]
            self._changed.notify()

    def close(self, grace: float = 0.0) -> None:
        """Take nothing more in, finish what is there within ``grace`` seconds, cancel the rest, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(grace)
        if self._thread.is_alive():
            with self._changed:
                self._cancelled += [*self._running, *self._line.all()]
                self._changed.notify()
            self._thread.join()

    # ---- the engine's thread

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._running or len(self._line) or self._cancelled):
                    if self._closing:
                        return
                    self._changed.wait()
                ended = self._drop()
                ended += self._begin()
            try:
                if self._running:
                    self.engine.step()
            except Exception as error:  # of one step: those that were in it end, the server goes on
                ended += self._fail(error)
            self._tell(ended)

    def _drop(self) -> list[Job]:
        """End what was cancelled while it waited; what runs ends in the next step."""
        ended = []
        for job in self._cancelled:
            if job.ticket is not None:
                self.engine.cancel(job.ticket)
            elif self._line.remove(job.client, job):
                ended.append(job)
        self._cancelled = []
        return ended

    def _begin(self) -> list[Job]:
        """Give free slots to those whose turn it is; those that cannot even begin have ended."""
        ended = []
        while len(self._line) and len(self._running) < self.slots:
            client, job = self._line.take()
            self._line.charge(client, len(job.request.ids))
            job.begun = perf_counter()
            try:
                job.ticket = self.engine.submit(job.request)
            except Exception as error:  # of this job alone
                job.error = error if isinstance(error, (UserError, ValueError)) else _failed(error)
                self._line.leave(client)
                ended.append(job)
            else:
                self._running.append(job)
        return ended

    def _fail(self, error: Exception) -> list[Job]:
        """The jobs that a failed step has hit."""
        hit = {id(ticket) for ticket in self.engine.abandon()}
        ended = [job for job in self._running if id(job.ticket) in hit]
        if not ended:  # not even one had begun: whatever it is would come again at once
            ended = list(self._running)
            for job in ended:
                assert job.ticket is not None
                self.engine.cancel(job.ticket)
        told = _failed(error)
        for job in ended:
            job.error = told
        self._leave(ended)
        return ended

    def _tell(self, ended: list[Job]) -> None:
        """Wake those that have news, each loop with one call."""
        told: dict[asyncio.AbstractEventLoop, dict[int, News]] = {}
        finished = []
        with self._changed:
            for job in self._running:
                assert job.ticket is not None
                new = len(job.ticket.tokens) - job.charged
                if new:
                    self._line.charge(job.client, WRITTEN * new)
                    job.charged += new
                    job.first = job.first or perf_counter()
                if job.ticket.finish_reason is not None:
                    job.error = job.ticket.error
                    finished.append(job)
                elif new:
                    told.setdefault(job.news.loop, {})[id(job.news)] = job.news
            self._leave(finished)
        for job in [*finished, *ended]:
            job.last = perf_counter()
            if job.begun:
                self._seconds += (job.last - job.begun - self._seconds) / 16
            try:
                job.finish()
                if self._on_end is not None:
                    self._on_end(job)
            except Exception as error:  # the thread must live
                job.error = error
            job.ended = True
            told.setdefault(job.news.loop, {})[id(job.news)] = job.news
        for loop, news in told.items():
            try:
                loop.call_soon_threadsafe(_tell_all, list(news.values()))
            except RuntimeError:  # the loop is closed: nobody is there to hear
                continue

    def _leave(self, jobs: list[Job]) -> None:
        with self._changed:
            for job in jobs:
                self._running.remove(job)
                self._line.leave(job.client)


def _failed(error: Exception) -> ApiError:
    """What a client is told; what only we can mend goes to the log."""
    if isinstance(error, UserError):
        return ApiError(500, f"the model failed: {error}")
    log.error("the engine failed: %s: %s", type(error).__name__, error, exc_info=error)
    return ApiError(500, "the model failed")


def _tell_all(news: list[News]) -> None:
    for one in news:
        one.tell()
