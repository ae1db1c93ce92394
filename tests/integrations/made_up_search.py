"""A search over a few passages by the words that they share with the query: what a searcher gives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from scratchlm.retrieval.passages import Hit

TEXT = (
    "# Bridges\n"
    "The bridge at Halden was opened in 1931.\n"
    "It was built by Ada Lund and her two brothers.\n"
    "A ferry crossed the river before the bridge was there.\n"
    "The toll was three crowns.\n"
)


@dataclass(frozen=True)
class Result:
    query: str
    hits: list[Hit]


class MadeUpSearch:
    """Each line of :data:`TEXT` but the heading is a passage of ``bridges.md``."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, Any]] = []

    def search(self, query: str, k: int, where: Any = None) -> Result:
        self.asked.append((query, k, where))
        words = set(re.findall(r"\w+", query.lower()))
        hits, start = [], 0
        for number, line in enumerate(TEXT.splitlines(keepends=True), 1):
            text = line.rstrip("\n")
            shared = float(len(words & set(re.findall(r"\w+", text.lower()))))
            if number > 1:
                place = (start, start + len(text), number, number, None, None)
                hits.append(
                    Hit(f"c{number}", "bridges.md", text, *place, ("Bridges",), "markdown", shared, {"bm25": shared})
                )
            start += len(line)
        return Result(query, sorted(hits, key=lambda hit: -hit.score)[:k])
