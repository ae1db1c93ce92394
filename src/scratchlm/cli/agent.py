"""``scratchlm agent``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scratchlm.cli.agent_mcp import Servers, Variables, with_mcp
from scratchlm.cli.agent_openapi import BaseUrl, OpenApi, Operations, openapi_tools
from scratchlm.cli.ask import KEY, WRITER
from scratchlm.cli.output import Json, Precision, names_in


def agent(
    task: Annotated[
        str | None, typer.Argument(metavar="TASK", help="What is to be done.", show_default="that of --resume")
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="A run, a name that `models list` shows, or one of the endpoint's.")
    ] = WRITER,
    tools: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="calculator, dates, units, python, web, table:FILE, files:FOLDER, files-write:FOLDER, "
            "documents:STORE, memory:STORE, file.py:function.",
        ),
    ] = "",
    openapi: OpenApi = None,
    operations: Operations = "",
    base_url: BaseUrl = None,
    mcp: Servers = None,
    mcp_env: Variables = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help=f"An OpenAI-compatible server; its key, if any, is taken from {KEY}.",
            show_default=False,
        ),
    ] = None,
    context: Annotated[int, typer.Option(help="Tokens that the endpoint's model reads and writes at most.")] = 8192,
    system: Annotated[str, typer.Option(help="What the model is told before the task.")] = "",
    max_steps: Annotated[int, typer.Option(help="Turns of the model; in the last it has to answer.")] = 10,
    max_new_tokens: Annotated[int, typer.Option(help="Of each turn.")] = 512,
    max_tokens: Annotated[
        int | None, typer.Option(help="Read and written over all turns.", show_default="no limit")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Of the model and the tools.", show_default="no limit")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same run.", show_default=False)] = None,
    approve: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Ask before calls that fit, such as 'write_*', '*(*secret*)', or effects; may be repeated.",
            show_default=False,
        ),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the run is kept, to go on with.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --state.")] = False,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where its trace is written, without secrets.", show_default=False),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VARIABLE",
            help="An environment variable whose value no trace holds; repeatable.",
            show_default=False,
        ),
    ] = None,
    unconstrained: Annotated[
        bool, typer.Option("--unconstrained", help="Let a model of ours write calls that do not fit.")
    ] = False,
    precision: Precision = "auto",
    json: Json = False,
) -> None:
    """Work on a task with tools, until there is an answer."""
    from scratchlm.agents.settings import AgentSettings
    from scratchlm.agents.shipped import open_tools
    from scratchlm.cli.running import agent_model, run_in_terminal, secrets_of
    from scratchlm.generation.sampling import SamplingConfig

    settings = AgentSettings(
        system=system,
        max_steps=max_steps,
        max_new_tokens=max_new_tokens,
        max_tokens=max_tokens,
        max_seconds=max_seconds,
        approve=tuple(approve or ()),
        sampling=SamplingConfig(temperature=temperature, seed=seed),
    )
    run_in_terminal(
        task,
        lambda: agent_model(model, endpoint, context, precision, constrained=not unconstrained),
        lambda: with_mcp([*open_tools(names_in(tools)), *openapi_tools(openapi, operations, base_url)], mcp, mcp_env),
        settings,
        state,
        resume=resume,
        trace=trace,
        secrets=secrets_of(secret or []),
        json=json,
    )
