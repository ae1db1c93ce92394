"""How a model's fetching is shown: bars with the time left on a terminal, a line where there is none."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from scratchlm.checkpoints.meter import Meter


class Transfer(Meter):
    """A :class:`~scratchlm.checkpoints.meter.Meter` on standard error, for the length of a ``with`` block."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
        self._bars = Progress(
            *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=self._console, transient=True
        )
        self._task = self._bars.add_task("", total=None, visible=False)

    def __enter__(self) -> Transfer:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def say(self, text: str) -> None:
        if self._console.is_terminal:
            self._console.print(text, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def show(self, what: str, done: int, total: int) -> None:
        self._bars.update(self._task, description=what[-40:], completed=done, total=total, visible=True)
