"""``scratchlm demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scratchlm.cli.output import Json, print_json


def demo(
    out: Annotated[Path, typer.Option(help="Folder for both runs and the figures.", file_okay=True)] = Path("demo"),
    json: Json = False,
) -> None:
    """Train both tiny models of the tutorial, and show them beside its tables: about a minute and a half."""
    from scratchlm.demo import run_demo, show_demo

    result = run_demo(out)
    if json:
        print_json(result.to_dict())
    else:
        show_demo(result)
