"""A run in a process of its own, which kills itself (SIGKILL) at the place that it is told.

Usage: killed_agent.py STATE LOG PLACE. The tools write a line into LOG for each call that they make. PLACE is
``begun:TEXT`` (in the call with this text, before it acts), ``acted:TEXT`` (when it has acted, and has given no result
yet), ``KIND:N`` (at the event of this kind in step N) or ``never``.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agents.scripted import ScriptedModel
from scratchlm.agents.loop import run_agent
from scratchlm.agents.settings import Event
from scratchlm.agents.state import State
from scratchlm.agents.tool import Tool

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
CALLS = [("read", "a"), ("send", "1"), ("read", "b"), ("send", "2"), ("send", "3")]


def turn(messages: list[dict[str, Any]]) -> Any:
    """What comes next, told by the messages alone, so that it does not matter in which process."""
    done = sum(message["role"] == "tool" for message in messages)
    return "All sent." if done >= len(CALLS) else (CALLS[done][0], {"text": CALLS[done][1]})


def tools(log: Path, place: str) -> list[Tool]:
    where, _, number = place.partition(":")

    def act(name: str, text: str) -> str:
        if (where, number) == ("begun", text):
            os.kill(os.getpid(), signal.SIGKILL)
        with log.open("a") as out:
            out.write(f"{name} {text}\n")
        if (where, number) == ("acted", text):
            os.kill(os.getpid(), signal.SIGKILL)
        return f"{name} {text} done"

    return [
        Tool(name, "", SCHEMA, lambda given, name=name: act(name, given["text"]), effects=name == "send")
        for name in ("read", "send")
    ]


def main(state: Path, log: Path, place: str) -> None:
    def watch(event: Event) -> None:
        if place == f"{event.kind}:{event.step}":
            os.kill(os.getpid(), signal.SIGKILL)

    task = State.load(state) if state.exists() else "Send"
    run_agent(task, ScriptedModel(turn), tools(log, place), on_event=watch, file=state)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
