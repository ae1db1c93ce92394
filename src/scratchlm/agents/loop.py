"""The loop: the model thinks and calls, the tools answer, until there is an answer or a budget ends.

What the model does wrong (a call that cannot be read, an unknown tool, arguments that do not fit) goes back to it as
text. Tools' results are data: nothing in them opens a turn or a call, whatever it says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scratchlm.agents.call_format import call_id
from scratchlm.agents.calling import Caller, Waiting
from scratchlm.agents.memory import fit_messages
from scratchlm.agents.model import AgentModel, Choice, Reply, ToolCall
from scratchlm.agents.settings import AgentSettings, Ask, Event, OnEvent
from scratchlm.agents.state import CallRecord, State, StateFile, Step

if TYPE_CHECKING:
    from scratchlm.agents.tool import Tool

_EMPTY = "You gave no answer. Answer the task, or call a tool."
_MOST_EMPTY, _LONGEST_NAME, _LONGEST_ARGUMENTS = 2, 200, 100_000


_ENDED: ContextVar[Callable[[], bool] | None] = ContextVar("whether the run around this one has ended", default=None)


@contextmanager
def ended_by(ended: Callable[[], bool]) -> Iterator[None]:
    """Runs that begin inside, in this thread or in a tool's, are cancelled where ``ended`` or a run around them says
    so."""
    above = _ENDED.get()
    token = _ENDED.set(lambda: ended() or (above is not None and above()))
    try:
        yield
    finally:
        _ENDED.reset(token)


class _Stopped(Exception):  # noqa: N818 (nothing is wrong)
    """The run ends in the middle of a turn."""


def run_agent(
    task: str | State,
    model: AgentModel,
    tools: Sequence[Tool] = (),
    settings: AgentSettings | None = None,
    *,
    on_event: OnEvent | None = None,
    ask: Ask | None = None,
    cancel: Callable[[], bool] | None = None,
    file: Path | None = None,
) -> State:
    """Work on a task until it is answered or a budget ends.

    Args:
        task: what is to be done, or the state of a run to go on with. One that was broken off goes on at its last
            finished step; one that is ``stopped`` goes on with the budgets of ``settings``, from what it has used.
        on_event: told of everything as it happens, the model's text included.
        ask: asked about calls that need approval; without it such a run returns with the status ``waiting``.
        cancel: looked at between calls and with every piece of text; True ends the run with the reason ``cancelled``.
            A run within a tool of another one is cancelled together with it, too, and when its time ends.
        file: where the state is kept, saved whole after every step; see :mod:`scratchlm.agents.state`.

    Raises:
        UserError: the model cannot be asked (the state stays as it was after the last finished step), two tools have
            one name, or the state cannot be written.
    """
    state = State(task, model=model.name) if isinstance(task, str) else task
    return _Run(state, model, tools, settings or AgentSettings(), on_event, ask, cancel, file).go()


class _Run:
    def __init__(
        self,
        state: State,
        model: AgentModel,
        tools: Sequence[Tool],
        settings: AgentSettings,
        on_event: OnEvent | None,
        ask: Ask | None,
        cancel: Callable[[], bool] | None,
        file: Path | None,
    ) -> None:
        self.state, self._model, self._settings = state, model, settings
        self._on_event, self._ask, self._cancel, self._above = on_event, ask, cancel, _ENDED.get()
        self._file = None if file is None else StateFile(file)
        self._schemas = [tool.schema() for tool in tools]
        self._caller = Caller(
            tools,
            settings,
            None if ask is None else self._untimed,
            self._save,
            lambda kind, call: self._emit(kind, call=call),
            self._check,
        )
        self._clock = time.monotonic()
        self._over = False

    def go(self) -> State:
        """The whole run."""
        try:
            with ended_by(self._ended):
                return self._run()
        finally:
            self._over = True  # for those who still work for it, whatever broke it off

    def _run(self) -> State:
        state = self.state
        if state.status == "done":
            return state
        if not state.messages:
            before = [{"role": "system", "content": self._settings.system}] if self._settings.system else []
            state.messages = [*before, {"role": "user", "content": state.task}]
        state.status, state.reason = "running", ""
        state.tools = [schema["function"]["name"] for schema in self._schemas]
        self._emit("start", tools=tuple(self._schemas), settings=self._settings)
        try:
            while state.status == "running":
                if (step := state.open_step) is None:
                    self._turn()
                else:
                    self._caller.finish(state, step)
                    self._told(step)
                    self._count_time()
                    self._save(wait=False)
        except Waiting:
            self._end("waiting", "approval")
        except _Stopped as stopped:
            self._end("stopped", str(stopped))
        except BaseException:
            self._save()  # as it was after the last finished step, or with the calls of the one that is not
            raise
        self._emit("end")
        return state

    # ---- a turn

    def _turn(self) -> None:
        """Ask the model once."""
        state, settings = self.state, self._settings
        if reason := self._spent():
            raise _Stopped(reason)
        number = len(state.steps) + 1
        choice: Choice = "none" if number == settings.max_steps or self._stalled() else "auto"
        self._emit("step")
        if summary := fit_messages(state, self._model, self._schemas, settings):
            self._emit("summary", reply=summary)
        began = time.time()
        reply = self._model.respond(
            state.messages,
            self._schemas,
            choice=choice,
            max_new_tokens=settings.max_new_tokens,
            sampling=settings.sampling,
            on_text=self._heard,
        )
        first = len(state.calls) + 1
        records = [_record(call_id(n), call) for n, call in enumerate(reply.calls, first)]
        step = Step(number, reply.text, reply.raw, records, str(choice), reply.finish_reason)
        step.prompt_tokens, step.completion_tokens = reply.prompt_tokens, reply.completion_tokens
        step.seconds, step.began = reply.seconds, began
        state.steps.append(step)
        state.prompt_tokens += reply.prompt_tokens
        state.completion_tokens += reply.completion_tokens
        read, written = settings.prices
        state.cost += (read * reply.prompt_tokens + written * reply.completion_tokens) / 1e6
        self._emit("reply", reply=reply)
        if records and choice != "none":
            return
        self._answered(step, reply)

    def _answered(self, step: Step, reply: Reply) -> None:
        """End the run with what was said, or ask once more where nothing was."""
        state = self.state
        step.finished = True
        if step.calls:  # though it was told not to: nothing is made of them
            for call in step.calls:
                call.result, call.failed = "error: no more calls are made", True
            state.answer = reply.text
            self._end("stopped", "steps" if step.number >= self._settings.max_steps else "loop")
        elif reply.text.strip():
            state.messages.append({"role": "assistant", "content": reply.text})
            state.answer = reply.text
            self._end("done", "length" if reply.finish_reason == "length" else "answered")
        elif reply.finish_reason == "cancelled":
            self._end("stopped", "cancelled")
        elif sum(not one.text.strip() and not one.calls for one in state.steps[-_MOST_EMPTY - 1 :]) > _MOST_EMPTY:
            self._end("stopped", "empty")
        else:
            state.messages.append({"role": "user", "content": _EMPTY})

    def _told(self, step: Step) -> None:
        """The step's calls and results become messages."""
        read = [call for call in step.calls if not call.fault]
        # What could not be read as a call is shown to the model as it wrote it.
        said: dict[str, Any] = {"role": "assistant", "content": step.text if read else step.raw or step.text}
        if read:
            said["tool_calls"] = [call.call().as_json() for call in read]
        if said["content"] or read:
            self.state.messages.append(said)
        for call in read:
            result = {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": call.result or ""}
            self.state.messages.append(result)
        if faults := [call.result or "" for call in step.calls if call.fault]:
            self.state.messages.append({"role": "user", "content": "\n".join(faults)})
        step.finished = True
        self._emit("told")

    # ---- when to stop

    def _spent(self) -> str:
        """Which budget has ended; empty for none."""
        state, settings = self.state, self._settings
        self._count_time()
        if self._cancelled():
            return "cancelled"
        if len(state.steps) >= settings.max_steps:
            return "steps"
        for name, used, most in (
            ("tokens", state.prompt_tokens + state.completion_tokens, settings.max_tokens),
            ("seconds", state.seconds, settings.max_seconds),
            ("cost", state.cost, settings.max_cost),
        ):
            if most is not None and used >= most:
                return name
        return ""

    def _stalled(self) -> bool:
        """Whether the last turns brought nothing: calls, and none of them made."""
        last = self.state.steps[-self._settings.stalls :]
        return len(last) == self._settings.stalls and all(s.calls and not any(c.made for c in s.calls) for s in last)

    def _check(self) -> None:
        """Between calls and pieces of text: has someone cancelled, has the time ended?"""
        self._count_time()
        if self._cancelled():
            raise _Stopped("cancelled")
        if self._settings.max_seconds is not None and self.state.seconds >= self._settings.max_seconds:
            raise _Stopped("seconds")

    def _cancelled(self) -> bool:
        return any(said is not None and said() for said in (self._cancel, self._above))

    def _ended(self) -> bool:
        """Whether nobody waits any more for what runs within this one's tools find; asked from their threads."""
        most, used = self._settings.max_seconds, self.state.seconds + time.monotonic() - self._clock
        return self._over or self._cancelled() or (most is not None and used >= most)

    def _heard(self, text: str) -> None:
        self._check()
        self._emit("text", text=text)

    def _untimed(self, call: Any, why: Any) -> bool | str:
        """Ask someone; the time that takes is nobody's."""
        assert self._ask is not None
        self._count_time()
        try:
            return self._ask(call, why)
        finally:
            self._clock = time.monotonic()

    def _count_time(self) -> None:
        now = time.monotonic()
        self.state.seconds += now - self._clock
        self._clock = now

    def _end(self, status: Any, reason: str) -> None:
        self.state.status, self.state.reason = status, reason
        self._count_time()
        self._save()

    def _save(self, wait: bool = True) -> None:
        if self._file is not None:
            self._file.save(self.state, wait=wait)

    def _emit(self, kind: Any, **more: Any) -> None:
        if self._on_event is not None:
            number = len(self.state.steps) + (kind in ("step", "summary", "text"))  # a turn that is not there yet
            self._on_event(Event(kind, self.state, number, **more))


def _record(number: str, call: ToolCall) -> CallRecord:
    """A call as it is kept; one beyond all measure is not kept whole."""
    for part, text, most in (("name", call.name, _LONGEST_NAME), ("arguments", call.arguments, _LONGEST_ARGUMENTS)):
        if len(text) > most:
            return CallRecord(number, "", "", f"{len(text):,} characters of {part} are too many (at most {most:,})")
    return CallRecord(number, call.name, call.arguments, call.fault)
