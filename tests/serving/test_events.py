"""The pieces in which a stream of texts comes."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import AsyncExitStack
from typing import Any

from scratchlm.serving.events import Running
from scratchlm.serving.scheduler import News
from scratchlm.serving.texts import Piece


class Said:
    """A text whose pieces are there already."""

    def __init__(self, *pieces: str, ended: bool = True) -> None:
        self.left, self.ended = deque(Piece(one, []) for one in pieces), ended

    def fetch(self) -> Piece | None:
        return self.left.popleft() if self.left else None


def test_a_texts_end_is_told_although_nothing_is_new() -> None:
    async def told() -> list[tuple[str | None, bool]]:
        silent, late, news = Said(), Said("a", ended=False), News()
        texts: Any = [silent, late]
        scheduler: Any = None
        running, found = Running(scheduler, texts, news, AsyncExitStack()), list[tuple[str | None, bool]]()
        async for text, piece, ended in running.pieces():
            found.append((None if piece is None else piece.text, ended))
            if text is late and not late.ended:
                late.left.append(Piece("b", []))
                late.ended = True
                news.tell()
        return found

    assert asyncio.run(asyncio.wait_for(told(), 10)) == [(None, True), ("a", False), ("b", True)]
