"""An HTTP API on this machine, written with FastAPI, that says what it was asked; and what httpx would ask it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import Cookie, FastAPI, File, Header, Path, Query, Request, Response, Security
from fastapi.responses import PlainTextResponse, RedirectResponse
from fastapi.security import APIKeyHeader, APIKeyQuery, HTTPBasic, HTTPBearer
from pydantic import BaseModel, Field


class Town(BaseModel):
    """A town, and those near it."""

    name: str
    people: int | None = None
    near: list[Town] = []


class Order(BaseModel):
    """What is ordered."""

    model_config = {"extra": "forbid"}
    id: int
    what: Literal["tea", "bread"]
    notes: dict[str, str] = {}


def make_api() -> FastAPI:
    """The app. ``app.state.seen`` has the requests, as (method, path with query, headers, body)."""
    api = FastAPI(title="towns")
    api.state.seen = []

    @api.middleware("http")
    async def note(request: Request, go_on: Any) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        raw = request.scope["raw_path"].decode()
        api.state.seen.append((request.method, raw + query, dict(request.headers), await request.body()))
        return await go_on(request)

    @api.get("/towns/{name}", operation_id="find-town", summary="Find a town.", description="By its name.")
    def find(
        name: Annotated[str, Path(description="as it is written")],
        river: Annotated[list[Annotated[int, Field(ge=0)]], Query()] = [],  # noqa: B006 (FastAPI's way)
        deep: bool = False,
        x_trace: Annotated[str, Header()] = "",
        session: Annotated[str, Cookie()] = "",
    ) -> dict[str, Any]:
        return {"name": name, "river": river, "deep": deep, "x_trace": x_trace, "session": session}

    @api.post("/towns/{id}/orders", operation_id="order")
    def order(id: int, body: Order, hurry: Annotated[str, Query()] = "no") -> dict[str, Any]:  # noqa: A002
        return {"town": id, "order": body.model_dump(), "hurry": hurry}

    @api.put("/towns", operation_id="keep_towns")
    def keep(towns: list[Town]) -> list[Town]:
        return towns

    @api.delete("/towns/{name}", status_code=204)
    def remove(name: str) -> Response:
        return Response(status_code=204) if name != "Moss" else PlainTextResponse("It stays. " * 200, 409)

    @api.post("/pictures", operation_id="send_picture")
    def picture(data: Annotated[bytes, File()]) -> int:
        return len(data)

    @api.get("/secrets/{kind}", operation_id="secret")
    def secret(
        kind: str,
        request: Request,
        _: Annotated[Any, Security(APIKeyHeader(name="X-Key", scheme_name="inHeader"))],
    ) -> PlainTextResponse:
        said = f"{request.headers['x-key']} and {request.headers.get('x-key')}!"
        return PlainTextResponse(said, 200 if kind == "good" else 403)

    @api.get("/query-secret", operation_id="query_secret")
    def query_secret(
        request: Request, _: Annotated[str, Security(APIKeyQuery(name="key", scheme_name="inQuery"))]
    ) -> str:
        return str(request.url)

    @api.get("/bearer", operation_id="bearer")
    def bearer(found: Annotated[Any, Security(HTTPBearer(scheme_name="token"))]) -> dict[str, Any]:
        return {"right": found.credentials == "t0ken-of-mine"}

    @api.get("/basic", operation_id="basic")
    def basic(found: Annotated[Any, Security(HTTPBasic(scheme_name="user"))]) -> dict[str, Any]:
        return {"user": found.username, "right": found.password == "pass:word"}

    @api.get("/go/{where}", operation_id="go")
    def go(where: str) -> RedirectResponse:
        there = {"here": "/towns/Halden?deep=true", "loop": "/go/loop", "away": "http://localhost:9/towns/Halden"}
        return RedirectResponse(there[where], 302)

    @api.post("/moved/{status}", operation_id="moved")
    def moved(status: int, body: Annotated[Order, Field()]) -> RedirectResponse:
        return RedirectResponse("/towns/7/orders" if status in (307, 308) else f"/towns/{body.what}", status)

    @api.get("/large/{size}", operation_id="large")
    def large(size: int) -> PlainTextResponse:
        return PlainTextResponse("x" * size)

    @api.get("/slow/{seconds}", operation_id="slow")
    def slow(seconds: float) -> str:
        time.sleep(seconds)
        return "awake"

    @api.get("/picture", operation_id="see_picture")
    def see() -> Response:
        return Response(b"\x89PNG\x00", media_type="image/png")

    return api


@contextmanager
def served(api: Any) -> Iterator[str]:
    """The address of an app, on this machine."""
    server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
