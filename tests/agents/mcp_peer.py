"""An MCP server made with the official SDK, over stdio or, with a port, over HTTP.

python mcp_peer.py [PORT [KEY]]
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import EmbeddedResource, ImageContent, TextContent, TextResourceContents, ToolAnnotations

server = MCPServer("peer-1")
ONLY_READS = ToolAnnotations(read_only_hint=True)


@server.tool(annotations=ONLY_READS)
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def note(text: str, file: str) -> str:
    """Write a text to a file."""
    with Path(file).open("a", encoding="utf-8") as out:
        out.write(f"{text}\n")
    return "written"


@server.tool(annotations=ONLY_READS)
def fail(why: str) -> str:
    """Fail."""
    raise ToolError(why)


@server.tool(annotations=ONLY_READS)
async def slow(seconds: float, file: str) -> str:
    """Take some time, and write to the file when it was broken off."""
    import anyio

    try:
        await anyio.sleep(seconds)
    except BaseException:
        Path(file).write_text("cancelled", encoding="utf-8")
        raise
    return "done at last"


@server.tool(annotations=ONLY_READS)
def large(count: int) -> str:
    """A long text."""
    return "x" * count


@server.tool(annotations=ONLY_READS, structured_output=False)
def mixed() -> list[TextContent | ImageContent | EmbeddedResource]:
    """A text, an image and a file."""
    held = TextResourceContents(uri="file:///a.txt", text="in the file")
    return [
        TextContent(text="a text"),
        ImageContent(data="AAAA", mime_type="image/png"),
        EmbeddedResource(resource=held),
    ]


@server.tool(annotations=ONLY_READS)
def secret(name: str) -> str:
    """What an environment variable holds."""
    return os.environ.get(name, "nothing")


@server.tool()
def die() -> str:
    """End the server."""
    print("out of paper", file=sys.stderr, flush=True)
    time.sleep(0.05)
    os._exit(3)


def main() -> None:
    if len(sys.argv) == 1:
        print("this is no protocol", flush=True)
        server.run()
        return
    import uvicorn
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import PlainTextResponse

    app = server.streamable_http_app()

    async def check(request, call_next):  # type: ignore[no-untyped-def]
        if len(sys.argv) > 2 and request.headers.get("authorization") != f"Bearer {sys.argv[2]}":
            return PlainTextResponse("no key", status_code=401)
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=check)
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error")


if __name__ == "__main__":
    main()
