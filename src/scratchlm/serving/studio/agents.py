"""The page of agents: a task, a model and tools; the trace is told as it grows."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from scratchlm.agents.document_tool import document_tool
from scratchlm.agents.settings import EFFECTS, AgentSettings
from scratchlm.agents.shipped import open_tools
from scratchlm.agents.tool import Tool
from scratchlm.checkpoints.files import disk_errors
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.serving.access import CLIENT
from scratchlm.serving.errors import JSON, ApiError
from scratchlm.serving.events import EventStream
from scratchlm.serving.registry import Registry
from scratchlm.serving.studio.agent_run import AgentRun
from scratchlm.serving.studio.earlier import earlier_runs, told_again
from scratchlm.serving.studio.finding import talking
from scratchlm.serving.studio.served_model import ServedModel

_MOST = 4
"""Runs at a time."""
FILES, DOCUMENTS = "files", "documents:"
_SHIPPED = {
    "calculator": "calculates",
    "dates": "reckons with dates",
    "units": "converts units",
    "python": "runs Python code, locked in: no files, no network",
    FILES: "reads and writes files in the studio's own folder",
    "web": "fetches public pages",
}
"""Those that a page may ask for: none names a path of this machine, and none runs a user's own code."""
_SAFE = ("calculator", "dates", "units")
"""Chosen unless told: nothing outside is read or changed."""
_LEAVES = "fetch"
"""The tool ``web``: what is asked for leaves the machine, so that someone is asked as about a change."""


class RunRequest(BaseModel):
    """A task."""

    model_config = ConfigDict(extra="forbid")
    model: str
    task: str = Field(max_length=50_000, pattern=r"\S")
    tools: list[str] = Field(max_length=16)
    system: str = Field(default="", max_length=20_000)
    max_steps: int = Field(default=10, ge=1, le=50)
    max_new_tokens: int = Field(default=512, ge=1, le=8192)
    temperature: float = Field(default=0.0, ge=0, le=2)
    ask: Literal["effects", "always", "never"] = "effects"
    """Before which calls someone is asked."""


class AnswerRequest(BaseModel):
    """Whether a call may be made."""

    model_config = ConfigDict(extra="forbid")
    run: str
    call: str
    allow: bool
    said: str = Field(default="", max_length=2000)
    """What the model is told of one that may not."""


def routes(models: Registry) -> APIRouter:
    """What the page of agents asks for."""
    router = APIRouter()
    runs: dict[str, AgentRun] = {}
    assert models.settings.studio is not None
    home = models.settings.studio.home

    @router.get("/")
    async def listed() -> Response:
        """Models and tools."""
        tools = [{"name": name, "about": said, "safe": name in _SAFE} for name, said in _SHIPPED.items()]
        stores = [{"name": DOCUMENTS + one, "about": f"searches {one}", "safe": False} for one in models.stores]
        return JSON({"models": await models.work(talking, models), "tools": [*tools, *stores]})

    @router.get("/traces")
    async def traces() -> Response:
        """The runs that were before, the newest first, those at work left out."""
        found = await models.work(earlier_runs, home / "traces")
        return JSON({"traces": [one for one in found if one["run"] not in runs]})

    @router.get("/traces/{run}")
    async def trace(run: str) -> Response:
        """What happened in one of them."""
        return JSON(await models.work(told_again, home / "traces", run))

    @router.post("/run")
    async def run(asked: RunRequest, request: Request) -> Response:
        """Begin, and tell what happens until the end. Who leaves cancels it."""
        if len(runs) >= _MOST:
            raise ApiError(429, f"{_MOST} agents are at work; wait until one has ended")
        patterns = {"effects": (EFFECTS, _LEAVES), "always": ("*",), "never": ()}[asked.ask]
        settings = AgentSettings(
            system=asked.system,
            max_steps=asked.max_steps,
            max_new_tokens=asked.max_new_tokens,
            approve=patterns,
            sampling=SamplingConfig(temperature=asked.temperature),
        )
        async with AsyncExitStack() as held:
            loaded = await held.enter_async_context(models.use(asked.model))
            await models.work(lambda: loaded.caller)  # refuses models that cannot be shown tools
            tools = await models.work(_tools, models, asked.tools)
            await models.work(lambda: loaded.context)  # builds the engine, where it is not there yet
            model = ServedModel(models, loaded, asked.model, request.scope[CLIENT])
            begun = AgentRun(asked.task, model, tools, settings, home / "traces")
            await models.work(begun.open)
            runs[begun.id] = begun
            held.callback(runs.pop, begun.id)
            holding = held.pop_all()
        begun.start()

        async def leave() -> None:
            await begun.leave()
            await holding.aclose()

        return EventStream(begun.events(), leave)

    @router.post("/answer")
    async def answer(asked: AnswerRequest) -> Response:
        """Say whether a call may be made."""
        if asked.run not in runs or not runs[asked.run].answer(asked.call, asked.allow or asked.said):
            raise ApiError(404, "this call does not wait for leave any more", param="call")
        return JSON({"answered": True})

    def _tools(models: Registry, names: list[str]) -> list[Tool]:
        found: list[Tool] = []
        for name in dict.fromkeys(names):
            if name == FILES:
                folder = home / "files"
                with disk_errors(str(folder), "name another folder with --studio-dir"):
                    folder.mkdir(parents=True, exist_ok=True)
                found += open_tools([f"files-write:{folder}"])
            elif name in _SHIPPED:
                found += open_tools([name])
            elif name.removeprefix(DOCUMENTS) in models.stores and name.startswith(DOCUMENTS):
                found.append(document_tool(searcher=models.stores[name.removeprefix(DOCUMENTS)].searcher))
            else:
                raise ApiError(400, f"there is no tool {name[:80]!r} here", param="tools")
        return found

    return router
