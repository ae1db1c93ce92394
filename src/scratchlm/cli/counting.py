"""How far a verb has come with many texts: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from scratchlm.training.progress import PLAIN_INTERVAL, clock


class Bars:
    """Bars on standard error for the length of a ``with`` block, where that is a terminal."""

    def __init__(self, *columns: ProgressColumn) -> None:
        self._console = Console(stderr=True, highlight=False)
        first = (TextColumn("{task.description}", markup=False), BarColumn())
        self._bars = Progress(*first, *columns, TimeRemainingColumn(), console=self._console, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bars.stop()


class Counting(Bars):
    """Shows on standard error, for the length of a ``with`` block, how many of ``total`` are done (None: unknown)."""

    def __init__(self, what: str, total: int | None = None) -> None:
        super().__init__(MofNCompleteColumn())
        self._what, self._total = what, total
        self._task = self._bars.add_task(what, total=total)
        self._began = self._told = time.monotonic()

    def __call__(self, done: int) -> None:
        """``done`` are done."""
        if self._console.is_terminal:
            self._bars.update(self._task, completed=done)
            return
        now = time.monotonic()
        if now - self._told >= PLAIN_INTERVAL:
            self._told = now
            left = ""
            if self._total:
                left = f" of {self._total:,}, {clock((now - self._began) / done * (self._total - done))} left"
            print(f"{self._what}: {done:,}{left}", file=sys.stderr, flush=True)
