"""``scratchlm serve``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from scratchlm.cli.output import Precision


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Models as everywhere, or NAME=MODEL; the first is read in at once, others when they are asked for.",
            show_default=False,
        ),
    ],
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="ADAPTER", help="An adapter's folder, served as a model; may be repeated."),
    ] = None,
    store: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="An index, searched and asked by its folder's name; may be repeated."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keys that clients need, one a line (or SCRATCHLM_API_KEYS)."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Let other machines in without a key.")] = False,
    cors: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Whose pages may ask from a browser; may be repeated."),
    ] = None,
    slots: Annotated[int, typer.Option(help="Texts of a model that are computed side by side.")] = 8,
    context: Annotated[int, typer.Option(help="Tokens of a text at most, read and written.")] = 4096,
    queue: Annotated[int, typer.Option(help="Texts of a model that may wait; more are sent away with 429.")] = 64,
    memory: Annotated[
        float | None, typer.Option(metavar="GB", help="For models and caches; without it, 80 % of what is free.")
    ] = None,
    precision: Precision = "auto",
    body: Annotated[int, typer.Option(help="Bytes of a request at most.")] = 4 << 20,
    patience: Annotated[float, typer.Option(help="Seconds until a slow client is cut off.")] = 30.0,
    grace: Annotated[float, typer.Option(help="Seconds for what runs to finish when stopped.")] = 60.0,
    runs: Annotated[Path, typer.Option(metavar="DIR", help="The folder of runs that the studio shows.")] = Path("runs"),
    home: Annotated[
        Path, typer.Option("--studio-dir", metavar="DIR", help="The folder for what is made in the studio.")
    ] = Path("studio"),
    studio: Annotated[bool, typer.Option("--studio/--no-studio", help="Pages for a browser, at /.")] = True,
) -> None:
    """Serve models in OpenAI's protocol (chats, completions, embeddings), and the studio: pages for a browser."""
    from scratchlm.integrations.missing import need

    need("serve", "fastapi", "uvicorn", "prometheus_client")
    from scratchlm.generation.precision import check_precision
    from scratchlm.serving.server import Server, log_to_stderr
    from scratchlm.serving.settings import Keys, ServerSettings
    from scratchlm.serving.studio.settings import StudioSettings

    settings = ServerSettings(
        host=host,
        port=port,
        keys=Keys.read(key_file),
        open=open_,
        cors=tuple(cors or ()),
        slots=slots,
        context=context,
        queue=queue,
        memory=memory,
        precision=check_precision(precision),
        body=body,
        patience=patience,
        grace=grace,
        studio=StudioSettings(runs, home) if studio else None,
    )

    def tell(url: str) -> None:
        pages = f"; the studio is at {url.removesuffix('v1')}" if studio else ""
        print(f"serving at {url}{pages}", file=sys.stderr, flush=True)

    log_to_stderr()
    Server(models, adapter or (), settings, tell, store or ()).run()
