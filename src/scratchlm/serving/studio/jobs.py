"""Work that outlasts a request, such as fetching a model: begun by one, looked at by others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

from scratchlm.checkpoints.meter import Meter
from scratchlm.serving.errors import ApiError, refusal

_MOST, _KEPT = 2, 20
"""Jobs that run at a time, and those that are remembered."""


@dataclass
class Job(Meter):
    """One of them, and how far it has come."""

    number: int
    what: Literal["pull", "export", "index"]
    name: str
    state: Literal["running", "done", "failed"] = "running"
    said: str = ""
    """The last that it had to tell; where it failed, why."""
    done: int = 0
    total: int = 0
    """Bytes; 0 where there is nothing to count."""
    path: str | None = None
    """What has come of it."""

    def say(self, text: str) -> None:
        self.said = text

    def show(self, what: str, done: int, total: int) -> None:
        self.said, self.done, self.total = what, done, total


@dataclass
class Jobs:
    """Those of one server. A thread of its own runs each, which ends with the program."""

    _jobs: list[Job] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def begin(self, what: Literal["pull", "export", "index"], name: str, work: Callable[[Job], Path]) -> dict[str, Any]:
        """Begin one, whose ``work`` returns where its result lies; returns it as it stands.

        Raises:
            ApiError: enough are running, or the same is.
        """
        running = [job for job in self._jobs if job.state == "running"]
        if any((job.what, job.name) == (what, name) for job in running):
            raise ApiError(409, f"{name} is being worked on already")
        if len(running) >= _MOST:
            raise ApiError(429, f"{_MOST} are being worked on; wait until one has ended")
        job = Job(next(self._numbers), what, name)
        self._jobs = [*[one for one in self._jobs if one.state != "running"][-_KEPT:], *running, job]
        threading.Thread(target=self._run, args=(job, work), name=f"scratchlm-{what}", daemon=True).start()
        return asdict(job)

    def told(self) -> list[dict[str, Any]]:
        """All, the newest first."""
        return [asdict(job) for job in reversed(self._jobs)]

    def _run(self, job: Job, work: Callable[[Job], Path]) -> None:
        try:
            job.path = str(work(job))
            job.said, job.state = "", "done"
        except BaseException as error:  # the thread ends here, and the page tells it
            job.said, job.state = refusal(error).message, "failed"
