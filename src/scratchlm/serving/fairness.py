"""Whose turn it is: the client that has had the fewest tokens goes next.

Each client has a counter of the tokens that were read and written for it; a written one counts double, since it takes a
pass of its own. A client that comes (back) starts at the least counter of those that are there, so that nobody saves up
turns by staying away (virtual token counters, Sheng et al. 2024, "Fairness in Serving Large Language Models").
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Generic, TypeVar

Item = TypeVar("Item")
WRITTEN = 2.0
"""What a written token counts, where one that is read counts 1."""
_KNOWN = 4096
"""Clients whose counters are kept while they are away."""


class FairQueue(Generic[Item]):
    """Items of clients that wait. Not for several threads at once."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Item]] = {}
        self._served: dict[str, float] = {}
        self._running: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def waiting(self, client: str) -> int:
        """How many items of a client wait."""
        return len(self._waiting.get(client, ()))

    def add(self, client: str, item: Item) -> None:
        """Put an item at the end of its client's line."""
        if client not in self._waiting and not self._running[client]:
            here = {*self._waiting, *self._running}
            least = min((self._served[one] for one in here), default=0.0)
            if not here or len(self._served) > _KNOWN:  # with nobody here, all begin anew
                self._served = {one: self._served[one] for one in here}
            self._served[client] = max(self._served.get(client, 0.0), least)
        self._waiting.setdefault(client, deque()).append(item)

    def take(self) -> tuple[str, Item]:
        """The next item and whose it is; it counts as running until :meth:`leave`."""
        client = min(self._waiting, key=self._served.__getitem__)
        line = self._waiting[client]
        item = line.popleft()
        if not line:
            del self._waiting[client]
        self._running[client] += 1
        return client, item

    def charge(self, client: str, tokens: float) -> None:
        """Count tokens of a client that is here."""
        self._served[client] = self._served.get(client, 0.0) + tokens

    def leave(self, client: str) -> None:
        """An item that was taken is done with."""
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]

    def remove(self, client: str, item: Item) -> bool:
        """Take an item out of the line; False if it is not in it any more."""
        line = self._waiting.get(client)
        if line is None or item not in line:
            return False
        line.remove(item)
        if not line:
            del self._waiting[client]
        return True

    def all(self) -> list[Item]:
        """What waits, without taking it out."""
        return [item for line in self._waiting.values() for item in line]
