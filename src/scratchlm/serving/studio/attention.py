"""The page of attention: where each head looks in a text, and what each layer would say of it."""

from __future__ import annotations

from base64 import b64encode
from functools import partial
from math import isqrt
from typing import Any

import torch
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from scratchlm.evaluation.looking import Guess, logit_lens, read_attention
from scratchlm.serving.errors import JSON
from scratchlm.serving.registry import Loaded, Registry
from scratchlm.serving.studio.finding import check_memory, find_model, offered, serve
from scratchlm.serving.studio.tokens import told_token
from scratchlm.tokenizers import Tokenizer

_MOST_TOKENS, _MOST_SHARES = 128, 6_000_000
"""Tokens that are looked at, and numbers of all maps together, which is fewer tokens where a model has many heads."""
_MOST_SAID = 64
"""Tokens whose layers are asked what they would say: each is as much work as the model's last projection."""
_WHOLE = 65_535
"""The number that a share of 1 is sent as."""


class LookRequest(BaseModel):
    """A text, and the model that reads it."""

    model_config = ConfigDict(extra="forbid")
    model: str
    text: str = Field(max_length=20_000)


def routes(models: Registry) -> APIRouter:
    """What the page of attention asks for."""
    router = APIRouter()

    @router.get("/")
    async def named() -> Response:
        """The models that may be looked into."""
        return JSON({"models": list(await models.work(offered, models))})

    @router.post("/maps")
    async def maps(asked: LookRequest) -> Response:
        """Where each head of each layer looks."""
        return JSON(await _looked(asked, _maps))

    @router.post("/lens")
    async def lens(asked: LookRequest) -> Response:
        """What each layer would say at each token."""
        return JSON(await _looked(asked, _lens))

    async def _looked(asked: LookRequest, look: Any) -> dict[str, Any]:
        located = await models.work(find_model, models, asked.model)
        if located.kind == "gguf":  # to look into it takes its weights as numbers, which writing does not
            await models.work(check_memory, f"looking into {asked.model}", located)
        name = await serve(models, asked.model)
        async with models.use(name) as loaded, models.turn():
            found: dict[str, Any] = await models.work(partial(look, loaded, asked.text))
        return found

    return router


def _maps(loaded: Loaded, text: str) -> dict[str, Any]:
    config = loaded.model.config
    most = min(_MOST_TOKENS, isqrt(_MOST_SHARES // (config.layers * config.heads)))
    looks = read_attention(loaded.model.model, loaded.tokenizer, text, most=most, add_special=True)
    shares = torch.stack([one.float().cpu() for one in looks.maps])  # (L, H, T, T)
    counted = (shares * _WHOLE).round().to(torch.int32).numpy().astype("<u2")
    return {
        "tokens": _tokens(loaded.tokenizer, looks.ids),
        "total": looks.total,
        "causal": looks.causal,
        "layers": shares.shape[0],
        "heads": shares.shape[1],
        "whole": _WHOLE,
        "maps": b64encode(counted.tobytes()).decode("ascii"),
    }


def _lens(loaded: Loaded, text: str) -> dict[str, Any]:
    lens = logit_lens(loaded.model.model, loaded.tokenizer, text, most=_MOST_SAID, add_special=True)
    return {
        "tokens": _tokens(loaded.tokenizer, lens.ids),
        "total": lens.total,
        "next": lens.next,
        "layers": [[_guess(loaded.tokenizer, guess) for guess in layer] for layer in lens.layers],
    }


def _tokens(tokenizer: Tokenizer, ids: Any) -> list[dict[str, Any]]:
    return [told_token(tokenizer, token, first=not number) for number, token in enumerate(ids)]


def _guess(tokenizer: Tokenizer, guess: Guess) -> dict[str, Any]:
    best = [{**_said(tokenizer, token), "probability": value} for token, value in guess.best]
    return {"best": best, "probability": guess.probability, "rank": guess.rank}


def _said(tokenizer: Tokenizer, token: int) -> dict[str, Any]:
    """A token of the vocabulary; published models have rows beyond it, which stand for nothing."""
    if token >= tokenizer.vocab_size:
        return {"id": token, "spelled": "", "text": ""}
    return told_token(tokenizer, token, first=False)
