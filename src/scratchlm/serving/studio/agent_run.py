"""A run of an agent in a thread of its own, watched from the server's loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as StillWaiting
from pathlib import Path
from typing import Any

from scratchlm.agents.loop import run_agent
from scratchlm.agents.model import AgentModel, ToolCall
from scratchlm.agents.settings import AgentSettings, Event
from scratchlm.agents.state import State
from scratchlm.agents.tool import Tool
from scratchlm.agents.traces import TraceWriter

_LOOK = 0.2
"""Seconds between two looks whether it has been cancelled while someone is asked."""
_CALLED = ("id", "name", "arguments", "fault")


class AgentRun:
    """One run. Made, begun and read in the server's loop.

    Args:
        traces: the folder in which its trace is kept.
    """

    def __init__(
        self, task: str, model: AgentModel, tools: Sequence[Tool], settings: AgentSettings, traces: Path
    ) -> None:
        self._state = State(task, model=model.name)
        self.id = self._state.id
        self.trace = traces / f"{self.id}.jsonl"
        self._model, self._tools, self._settings = model, tools, settings
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[dict[str, Any] | BaseException | None] = asyncio.Queue()
        self._ended = asyncio.Event()
        self._cancelled = threading.Event()
        self._asked: dict[str, Future[bool | str]] = {}

    def open(self) -> None:
        """Make the file of the trace.

        Raises:
            UserError: it cannot be written.
        """
        self._writer = TraceWriter(self.trace)

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name=f"scratchlm-agent {self.id}", daemon=True).start()

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """What happens, as it happens, to the end.

        Raises:
            Exception: what broke it off.
        """
        while (one := await self._news.get()) is not None:
            if isinstance(one, BaseException):
                raise one
            yield one

    def answer(self, call: str, said: bool | str) -> bool:
        """Say whether a call may be made, as :data:`~scratchlm.agents.settings.Ask` does; False where none waits."""
        waiting = self._asked.pop(call, None)
        if waiting is None:
            return False
        waiting.set_result(said)
        return True

    async def leave(self) -> None:
        """Cancel what has not ended, and wait until it has."""
        self._cancelled.set()
        await self._ended.wait()

    # ---- in its own thread

    def _run(self) -> None:
        try:
            run_agent(
                *(self._state, self._model, self._tools, self._settings),
                on_event=self._hear,
                ask=self._ask,
                cancel=self._cancelled.is_set,
            )
            self._tell(None)
        except BaseException as error:  # the thread ends here, and the page tells it
            self._tell(error)
        finally:
            self._writer.close()
            self._loop.call_soon_threadsafe(self._ended.set)

    def _hear(self, event: Event) -> None:
        self._writer(event)
        told = _told(event)
        if event.kind == "end":
            told["trace"] = str(self.trace)
        if event.kind not in ("told", "text") or event.text:
            self._tell({"kind": event.kind, "step": event.step, **told})

    def _ask(self, call: ToolCall, why: str) -> bool | str:
        waiting = self._asked[call.id] = Future[bool | str]()
        told = {"kind": "ask", "step": len(self._state.steps), "why": why}
        self._tell({**told, "call": {"id": call.id, "name": call.name, "arguments": call.arguments}})
        while not self._cancelled.is_set():
            try:
                return waiting.result(_LOOK)
            except StillWaiting:
                continue
        return False

    def _tell(self, what: dict[str, Any] | BaseException | None) -> None:
        self._loop.call_soon_threadsafe(self._news.put_nowait, what)


def _told(event: Event) -> dict[str, Any]:
    """What the page is told of an event: copied, as the state goes on."""
    state, reply, call = event.state, event.reply, event.call
    if event.kind == "start":
        return {"run": state.id, "tools": list(state.tools)}
    if event.kind == "text":
        return {"text": event.text}
    if event.kind == "end":
        return _some(state, "status", "reason", "answer", "prompt_tokens", "completion_tokens", "seconds")
    found: dict[str, Any] = {}
    if reply is not None:
        found |= _some(reply, "text", "prompt_tokens", "completion_tokens", "seconds", "finish_reason")
    if event.kind == "reply":
        found["calls"] = [_some(one, *_CALLED) for one in state.steps[-1].calls]
    if call is not None:
        found["call"] = _some(call, *_CALLED, "result", "failed", "made", "effects", "seconds")
    return found


def _some(of: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(of, name) for name in names}
