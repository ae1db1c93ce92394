"""Tasks with verifiable answers, and the tools they are solved with.

Every task is shown all the tools. Those that are the same for all tasks come first and the table, whose columns the
model reads in the tool's description, comes last, so that prompts have a long beginning in common, which a training
computes once (:mod:`scratchlm.data.sharing`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import numpy as np

from scratchlm.agents.document_tool import document_tool
from scratchlm.agents.shipped import open_tools
from scratchlm.agents.table import table_tool
from scratchlm.agents.teaching.families import FAMILIES, World, make_documents, make_table, make_task
from scratchlm.agents.teaching.task import Task, Text
from scratchlm.agents.teaching.templates import SPLITS, Split, Template, read_templates
from scratchlm.agents.tool import Tool
from scratchlm.errors import UserError
from scratchlm.retrieval.memory_index import BM25
from scratchlm.retrieval.passages import Hit
from scratchlm.retrieval.query_words import stems
from scratchlm.retrieval.search import SearchResult

SHARES: Mapping[str, float] = dict.fromkeys(FAMILIES, 1.0)
"""As many tasks of each family."""
_DOCUMENTS, _TABLES, _BESIDE = 48, 40, 2
"""In a set of tasks: documents that can be searched; tables that the family of tables asks about, at most (a new one
for each task until there are so many), and the first of them, which all other tasks have beside their question."""


def make_tasks(split: Split, count: int, seed: int = 0, shares: Mapping[str, float] = SHARES) -> list[Task]:
    """Tasks of one part of the templates, the same for the same seed, in random order.

    Args:
        shares: how many tasks of each family there are, beside the others. Within a family templates take turns.

    Raises:
        UserError: there is no such part, or fewer than one task is asked for.
    """
    if split not in SPLITS or count < 1:
        raise UserError(f"no {count} tasks of {split!r} can be made; give a number, and one of: {', '.join(SPLITS)}")
    random = Random(f"{split} {seed}")
    documents, facts = make_documents(split, random, _DOCUMENTS)
    themes = [one for one in read_templates("themes") if one.split == split]
    tables = [make_table(themes[n % len(themes)], random) for n in range(_TABLES)]
    whole, done, tasks = sum(shares.values()), 0.0, []
    for family, share in shares.items():
        first, done = round(done * count / whole), done + share
        turns = _in_turn([one for one in read_templates(family) if one.split == split], random)
        for number in range(round(done * count / whole) - first):
            table = tables[number % _TABLES if family == "tables" else number % _BESIDE]
            tasks.append(make_task(next(turns), random, World(table, documents, facts)))
    random.shuffle(tasks)
    return tasks


def _in_turn(templates: Sequence[Template], random: Random) -> Iterator[Template]:
    """Templates without end, each as often as any other, in an order of their own each time."""
    while True:
        yield from random.sample(templates, len(templates))


def tools_of(task: Task) -> list[Tool]:
    """The tools that a task may be solved with, the same for all tasks but for the table that is the last one's."""
    return [*_shared(), _search(task.documents), table_tool(task.table)]


@cache
def _shared() -> tuple[Tool, ...]:
    return tuple(open_tools(["calculator", "dates", "units"]))


@cache
def _search(texts: tuple[Text, ...]) -> Tool:
    """The shipped tool over a searcher in memory."""
    searcher: Any = _Words(texts)
    return document_tool(searcher=searcher)


class _Words:
    """Finds the documents that have most of a query's words, rare ones above all (BM25). It needs no model, and of the
    same query always gives the same."""

    def __init__(self, texts: Sequence[Text]) -> None:
        self._hits = [
            Hit(text.file, text.file, text.text, 0, len(text.text), 1, 1, None, None, (), "text", 0.0) for text in texts
        ]
        self._index = BM25([stems(text.text) for text in texts])

    def search(self, query: str, count: int) -> SearchResult:
        scores = self._index.scores(stems(query))
        best = [int(n) for n in np.argsort(-scores, kind="stable")[:count] if scores[n] > 0]
        return SearchResult(query, [replace(self._hits[n], score=float(scores[n])) for n in best], {})
