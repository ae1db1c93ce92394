"""A served model as an agent's: its turns wait in the same line as those of the API's clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as StillWaiting
from typing import Any

from scratchlm.agents.endpoint_model import EndpointModel
from scratchlm.agents.model import Choice, Reply
from scratchlm.errors import UserError
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.retrieval.endpoint import Part
from scratchlm.serving.chat import Chat
from scratchlm.serving.registry import Loaded, Registry
from scratchlm.serving.schemas import ChatRequest
from scratchlm.tokenizers.chat import Message

_LOOK = 0.2
"""Seconds between two looks whether the run has been cancelled while the model says nothing."""


class ServedModel(EndpointModel):
    """Asked from a thread of its own, while the server's loop runs in another.

    Args:
        loaded: the model, which the caller holds in memory.
        name: by which it is served.
        client: for whom it works.
    """

    def __init__(self, models: Registry, loaded: Loaded, name: str, client: str) -> None:
        self._loaded = loaded
        self._inside = _Inside(models, loaded, name, client)
        super().__init__(self._inside)

    def count(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> int:
        """The tokens that these take as a prompt."""
        return self._loaded.caller.count(messages, tools)

    def respond(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        choice: Choice = "auto",
        max_new_tokens: int = 512,
        sampling: SamplingConfig | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """The next turn; see :class:`~scratchlm.agents.model.AgentModel`. ``on_text`` is also called with nothing, so
        that it can end a turn in which nothing is said."""
        room = self.context - self.count(messages, tools)
        if room < 1:
            raise UserError(
                f"the conversation does not fit into the {self.context:,} tokens of {self.name}; shorten the task, or "
                "choose fewer tools"
            )
        self._inside.look = on_text or (lambda _text: None)
        most = min(max_new_tokens, room)
        return super().respond(messages, tools, choice=choice, max_new_tokens=most, sampling=sampling, on_text=on_text)


class _Inside:
    """The API's chat, without a network in between."""

    def __init__(self, models: Registry, loaded: Loaded, name: str, client: str) -> None:
        self.name, self.context, self._loaded = name, loaded.context, loaded
        self.look: Callable[[str], None] = lambda _text: None
        self._models, self._client, self._loop = models, client, asyncio.get_running_loop()

    def count(self, messages: Sequence[Message]) -> int:
        return self._loaded.caller.count(messages)

    def parts(self, body: Mapping[str, Any]) -> Iterator[Part]:
        chat = Chat(ChatRequest.model_validate(body))
        asyncio.run_coroutine_threadsafe(chat.begin(self._models, self._client), self._loop).result()
        try:
            events = chat.events()
            while (event := self._next(anext(events, None))) is not None:
                choice = event["choices"][0] if event["choices"] else {"delta": {}}
                yield Part(choice["delta"], choice.get("finish_reason"), event.get("usage") or {})
        finally:
            asyncio.run_coroutine_threadsafe(chat.running.leave(), self._loop).result()

    def _next(self, coming: Any) -> dict[str, Any] | None:
        """What comes next; broken off where ``look`` raises."""
        waiting = asyncio.run_coroutine_threadsafe(_awaited(coming), self._loop)
        while True:
            try:
                return waiting.result(_LOOK)
            except StillWaiting:
                if waiting.done():  # the error was not ours
                    raise
                try:
                    self.look("")
                except BaseException:
                    waiting.cancel()
                    raise


async def _awaited(coming: Any) -> dict[str, Any] | None:
    found: dict[str, Any] | None = await coming
    return found
