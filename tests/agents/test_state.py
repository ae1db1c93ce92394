"""The state: written whole, read back as it was; a run that is killed goes on, and no call with effects is made twice
without asking."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scratchlm.agents.loop import run_agent
from scratchlm.agents.settings import AgentSettings
from scratchlm.agents.state import State
from scratchlm.errors import UserError

from .killed_agent import CALLS, tools, turn
from .scripted import ScriptedModel, noting

SCRIPT = Path(__file__).with_name("killed_agent.py")
WHOLE = [f"{name} {text}" for name, text in CALLS]


def killed(folder: Path, place: str) -> tuple[Path, Path]:
    """A run that killed itself there -> its state and its log."""
    state, log = folder / "state.json", folder / "log"
    log.touch()
    paths = [path for path in (os.environ.get("PYTHONPATH"),) if path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *sys.path])}
    command = [sys.executable, str(SCRIPT), str(state), str(log), place]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == -9, ended.stderr
    return state, log


def lines(log: Path) -> list[str]:
    return log.read_text().split("\n")[:-1]


@pytest.mark.parametrize("place", ["reply:1", "told:2", "result:4"])
def test_killed_between_calls_it_goes_on_where_it_was(tmp_path: Path, place: str) -> None:
    file, log = killed(tmp_path, place)
    before = lines(log)
    state = State.load(file) if file.exists() else State("Send")
    finished = [call for step in state.steps if step.finished for call in step.calls]
    state = run_agent(state, ScriptedModel(turn), tools(log, "never"), file=file)
    assert state.answer == "All sent."
    # What was told to the model is not done again, and what has effects is not even where it was not told yet.
    again = lines(log)[len(before) :]
    assert not {f"{call.name} {call.arguments}" for call in finished} & set(again)
    assert [line for line in lines(log) if line.startswith("send")] == [
        line for line in WHOLE if line.startswith("send")
    ]
    assert lines(log) in (WHOLE, [*before, *WHOLE[len(before) - 1 :]])


@pytest.mark.parametrize("place", ["begun:2", "acted:2"])
def test_killed_in_a_call_with_effects_it_does_not_make_it_again_by_itself(tmp_path: Path, place: str) -> None:
    file, log = killed(tmp_path, place)
    before = lines(log)
    assert before == WHOLE[: 3 + (place == "acted:2")]
    open_step = State.load(file).open_step
    assert open_step is not None
    assert [(call.name, call.begun, call.result) for call in open_step.calls] == [("send", True, None)]
    state = run_agent(State.load(file), ScriptedModel(turn), tools(log, "never"), file=file)
    assert lines(log) == [*before, "send 3"]
    assert "whether it took effect is not known" in (state.calls[3].result or "")
    assert state.answer == "All sent."


@pytest.mark.parametrize("leave", [True, False, "it has arrived"])
def test_someone_is_asked_whether_to_make_it_again(tmp_path: Path, leave: bool | str) -> None:
    file, log = killed(tmp_path, "acted:2")
    before = lines(log)
    asked: list[tuple[str, str]] = []

    def ask(call: Any, why: str) -> bool | str:
        asked.append((call.arguments, why))
        return leave

    settings = AgentSettings(approve=("nothing",))
    state = run_agent(State.load(file), ScriptedModel(turn), tools(log, "never"), settings, ask=ask, file=file)
    assert asked == [('{"text": "2"}', "again")]
    assert lines(log) == [*before, *(["send 2"] if leave is True else []), "send 3"]
    if isinstance(leave, str):
        assert leave in (state.calls[3].result or "")


def test_a_call_without_effects_is_simply_made_again(tmp_path: Path) -> None:
    file, log = killed(tmp_path, "acted:b")
    run_agent(State.load(file), ScriptedModel(turn), tools(log, "never"), file=file)
    assert lines(log) == ["read a", "send 1", "read b", "read b", "send 2", "send 3"]


def test_what_may_have_happened_counts_as_made(tmp_path: Path) -> None:
    """The model that asks for the same once more is told that it has."""
    file, log = killed(tmp_path, "acted:3")
    again = ScriptedModel(("send", {"text": "3"}), "So.")
    state = run_agent(State.load(file), again, tools(log, "never"), file=file)
    assert lines(log) == WHOLE
    assert "made this call before" in (state.calls[-1].result or "")


def test_a_state_is_read_back_as_it_was_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "state.json"
    note, _ = noting(answer="ä\ud83d".encode("utf-8", "replace").decode())
    state = run_agent("Größe\u2028?", ScriptedModel(("note", {"text": "ß"}), "So."), [note], file=file)
    assert State.load(file) == state
    assert State.from_json(json.loads(json.dumps(state.as_json()))) == state
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "{}", '{"version": 2, "task": "x"}', '{"version": 1}', "[" * 100_000, '"x"'),
        *('{"version": 1, "task": "x", "steps": [{"number": 1}]}', '{"version": 1, "task": 3}', "\x00\xff"),
        *('{"version": 1, "task": "x", "more": 1}', '{"version": 1, "task": "x", "messages": ["hi"]}'),
    ],
)
def test_a_damaged_state_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "state.json"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"state\.json") as told:
        State.load(file)
    assert "\n" not in str(told.value)


def test_a_missing_state_and_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run to go on with"):
        State.load(tmp_path / "none.json")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        run_agent("Hi", ScriptedModel("Hello."), [], file=tmp_path / "file" / "state.json")
