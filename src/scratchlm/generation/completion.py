"""The shortest end of a text that a grammar allows, found by search.

llguidance says what may come next, not how far the end is. So texts are tried, those of the fewest tokens first
(Dijkstra 1959), from a state on by each letter that may come, until a text may end. Two states that look alike (the
same letters may follow, and as much was forced on the way) are mostly the same, so only a few of each look are
followed. A dive, which always goes where it has been least, comes first; the searches are to better what it finds. What
is found always is a valid end, and the shortest one where few states are between, and those that look alike are alike.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scratchlm.generation.spelling import LONGEST_TOKEN, UNSPELLED, Spelling

_ALIKE = (1, 4, 64)
"""States of one look that are followed, one search after the other."""
_FEW = 48
"""Letters that are all followed; of more, those that lead to different looks."""
_MOST, _DEEPEST, _NEAR = 600, 5_000, 16
"""States looked at in one search; letters of an end; letters of a known end that may be left out."""


@dataclass(frozen=True)
class _Path:
    """Letters from the start of a search, and what they cost. Of text and costs the ends are kept, as far as a token
    reaches."""

    before: _Path | None = None
    letter: int = -1
    length: int = 0
    text: bytes = b""
    """A special token is a byte 0xFF, of which none is spelled."""
    costs: tuple[int, ...] = (0,)
    """The fewest tokens for each beginning of the text, up to the whole of it."""
    forced: int = 0
    """Runs of letters that nothing else could have been."""

    def longer(self, letter: int, spelling: Spelling) -> _Path:
        text = (self.text + spelling.byte_of(letter))[-LONGEST_TOKEN:]
        costs = spelling.with_cost(text, self.costs, letter)[-LONGEST_TOKEN - 1 :]
        return _Path(self, letter, self.length + 1, text, costs, self.forced)

    @property
    def letters(self) -> list[int]:
        path, found = self, list[int]()
        while path.before is not None:
            found.append(path.letter)
            path = path.before
        return found[::-1]

    @property
    def unspelled(self) -> bytes:
        """The end of the text that only begins a token."""
        spelled = next((n for n, cost in enumerate(reversed(self.costs)) if cost < UNSPELLED), len(self.text))
        return self.text[len(self.text) - spelled :]


def shortest_end(matcher: Any, spelling: Spelling) -> list[int] | None:
    """The letters of the shortest end from a matcher's state; [] where the text may end now, None: none was found.

    Args:
        matcher: an ``LLMatcher`` on ``spelling.letters``; it is left as it is.
    """
    best = _Search(spelling, UNSPELLED - 1, 0, 0).dive(matcher)  # quick, and often good
    for alike in _ALIKE:
        search = _Search(spelling, UNSPELLED - 1 if best is None else best.costs[-1] - 1, alike, _MOST)
        best = search.run(matcher) or best
        if search.complete:
            break
    return None if best is None else best.letters


def shorter_end(matcher: Any, spelling: Spelling, most: int) -> list[int] | None:
    """An end of at most so many tokens, if a short search finds one."""
    found = _Search(spelling, most, 1, _MOST // 4).run(matcher)
    return None if found is None else found.letters


def end_again(matcher: Any, spelling: Spelling, ends: Sequence[list[int]]) -> list[int] | None:
    """An end from a state that a known end, the first of ``ends``, does not lead through: the shortest way back to what
    is left of it, or from here into another known one. None: a short search finds none."""
    search = _Search(spelling, UNSPELLED - 1, 4, _MOST // 2, ends)
    found = search.run(matcher)
    return None if found is None else [*found.letters, *search.rest]


class _Search:
    """One search for ends of at most ``most`` tokens, or for a way into one of ``ends``, with ``alike`` states of one
    look followed, and at most ``states`` looked at."""

    def __init__(self, spelling: Spelling, most: int, alike: int, states: int, ends: Sequence[list[int]] = ()) -> None:
        self._spelling, self._most, self._alike, self._states = spelling, most, alike, states
        self._ends, self.rest = ends, list[int]()
        self._seen: Counter[tuple[bytes, int, bytes, bool]] = Counter()
        self._mask = np.zeros(-(-spelling.letter_count // 32), np.int32)
        self._queue: list[tuple[int, bool, int, int, int, _Path, Any]] = []
        self._number = 0
        self.complete = True
        """Whether nothing was left out that might lead to an end, or to a shorter one."""

    def run(self, matcher: Any) -> _Path | None:
        """The cheapest path to an end."""
        self._push(_Path(), matcher.deep_copy())
        while self._queue:
            *_, path, state = heapq.heappop(self._queue)
            if state is None:
                return path
            if self._ends and self._rejoins(path, state, first=self._number == 1):
                return path
            if self._number > self._states:
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

    def _rejoins(self, path: _Path, state: Any, *, first: bool) -> bool:
        """Whether what is left of the first known end leads on from here, or at first of any; it is then ``rest``."""
        for end in self._ends if first else self._ends[:1]:
            for start in range(min(len(end), _NEAR + path.length)):
                rest = [*end[start:], self._spelling.end_ids[0]]
                if state.validate_tokens(rest) == len(rest):
                    self.rest = rest[:-1]
                    return True
        return False

    def dive(self, matcher: Any) -> _Path | None:
        """A path to an end that always goes where it has been least."""
        path, state = self._forced(_Path(), matcher.deep_copy())
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
        """What one letter more leads to, and the looks of that, where asked for."""
        spelling = self._spelling
        state.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        allowed = np.unpackbits(self._mask.view(np.uint8), bitorder="little")
        letters = spelling.preferred[allowed[spelling.preferred] == 1].tolist()
        escape, last, *spaces = spelling.symbols(b"\\\x7f \n\t\r")
        many = len(letters) > _FEW
        if self._alike < _ALIKE[-1] and min(letters, default=0) <= last:
            # Other alphabets, and escapes where the character itself may stand, are further ways to the same.
            letters = [letter for letter in letters if letter <= last and not (many and letter == escape)]
        seen = set()
        for letter in letters:
            child = state.deep_copy()
            if not child.consume_token(letter):
                continue
            if many and spelling.plain:  # in a free text most letters lead to the same, which is cheap to see
                child.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
                sight = (self._mask.tobytes(), letter in spaces)
                if sight in seen:
                    self.complete = False
                    continue
                seen.add(sight)
            longer = path.longer(letter, spelling)
            if spelling.least(longer.text, longer.costs) <= self._most:
                yield longer, child, self._look(longer, child) if looks else None

    def _look(self, path: _Path, state: Any) -> tuple[bytes, int, bytes, bool]:
        state.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        return self._mask.tobytes(), path.forced, path.unspelled, path.text[-1:].isspace()

    def _forced(self, path: _Path, state: Any) -> tuple[_Path, Any]:
        """The same after the letters that must follow."""
        if run := state.compute_ff_bytes():
            letters = self._spelling.symbols(run)
            if state.consume_tokens(letters):
                for letter in letters:
                    path = path.longer(letter, self._spelling)
                path = replace(path, forced=path.forced + 1)
        return path, state

    def _push(self, path: _Path, state: Any) -> None:
        path, state = self._forced(path, state)
        ended = state.is_accepting() and path.costs[-1] < UNSPELLED
        least = path.costs[-1] if ended else self._spelling.least(path.text, path.costs)
        if least <= self._most:
            self._number += 1
            entry = (least, not ended, -path.forced, path.length, self._number, path, None if ended else state)
            heapq.heappush(self._queue, entry)
