"""How a model's fetching is shown: bars with the time left on a terminal, a line where there is none."""

from __future__ import annotations

import sys

from rich.progress import DownloadColumn, TransferSpeedColumn

from scratchlm.checkpoints.meter import Meter
from scratchlm.cli.counting import Bars


class Transfer(Bars, Meter):
    """A :class:`~scratchlm.checkpoints.meter.Meter` on standard error, for the length of a ``with`` block."""

    def __init__(self) -> None:
        super().__init__(DownloadColumn(), TransferSpeedColumn())
        self._task = self._bars.add_task("", total=None, visible=False)

    def say(self, text: str) -> None:
        if self._console.is_terminal:
            self._console.print(text, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def show(self, what: str, done: int, total: int) -> None:
        self._bars.update(self._task, description=what[-40:], completed=done, total=total, visible=True)
