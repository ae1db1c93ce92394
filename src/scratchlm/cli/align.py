"""``scratchlm align``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from scratchlm.cli.output import (
    Bad,
    Base,
    Config,
    Json,
    Resume,
    Split,
    Validation,
    columns_option,
    out_option,
    print_json,
    settings_option,
)


def align(
    goal: Annotated[
        str,
        typer.Argument(metavar="reward|dpo|ppo|grpo", help="What is to be learned.", show_default=False),
    ],
    model: Base,
    data: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Pairs (prompt, chosen, rejected), rated texts, or prompts: a file, a data set, or hub:NAME.",
            show_default=False,
        ),
    ],
    out: Annotated[str, out_option("train")],
    method: Annotated[str, typer.Option(help="full, lora or qlora.")] = "lora",
    reward: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REWARD[=WEIGHT]",
            help="For ppo and grpo: file.py:function, module:function, check:NAME, or a reward model's folder.",
            show_default=False,
        ),
    ] = None,
    validation: Validation = None,
    columns: Annotated[list[str] | None, columns_option("chosen=better")] = None,
    bad: Bad = "stop",
    split: Split = "train",
    config: Config = None,
    settings: Annotated[list[str] | None, settings_option("beta=0.2")] = None,
    resume: Resume = False,
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
