"""``scratchlm train``."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from scratchlm.cli.output import Config, Json, Resume, out_option, print_json, settings_option, show_figures

FINAL_TOKENS, FINAL_PAIRS = 200_000, 200
"""A training's last words look at so much of each text; ``scratchlm eval`` at all of it."""


def train(
    preset: Annotated[
        str,
        typer.Argument(
            metavar="PRESET", help="tinybert, tinygpt, transformer, modern or shakespeare.", show_default=False
        ),
    ],
    out: Annotated[str, out_option("train")],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="CORPUS|FILE",
            help="A text file, a folder of them, or a corpus: rumi, rumi-sentence, rumi-life, dates. "
            "Without it, the text that the preset was made for.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    settings: Annotated[list[str] | None, settings_option("steps=200")] = None,
    resume: Resume = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train nothing; say what it would take: memory, disk, time.")
    ] = False,
    json: Json = False,
) -> None:
    """Train a model on a text. Ctrl-C saves; --resume goes on to the same weights."""
    from scratchlm.training.settings import gather_settings, split_settings

    values = gather_settings(config, settings or (), split_settings)
    if dry_run:
        from scratchlm.training.estimate import estimate, show_estimate

        estimated = estimate(preset, data, out, settings=values)
        print_json(estimated.to_dict()) if json else show_estimate(estimated)
        return

    from scratchlm import api

    model = api.train(preset, data, out, resume=resume, **values)
    if os.environ.get("RANK", "0") != "0":
        return  # under torchrun one process speaks for all
    assert model.fit is not None
    figures = model.evaluate(most_tokens=FINAL_TOKENS, most_pairs=FINAL_PAIRS)
    if json:
        print_json({**figures, "fit": asdict(model.fit), "run": out})
    else:
        show_figures(figures, out)
        print(f"use it: {model.usage()}", file=sys.stderr)
