"""``scratchlm mcp``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from scratchlm.cli.output import Precision, names_in


def mcp(
    store: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="An index, offered as search and ask; may be repeated."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A chat model, offered as chat.", show_default=False),
    ] = None,
    tools: Annotated[
        str,
        typer.Option(metavar="A,B", help="With --model: tools of an agent, offered as run_agent; as in `agent`."),
    ] = "",
    port: Annotated[
        int | None,
        typer.Option(help="Serve over HTTP, at /mcp; 0 takes a free port.", show_default="standard input and output"),
    ] = None,
    host: Annotated[str, typer.Option(help="With --port: the address to listen at; 0.0.0.0 for all.")] = "127.0.0.1",
    key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --port: keys that clients need (or SCRATCHLM_API_KEYS)."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="With --port: let other machines in without a key.")] = False,
    precision: Precision = "auto",
) -> None:
    """Offer search, a model and an agent to other programs, as an MCP server."""
    from scratchlm.errors import UserError
    from scratchlm.integrations.missing import need

    if port is None and (key_file is not None or open_ or host != "127.0.0.1"):
        raise UserError("--host, --key-file and --open are for HTTP; give --port as well")
    need("agents", "mcp")
    if port is not None:
        need("serve", "fastapi", "uvicorn", "prometheus_client")
    # Standard output is the protocol's: what is printed while things are opened goes elsewhere.
    with contextlib.redirect_stdout(sys.stderr):
        from scratchlm.serving.mcp_server import create_mcp_server, serve_http, serve_stdio, warn_of_terminal
        from scratchlm.serving.settings import Keys, ServerSettings

        settings = None
        if port is not None:
            settings = ServerSettings(host=host, port=port, keys=Keys.read(key_file), open=open_)
        server = create_mcp_server(store or (), model, names_in(tools), precision=precision)
    if settings is None:
        warn_of_terminal()
        serve_stdio(server)
    else:
        serve_http(server, settings, lambda url: print(f"serving at {url}", file=sys.stderr, flush=True))
