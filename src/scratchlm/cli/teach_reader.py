"""``scratchlm teach-reader``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scratchlm.cli.output import Base, Config, Json, out_option, print_json, settings_option


def teach_reader(
    model: Base,
    out: Annotated[Path, out_option("tune")],
    data: Annotated[
        Path | None,
        typer.Option(help="A file of more twins to learn from, as docs/retrieval.md tells.", show_default=False),
    ] = None,
    embedder: Annotated[str, typer.Option(help="The encoder that documents are searched with.")] = "all-minilm-l6-v2",
    config: Config = None,
    settings: Annotated[list[str] | None, settings_option("epochs=2")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what was begun in the folder.")] = False,
    json: Json = False,
) -> None:
    """Teach a model to tell whether a passage answers a question, for ask --judge. Ctrl-C saves.

    It learns from pairs of passages about the same thing, of which a question is answered by one, and is measured on
    pairs that it has not seen.
    """
    from scratchlm.retrieval.teaching.recipe import teach_reader as teach
    from scratchlm.training.settings import gather_settings, split_tuning

    values: dict[str, Any] = gather_settings(config, settings or (), split_tuning)
    told = teach(model, out, data, embedder=embedder, settings=values, resume=resume)
    if json:
        print_json(told)
        return
    print(
        f"of {told['questions']:,} questions about held-out passages it refuses {told['refused_unanswerable']:.0%} of "
        f"those without an answer and {told['refused_answerable']:.0%} of the others"
    )
    print(f"use it with: scratchlm ask QUESTION --store STORE --judge {out}")
