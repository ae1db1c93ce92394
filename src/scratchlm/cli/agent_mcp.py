"""``scratchlm agent --mcp``: tools of MCP servers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.agents.tool import Tool

KEY = "SCRATCHLM_MCP_KEY"
"""The environment variable with the key for servers that are reached over HTTP."""
Servers = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COMMAND|URL",
        help="Tools of an MCP server: a command that starts it, or its address, for which a key is taken from "
        f"{KEY}; repeatable.",
        show_default=False,
    ),
]
Variables = Annotated[
    list[str] | None,
    typer.Option(
        metavar="VARIABLE",
        help="An environment variable that the commands of --mcp see as well, beside PATH, HOME and the like; "
        "repeatable.",
        show_default=False,
    ),
]


def with_mcp(tools: Sequence[Tool], servers: Sequence[str] | None, variables: Sequence[str] | None) -> list[Tool]:
    """Tools, and after them those of some servers, which run until the program ends; what is left out is told on
    standard error.

    Raises:
        UserError: as :class:`~scratchlm.agents.mcp_client.McpServer`; a variable without a server, or not set.
    """
    found = list(tools)
    if not servers:
        if variables:
            raise UserError("--mcp-env needs --mcp, the server that is to see the variable")
        return found
    for name in (one for one in variables or () if one not in os.environ):
        raise UserError(f"the environment variable {name} is not set; leave --mcp-env {name} out, or set it")
    from scratchlm.agents.mcp_client import McpServer

    environment = {name: os.environ[name] for name in variables or ()}
    for address in servers:
        server = McpServer(address, key=os.environ.get(KEY), environment=environment)
        taken = [tool.name for tool in found]
        found += server.tools(taken, on_left_out=lambda line: typer.secho(line, err=True, dim=True))
    return found
