"""What verbs have in common: options, and how they print: one JSON object, or text and tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from scratchlm.cli.completing import model_names

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="The folder of a training.", show_default=False)]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A training's folder, a model's folder or GGUF file, or a name that `models list` shows.",
        show_default=False,
    ),
]
Precision = Annotated[
    str,
    typer.Option(help="Of the weights: fp32, bf16, int8, int4, or auto, the fastest that stays within 1 % of fp32."),
]


Base = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A training's folder, a model's folder or GGUF file, a name that `models list` shows, or a preset.",
        show_default=False,
        autocompletion=model_names,
    ),
]
"""What a tuning starts from."""
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME|PATH",
        help="A name that `models list` shows, a hub id, a folder or file.",
        show_default=False,
        autocompletion=model_names,
    ),
]
"""A model that others trained."""
Validation = Annotated[
    str | None,
    typer.Option(metavar="SHARE|FILE", help="What is held out; without it, a tenth of the rows.", show_default=False),
]
Bad = Annotated[str, typer.Option(help="At a bad row: stop, or skip it and count.")]
Split = Annotated[str, typer.Option(help="Of a data set of the hub.")]
Config = Annotated[Path | None, typer.Option(metavar="FILE", help="Settings in YAML, one a line.", show_default=False)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")]


def out_option(verb: str) -> Any:
    """``--out`` of a verb that trains."""
    return typer.Option(metavar="RUN", help=f"The folder to {verb} into: new, or empty.", show_default=False)


def columns_option(example: str) -> Any:
    """``--columns``."""
    told = f"What to read where, such as {example}; may be repeated."
    return typer.Option(metavar="PART=COLUMN", help=told, show_default=False)


def names_in(text: str) -> list[str]:
    """The names in a list with commas between."""
    return [name.strip() for name in text.split(",") if name.strip()]


def settings_option(example: str) -> Any:
    """``--set``."""
    told = f"A setting, such as {example}; may be repeated."
    return typer.Option("--set", metavar="KEY=VALUE", help=told, show_default=False)


def print_json(values: Mapping[str, Any]) -> None:
    """One object on one line; infinities and the like become null."""
    from scratchlm.evaluation.report import to_json

    print(to_json(values))


def show_figures(figures: Mapping[str, Any], title: str) -> None:
    """The table of a run's figures."""
    from rich.console import Console

    from scratchlm.evaluation.report import result_table

    Console().print(result_table(figures, title))
    if "exact_match" in figures:
        print(f"answered exactly: {figures['exact_match']:.2%} of {figures['pairs']:,} pairs")


def show_classes(figures: Mapping[str, Any], title: str) -> None:
    """The figures of a model with classes or tags."""
    from rich.console import Console

    from scratchlm.evaluation.classification import classes_table

    Console().print(classes_table(figures, title))
