"""``scratchlm search``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from scratchlm.cli.narrowing import After, Before, Kinds, Meta, Paths, narrowed
from scratchlm.cli.output import Json, print_json
from scratchlm.cli.stores import (
    Count,
    DenseWeight,
    Feedback,
    Fusion,
    Mode,
    Rerank,
    StoreOption,
    check_count,
    search_settings,
    searcher,
)
from scratchlm.cli.texts import given_texts
from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.retrieval.search import SearchResult

SHOWN = 300
"""Characters of a passage that are shown to people."""


def search(
    store: StoreOption,
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help="What to look for.", show_default=False)] = None,
    queries: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Many queries instead: one a line, .jsonl, .csv; - for stdin.", show_default=False
        ),
    ] = None,
    k: Count = 10,
    mode: Mode = "hybrid",
    fusion: Fusion = "weighted",
    dense_weight: DenseWeight = None,
    feedback: Feedback = None,
    rerank: Rerank = None,
    mmr: Annotated[
        float | None,
        typer.Option(
            help="Choose hits that differ, from 1 (as good as can be) to 0 (as different).", show_default=False
        ),
    ] = None,
    neighbours: Annotated[int, typer.Option(help="Passages before and after that are shown with each.")] = 0,
    path: Paths = None,
    kind: Kinds = None,
    after: After = None,
    before: Before = None,
    meta: Meta = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show every stage's score and time.")] = False,
    json: Json = False,
) -> None:
    """Search an index for passages."""
    check_count(k)
    if (query is None) == (queries is None):
        raise UserError("give a QUERY, or many with --queries FILE, and not both")
    if queries is not None and not json:
        raise UserError("--queries gives one JSON object a line; add --json")
    where = narrowed(path, kind, after, before, meta)
    settings = search_settings(mode, fusion, dense_weight, feedback, mmr_lambda=mmr, neighbours=neighbours)
    asked = list(given_texts(None if query is None else [query], queries, None))
    for number, one in enumerate(asked, 1):  # before the first is searched: all are answered, or none
        if not one.strip():
            raise UserError(
                "the query is empty; ask for something"
                if queries is None
                else f"query {number:,} of {queries} is empty; fill it or take it out"
            )
    finder = searcher(store, settings, rerank)
    for one in asked:
        found = finder.search(one, k, where)
        if json:
            print_json(found.as_json())
        else:
            _show(found, explain)


def _show(found: SearchResult, explain: bool) -> None:
    if not found.hits:
        print("nothing found")
    for number, hit in enumerate(found.hits, 1):
        print(f"{number}. {hit.place()}" + (f"  ({' > '.join(hit.headings)})" if hit.headings else ""))
        if explain:
            print("   " + ", ".join(f"{name} {score:.3f}" for name, score in hit.scores.items()))
        text = " ".join(hit.text.split())
        print(f"   {text[:SHOWN]}{' ...' if len(text) > SHOWN else ''}")
    if explain:
        print("ms: " + ", ".join(f"{name} {spent:.1f}" for name, spent in found.timings.items()))
