"""Traces: what a run was, line by line, without the secrets in it.

A line of JSON for the start, one for each turn of the model (what is new in its prompt, what it said, its tokens and
which of them a grammar forced), one for each result, one for the end. Several runs may share a file.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scratchlm.agents.redaction import Redactor
from scratchlm.agents.settings import Event
from scratchlm.checkpoints.files import disk_errors

VERSION = 1


class TraceWriter:
    """Writes a trace; give it to :func:`~scratchlm.agents.loop.run_agent` as ``on_event``.

    Args:
        path: of the file, which is appended to. Only its owner can read it.
        secrets: texts that are left out, beside those that are found; see :mod:`scratchlm.agents.redaction`.

    Raises:
        UserError: it cannot be written.
    """

    def __init__(self, path: Path, *, secrets: Sequence[str] = ()) -> None:
        self._path, self._redacted = path, Redactor(secrets)
        self._shown: dict[str, list[str]] = {}
        self._lock = threading.Lock()  # agents that are tools may run side by side
        with disk_errors(str(path), "choose another place for the trace"):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            self._file = os.fdopen(descriptor, "w", encoding="utf-8")

    def __call__(self, event: Event) -> None:
        """Write what is to be kept of an event."""
        made = {
            "start": self._start,
            "reply": self._turn,
            "summary": self._summary,
            "result": self._result,
            "end": self._end,
        }
        if event.kind in made:
            kept = self._redacted(made[event.kind](event))
            line = {"kind": event.kind, "run": event.state.id, "time": round(time.time(), 6), **kept}
            with self._lock, disk_errors(str(self._path), "choose another place for the trace"):
                self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
                self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _start(self, event: Event) -> dict[str, Any]:
        state, settings = event.state, event.settings
        about = {} if settings is None else asdict(settings)
        return {
            "version": VERSION,
            "task": state.task,
            "model": state.model,
            "tools": list(event.tools),
            "settings": about,
            "steps": len(state.steps),
        }

    def _turn(self, event: Event) -> dict[str, Any]:
        reply, step = event.reply, event.state.steps[-1]
        assert reply is not None
        messages = [json.dumps(message, ensure_ascii=False) for message in event.state.messages]
        before = self._shown.get(event.state.id, [])
        same = next(
            (n for n, (a, b) in enumerate(zip(before, messages, strict=False)) if a != b),
            min(len(before), len(messages)),
        )
        self._shown[event.state.id] = messages
        # Ids spell what the text says: where a secret is in it, they are left out.
        clean = self._redacted.text(reply.raw) == reply.raw
        return {
            "step": step.number,
            "kept": same,
            "new": [json.loads(message) for message in messages[same:]],
            "choice": step.choice,
            "text": reply.text,
            "raw": reply.raw,
            "calls": [{"id": c.id, "name": c.name, "arguments": c.arguments, "fault": c.fault} for c in step.calls],
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "forced": sum(not one for one in reply.sampled),
            "ids": list(reply.ids) if clean else [],
            "sampled": "".join("01"[one] for one in reply.sampled) if clean else "",
            "finish_reason": reply.finish_reason,
            "seconds": reply.seconds,
        }

    def _summary(self, event: Event) -> dict[str, Any]:
        assert event.reply is not None
        return {"step": event.step, "text": event.reply.text, "seconds": event.reply.seconds}

    def _result(self, event: Event) -> dict[str, Any]:
        call = event.call
        assert call is not None
        own = ("id", "name", "result", "failed", "made", "effects", "seconds")
        return {"step": event.step, **{name: getattr(call, name) for name in own}}

    def _end(self, event: Event) -> dict[str, Any]:
        state = event.state
        own = ("status", "reason", "answer", "prompt_tokens", "completion_tokens", "cost", "seconds")
        return {name: getattr(state, name) for name in own}
