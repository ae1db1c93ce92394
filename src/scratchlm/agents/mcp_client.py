"""Tools of MCP servers (Model Context Protocol, https://modelcontextprotocol.io): programs that are started here and
spoken to through their standard input and output, or servers that are reached over HTTP.

The official SDK speaks the protocol. Its functions are asynchronous: each connection has a thread of its own, in which
an event loop runs until it is closed.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import logging
import os
import shlex
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from scratchlm.agents.parameters import lost_reference, message, tidy
from scratchlm.agents.tool import Tool, ToolError, pydantic_says, valid_name
from scratchlm.errors import UserError, missing_package

_PAGES, _CLOSING = 100, 10.0
"""Pages of a list of tools that are read; seconds for a server to end."""
_PARTS = ("allOf", "anyOf", "oneOf", "if", "$ref", "$dynamicRef", "patternProperties", "dependentSchemas")
"""Words of a schema that may name properties beside ``properties``."""
_LOCAL = ("localhost", "127.0.0.1", "::1")


class McpServer:
    """A connection to an MCP server. Use it in ``with``, or call :meth:`close`; at the end of the program it is closed
    in any case.

    Args:
        address: a command, as in a shell, or the address of an HTTP server (``http://...``, ``https://...``).
        key: for HTTP, sent as ``Authorization: Bearer``.
        environment: variables that a command sees beside the few that every program needs, such as PATH and HOME.
        connecting: seconds for the server to start and to tell its tools.
        timeout: seconds of a call.
        most: characters of a result that the model sees.

    Raises:
        UserError: the SDK is missing; the server cannot be started or reached, or does not speak the protocol.
    """

    def __init__(
        self,
        address: str,
        *,
        key: str | None = None,
        environment: Mapping[str, str] | None = None,
        connecting: float = 30.0,
        timeout: float = 60.0,
        most: int = 4_000,
    ) -> None:
        try:
            import mcp  # noqa: F401
        except ImportError:
            raise missing_package("tools of MCP servers need", "mcp", "agents") from None
        self.address = address
        self._timeout, self._most = timeout, most
        self._over_http = address.startswith(("http://", "https://"))
        self._open = self._http(key) if self._over_http else self._command(environment or {})
        self._told = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (until it is closed)
        self._ready, self._listed = threading.Event(), list[Any]()
        self._failure: BaseException | None = None
        self._closed, self._status = False, 0
        # What the SDK logs of a server's mistakes is told in our own words.
        logging.getLogger("mcp").addHandler(logging.NullHandler())
        self._thread = threading.Thread(target=self._work, name=f"MCP {address:.40}", daemon=True)
        self._thread.start()
        atexit.register(self.close)
        wrong = ""
        if not self._ready.wait(connecting):
            wrong = f"has not answered after {connecting:g} s{self._last_words()}; is it an MCP server?"
        elif self._failure is not None:
            wrong = f"cannot be used: {_reason(self._failure)}{self._last_words()}"
        if wrong:
            self.close()
            raise UserError(f"{self._called} {wrong}")

    def __enter__(self) -> McpServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and the program if there is one; calls that are still made fail."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        with contextlib.suppress(AttributeError, RuntimeError):  # it has not begun, or has ended
            self._loop.call_soon_threadsafe(self._scope.cancel)
        self._thread.join(_CLOSING)
        self._told.close()

    def tools(self, taken: Sequence[str] = (), on_left_out: Callable[[str], None] | None = None) -> list[Tool]:
        """The server's tools. A name that is taken, or that two have, gets the server's name before it.

        What a server does not call read-only may have effects, so that it is not repeated without asking.

        Args:
            on_left_out: told, in a line, of each tool that cannot be used; without it such a tool is an error.

        Raises:
            UserError: a tool cannot be used, or a name is taken in any case.
        """
        names = [valid_name(one.name) for one in self._listed]
        found: list[Tool] = []
        for one, name in zip(self._listed, names, strict=True):
            if name in taken or names.count(name) > 1:
                name = valid_name(f"{self.name}_{one.name}")
            if name in taken or any(name == other.name for other in found):
                raise UserError(f"two tools are called {name}; {self._called} has one of them, leave it out")
            hints = one.annotations
            effects = hints is None or not hints.read_only_hint
            about = " ".join((one.description or one.title or "").split())
            try:
                # Checked as it is, before it is read: a server may send anything.
                tool = Tool(name, about, one.input_schema, self._caller(one.name), effects, self._timeout, self._most)
                found.append(replace(tool, parameters=_parameters(tool.parameters)))
            except UserError as error:
                line = f"the tool {one.name} of {self.name} is left out: {error}"
                if on_left_out is None:
                    raise UserError(line) from error
                on_left_out(line)
        return found

    @property
    def _called(self) -> str:
        return f"the MCP server {self.address!r:.120}"

    # ---- the thread

    def _work(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # told where the server is opened, or called
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        import anyio
        from mcp import Client

        self._loop = asyncio.get_running_loop()
        # Cancelled from outside, so that the SDK ends the program and closes its streams in its own order.
        with anyio.CancelScope() as self._scope:
            async with Client(self._open()) as self._client:
                info = self._client.server_info
                self.name = valid_name(info.name if info is not None else "server")
                self._listed = await self._list()
                self._ready.set()
                await anyio.sleep_forever()

    async def _list(self) -> list[Any]:
        found: list[Any] = []
        cursor = None
        for _ in range(_PAGES):
            page = await self._client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if cursor is None:
                return found
        raise UserError(f"its list of tools has more than {_PAGES} pages")

    def _caller(self, name: str) -> Callable[[dict[str, Any]], str]:
        def call(arguments: dict[str, Any]) -> str:
            if not self._thread.is_alive() or self._closed:
                raise ToolError(f"{self.name} has ended{self._last_words()}")
            waiting = asyncio.run_coroutine_threadsafe(self._call(name, arguments), self._loop)
            try:
                return waiting.result(self._timeout)
            except TimeoutError:
                waiting.cancel()  # the server is told
                raise

        return call

    async def _call(self, name: str, arguments: dict[str, Any]) -> str:
        from mcp import MCPError
        from pydantic import ValidationError

        try:
            result = await self._client.call_tool(name, arguments)
        except MCPError as error:
            raise ToolError(f"{self.name}: {error.message}") from error
        except ValidationError as error:
            raise ToolError(f"{self.name} answered what is no result: {pydantic_says(error)}") from error
        text = _text(result)
        if result.is_error:
            raise ToolError(text)
        return text

    # ---- how it is reached

    def _http(self, key: str | None) -> Callable[[], Any]:
        parts = urlsplit(self.address)
        if not parts.hostname:
            raise UserError(f"{self.address!r:.120} is no address; write it as http://localhost:8000/mcp")
        if key and parts.scheme == "http" and parts.hostname not in _LOCAL:
            raise UserError(f"a key would go to {parts.hostname} in the open; use https")

        def opened() -> Any:
            import httpx2
            from mcp.client.streamable_http import streamable_http_client

            async def remember(response: httpx2.Response) -> None:
                self._status = response.status_code

            client = httpx2.AsyncClient(
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx2.Timeout(30.0, read=self._timeout + 30.0),
                event_hooks={"response": [remember]},
            )
            return streamable_http_client(self.address, http_client=client)

        return opened

    def _command(self, environment: Mapping[str, str]) -> Callable[[], Any]:
        try:
            words = shlex.split(self.address, posix=os.name != "nt")
        except ValueError as error:
            raise UserError(f"{self._called} is no command: {message(error)}") from error
        if not words:
            raise UserError("an MCP server is a command or an address; give one, such as 'python -m mcp_server_time'")

        def opened() -> Any:
            from mcp import StdioServerParameters, stdio_client

            # A byte that is no UTF-8 would end the reading, and every call would wait in vain.
            started = StdioServerParameters(
                command=words[0], args=words[1:], env=dict(environment), encoding_error_handler="replace"
            )
            return stdio_client(started, errlog=self._told)

        return opened

    def _last_words(self) -> str:
        """What a program said last on its standard error, or with which status HTTP answered where that tells of a
        mistake."""
        if self._over_http:
            return f" (HTTP {self._status})" if self._status >= 400 else ""
        if self._told.closed:
            return ""
        self._told.seek(0)
        lines = [line.strip() for line in self._told.read()[-2000:].splitlines() if line.strip()]
        return f" (it said: {lines[-1][:200]})" if lines else ""


def _parameters(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A server's schema as our tools have it. One whose arguments all stand in ``properties`` is closed, so that a
    wrong name is told of and not passed over; others stay as open as they are.

    Raises:
        UserError: a reference leads out of it, or nowhere.
    """
    if (lost := lost_reference(schema)) is not None:
        raise UserError(f"the reference {lost:.100} in its JSON Schema leads to no part of it")
    found = {"properties": {}, **tidy(schema, closed=False)}
    if "properties" in schema and not any(word in schema for word in _PARTS):
        found.setdefault("additionalProperties", False)
    return found


def _text(result: Any) -> str:
    """A result as the model reads it: its texts; what else there is, it is told of."""
    parts = [_block(one) for one in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    return "\n".join(parts)


def _block(block: Any) -> str:
    if block.type == "text":
        return str(block.text)
    if block.type == "resource_link":
        return f"[{block.name}: {block.uri}]"
    held = getattr(block, "resource", None)
    if held is not None and getattr(held, "text", None) is not None:
        return str(held.text)
    kind = getattr(held if held is not None else block, "mime_type", None) or block.type
    return f"[{kind}, which is not shown]"


def _reason(error: BaseException) -> str:
    """The first thing that went wrong, in words."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, FileNotFoundError):
        return f"there is no program {error.filename or ''}".rstrip()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return pydantic_says(error) if isinstance(error, ValueError) else message(error)
