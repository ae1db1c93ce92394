"""``scratchlm search``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scratchlm.cli.output import Json, print_json
from scratchlm.cli.stores import After, Before, Kinds, Meta, Mode, Paths, Rerank, StoreOption, narrowed, searcher
from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.retrieval.search import SearchResult

SHOWN = 300
"""Characters of a passage that are shown to people."""


def search(
    store: StoreOption,
    query: Annotated[str | None, typer.Argument(metavar="QUERY", show_default=False)] = None,
    queries: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Many queries, one a line.", show_default=False)
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Passages to find.")] = 10,
    mode: Mode = "hybrid",
    fusion: Annotated[str, typer.Option(help="Of both: weighted, or rrf (reciprocal ranks).")] = "weighted",
    dense_weight: Annotated[float | None, typer.Option(help="What vectors weigh, 0 to 1.", show_default=False)] = None,
    feedback: Annotated[
        int | None, typer.Option(help="First hits that the query is moved towards.", show_default=False)
    ] = None,
    mmr: Annotated[
        float | None, typer.Option(help="Variety: from 1 (none) to 0 (nothing else).", show_default=False)
    ] = None,
    neighbours: Annotated[int, typer.Option(help="Chunks before and after that are shown with each.")] = 0,
    rerank: Rerank = None,
    path: Paths = None,
    kind: Kinds = None,
    after: After = None,
    before: Before = None,
    meta: Meta = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show every stage's score and time.")] = False,
    json: Json = False,
) -> None:
    """Search an index."""
    if (query is None) == (queries is None):
        raise UserError("give a QUERY, or many with --queries FILE, and not both")
    if queries is not None and not json:
        raise UserError("--queries gives one JSON object a line; add --json")
    from scratchlm.retrieval.search_settings import SearchSettings
    from scratchlm.retrieval.texts import read_texts

    where = narrowed(path, kind, after, before, meta)
    given = {"dense_weight": dense_weight, "feedback": feedback}
    settings = SearchSettings(
        mode=mode,  # type: ignore[arg-type]
        fusion=fusion,  # type: ignore[arg-type]
        mmr_lambda=mmr,
        neighbours=neighbours,
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
    )
    asked = [query] if query is not None else list(read_texts(queries))  # type: ignore[arg-type]
    finder = searcher(store, settings, rerank)
    for number, one in enumerate(asked, 1):
        try:
            found = finder.search(one, k, where)
        except UserError as error:
            raise (UserError(f"{queries}, line {number}: {error}") if queries is not None else error) from error
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
