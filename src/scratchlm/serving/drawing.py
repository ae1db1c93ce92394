"""What both ways of asking for text have in common: how tokens are drawn, how many may come, who answers."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from types import MappingProxyType
from typing import Any

from scratchlm.generation.advised import ADVISED
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.serving.errors import ApiError
from scratchlm.serving.events import Running
from scratchlm.serving.registry import Registry
from scratchlm.serving.scheduler import News
from scratchlm.serving.schemas import ChatRequest, CompletionRequest
from scratchlm.serving.texts import Text

_LEAST_TEMPERATURE = 1e-4
"""Below it logits leave the range of numbers, and nothing but the likeliest token would be drawn anyhow."""
_LEAST_TOP_P = 1e-6
"""What a top_p of 0 means: the likeliest token alone."""


def sampling_of(
    asked: ChatRequest | CompletionRequest, vocabulary: int, advised: Mapping[str, float] = MappingProxyType({})
) -> SamplingConfig:
    """How tokens are drawn: as asked for, else as ``advised``, else as OpenAI has it; with a seed of its own where none
    is given.

    Raises:
        ApiError: a bias for a token that the model does not have.
    """
    beyond = [token for token, _ in asked.biases if token >= vocabulary]
    if beyond:
        what = f"{beyond[0]} is no token of {asked.model}; its tokens are 0 to {vocabulary - 1}"
        raise ApiError(400, what, param="logit_bias")
    drawn = {**advised, **{name: value for name in ADVISED if (value := getattr(asked, name)) is not None}}
    if drawn.get("temperature", 1.0) < _LEAST_TEMPERATURE:
        drawn["temperature"] = 0.0
    if drawn.get("top_p", 1.0) < _LEAST_TOP_P:
        drawn["top_p"] = _LEAST_TOP_P
    seed = secrets.randbits(32) if asked.seed is None else asked.seed % 2**64
    return SamplingConfig(
        **drawn,
        seed=seed,
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        logit_bias=asked.biases,
    )


def room(context: int, prompt: int, asked: int | None, param: str) -> int:
    """How many tokens may come after a prompt.

    Raises:
        ApiError: the prompt, or it with what is asked for, is more than the context.
    """
    wanted = asked if asked is not None else 1
    if prompt + wanted > context:
        raise ApiError(
            400,
            f"This model's maximum context length is {context} tokens. However, you requested {prompt + wanted} tokens "
            f"({prompt} in the {param}, {wanted} in the completion). Please reduce them.",
            param=param,
            code="context_length_exceeded",
        )
    return context - prompt if asked is None else asked


async def begin(models: Registry, name: str, client: str, make: Any) -> Running:
    """Take a request in: get its model, make its texts beside the event loop, and let them wait for their turn.

    Args:
        make: makes the texts, of the loaded model, the client's name and the news.

    Raises:
        ApiError, UserError: it is refused.
    """
    async with AsyncExitStack() as held:
        loaded = await held.enter_async_context(models.use(name))
        if not models.find(name).writes:
            raise ApiError(400, f"{name} writes no text; ask it for embeddings", param="model")
        news = News()
        texts: Sequence[Text] = await models.work(make, loaded, client, news)
        loaded.scheduler.admit(texts)
        return Running(loaded.scheduler, texts, news, held.pop_all())
    raise AssertionError("not reached")
