"""``scratchlm eval``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from scratchlm.cli.output import Json, Model, print_json, show_classes, show_figures


class WindowChoice(StrEnum):
    """Which windows of a text are looked at."""

    auto = "auto"
    every = "every"
    apart = "apart"


def evaluate(
    model: Model,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="CORPUS|FILE",
            help="Another text, or rows with labels. Without it, the run's own, both parts.",
            show_default=False,
        ),
    ] = None,
    windows: Annotated[
        WindowChoice, typer.Option(help="Start a window at every token, or set them apart; auto goes by the size.")
    ] = WindowChoice.auto,
    max_tokens: Annotated[int, typer.Option(help="Look at so many tokens of each text; 0 for all.", min=0)] = 0,
    max_pairs: Annotated[int, typer.Option(help="The same for an encoder-decoder's pairs.", min=0)] = 0,
    json: Json = False,
) -> None:
    """Measure a model: cross-entropy, perplexity, accuracy, bits per character, and how varied what it writes is; of
    classes and tags accuracy and F1."""
    from scratchlm import api

    figures = api.load(model).evaluate(data, windows=windows.value, most_tokens=max_tokens, most_pairs=max_pairs)
    title = model if data is None else f"{model} on {data}"
    if json:
        print_json(figures)
    elif "confusion" in figures:
        show_classes(figures, title)
    else:
        show_figures(figures, title)
