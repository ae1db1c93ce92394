"""What an agent's run is: a plain record that can be written to a file, read again and gone on with.

It is saved after every finished step, and before each call that changes something outside: such a call is written down
first, so that a run that was killed knows which calls may or may not have happened.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from scratchlm.agents.model import ToolCall
from scratchlm.checkpoints.files import disk_errors, make_durable, write_text
from scratchlm.errors import UserError
from scratchlm.reading import read_text

Status = Literal["running", "waiting", "done", "stopped"]
"""``waiting``: for someone's leave to make a call; ``done``: there is an answer; ``stopped``: there is none, or only
what was there when a budget ended."""
VERSION = 1


@dataclass
class CallRecord:
    """A call and what has come of it."""

    id: str
    name: str
    arguments: str
    fault: str = ""
    begun: bool = False
    """Whether it was about to be made. Of one with effects that has begun and has no result nobody knows whether it
    happened."""
    result: str | None = None
    """What the model sees of it; None as long as it is not finished."""
    failed: bool = False
    made: bool = False
    """Whether the tool really ran: not refused, not unknown, not one that had been made before."""
    effects: bool = False
    seconds: float = 0.0

    def call(self) -> ToolCall:
        """As the model made it."""
        return ToolCall(self.id, self.name, self.arguments, self.fault)


@dataclass
class Step:
    """One turn of the model, and the calls in it."""

    number: int
    text: str
    raw: str = ""
    """The whole turn as a local model wrote it."""
    calls: list[CallRecord] = field(default_factory=list)
    choice: str = "auto"
    finish_reason: str = "end"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    """That the model took."""
    began: float = 0.0
    """Seconds since 1970."""
    finished: bool = False
    """Whether all of it is in the messages."""


@dataclass
class State:
    """A run: the task, what was said, what was done, and how it ended."""

    task: str
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    model: str = ""
    tools: list[str] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    """The conversation that the model is shown, in OpenAI's form. Of the unfinished step nothing is in it."""
    steps: list[Step] = field(default_factory=list)
    """The finished ones, and last, while its calls are made, the one that is not."""
    status: Status = "running"
    reason: str = ""
    """Why it ended: ``answered``, ``length`` (the answer was cut), ``steps``, ``tokens``, ``seconds``, ``cost``,
    ``loop``, ``empty``, ``cancelled``; of one that waits, ``approval``."""
    answer: str = ""
    summary: str = ""
    """What older turns said, once the context was full."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    """That steps took, of all the times it was gone on with."""
    cost: float = 0.0
    version: int = VERSION

    @property
    def open_step(self) -> Step | None:
        """The step whose calls are not all made and told to the model."""
        return self.steps[-1] if self.steps and not self.steps[-1].finished else None

    @property
    def calls(self) -> list[CallRecord]:
        """All calls, in order."""
        return [call for step in self.steps for call in step.calls]

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON; :meth:`from_json` reads it."""
        steps = [{**vars(step), "calls": [dict(vars(call)) for call in step.calls]} for step in self.steps]
        return {**vars(self), "steps": steps}

    def report(self) -> dict[str, Any]:
        """What came of it, ready for JSON: the answer, the calls, what it took."""
        own = ("answer", "status", "reason", "prompt_tokens", "completion_tokens", "seconds", "cost")
        names = ("name", "arguments", "result", "failed", "made", "seconds")
        calls = [{name: getattr(call, name) for name in names} for call in self.calls]
        return {**{name: getattr(self, name) for name in own}, "steps": len(self.steps), "calls": calls}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> State:
        """The state of :meth:`as_json`.

        Raises:
            ValueError, TypeError, KeyError: it is none.
        """
        if given["version"] != VERSION:
            raise ValueError(f"its version is {given['version']!r}, and this program reads {VERSION}")
        names = {one.name for one in fields(cls)}
        if unknown := sorted(set(given) - names):
            raise ValueError(f"it has an unknown part, {unknown[0]!r}")
        steps = [Step(**{**one, "calls": [CallRecord(**call) for call in one["calls"]]}) for one in given["steps"]]
        made = cls(**{**given, "steps": steps})
        if not isinstance(made.task, str) or not all(isinstance(m, dict) and "role" in m for m in made.messages):
            raise ValueError("its task or its messages have another form")
        return made

    @classmethod
    def load(cls, path: Path) -> State:
        """Read it.

        Raises:
            UserError: there is none, or it is damaged.
        """
        try:
            return cls.from_json(json.loads(read_text(path)))
        except FileNotFoundError as error:
            raise UserError(f"{path} is not there, so there is no run to go on with; leave --resume out") from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            line = " ".join(str(error).split())[:120]
            raise UserError(f"{path} is no state of an agent's run ({line}); give the file of --state") from error


class StateFile:
    """Where the state of a run is kept: written whole or not at all, so that it outlives the program's end at any
    moment. That of the computer, too, once it is safe on the disk, which takes longer: the model need not wait for it,
    a call with effects does.

    Args:
        path: of the file. It holds all that tools have said; only its owner can read it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pool = ThreadPoolExecutor(1, "state")
        self._syncing: Future[None] | None = None

    def save(self, state: State, *, wait: bool = True) -> None:
        """Write a state down; with ``wait`` it is safe on the disk when this returns.

        Raises:
            UserError: it cannot be written.
        """
        with disk_errors(str(self.path), "choose another place for the state"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(state.as_json(), ensure_ascii=False), mode=0o600, durable=False)
            if wait or self._syncing is None or self._syncing.done():
                if self._syncing is not None:
                    self._syncing.result()
                self._syncing = self._pool.submit(make_durable, self.path)
            if wait:
                self._syncing.result()
