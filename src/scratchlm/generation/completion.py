"""The shortest end of a text that a grammar allows, found by search.

llguidance says what may come next, not how far the end is. So texts are tried, those of the fewest tokens first
(Dijkstra 1959), from a state on by each letter that may come, until a text may end. Two states that look alike (the
same letters may follow, and as much was forced on the way) are mostly the same, so only a few of each look are
followed; where no end is found like that, more. What is found always is a valid end, and the shortest one where states
that look alike are alike.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from scratchlm.generation.spelling import UNSPELLED, Spelling

_ALIKE = (4, 64)
"""States of one look that are followed, one search after the other."""
_FEW = 48
"""Letters that are all followed; of more, those that lead to different looks."""
_MOST, _DEEPEST = 2_000, 5_000
"""States looked at in one search; letters of an end."""


class _Path(NamedTuple):
    """Letters from the start of a search, and what they cost."""

    letters: tuple[int, ...]
    text: bytes
    """Of the letters, where these are bytes; a special token is a byte 0xFF, of which none is spelled."""
    costs: tuple[int, ...]
    """The fewest tokens for each beginning of the text."""
    forced: int

    @property
    def unspelled(self) -> bytes:
        """The end of the text that only begins a token."""
        spelled = len(self.costs) - 1
        while self.costs[spelled] >= UNSPELLED:
            spelled -= 1
        return self.text[spelled:]


def shortest_end(matcher: Any, spelling: Spelling, most: int | None = None) -> list[int] | None:
    """The letters of the shortest end from a matcher's state; [] where the text may end now.

    Args:
        matcher: an ``LLMatcher`` on ``spelling.letters``; it is left as it is.
        most: give up where more than so many tokens are needed.

    Returns:
        Letters, or None: no end was found.
    """
    most = UNSPELLED - 1 if most is None else most
    best = None
    for alike in _ALIKE:
        search = _Search(spelling, most, alike)
        found = search.run(matcher)
        if found is not None or search.complete:
            return best if found is None else list(found.letters)
        if best is None and (dived := _Search(spelling, most, 0).dive(matcher)) is not None:
            best, most = list(dived.letters), dived.costs[-1] - 1
    return best


class _Search:
    """One search; with ``alike`` states of one look followed."""

    def __init__(self, spelling: Spelling, most: int, alike: int) -> None:
        self._spelling, self._most, self._alike = spelling, most, alike
        self._seen: Counter[tuple[bytes, int, bytes, bool]] = Counter()
        self._mask = np.zeros(-(-spelling.letter_count // 32), np.int32)
        self._queue: list[tuple[int, bool, int, int, _Path, Any]] = []
        self._number = 0
        self.complete = True
        """Whether nothing was left out that might lead to an end."""

    def run(self, matcher: Any) -> _Path | None:
        """The cheapest path to an end."""
        self._push(_Path((), b"", (0,), 0), matcher.deep_copy())
        while self._queue:
            *_, path, state = heapq.heappop(self._queue)
            if state is None:
                return path
            if self._number > _MOST:
                self.complete = False
                break
            look = self._look(path, state)
            self._seen[look] += 1
            if self._seen[look] > self._alike:
                self.complete = False
                continue
            for longer, child, _ in self._children(path, state):
                self._push(longer, child)
        return None

    def dive(self, matcher: Any) -> _Path | None:
        """A path to an end that always goes where it has been least."""
        path, state = self._forced(_Path((), b"", (0,), 0), matcher.deep_copy())
        for _ in range(_DEEPEST):
            if state.is_accepting() and path.costs[-1] <= self._most:
                return path
            children = list(self._children(path, state, looks=True))
            if not children:
                break
            path, state, look = min(children, key=lambda child: self._seen[child[2]])
            self._seen[look] += 1
            path, state = self._forced(path, state)
        return None

    def _children(self, path: _Path, state: Any, *, looks: bool = False) -> Iterator[tuple[_Path, Any, Any]]:
        """What one letter more leads to, and the looks of that, where asked for or where letters are many."""
        preferred = self._spelling.preferred
        state.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        allowed = np.unpackbits(self._mask.view(np.uint8), bitorder="little")
        letters = preferred[allowed[preferred] == 1].tolist()
        escape, last = self._spelling.symbols(b"\\\x7f")
        many = len(letters) > _FEW and letters[0] <= last  # not within a character of several bytes
        seen = set()
        for letter in letters:
            if many and (letter == escape or letter > last):
                continue  # each other way to write a character looks like progress
            child = state.deep_copy()
            longer = self._longer(path, letter)
            if self._spelling.least(longer.text, longer.costs) > self._most or not child.consume_token(letter):
                continue
            look = self._look(longer, child) if many or looks else None
            if many and look in seen:  # in a free text most letters lead to the same
                self.complete = False
                continue
            seen.add(look)
            yield longer, child, look

    def _look(self, path: _Path, state: Any) -> tuple[bytes, int, bytes, bool]:
        state.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        return self._mask.tobytes(), path.forced, path.unspelled, path.text[-1:].isspace()

    def _forced(self, path: _Path, state: Any) -> tuple[_Path, Any]:
        """The same after the letters that must follow."""
        if run := state.compute_ff_bytes():
            letters = self._spelling.symbols(run)
            if state.consume_tokens(letters):
                for letter in letters:
                    path = self._longer(path, letter)
                path = path._replace(forced=path.forced + len(run))
        return path, state

    def _push(self, path: _Path, state: Any) -> None:
        path, state = self._forced(path, state)
        ended = state.is_accepting() and path.costs[-1] < UNSPELLED
        least = path.costs[-1] if ended else self._spelling.least(path.text, path.costs)
        if least <= self._most:
            self._number += 1
            depth = -len(path.letters)
            heapq.heappush(self._queue, (least, not ended, depth, self._number, path, None if ended else state))

    def _longer(self, path: _Path, letter: int) -> _Path:
        text = path.text + self._spelling.byte_of(letter)
        costs = self._spelling.with_cost(text, path.costs, letter)
        return _Path((*path.letters, letter), text, costs, path.forced)
