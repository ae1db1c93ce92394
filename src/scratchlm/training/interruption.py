"""Ending a training from outside: Ctrl-C, or the system's request."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stop:
    """Whether the user, or the system, has asked for an end."""

    asked: bool = False
    handlers: dict[int, Any] = field(default_factory=dict)


@contextmanager
def interruptible() -> Iterator[Stop]:
    """Within this block the first Ctrl-C (or SIGTERM) asks the loop to end after its step; a second one is felt."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, _frame: Any) -> None:
        stop.asked = True
        signal.signal(number, stop.handlers[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        stop.handlers[number] = signal.signal(number, ask)
    try:
        yield stop
    finally:
        for caught, handler in stop.handlers.items():
            signal.signal(caught, handler)
