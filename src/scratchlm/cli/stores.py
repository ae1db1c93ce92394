"""What the verbs of retrieval have in common: options that narrow a search, and opening an index."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.retrieval.embeddings import Embedder
    from scratchlm.retrieval.filters import Filter
    from scratchlm.retrieval.index import Index
    from scratchlm.retrieval.search import Reranker, Searcher
    from scratchlm.retrieval.search_settings import SearchSettings

StoreOption = Annotated[
    str, typer.Option("--store", metavar="DIR", help="The folder of the index, or its s3:// address.")
]
Paths = Annotated[
    list[str] | None,
    typer.Option("--path", metavar="PATTERN", help="Only files like this, such as 'guide/*.md'.", show_default=False),
]
Kinds = Annotated[
    list[str] | None, typer.Option("--kind", metavar="KIND", help="Only pdf, code, markdown ...", show_default=False)
]
After = Annotated[
    str | None, typer.Option(metavar="DATE", help="Only files changed on that day or later.", show_default=False)
]
Before = Annotated[
    str | None, typer.Option(metavar="DATE", help="Only files changed before that day.", show_default=False)
]
Meta = Annotated[
    list[str] | None,
    typer.Option("--meta", metavar="KEY=VALUE", help="Only documents that say so of themselves.", show_default=False),
]
Mode = Annotated[str, typer.Option(help="Search by vectors (dense), by words (bm25), or by both (hybrid).")]
Rerank = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="Judge the best anew: late (by tokens), words, a re-ranker's run, or a decoder (by likelihood).",
        show_default=False,
    ),
]


def narrowed(
    paths: list[str] | None,
    kinds: list[str] | None,
    after: str | None,
    before: str | None,
    meta: list[str] | None,
) -> Filter | None:
    """What a search is narrowed to; None for nothing."""
    from scratchlm.retrieval.filters import Filter

    entries = {}
    for one in meta or ():
        name, sign, value = one.partition("=")
        if not sign or not name:
            raise UserError(f"--meta {one!r} has no name and value; write NAME=VALUE")
        entries[name] = value
    if not (paths or kinds or after or before or entries):
        return None
    return Filter(tuple(paths or ()), tuple(kinds or ()), _day("--after", after), _day("--before", before), entries)


def _day(option: str, text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{option} {text!r} is no date; write it as 2026-01-31") from error


def opened(store: str, *, embedding: bool = True) -> tuple[Index, Embedder | None]:
    """An index and, unless it is not wanted, its embedding model."""
    from scratchlm.retrieval.embeddings import Embedder
    from scratchlm.retrieval.index import Index

    index = Index.open(store)
    if not embedding:
        return index, None
    embedder = Embedder.open(index.record.model, index.record.precision)  # type: ignore[arg-type]
    index.record.check_model(embedder, store, writing=False)
    return index, embedder


def searcher(store: str, settings: SearchSettings, rerank: str | None) -> Searcher:
    """What searches an index."""
    from scratchlm.retrieval.search import Searcher

    index, embedder = opened(store, embedding=settings.mode != "bm25" or rerank == "late")
    return Searcher(index, embedder, settings, reranker=None if rerank is None else _reranker(rerank, embedder))


def _reranker(name: str, embedder: Embedder | None) -> Reranker:
    from scratchlm.opening import open_model
    from scratchlm.retrieval.rerank import CrossEncoder, LateInteraction, LikelihoodReranker, WordFeedback

    if name == "late" and embedder is not None:
        return LateInteraction(embedder)
    if name == "words":
        return WordFeedback()
    config = open_model(name, weights=False).config
    if config.architecture == "decoder" and config.head == "linear":
        return LikelihoodReranker.open(name)
    return CrossEncoder.open(name)
