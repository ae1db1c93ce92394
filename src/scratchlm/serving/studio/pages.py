"""Where the studio's pages and their data are: ``/`` is the page, ``/studio/static/`` its parts, and
``/studio/api/NAME/`` what the page of that name asks for."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response

from scratchlm.serving.access import API, STATIC
from scratchlm.serving.errors import ApiError
from scratchlm.serving.registry import Registry
from scratchlm.serving.studio import agents, attention, chat, documents, runs, tokens
from scratchlm.serving.studio import models as models_page

PAGES: dict[str, Callable[[Registry], APIRouter]] = {
    "chat": chat.routes,
    "runs": runs.routes,
    "attention": attention.routes,
    "tokens": tokens.routes,
    "agents": agents.routes,
    "documents": documents.routes,
    "models": models_page.routes,
}
"""By the name of the page: what makes the routes under ``/studio/api/NAME``."""
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""The endings of the files that are served; licences and remarks are not."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""Nothing from other hosts, no code within the page, and the newest file at each visit (asked for by its ETag)."""


def add_studio(app: FastAPI, models: Registry) -> None:
    """Put the studio into the server's app."""
    parts = {path: _File(path, data) for path, data in _files(files(__package__) / "static")}

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        """The studio."""
        return parts["index.html"].answer(request)

    @app.get(STATIC + "{path:path}", include_in_schema=False)
    async def part(path: str, request: Request) -> Response:
        """A file of it."""
        if path not in parts:
            raise ApiError(404, f"the studio has no file {path[:80]!r}")
        return parts[path].answer(request)

    for name, routes in PAGES.items():
        app.include_router(routes(models), prefix=API + name, include_in_schema=False)


class _File:
    """A file of the package, held in memory: they are small, and no path of a client reaches the disk."""

    def __init__(self, path: str, data: bytes) -> None:
        self._data = data
        tag = f'"{sha256(data).hexdigest()[:16]}"'
        self._headers = {**_HEADERS, "ETag": tag, "Content-Type": _TYPES[path[path.rindex(".") :]]}

    def answer(self, request: Request) -> Response:
        if request.headers.get("if-none-match") == self._headers["ETag"]:
            return Response(status_code=304, headers=self._headers)
        return Response(self._data, headers=self._headers)


def _files(folder: Traversable, before: str = "") -> list[tuple[str, bytes]]:
    """Paths within a folder, and what is in the files."""
    found = []
    for one in folder.iterdir():
        if one.is_dir():
            found += _files(one, f"{before}{one.name}/")
        elif one.name.endswith(tuple(_TYPES)):
            found.append((before + one.name, one.read_bytes()))
    return found
