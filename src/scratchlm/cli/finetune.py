"""``scratchlm finetune``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from scratchlm.cli.output import Json, print_json


def finetune(
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
            help="Rows to learn: JSONL, CSV, Parquet, CoNLL, a folder of texts, a data set, or hub:NAME.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str, typer.Option(metavar="RUN", help="The folder to tune into: new, or empty.", show_default=False)
    ],
    task: Annotated[
        str | None,
        typer.Option(
            help="lm, chat, classify, tag or embed; if left out, what the columns are for.", show_default=False
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="full, lora or qlora; or several with commas between, one after the other, compared.")
    ] = "lora",
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE|FILE", help="What is held out; without it, a tenth of the rows.", show_default=False
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART=COLUMN", help="What to read where, such as text=review; may be repeated.", show_default=False
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
            "--set", metavar="KEY=VALUE", help="A setting, such as epochs=2; may be repeated.", show_default=False
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train nothing; say what would be trained and what it takes.")
    ] = False,
    json: Json = False,
) -> None:
    """Tune a model on your own rows, and measure it before and after. Ctrl-C saves; --resume goes on."""
    from scratchlm import api
    from scratchlm.training.settings import gather_settings, parse_assignments, split_tuning

    values: dict[str, Any] = gather_settings(config, settings or (), split_tuning)
    mapped = {
        part: str(column) for part, column in parse_assignments(columns or (), "--columns", "text=review").items()
    }
    asked: dict[str, Any] = {
        "task": task,
        "validation": validation,
        "columns": mapped,
        "bad": bad,
        "split": split,
    }
    if dry_run:
        from scratchlm.evaluation.tuning_estimate import estimate_tuning, show_tuning_estimate

        estimated = estimate_tuning(api.question(model, data, method=method, **asked), out, settings=values)
        print_json(estimated.to_dict()) if json else show_tuning_estimate(estimated)
        return
    report = api.compare_methods(model, data, out, method.split(","), resume=resume, quiet=False, **asked, **values)
    if os.environ.get("RANK", "0") != "0":
        return  # under torchrun one process speaks for all
    if json:
        print_json({"runs": report})
    else:
        from scratchlm.evaluation.tuned import show_report

        show_report(report)
