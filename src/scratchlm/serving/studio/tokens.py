"""The page of tokens: how the tokenizer of each model cuts a text."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from scratchlm.errors import UserError
from scratchlm.opening import open_tokenizer
from scratchlm.serving.errors import JSON
from scratchlm.serving.registry import Registry
from scratchlm.serving.studio.finding import find_model, offered
from scratchlm.tokenizers import Tokenizer


class CutRequest(BaseModel):
    """A text, and whose tokenizers cut it."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(max_length=20_000)
    models: list[str] = Field(min_length=1, max_length=8)
    special: bool = False
    """Whether special tokens that are spelled in the text are taken as such, and those that the model expects around a
    text are added."""


def routes(models: Registry) -> APIRouter:
    """What the page of tokens asks for."""
    router = APIRouter()

    @router.get("/")
    async def named() -> Response:
        """The models whose tokenizers are here."""
        return JSON({"models": list(await models.work(offered, models))})

    @router.post("/cut")
    async def cut(asked: CutRequest) -> Response:
        """The tokens of a text, by each of the tokenizers."""
        return JSON({"cuts": [await models.work(_cut, models, name, asked) for name in asked.models]})

    return router


def _cut(models: Registry, name: str, asked: CutRequest) -> dict[str, Any]:
    """By one tokenizer; what it cannot do is told in its place, beside what the others do."""
    path = find_model(models, name).path
    try:
        tokenizer = _tokenizer(path, path.stat().st_mtime_ns)
        ids = tokenizer.encode(asked.text, allow_special=asked.special, add_special=asked.special)
    except UserError as error:
        return {"model": name, "error": str(error)}
    return {
        "model": name,
        "kind": tokenizer.kind,
        "vocabulary": tokenizer.vocab_size,
        "characters": len(asked.text),
        "bytes": len(asked.text.encode("utf-8", "replace")),
        "exact": tokenizer.decode(ids, skip_special=asked.special) == asked.text,
        "tokens": [told_token(tokenizer, token, first=not number) for number, token in enumerate(ids)],
    }


def told_token(tokenizer: Tokenizer, token: int, *, first: bool) -> dict[str, Any]:
    """One token: its id, how the vocabulary spells it, and the text that it adds; a part of a character as bytes."""
    told: dict[str, Any] = {"id": token, "spelled": tokenizer.token(token)}
    if token in tokenizer.special_ids:
        return {**told, "special": True, "text": told["spelled"]}
    content = tokenizer.decode([token]).encode("utf-8", "replace") if first else tokenizer.bytes_of(token)
    try:
        return {**told, "text": content.decode("utf-8")}
    except UnicodeDecodeError:
        return {**told, "bytes": content.hex(" ")}


@lru_cache(maxsize=16)
def _tokenizer(path: Path, _changed: int) -> Tokenizer:
    return open_tokenizer(path)
