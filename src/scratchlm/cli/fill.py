"""``scratchlm fill``."""

from __future__ import annotations

from typing import Annotated

import typer

from scratchlm.cli.output import Json, Model, print_json


def fill(
    model: Model,
    text: Annotated[str, typer.Option(help=r"A text with \[MASK] where a word is hidden.", show_default=False)],
    top_k: Annotated[int, typer.Option(help="So many candidates for each gap.")] = 5,
    json: Json = False,
) -> None:
    r"""Fill each \[MASK] of a text with the likeliest words."""
    from scratchlm import api

    gaps = api.load(model).fill(text, top_k)
    if json:
        masks = [[{"token": token, "probability": probability} for token, probability in gap] for gap in gaps]
        print_json({"text": text, "filled": api.filled(text, gaps), "masks": masks})
        return
    print(api.filled(text, gaps))
    for number, gap in enumerate(gaps, 1):
        print(f"gap {number}:  " + "  ".join(f"{token} {probability:.1%}" for token, probability in gap))
