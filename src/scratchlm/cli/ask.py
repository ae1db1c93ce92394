"""``scratchlm ask``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scratchlm.cli.asking import answer, converse, judge_of
from scratchlm.cli.narrowing import After, Before, Kinds, Meta, Paths, narrowed
from scratchlm.cli.output import Json, Precision
from scratchlm.cli.stores import Count, Mode, Rerank, StoreOption, check_count, searcher
from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.retrieval.chat_models import ChatModel

WRITER = "smollm2-135m-instruct"
KEY = "SCRATCHLM_ENDPOINT_KEY"


def ask(
    store: StoreOption,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="QUESTION", help="Without one, a conversation: questions are read line by line.", show_default=False
        ),
    ] = None,
    style: Annotated[
        str,
        typer.Option(help="quote the sources, write from them, or auto: write with an endpoint or a large --model."),
    ] = "auto",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Writes: a run, a name that `models list` shows, or one of the endpoint's.",
            show_default=f"for writing {WRITER}",
        ),
    ] = None,
    precision: Precision = "auto",
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help=f"An OpenAI-compatible server that writes; its key, if any, is taken from {KEY}.",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The longest written answer, in tokens.")] = 160,
    threshold: Annotated[
        float | None,
        typer.Option(help="Answer only where one is there with this probability, 0 to 1.", show_default="measured"),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="READER",
            help="What looks at the likeliest sentences once more: a folder of teach-reader, or a decoder's name.",
            show_default=False,
        ),
    ] = None,
    k: Count = 6,
    mode: Mode = "hybrid",
    rerank: Rerank = None,
    path: Paths = None,
    kind: Kinds = None,
    after: After = None,
    before: Before = None,
    meta: Meta = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show how sure the answer is, how well supported, and each stage's time.")
    ] = False,
    json: Json = False,
) -> None:
    """Answer a question from indexed documents, each sentence with the place that it comes from.

    Where the documents do not hold the answer, it says so.
    """
    from scratchlm.retrieval.answers import Answerer, AnswerSettings
    from scratchlm.retrieval.search_settings import SearchSettings

    check_count(k)
    where = narrowed(path, kind, after, before, meta)
    given: dict[str, Any] = {"hits": k, "style": style, "max_new_tokens": max_new_tokens}
    settings = AnswerSettings(**given | ({} if threshold is None else {"threshold": threshold}))
    if style == "quote" and (model or endpoint):
        raise UserError("--style quote has nothing written; leave --model and --endpoint out, or choose --style write")
    if endpoint is not None and not model:
        raise UserError(f"--endpoint {endpoint} needs --model, a name that it lists under /models")
    finder = searcher(store, SearchSettings(mode=mode), rerank, embedding=True)  # type: ignore[arg-type]
    assert finder.embedder is not None
    writer = _writer(model or WRITER, endpoint, precision) if model or style == "write" else None
    answerer = Answerer(finder, finder.embedder, writer, settings, None if judge is None else judge_of(judge))
    if question is not None:
        answer(answerer, question, [], where, explain=explain, json=json)
        return
    converse(answerer, where, explain=explain, json=json)


def _writer(model: str, endpoint: str | None, precision: str) -> ChatModel:
    if endpoint is not None:
        from scratchlm.retrieval.endpoint import Endpoint

        return Endpoint(endpoint, model, os.environ.get(KEY))
    from scratchlm import api
    from scratchlm.retrieval.chat_models import LocalChat

    return LocalChat(api.load(model, precision=precision))
