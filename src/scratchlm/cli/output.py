"""How every verb prints: one JSON object, or text and tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

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
