"""Answers that come in pieces, as server-sent events, and clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from scratchlm.serving.errors import refusal, to_json
from scratchlm.serving.scheduler import News, Scheduler
from scratchlm.serving.texts import Piece, Text


class Gone(Exception):  # noqa: N818
    """The client has left; nobody reads an answer."""


class Running:
    """The texts of one request, from the moment that they are taken in.

    Leaving it cancels what has not ended, and then lets the model go.
    """

    def __init__(self, scheduler: Scheduler, texts: Sequence[Text], news: News, held: AsyncExitStack) -> None:
        self.texts = texts
        self._scheduler, self._news, self._held = scheduler, news, held

    async def wait(self) -> None:
        """Until there is something new."""
        await self._news.wait()

    async def pieces(self) -> AsyncIterator[tuple[Text, Piece | None, bool]]:
        """What is new of the texts as it comes: of which, what (at the end perhaps nothing), and whether it ends."""
        going = list(self.texts)
        while going:
            for text in list(going):
                ended = text.ended  # looked at first: what comes in between is fetched at the next turn
                piece = text.fetch()
                if ended:
                    going.remove(text)
                if ended or piece is not None:
                    yield text, piece, ended
            if going and not any(text.ended for text in going):
                await self.wait()

    @property
    def ended(self) -> bool:
        """Whether all have ended."""
        return all(text.ended for text in self.texts)

    def raise_error(self) -> None:
        """Raises what has befallen one of the texts."""
        for text in self.texts:
            if text.ended and text.error is not None:
                raise text.error

    async def first(self, receive: Receive) -> None:
        """Until something has come, so that what goes wrong before is told by the answer's status.

        Raises:
            Gone: the client has left.
        """
        await until(self._some(), receive)

    async def all(self, receive: Receive) -> None:
        """Until all have ended.

        Raises:
            Gone: the client has left.
        """
        await until(self._all(), receive)

    async def _some(self) -> None:
        while not self.ended:
            await self.wait()
            self.raise_error()
            if any(text.written for text in self.texts):
                return
        self.raise_error()

    async def _all(self) -> None:
        while not self.ended:
            await self.wait()
            self.raise_error()
        self.raise_error()

    async def leave(self) -> None:
        """Nobody wants more."""
        self._scheduler.cancel(self.texts)
        while not self.ended:  # a step may still be on its way with them
            await self.wait()
        await self._held.aclose()


class EventStream(Response):
    """An answer in pieces.

    Args:
        events: what is sent, each a JSON object.
        leave: called once, when all was sent or the client has left.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[dict[str, Any]], leave: Callable[[], Awaitable[None]]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._leave = events, leave

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(Gone):
                await until(self._send(send), receive)
        finally:
            await asyncio.shield(self._leave())

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for event in self._events:
                await _body(send, b"data: " + to_json(event) + b"\n\n")
        except Exception as error:
            await _body(send, b"data: " + to_json(refusal(error).body) + b"\n\n")
        else:
            await _body(send, b"data: [DONE]\n\n")
        await _body(send, b"", more=False)


async def _body(send: Send, data: bytes, *, more: bool = True) -> None:
    message: Message = {"type": "http.response.body", "body": data, "more_body": more}
    await send(message)


async def until(work: Any, receive: Receive) -> None:
    """Do ``work`` as long as the client is there.

    Raises:
        Gone: it has left.
    """
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise Gone
        await doing
    finally:
        for task in (doing, leaving):
            task.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
