"""``scratchlm agent --openapi``: tools from an OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from scratchlm.cli.output import names_in
from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.agents.tool import Tool

OpenApi = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Tools from an OpenAPI document: a file, or a public URL.", show_default=False),
]
Operations = Annotated[
    str, typer.Option(metavar="A,B", help="Those of --openapi that are wanted; without it, all.", show_default=False)
]
BaseUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The server of --openapi.", show_default="the document's own"),
]


def openapi_tools(document: str | None, operations: str, base_url: str | None) -> list[Tool]:
    """The tools that the three options stand for; what is left out is told on standard error.

    Raises:
        UserError: as :func:`~scratchlm.agents.openapi.tools_from_openapi`; an option without ``--openapi``.
    """
    if document is None:
        for option in [name for name, given in (("--operations", operations), ("--base-url", base_url)) if given]:
            raise UserError(f"{option} needs --openapi, the document of the API")
        return []
    from scratchlm.agents.openapi import tools_from_openapi

    return tools_from_openapi(
        document,
        base_url=base_url,
        operations=names_in(operations) if operations else None,
        on_left_out=lambda line: typer.secho(line, err=True, dim=True),
    )
