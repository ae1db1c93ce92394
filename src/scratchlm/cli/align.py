"""``scratchlm align``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from scratchlm.cli.output import Json, print_json


def align(
    goal: Annotated[
        str,
        typer.Argument(metavar="reward|dpo|ppo|grpo", help="What is to be learned.", show_default=False),
    ],
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A training's folder, a model's folder or GGUF file, a name that `models list` shows, or a preset.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Pairs (prompt, chosen, rejected), rated texts, or prompts: a file, a data set, or hub:NAME.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str, typer.Option(metavar="RUN", help="The folder to train into: new, or empty.", show_default=False)
    ],
    method: Annotated[str, typer.Option(help="full, lora or qlora.")] = "lora",
    reward: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REWARD[=WEIGHT]",
            help="For ppo and grpo: file.py:function, module:function, check:NAME, or a reward model's folder.",
            show_default=False,
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE|FILE", help="What is held out; without it, a tenth of the rows.", show_default=False
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART=COLUMN",
            help="What to read where, such as chosen=better; may be repeated.",
            show_default=False,
        ),
    ] = None,
    bad: Annotated[str, typer.Option(help="At a bad row: stop, or skip it and count.")] = "stop",
    split: Annotated[str, typer.Option(help="Of a data set of the hub.")] = "train",
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings in YAML, one a line.", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting, such as beta=0.2; may be repeated.", show_default=False
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    json: Json = False,
) -> None:
    """Align a model with what people, or rules, prefer; measured before and after. Ctrl-C saves; --resume goes on."""
    from scratchlm import api
    from scratchlm.alignment.goals import check_goal, check_names
    from scratchlm.evaluation.tuned import read_report, show_report
    from scratchlm.training.settings import gather_settings, parse_assignments, split_tuning

    kind, known = check_goal(goal), dict[str, Any]()

    def check(given: Mapping[str, Any], origin: str) -> None:
        known.update(given)
        check_names(kind, known, given, origin)
        split_tuning(given, origin, kind.config_for(known))

    values = gather_settings(config, settings or (), check)
    mapped = parse_assignments(columns or (), "--columns", "chosen=better")
    api.align(
        goal,
        model,
        data,
        out,
        method=method,
        rewards=reward or (),
        validation=validation,
        columns={part: str(column) for part, column in mapped.items()},
        bad=bad,
        split=split,
        resume=resume,
        **values,
    )
    if os.environ.get("RANK", "0") != "0":
        return  # under torchrun one process speaks for all
    report = read_report(Path(out))
    print_json(report) if json else show_report([report])
