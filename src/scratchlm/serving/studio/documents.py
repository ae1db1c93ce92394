"""The page of documents: collections of files, questions to them with cited answers, and the sources of those."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from scratchlm.agents.remembering import MODEL
from scratchlm.checkpoints.catalogue import find_pulled
from scratchlm.errors import UserError
from scratchlm.retrieval.followup import Turn
from scratchlm.serving.access import CLIENT
from scratchlm.serving.errors import JSON
from scratchlm.serving.events import EventStream
from scratchlm.serving.registry import Registry
from scratchlm.serving.studio.answering import answered
from scratchlm.serving.studio.jobs import Jobs
from scratchlm.serving.studio.shelf import Shelf, Upload
from scratchlm.serving.studio.sources import source_lines

_PIECE = 1 << 20
"""Bytes of a file that a page sends at a time."""


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MakeRequest(_Asked):
    """A new collection."""

    name: str
    model: str
    """Makes its vectors."""


class UpdateRequest(_Asked):
    """A collection whose files have changed."""

    name: str


class RemoveRequest(_Asked):
    """A file that is to leave a collection."""

    name: str
    file: str


class EarlierTurn(_Asked):
    """What was asked and answered before."""

    question: str = Field(max_length=20_000)
    answer: str = Field(max_length=20_000)


class AskRequest(_Asked):
    """A question to a collection."""

    name: str
    question: str = Field(max_length=20_000)
    history: list[EarlierTurn] = Field(default=[], max_length=100)
    writer: str | None = None
    """A served model that writes the answer; without one sentences of the documents are it."""


def routes(models: Registry) -> APIRouter:
    """What the page of documents asks for."""
    router, jobs, shelf = APIRouter(), Jobs(), Shelf(models)

    @router.get("/")
    async def listed() -> Response:
        """The collections, and the models that make vectors and write answers."""
        names = await models.work(shelf.names)
        return JSON(
            {
                "collections": [{"name": name, "own": own} for name, own in names.items()],
                "embedders": await models.work(_embedders, models),
                "writers": [
                    one.name for one in list(models.served.values()) if one.writes and one.told["chat_template"]
                ],
                "piece": min(_PIECE, models.settings.body),
            }
        )

    @router.get("/files")
    async def files(name: str = Query()) -> Response:
        """What is in one, and how far its indexing has come."""
        told = await models.work(shelf.told, name)
        job = next((one for one in jobs.told() if one["name"] == name), None)
        return JSON({**told, "job": job})

    @router.post("/make")
    async def make(asked: MakeRequest) -> Response:
        """A new one, without files."""
        await models.work(shelf.make, asked.name, asked.model)
        return JSON({"name": asked.name})

    @router.post("/upload")
    async def upload(
        request: Request, name: str = Query(), file: str = Query(), at: int = Query(), total: int = Query()
    ) -> Response:
        """A piece of a file, as the body."""
        piece = Upload(file, at, total, await request.body())
        return JSON({"whole": await models.work(shelf.put, name, piece)})

    @router.post("/remove")
    async def remove(asked: RemoveRequest) -> Response:
        """A file leaves, and the index is brought up to the rest."""
        await models.work(shelf.remove, asked.name, asked.file)
        return JSON(_update(asked.name))

    @router.post("/index")
    async def index(asked: UpdateRequest) -> Response:
        """The index is brought up to the files."""
        await models.work(shelf.check_own, asked.name)
        return JSON(_update(asked.name))

    @router.post("/ask")
    async def ask(asked: AskRequest, request: Request) -> Response:
        """A cited answer as it comes."""
        documents = await shelf.documents(asked.name)
        history = [Turn(one.question, one.answer) for one in asked.history]
        events = answered(models, documents, asked.question, history, asked.writer, request.scope[CLIENT])
        return EventStream(events, events.aclose)  # type: ignore[attr-defined]

    @router.get("/source")
    async def source(
        name: str = Query(), file: str = Query(), start: int = Query(0), end: int = Query(0), line: int = Query(0)
    ) -> Response:
        """A file as the index has it, around what is cited."""
        passages = await models.work(shelf.passages, name, file)
        return JSON({"file": file, **source_lines(passages, start, end, line)})

    def _update(name: str) -> dict[str, Any]:
        return jobs.begin("index", name, lambda job: shelf.update(name, job))

    return router


def _embedders(models: Registry) -> list[str]:
    """Models that make vectors, the one that answers were measured with first."""
    try:
        first = [MODEL] if find_pulled(MODEL) is not None else []
    except UserError:  # damaged, which the page of models tells
        first = []
    served = [one.name for one in list(models.served.values()) if one.told["architecture"] == "encoder"]
    return [*first, *(name for name in served if name not in first)]
