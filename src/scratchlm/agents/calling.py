"""The calls of one turn: which of them are made, in which order, and what the model is told of the others."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from scratchlm.agents.settings import EFFECTS, AgentSettings, Ask
from scratchlm.agents.state import CallRecord, State, Step
from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.agents.tool import Tool

REFUSED = "error: the user did not allow this call"
_UNSURE = (
    "error: this call had begun when the run was broken off; whether it took effect is not known, and it was not made "
    "again. Find out before you call it again."
)


class Waiting(Exception):  # noqa: N818 (nothing is wrong)
    """A call needs someone's leave, and there is nobody to ask."""


class Caller:
    """Makes the calls of a run.

    Args:
        tools: those there are, with distinct names.
        ask: who is asked; None: a call that needs approval waits.
        save: writes the state down.
        tell: told of each call that is about to be made ("call") and of each that is finished ("result").
        check: raises where the run is to stop.
    """

    def __init__(
        self,
        tools: Sequence[Tool],
        settings: AgentSettings,
        ask: Ask | None,
        save: Callable[[], None],
        tell: Callable[[str, CallRecord], None],
        check: Callable[[], None],
    ) -> None:
        self._tools = {tool.name: tool for tool in tools}
        if len(self._tools) < len(tools):
            names = [tool.name for tool in tools]
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"two tools are called {twice}; give each name once")
        self._settings, self._ask, self._save, self._tell, self._check = settings, ask, save, tell, check

    def finish(self, state: State, step: Step) -> None:
        """Make the calls that have no result yet: those without effects side by side, the others one by one, in the
        order in which the model made them.

        Raises:
            Waiting: one needs approval; those before it are made.
        """
        together: list[tuple[CallRecord, Tool]] = []
        for number, record in enumerate(step.calls):
            if record.result is not None:
                continue
            if any(_key(other) == _key(record) for other, _ in together):
                self._make(together)  # so that its twin is answered by it
            tool = self._tools.get(record.name)
            said = self._refused(state, record, tool, number)
            if said is None and tool is not None:
                said = self._unapproved(record, tool)
            if said is not None or tool is None:
                record.result, record.failed = said or "", not record.made and (said or "").startswith("error:")
                self._tell("result", record)
            elif tool.effects:
                self._make(together)
                record.begun = record.effects = True
                self._save()
                self._make([(record, tool)])
                self._save()
            else:
                together.append((record, tool))
        self._make(together)

    def _make(self, calls: list[tuple[CallRecord, Tool]]) -> None:
        """Make calls side by side, and empty the list."""
        if not calls:
            return
        self._check()
        for record, _ in calls:
            self._tell("call", record)
        if len(calls) == 1:
            outcomes = [calls[0][1].run(calls[0][0].arguments)]
        else:
            with ThreadPoolExecutor(len(calls)) as pool:
                # Each in a context like this one, so that a run within a tool knows of the run around it.
                waiting = [pool.submit(copy_context().run, tool.run, record.arguments) for record, tool in calls]
                outcomes = [one.result() for one in waiting]
        for (record, _), outcome in zip(calls, outcomes, strict=True):
            record.result, record.failed, record.seconds, record.made = (
                outcome.text,
                outcome.failed,
                outcome.seconds,
                True,
            )
            self._tell("result", record)
        calls.clear()

    def _refused(self, state: State, record: CallRecord, tool: Tool | None, number: int) -> str | None:
        """What the model is told of a call that is not made; None for one that is."""
        if record.fault:
            return f"error: this call could not be read: {record.fault}"
        if tool is None:
            near = difflib.get_close_matches(record.name, self._tools, 1)
            meant = f"did you mean {near[0]}? " if near else ""
            names = ", ".join(self._tools) or "none"
            return f"error: there is no tool {record.name[:80]!r}; {meant}the tools are: {names}"
        if number >= self._settings.most_calls:
            return f"error: these are too many calls at once; at most {self._settings.most_calls} are made in a turn"
        if record.begun and tool.effects and (said := self._asked(record, "again")) is not True:
            record.made = True  # perhaps, so that it does not happen by a second call either
            return said or _UNSURE
        return None if record.begun else self._repeated(state, record)

    def _repeated(self, state: State, record: CallRecord) -> str | None:
        same: list[CallRecord] = []
        for other in state.calls:
            if other is record or other.result is None:
                continue
            if _key(other) == _key(record) and other.made:
                same.append(other)
            elif other.made and other.effects:
                same = []  # what it changed may change the answer
        if not same or len(same) < self._settings.repeats + same[-1].failed:
            return None
        return (
            f"You have made this call before; it was not made again. Its result was:\n{same[-1].result}\n"
            "Use it: answer, or make another call."
        )

    def _unapproved(self, record: CallRecord, tool: Tool) -> str | None:
        """What the model is told of a call that nobody allows."""
        whole = f"{record.name}({record.arguments})"
        fits = (
            tool.effects if pattern == EFFECTS else fnmatchcase(record.name, pattern) or fnmatchcase(whole, pattern)
            for pattern in self._settings.approve
        )
        if record.begun or not any(fits):
            return None
        if self._ask is None:
            raise Waiting
        said = self._asked(record, "approval")
        return None if said is True else said or f"{REFUSED}."

    def _asked(self, record: CallRecord, why: str) -> bool | str:
        """True, or what to tell the model; False where nobody said anything."""
        if self._ask is None:
            return False
        said = self._ask(record.call(), why)  # type: ignore[arg-type]
        return said if said is True or not said else f"{REFUSED}: {said}"


def _key(record: CallRecord) -> tuple[str, str]:
    """What makes two calls the same: the tool and the arguments, however they are written."""
    try:
        return record.name, json.dumps(json.loads(record.arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return record.name, record.arguments
