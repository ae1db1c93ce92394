"""The app: paths, and what answers at each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from scratchlm import __version__
from scratchlm.serving.access import CLIENT, Access
from scratchlm.serving.chat import Chat
from scratchlm.serving.completions import Completion
from scratchlm.serving.documents import Documents
from scratchlm.serving.embeddings import embed
from scratchlm.serving.errors import JSON, add_handlers
from scratchlm.serving.events import EventStream, Gone, until
from scratchlm.serving.metrics import Metrics
from scratchlm.serving.registry import Registry, Served
from scratchlm.serving.schemas import ChatRequest, CompletionRequest, EmbeddingRequest, SearchRequest
from scratchlm.serving.studio.pages import add_studio

_LEFT = 499
"""The status that nobody sees, of a client that has left; nginx's."""


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error in OpenAI's form."""

    error: ErrorDetail


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": said}
    for status, said in (
        (400, "the request is wrong"),
        (401, "no key, or none of ours"),
        (403, "not from there"),
        (404, "there is no such model"),
        (408, "the request took too long to come"),
        (413, "the request is too large"),
        (429, "too many wait; Retry-After says for how long"),
        (500, "the server failed"),
        (503, "the server is going down, or its memory is taken"),
    )
}


def create_app(models: Registry, metrics: Metrics) -> FastAPI:
    """The app that serves these models."""
    settings = models.settings

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(models.close)

    app = FastAPI(
        title="scratchlm",
        version=__version__,
        description="OpenAI's protocol in front of models of ours.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=_ERRORS,
    )
    add_handlers(app)

    @app.post("/v1/chat/completions", tags=["chat"])
    async def chat_completions(asked: ChatRequest, request: Request) -> Response:
        """The assistant's next turn."""
        if asked.model in models.stores:
            store = models.stores[asked.model]
            async with models.turn():
                answer = await models.work(store.answer, asked)
            return EventStream(store.events(answer), _nothing) if asked.stream else JSON(answer)
        return await _written(Chat(asked), request)

    @app.post("/v1/completions", tags=["completions"])
    async def completions(asked: CompletionRequest, request: Request) -> Response:
        """A text goes on."""
        return await _written(Completion(asked), request)

    @app.post("/v1/embeddings", tags=["embeddings"])
    async def embeddings(asked: EmbeddingRequest) -> Response:
        """Texts become vectors."""
        async with models.use(asked.model) as loaded, models.turn():
            return JSON(await models.work(embed, loaded, asked))

    @app.post("/v1/vector_stores/{store}/search", tags=["documents"])
    async def search(store: str, asked: SearchRequest) -> Response:
        """Passages of an index."""
        async with models.turn():
            return JSON(await models.work(models.store(store).search, asked))

    @app.get("/v1/models", tags=["models"])
    async def list_models() -> Response:
        """The models that are served."""
        data = [_described(one) for one in models.served.values()]
        return JSON({"object": "list", "data": data + [_described_store(one) for one in models.stores.values()]})

    @app.get("/v1/models/{name:path}", tags=["models"])
    async def model(name: str) -> Response:
        """One of them."""
        if name in models.stores:
            return JSON(_described_store(models.stores[name]))
        return JSON(_described(models.find(name)))

    @app.get("/health", tags=["server"])
    async def health() -> Response:
        """Whether the server is there."""
        return JSON({"status": "ok", "version": __version__})

    @app.get("/metrics", tags=["server"])
    async def numbers() -> Response:
        """Counts and times, for Prometheus."""
        return Response(metrics.page(models), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _written(work: Chat | Completion, request: Request) -> Response:
        try:
            await until(work.begin(models, request.scope[CLIENT]), request.receive)
        except Gone:
            return Response(status_code=_LEFT)
        running = work.running
        try:
            if work.asked.stream:
                await running.first(request.receive)
                return EventStream(work.events(), running.leave)
            await running.all(request.receive)
            made: Response = JSON(work.answer())
        except Gone:
            made = Response(status_code=_LEFT)
        except BaseException:
            await running.leave()
            raise
        await running.leave()
        return made

    if settings.studio is not None:
        add_studio(app, models)

    def count(path: str, status: int) -> None:
        metrics.requests.labels(path, str(status)).inc()

    app.add_middleware(Access, settings=settings, count=count)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    return app


async def _nothing() -> None:
    """There is nothing to leave."""


def _described_store(one: Documents) -> dict[str, Any]:
    return {"id": one.name, "object": "model", "created": one.created, "owned_by": "scratchlm", "kind": "documents"}


def _described(one: Served) -> dict[str, Any]:
    """A model as OpenAI lists it, and what we know beyond that."""
    return {
        "id": one.name,
        "object": "model",
        "created": one.created,
        "owned_by": "scratchlm",
        "context": one.told["context"],
        "kind": one.told["kind"],
        "loaded": one.loaded is not None,
    }
