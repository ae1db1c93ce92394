"""What the verbs of retrieval have in common: how a search is made, and opening an index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.retrieval.embeddings import Embedder
    from scratchlm.retrieval.search import Reranker, Searcher
    from scratchlm.retrieval.search_settings import SearchSettings

StoreOption = Annotated[
    str, typer.Option("--store", metavar="DIR", help="The folder of the index, or its s3:// address.")
]
Count = Annotated[int, typer.Option("-k", metavar="N", help="How many passages to find.")]
Mode = Annotated[str, typer.Option(help="Search by vectors (dense), by words (bm25), or by both (hybrid).")]
Fusion = Annotated[str, typer.Option(help="How a hybrid search joins both: by weighted scores, or by ranks (rrf).")]
DenseWeight = Annotated[
    float | None,
    typer.Option(help="What vectors weigh in a hybrid search, 0 to 1; words weigh the rest.", show_default="0.6"),
]
Feedback = Annotated[
    int | None,
    typer.Option(help="Move the query towards so many of the first hits, and search again.", show_default="0"),
]
Rerank = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="Judge the best hits anew: late (token by token), words, or a model: a re-ranker's run, or a decoder "
        "(by likelihood).",
        show_default=False,
    ),
]


def check_count(k: int) -> None:
    """See that something is to be found, before an index or a model is read.

    Raises:
        UserError: it is not.
    """
    if k < 1:
        raise UserError(f"-k is {k}; ask for at least 1 passage")


def absolute(model: str) -> str:
    """A model's name as an index keeps it: that of a folder or file holds wherever one searches from."""
    return str(Path(model).absolute()) if Path(model).exists() else model


def search_settings(
    mode: str, fusion: str, dense_weight: float | None, feedback: int | None, **others: Any
) -> SearchSettings:
    """How to search, by the options.

    Raises:
        UserError: a value out of range.
    """
    from scratchlm.retrieval.search_settings import SearchSettings

    given = {"dense_weight": dense_weight, "feedback": feedback}
    given = {name: value for name, value in given.items() if value is not None}
    return SearchSettings(mode=mode, fusion=fusion, **given, **others)  # type: ignore[arg-type]


def searcher(store: str, settings: SearchSettings, rerank: str | None, *, embedding: bool = False) -> Searcher:
    """What searches an index; with its embedding model where that is needed, or asked for.

    Raises:
        UserError: there is no index or no such re-ranker, or the index's model is not here or has changed.
    """
    from scratchlm.retrieval.index import Index
    from scratchlm.retrieval.search import Searcher

    index = Index.open(store)
    embedder = index.open_embedder() if embedding or settings.mode != "bm25" or rerank == "late" else None
    return Searcher(index, embedder, settings, reranker=None if rerank is None else _reranker(rerank, embedder))


def _reranker(name: str, embedder: Embedder | None) -> Reranker:
    from scratchlm.opening import open_model
    from scratchlm.retrieval.rerank import CrossEncoder, LateInteraction, LikelihoodReranker, WordFeedback

    if name == "late" and embedder is not None:
        return LateInteraction(embedder)
    if name == "words":
        return WordFeedback()
    try:
        config = open_model(name, weights=False).config
        if config.architecture == "decoder" and config.head == "linear":
            return LikelihoodReranker.open(name)
        return CrossEncoder.open(name)
    except UserError as error:
        raise UserError(f"--rerank is late, words or a model: {error}") from error
