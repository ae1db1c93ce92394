"""The page of chats: which models can be talked with, and what is thought of their answers. The answers themselves come
from the API, ``/v1/chat/completions``."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from scratchlm.serving.errors import JSON, ApiError
from scratchlm.serving.registry import Registry
from scratchlm.serving.studio.finding import talking
from scratchlm.serving.studio.preferences import Preferences


class Turn(BaseModel):
    """A message before it."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=200_000)


class JudgeRequest(BaseModel):
    """What is thought of an answer."""

    model_config = ConfigDict(extra="forbid")
    messages: list[Turn] = Field(min_length=1)
    """Before it; the last is the user's."""
    completion: str = Field(max_length=200_000, pattern=r"\S")
    good: bool | None
    """None takes the judgement back."""
    model: str = Field(max_length=400)


def routes(models: Registry) -> APIRouter:
    """What the page of chats asks for."""
    router = APIRouter()
    assert models.settings.studio is not None
    kept = Preferences(models.settings.studio.home)

    @router.get("/")
    async def listed() -> Response:
        """The models that can be talked with, and how many answers were judged."""
        return JSON({"models": await models.work(talking, models), "kept": await models.work(kept.counts)})

    @router.post("/judge")
    async def judge(asked: JudgeRequest) -> Response:
        """Keep what is thought of an answer."""
        if asked.messages[-1].role != "user":
            raise ApiError(400, "the last message before an answer is the user's", param="messages")
        prompt = [one.model_dump() for one in asked.messages]
        return JSON(await models.work(kept.judge, prompt, asked.completion, asked.good, asked.model))

    return router
