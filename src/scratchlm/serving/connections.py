"""Connections that cost nothing: a client that does not send its request, or does not take its answer, is cut off."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def connection_class(patience: float) -> type[H11Protocol]:
    """uvicorn's connection, with so many seconds for a request's head, and for an answer to be taken."""

    class Connection(H11Protocol):
        _head: asyncio.TimerHandle | None = None
        _reader: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._head = self.loop.call_later(patience, self._silent)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._head is not None and self.cycle is not None:
                self._head.cancel()
                self._head = None

        def pause_writing(self) -> None:
            """The client has not taken what was sent; more waits here."""
            super().pause_writing()
            self._reader = self._reader or self.loop.call_later(patience, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._calm()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._calm()
            if self._head is not None:
                self._head.cancel()

        def _calm(self) -> None:
            if self._reader is not None:
                self._reader.cancel()
                self._reader = None

        def _silent(self) -> None:
            if self.cycle is None:
                self.transport.abort()

        def _should_upgrade(self) -> Any:
            return False

    return Connection
