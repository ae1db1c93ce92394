"""``scratchlm ask``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from scratchlm.cli.asking import answer, converse
from scratchlm.cli.output import Json, Precision
from scratchlm.cli.stores import (
    After,
    Before,
    Kinds,
    Meta,
    Mode,
    Paths,
    Rerank,
    StoreOption,
    narrowed,
    opened,
    searcher,
)

if TYPE_CHECKING:
    from scratchlm.retrieval.chat_models import ChatModel


def ask(
    store: StoreOption,
    question: Annotated[
        str | None,
        typer.Argument(metavar="QUESTION", help="Without one, questions are read line by line.", show_default=False),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Writes the answers: a run, or a name that `models list` shows.")
    ] = "smollm2-135m-instruct",
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="URL", help="An OpenAI-compatible server that writes instead.", show_default=False),
    ] = None,
    style: Annotated[str, typer.Option(help="quote the sources, write from them, or auto.")] = "auto",
    k: Annotated[int, typer.Option("-k", help="Passages to look for.")] = 6,
    threshold: Annotated[
        float | None, typer.Option(help="How sure of an answer to be, 0 to 1.", show_default=False)
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The longest written answer, in tokens.")] = 160,
    mode: Mode = "hybrid",
    rerank: Rerank = None,
    precision: Precision = "auto",
    path: Paths = None,
    kind: Kinds = None,
    after: After = None,
    before: Before = None,
    meta: Meta = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show how sure, how supported, and each time.")] = False,
    json: Json = False,
) -> None:
    """Answer a question from indexed documents, each sentence with the place that it comes from."""
    from scratchlm.retrieval.answers import Answerer, AnswerSettings
    from scratchlm.retrieval.search_settings import SearchSettings

    where = narrowed(path, kind, after, before, meta)
    given: dict[str, Any] = {"hits": k, "style": style, "max_new_tokens": max_new_tokens}
    settings = AnswerSettings(**given | ({} if threshold is None else {"threshold": threshold}))
    finder = searcher(store, SearchSettings(mode=mode), rerank)  # type: ignore[arg-type]
    embedder = finder.embedder or opened(store)[1]
    assert embedder is not None
    writer = None if style == "quote" else _writer(model, endpoint, precision)
    answerer = Answerer(finder, embedder, writer, settings)
    if question is not None:
        answer(answerer, question, [], where, explain=explain, json=json)
        return
    converse(answerer, where, explain=explain, json=json)


def _writer(model: str, endpoint: str | None, precision: str) -> ChatModel:
    if endpoint is not None:
        from scratchlm.retrieval.endpoint import Endpoint

        return Endpoint(endpoint, model)
    from scratchlm import api
    from scratchlm.retrieval.chat_models import LocalChat

    return LocalChat(api.load(model, precision=precision))
