"""A tool that searches documents: an index of :mod:`scratchlm.retrieval`, with its own embedding model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scratchlm.agents.tool import Tool, tool
from scratchlm.retrieval.passages import Hit, with_headings

if TYPE_CHECKING:
    from scratchlm.retrieval.search import Searcher

_FEWEST, _MOST, _LONGEST = 3, 10, 900
"""Passages that are shown unless the model asks for more, and at most; characters of each."""


def document_tool(store: str | None = None, *, searcher: Searcher | None = None) -> Tool:
    """The tool ``search_documents``, over an index in a folder, or what a searcher searches.

    What in a passage speaks to the model, rather than about its subject, is left out.

    Raises:
        UserError: there is no index, or its embedding model is not here.
        ValueError: neither or both are given.
    """
    if (store is None) == (searcher is None):
        raise ValueError("give a store or a searcher")
    searching = searcher or _open(str(store))

    @tool(most=_MOST * (_LONGEST + 200))
    def search_documents(query: str, count: int = _FEWEST) -> str:
        """Search the documents for passages."""
        if not query.strip():
            raise ValueError("the query is empty; ask for something")
        hits = searching.search(query, max(1, min(count, _MOST))).hits
        found = [f"[{number}] {hit.place()}\n{_said(hit)[:_LONGEST]}" for number, hit in enumerate(hits, 1)]
        return "\n\n".join(found) or "nothing found"

    return search_documents


def _said(hit: Hit) -> str:
    """A passage below its headings, as data."""
    from scratchlm.retrieval.prompting import as_data

    headings = (as_data(heading)[0] for heading in hit.headings)
    return with_headings(tuple(filter(None, headings)), as_data(hit.text)[0])


def _open(store: str) -> Searcher:
    from scratchlm.retrieval.index import Index
    from scratchlm.retrieval.search import Searcher

    index = Index.open(store)
    return Searcher(index, index.open_embedder())
