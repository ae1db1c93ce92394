"""``scratchlm traces``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scratchlm.cli.output import Json, names_in, print_json

traces = typer.Typer(help="Look at what agents did, do it again, learn from it.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(metavar="FILE", help="A file that `agent --trace` wrote.", show_default=False)]


@traces.command()
def show(file: File) -> None:
    """Show the runs of a trace as trees: turns, calls, results, times."""
    from rich.console import Console

    from scratchlm.agents.replaying import read_trace, trace_tree

    console = Console()
    for run in read_trace(file):
        console.print(trace_tree(run))


@traces.command()
def replay(
    file: File,
    tools: Annotated[
        str, typer.Option(metavar="A,B", help="Call these again, as `agent --tools`.", show_default="recorded results")
    ] = "",
    json: Json = False,
) -> None:
    """Do the runs of a trace again without the model, and see that everything between its turns is the same."""
    from scratchlm.agents.replaying import read_trace
    from scratchlm.agents.replaying import replay as play
    from scratchlm.agents.shipped import open_tools

    opened = open_tools(names_in(tools)) if tools else None
    played = [play(run, opened) for run in read_trace(file)]
    if json:
        print_json({"runs": [{"answer": one.answer, "status": one.status, "reason": one.reason} for one in played]})
        return
    for one in played:
        print(f"{one.task} -> {one.answer or one.reason}: the same {len(one.steps)} turns, {len(one.calls)} calls")


@traces.command("to-sft")
def to_sft(
    file: File,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The rows, in JSONL.", show_default=False)],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="That is to learn: where its chat template shows no tools, the rows say them in the system text.",
            show_default=False,
        ),
    ] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Leave out runs in which a call failed.")] = False,
    json: Json = False,
) -> None:
    """Make chat rows, to fine-tune on, of the runs that ended in an answer."""
    from scratchlm.agents.call_format import format_of
    from scratchlm.agents.replaying import read_trace, save_rows, training_rows
    from scratchlm.opening import open_model

    runs = read_trace(file)
    rows = training_rows(
        runs, None if model is None else format_of(open_model(model, weights=False).tokenizer), clean=clean
    )
    save_rows(rows, out)
    if json:
        print_json({"rows": len(rows), "runs": len(runs), "out": str(out)})
    else:
        print(f"{len(rows):,} rows of {len(runs):,} runs in {out}")


@traces.command()
def spans(file: File) -> None:
    """Print a trace as OpenTelemetry spans, one JSON object each, by its conventions for generative AI."""
    from scratchlm.agents.replaying import read_trace
    from scratchlm.agents.telemetry import print_spans

    print_spans(read_trace(file))
