"""Runs of agents that were before: what their traces tell the page again."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from scratchlm.agents.replaying import TracedRun, read_trace
from scratchlm.errors import UserError
from scratchlm.serving.errors import ApiError

_RUN = re.compile(r"[0-9a-f]{16}", re.ASCII)
_MOST, _TASK = 200, 200
"""Runs that are listed, and characters of a task in the list."""


def earlier_runs(folder: Path) -> list[dict[str, Any]]:
    """The runs whose traces are in a folder, the newest first; none where it is not there yet."""
    try:
        paths = [path for path in folder.glob("*.jsonl") if _RUN.fullmatch(path.stem)]
        stamped = sorted(((path.stat().st_mtime_ns, path) for path in paths), reverse=True)
    except OSError:
        return []
    return [_row(path, stamp) for stamp, path in stamped[:_MOST]]


def told_again(folder: Path, name: str) -> dict[str, Any]:
    """The task of an earlier run and its events, as they were told when it ran (``end`` is missing where it broke off).

    Raises:
        ApiError: there is none of this name.
        UserError: its trace cannot be read.
    """
    path = folder / f"{name}.jsonl"
    if not _RUN.fullmatch(name) or not path.is_file():
        raise ApiError(404, f"there is no trace {name[:80]!r} here", param="run")
    run, *_ = read_trace(path)
    tools = [one["function"]["name"] for one in run.start["tools"]]
    events: list[dict[str, Any]] = [{"kind": "start", "run": name, "tools": tools}]
    for turn in run.turns:
        events.append(turn)
        events += [
            {"kind": "result", "step": turn["step"], "call": {**call, **result}}
            for call in turn["calls"]
            if (result := run.result(call)) is not None
        ]
    if run.end is not None:
        events.append({**run.end, "trace": str(path)})
    return {"task": run.start["task"], "model": run.start["model"], "events": events}


@lru_cache(maxsize=4 * _MOST)
def _row(path: Path, stamp: int) -> dict[str, Any]:
    """One in short. What is damaged is told in its row, and hides no other."""
    told = {"run": path.stem, "changed": stamp / 1e9}
    try:
        run, *_ = read_trace(path)
    except UserError as error:
        return {**told, "error": str(error)}
    return {**told, "task": run.start["task"][:_TASK], "model": run.start["model"], **_ended(run)}


def _ended(run: TracedRun) -> dict[str, Any]:
    end = run.end or {"status": "broken off", "answer": ""}
    return {"turns": len(run.replies), "status": end["status"], "answer": str(end["answer"] or "")[:_TASK]}
