"""``scratchlm teach-tools``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scratchlm.cli.output import Base, Config, Json, out_option, print_json, settings_option


def teach_tools(
    model: Base,
    out: Annotated[Path, out_option("tune")],
    rows: Annotated[int, typer.Option(help="Correct traces to learn from.")] = 9600,
    rollouts: Annotated[int, typer.Option(help="Of the GRPO after that; 0 for none.")] = 8,
    tasks: Annotated[int, typer.Option(help="Tasks to measure by, before, between and after; 0 for none.")] = 120,
    seed: Annotated[int, typer.Option(help="Draws the tasks.")] = 0,
    config: Config = None,
    settings: Annotated[list[str] | None, settings_option("learning_rate=5e-4")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what was begun in the folder.")] = False,
    json: Json = False,
) -> None:
    """Teach a chat model to call tools: correct traces first, then GRPO through the tools. Ctrl-C saves.

    The tasks have answers that can be checked: word problems, look-ups in tables and documents, dates, units, and
    questions that need no tool. The model is measured on tasks whose templates it has not learned from.
    """
    from scratchlm.agents.teaching.recipe import Teaching, show_teaching
    from scratchlm.agents.teaching.recipe import teach_tools as teach
    from scratchlm.training.settings import gather_settings, split_tuning

    values: dict[str, Any] = gather_settings(config, settings or (), split_tuning)
    told = teach(model, out, Teaching(rows, rollouts, tasks, seed), settings=values, resume=resume)
    print_json(told) if json else show_teaching(told)
