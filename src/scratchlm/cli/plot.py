"""``scratchlm plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scratchlm.cli.output import Json, print_json


def plot(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN|PRESET", help="A run's folder; or a preset, to see its architecture.", show_default=False
        ),
    ],
    text: Annotated[
        str | None,
        typer.Option(help="Draw where each head of each layer looks in this text, too.", show_default=False),
    ] = None,
    lens: Annotated[
        bool, typer.Option("--lens", help="Draw what each layer would say at each token of the text, too.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures.", show_default="figures in the run")
    ] = None,
    vocab_size: Annotated[int, typer.Option(help="Of a preset: the vocabulary to draw it with.", min=2)] = 256,
    json: Json = False,
) -> None:
    """Draw a run's curves and attention maps, or a preset's architecture, as PNG files."""
    from scratchlm import api

    files = api.plot(run, out, text=text, lens=lens, vocab_size=vocab_size)
    if json:
        print_json({"files": [str(file) for file in files]})
    else:
        print(*files, sep="\n")
