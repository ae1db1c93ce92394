"""An agent's run in the terminal: what is shown as it goes, who is asked, how it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scratchlm.cli.ask import KEY
from scratchlm.cli.output import print_json
from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.agents.model import AgentModel, ToolCall
    from scratchlm.agents.settings import AgentSettings, Event
    from scratchlm.agents.state import State
    from scratchlm.agents.tool import Tool

_SHOWN = 200


def agent_model(name: str, endpoint: str | None, context: int, precision: str, *, constrained: bool) -> AgentModel:
    """The model that works: behind an endpoint, or ours."""
    if endpoint is not None:
        from scratchlm.agents.endpoint_model import EndpointModel
        from scratchlm.retrieval.endpoint import Endpoint

        return EndpointModel(Endpoint(endpoint, name, os.environ.get(KEY), context=context))
    from scratchlm import api
    from scratchlm.agents.local_model import LocalAgentModel

    return LocalAgentModel(api.load(name, precision=precision), constrained=constrained)


def secrets_of(variables: Sequence[str]) -> list[str]:
    """The values of environment variables."""
    for name in (one for one in variables if not os.environ.get(one)):
        raise UserError(f"the environment variable {name} is not set; leave --secret {name} out, or set it")
    return [os.environ[name] for name in variables]


def run_in_terminal(
    task: str | None,
    model: Callable[[], AgentModel],
    tools: Callable[[], Sequence[Tool]],
    settings: AgentSettings,
    file: Path | None,
    *,
    resume: bool,
    trace: Path | None,
    secrets: Sequence[str],
    json: bool,
) -> None:
    """Run, show calls and results on standard error and the answer on standard output; exit 1 without an answer."""
    from scratchlm.agents.loop import run_agent
    from scratchlm.agents.traces import TraceWriter

    work = _work(task, file, resume)
    opened, opened_model = tools(), model()
    writer = None if trace is None else TraceWriter(trace, secrets=secrets)

    def hear(event: Event) -> None:
        if writer is not None:
            writer(event)
        if not json:
            _show(event)

    ask = _ask if sys.stdin.isatty() else None
    try:
        state = run_agent(work, opened_model, opened, settings, on_event=hear, ask=ask, file=file)
    finally:
        if writer is not None:
            writer.close()
    if json:
        print_json(state.report())
    elif state.answer:
        print(state.answer)
    if state.status != "done":
        again = f"; go on with: scratchlm agent --resume --state {file} ..." if file is not None else ""
        typer.secho(f"{state.status} ({state.reason}) after {len(state.steps)} turns{again}", err=True)
        raise typer.Exit(1)


def _work(task: str | None, file: Path | None, resume: bool) -> str | State:
    from scratchlm.agents.state import State

    if resume:
        if file is None:
            raise UserError("--resume needs --state, the file in which the run is kept")
        if task is not None:
            raise UserError("--resume goes on with the task of --state; leave TASK out")
        return State.load(file)
    if task is None or not task.strip():
        raise UserError('there is no task; give one, such as: scratchlm agent "What is 12 * 34?" --tools calculator')
    if file is not None and file.exists():
        raise UserError(f"{file} holds a run already; go on with it by --resume, or choose another file")
    return task


def _show(event: Event) -> None:
    call = event.call
    if event.kind == "reply" and event.reply is not None and event.reply.calls and event.reply.text:
        _note(event.reply.text)
    elif event.kind == "result" and call is not None:
        _note(call.fault or f"{call.name}({call.arguments})")
        _note(f"-> {call.result}")


def _ask(call: ToolCall, why: str) -> bool:
    asked = "This call had begun before; make it again?" if why == "again" else "Make this call?"
    return typer.confirm(f"{call.name}({call.arguments})\n{asked}", err=True)


def _note(text: str) -> None:
    line = " ".join(text.split())
    typer.secho(line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…", err=True, dim=True)
