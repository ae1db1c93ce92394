"""Options of how answers are drawn; those that are not given are as the model's makers advise."""

from __future__ import annotations

from typing import Annotated

import typer

Temperature = Annotated[
    float | None,
    typer.Option(
        help="Below 1 bolder in what is likely, above 1 flatter, 0 greedy; else as the model's makers advise, or 0.8.",
        show_default=False,
    ),
]
TopK = Annotated[int | None, typer.Option(help="Only the k likeliest tokens; 0 for all.", show_default=False)]
TopP = Annotated[
    float | None,
    typer.Option(help="Only the likeliest tokens that together have this probability.", show_default=False),
]
RepetitionPenalty = Annotated[
    float | None, typer.Option(help="Above 1 makes what was said less likely.", show_default=False)
]
