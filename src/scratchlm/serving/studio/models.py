"""The page of models: what is here and how large, fetching more, serving it, and writing it for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from scratchlm.checkpoints.catalogue import Located, overview
from scratchlm.checkpoints.datasets import data_overview, data_sets
from scratchlm.checkpoints.download import pull, pull_data
from scratchlm.checkpoints.files import disk_errors
from scratchlm.exporting import export_model
from scratchlm.serving.errors import JSON
from scratchlm.serving.registry import Registry, Served
from scratchlm.serving.studio.finding import check_memory, check_name, find_model, offered, serve
from scratchlm.serving.studio.jobs import Job, Jobs


class PullRequest(BaseModel):
    """A model or a data set to fetch: a name of the catalogue, or a hub id."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=200)


class ServeRequest(BaseModel):
    """A model to serve from now on, too."""

    model_config = ConfigDict(extra="forbid")
    name: str


class ExportRequest(BaseModel):
    """A model to write for other programs, in the studio's folder."""

    model_config = ConfigDict(extra="forbid")
    model: str
    to: Literal["huggingface", "gguf"]
    kind: Literal["f16", "q8_0"] = "f16"
    """Of a GGUF file: how its matrices are held."""
    name: str
    """Of the new folder or file."""


def routes(models: Registry) -> APIRouter:
    """What the page of models asks for."""
    router, jobs = APIRouter(), Jobs()
    assert models.settings.studio is not None
    exports = models.settings.studio.home / "exports"

    @router.get("/")
    async def listed() -> Response:
        """What is here, what could be, and what is being worked on."""
        return JSON({**await models.work(_listed, models), "exports": str(exports), "jobs": jobs.told()})

    @router.post("/pull")
    async def fetch(asked: PullRequest) -> Response:
        """Fetch one, and check every file of it."""
        return JSON(jobs.begin("pull", asked.name, lambda job: _pull(asked.name, job)))

    @router.post("/serve")
    async def serve_too(asked: ServeRequest) -> Response:
        """Serve one that is here; it is read in when it is first asked."""
        return JSON({"model": await serve(models, asked.name)})

    @router.post("/export")
    async def export(asked: ExportRequest) -> Response:
        """Write one, with its adapter worked in where it is one, into the studio's folder."""
        check_name(asked.name)
        located = await models.work(find_model, models, asked.model)
        return JSON(jobs.begin("export", asked.model, lambda _job: _export(located, exports, asked)))

    return router


def _pull(name: str, job: Job) -> Path:
    data = data_sets().get(name)
    return pull(name, meter=job).path if data is None else pull_data(data, meter=job)


def _export(located: Located, folder: Path, asked: ExportRequest) -> Path:
    check_memory(f"writing {asked.model}", located)
    with disk_errors(str(folder), "name another folder with --studio-dir"):
        folder.mkdir(parents=True, exist_ok=True)
    ending = ".gguf" if asked.to == "gguf" and not asked.name.endswith(".gguf") else ""
    return export_model(located.path, asked.to, folder / (asked.name + ending), kind=asked.kind)


# -- the list ---------------------------------------------------------------------------------------------------------


def _listed(models: Registry) -> dict[str, Any]:
    ours = list(models.served.values())  # others may be added meanwhile
    served = {one.located.path.resolve(): one.name for one in ours}
    catalogue = [{**row, **_on_disk(row["path"])} for row in overview()]
    for row in catalogue:
        row["served"] = served.get(Path(row["path"]).resolve()) if row["path"] else None
    known = {*(one.name for one in ours), *(row["name"] for row in catalogue)}
    return {
        "budget": models.budget,
        "used": models.used,
        "served": [_row(models, one) for one in ours],
        "catalogue": catalogue,
        "data": [{**row, **_on_disk(row["path"])} for row in data_overview()],
        "runs": [{"name": name, **_on_disk(str(path))} for name, path in offered(models).items() if name not in known],
    }


def _row(models: Registry, one: Served) -> dict[str, Any]:
    kept = ("kind", "architecture", "family", "parameters", "context", "bytes", "licence", "chat_template", "path")
    told = {name: one.told.get(name) for name in (*kept, "base")}
    return {"name": one.name, **told, "memory": models.needs(one), "loaded": one.loaded is not None}


def _on_disk(path: str | None) -> dict[str, int | None]:
    if path is None:
        return {"bytes": None}
    place = Path(path)
    files = [place] if place.is_file() else [one for one in place.iterdir() if one.is_file()]
    return {"bytes": sum(file.stat().st_size for file in files)}
