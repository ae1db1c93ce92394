"""Who may ask, and how much at a time: keys, hosts, the size of a body and the time that it takes to come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scratchlm.serving.errors import ApiError
from scratchlm.serving.settings import ServerSettings

CLIENT = "scratchlm_client"
"""Where the scope has a name for who asks."""
STATIC, API = "/studio/static/", "/studio/api/"
"""Where the studio's files are, and what its pages ask."""
_OPEN = ("/health", "/")
"""Paths that need no key, as those under ``STATIC``: a browser sends none with them, and they hold nothing of ours."""


class Access:
    """In front of the app: lets in who may come, and reads the body before anything else is done.

    Args:
        count: told of each answer's path and status.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, count: Callable[[str, int], None]) -> None:
        self._app, self._settings, self._count = app, settings, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")  # not the path itself: anybody can make those up
                self._count(getattr(route, "path", "other"), message["status"])
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._check_host(headers)
            self._check_origin(scope["path"], headers)
            scope[CLIENT] = self._client(scope, headers)
            body = await self._body(headers, receive)
        except ApiError as error:
            await error.response()(scope, receive, counted)
            return
        if body is None:  # the client has left
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        await self._app(scope, replay, counted)

    def _check_host(self, headers: Headers) -> None:
        """On this machine alone, a page from elsewhere could reach us by a name of its own that means this machine."""
        host = headers.get("host", "")
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if self._settings.loopback and name not in ("localhost", "127.0.0.1", "::1", self._settings.host):
            raise ApiError(403, "this server answers to localhost only; see --host")

    def _check_origin(self, path: str, headers: Headers) -> None:
        """What the studio's pages may ask, such as to fetch a model, no other page may ask in their user's name."""
        origin = headers.get("origin")
        if not path.startswith(API) or origin is None:
            return
        if urlsplit(origin).netloc != headers.get("host"):
            raise ApiError(403, "the studio answers to its own pages only; other pages may ask the API, see --cors")

    def _client(self, scope: Scope, headers: Headers) -> str:
        address = (scope.get("client") or ("",))[0]
        path = scope["path"]
        if not self._settings.keys or path in _OPEN or path.startswith(STATIC) or scope["method"] == "OPTIONS":
            return f"address-{address}"
        kind, _, key = headers.get("authorization", "").partition(" ")
        owner = self._settings.keys.owner(key.strip()) if kind.lower() == "bearer" else None
        if owner is None:
            said = (
                "Incorrect API key provided." if kind else "You didn't provide an API key: Authorization: Bearer KEY."
            )
            raise ApiError(401, said, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return owner

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """The whole body; None where the client leaves before its end."""
        most = self._settings.body
        said = headers.get("content-length", "0")
        if said.isdigit() and int(said) > most:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._settings.patience):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(408, "the request took too long to come", headers={"Connection": "close"}) from None

    def _too_large(self) -> ApiError:
        most = self._settings.body
        return ApiError(413, f"the request is larger than {most:,} bytes", headers={"Connection": "close"})
