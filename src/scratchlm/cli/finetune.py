"""``scratchlm finetune``."""

from __future__ import annotations

import os
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


def finetune(
    model: Base,
    data: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Rows to learn: JSONL, CSV, Parquet, CoNLL, a folder of texts, a data set, or hub:NAME.",
            show_default=False,
        ),
    ],
    out: Annotated[str, out_option("tune")],
    task: Annotated[
        str | None,
        typer.Option(
            help="lm, chat, classify, tag or embed; if left out, what the columns are for.", show_default=False
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="full, lora or qlora; or several with commas between, one after the other, compared.")
    ] = "lora",
    validation: Validation = None,
    columns: Annotated[list[str] | None, columns_option("text=review")] = None,
    bad: Bad = "stop",
    split: Split = "train",
    config: Config = None,
    settings: Annotated[list[str] | None, settings_option("epochs=2")] = None,
    resume: Resume = False,
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
