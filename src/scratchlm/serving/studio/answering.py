"""Asking documents from a page: the answer as it comes, written by a served model or quoted, and stopped when nobody
reads it any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

from scratchlm.generation.sampling import SamplingConfig
from scratchlm.retrieval.answers import Answer
from scratchlm.retrieval.chat_models import OnText
from scratchlm.retrieval.followup import Turn
from scratchlm.serving.documents import Documents
from scratchlm.serving.drawing import begin, room
from scratchlm.serving.events import Running
from scratchlm.serving.registry import Loaded, Registry
from scratchlm.serving.scheduler import News
from scratchlm.serving.texts import Text
from scratchlm.tokenizers.chat import Message, render_chat


class _Stopped(Exception):  # noqa: N818
    """Nobody reads the answer any more."""


class ServedWriter:
    """A served model that writes answers, a :class:`~scratchlm.retrieval.chat_models.ChatModel`: side by side with its
    other texts, and always what it finds likeliest. Its methods are for another thread than the event loop's.
    """

    writes = True

    def __init__(self, models: Registry, loaded: Loaded, client: str) -> None:
        self._models, self._loaded, self._client = models, loaded, client
        self._loop = asyncio.get_running_loop()
        self.name, self.context = loaded.name, loaded.context
        self._running: Running | None = None

    def count(self, messages: Sequence[Message]) -> int:
        """The tokens that these messages take as a prompt."""
        return len(self._ids(messages))

    def chat(self, messages: Sequence[Message], *, max_new_tokens: int, on_text: OnText | None = None) -> str:
        """The answer to messages.

        Raises:
            ApiError: they do not fit the context, or too many wait.
        """
        ids = self._ids(messages)
        new = room(self.context, len(ids), max_new_tokens, "messages")
        writing = asyncio.run_coroutine_threadsafe(self._write(ids, new, on_text), self._loop)
        return writing.result()

    async def stop(self) -> None:
        """Write no more. In the event loop."""
        if self._running is not None:
            await self._running.leave()

    def _ids(self, messages: Sequence[Message]) -> list[int]:
        return render_chat(self._loaded.tokenizer, messages, add_generation_prompt=True, masked=False).ids

    async def _write(self, ids: Sequence[int], new: int, on_text: OnText | None) -> str:
        def make(loaded: Loaded, client: str, news: News) -> list[Text]:
            return [Text(0, loaded.tokenizer, ids, new, SamplingConfig(greedy=True), client, news)]

        self._running = running = await begin(self._models, self.name, self._client, make)
        written = []
        try:
            async for _, piece, _ in running.pieces():
                if piece is not None and piece.text:
                    written.append(piece.text)
                    if on_text is not None:
                        on_text(piece.text)
            running.raise_error()
        finally:
            await running.leave()
        return "".join(written)


async def answered(
    models: Registry, documents: Documents, question: str, history: Sequence[Turn], writer: str | None, client: str
) -> AsyncIterator[dict[str, Any]]:
    """An answer as events: ``{"text"}`` for each piece as it comes, and at the end ``{"answer"}``, all that is known of
    it. Where it is read no further, it is stopped.

    Args:
        writer: a served model that writes it; None for sentences of the documents.

    Raises:
        ApiError, UserError: the question, or the writer, is refused.
    """
    if writer is None:
        async for event in _asked(models, documents, question, history, None):
            yield event
        return
    async with models.use(writer) as loaded:
        async for event in _asked(models, documents, question, history, ServedWriter(models, loaded, client)):
            yield event


async def _asked(
    models: Registry, documents: Documents, question: str, history: Sequence[Turn], writer: ServedWriter | None
) -> AsyncIterator[dict[str, Any]]:
    loop, pieces, stopped = asyncio.get_running_loop(), asyncio.Queue[str | None](), threading.Event()

    def hear(text: str) -> None:
        if stopped.is_set():
            raise _Stopped
        loop.call_soon_threadsafe(pieces.put_nowait, text)

    async with models.turn():  # the embedding model works for one at a time
        asking: asyncio.Task[Answer] = asyncio.ensure_future(
            models.work(documents.ask, question, history, hear, writer)
        )
        asking.add_done_callback(lambda _: loop.call_soon(pieces.put_nowait, None))
        try:
            while (piece := await pieces.get()) is not None:
                yield {"text": piece}
            yield {"answer": (await asking).as_json()}
        finally:
            stopped.set()
            if writer is not None and not asking.done():
                await writer.stop()
            await asyncio.wait([asking])  # the turn is another's only when this one works no more
            if not asking.cancelled():
                asking.exception()  # it was told, or nobody is there to hear it
