"""``scratchlm ask``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scratchlm.cli.output import Json, Precision, print_json
from scratchlm.cli.stores import After, Before, Kinds, Meta, Mode, Paths, Rerank, StoreOption, narrowed, opened
from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.retrieval.answers import Answer, Answerer
    from scratchlm.retrieval.chat_models import ChatModel
    from scratchlm.retrieval.followup import Turn


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
    from scratchlm.retrieval.embeddings import Embedder
    from scratchlm.retrieval.search import Searcher
    from scratchlm.retrieval.search_settings import SearchSettings

    where = narrowed(path, kind, after, before, meta)
    given: dict[str, Any] = {"hits": k, "style": style, "max_new_tokens": max_new_tokens}
    settings = AnswerSettings(**given | ({} if threshold is None else {"threshold": threshold}))
    index, embedder = opened(store)
    assert isinstance(embedder, Embedder)
    reranker = None
    if rerank is not None:
        from scratchlm.retrieval.rerank import open_reranker

        reranker = open_reranker(rerank)
    finder = Searcher(index, embedder, SearchSettings(mode=mode), reranker=reranker)  # type: ignore[arg-type]
    writer = None if style == "quote" else _writer(model, endpoint, precision)
    answerer = Answerer(finder, embedder, writer, settings)
    if question is not None:
        _answer(answerer, question, [], where, explain, json)
        return
    history: list[Turn] = []
    for line in _lines():
        try:
            history.append(_answer(answerer, line, history, where, explain, json))
        except UserError as error:
            if not sys.stdin.isatty():
                raise
            typer.secho(f"error: {error}", err=True, dim=True)


def _writer(model: str, endpoint: str | None, precision: str) -> ChatModel:
    if endpoint is not None:
        from scratchlm.retrieval.endpoint import Endpoint

        return Endpoint(endpoint, model)
    from scratchlm import api
    from scratchlm.retrieval.chat_models import LocalChat

    return LocalChat(api.load(model, precision=precision))


def _lines() -> Any:
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if line in ("/quit", "/exit"):
            return
        if line:
            yield line


def _answer(answerer: Answerer, question: str, history: list[Turn], where: Any, explain: bool, json: bool) -> Turn:
    from scratchlm.retrieval.followup import Turn

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    found = answerer.ask(question, history, None if json else write, where)
    if json:
        print_json(found.as_json())
    else:
        print()
        _show(found, explain)
    return Turn(question, found.text)


def _show(found: Answer, explain: bool) -> None:
    places: dict[int, str] = {}
    for sentence in found.sentences:
        for one in sentence.citations:
            places.setdefault(one.number, one.hit.place())
        if not sentence.supported:
            typer.secho(f"not supported by what it cites: {sentence.text}", err=True)
    for number, place in sorted(places.items()):
        print(f"[{number}] {place}")
    for one in found.dropped:
        typer.secho(f"left out of {one.file} ({one.why}): {' '.join(one.text.split())[:100]}", err=True, dim=True)
    if explain:
        print(f"an answer is there with probability {found.confidence:.2f}; looked for: {found.asked}")
        for sentence in found.sentences:
            print(f"support {sentence.support:.2f}: {sentence.text}")
        print("ms: " + ", ".join(f"{name} {spent:.1f}" for name, spent in found.timings.items()))
