"""``scratchlm rag-sweep``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scratchlm.cli.index import MODEL, STORES
from scratchlm.cli.output import Json, print_json
from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.retrieval.passages import Document
    from scratchlm.retrieval.rewriting import Chat


def rag_sweep(
    documents: Annotated[Path, typer.Argument(metavar="DOCS", help="A folder of documents, or one file.")],
    model: Annotated[str, typer.Option(help="The embedding model.")] = MODEL,
    precision: Annotated[str, typer.Option(help="fp32, or int8, which is faster.")] = "int8",
    questions: Annotated[int, typer.Option(help="How many to make from the documents' passages.")] = 100,
    writer: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Writes them; without one they are a sentence's rare words.", show_default=False
        ),
    ] = None,
    sizes: Annotated[str, typer.Option(help="Tokens of a chunk to try, with commas between.")] = "64,128,254",
    ks: Annotated[str, typer.Option("--ks", help="Numbers of hits to try.")] = "3,5,10",
    seed: Annotated[int, typer.Option(help="Draws the passages.")] = 0,
    json: Json = False,
) -> None:
    """Find the best chunk size, fusion and number of hits for your documents.

    Questions are made from the documents themselves. They compare settings; they do not say how good search is for
    real questions: for that, judge some and use rag-eval.
    """
    from scratchlm.retrieval.chunks import chunk_document, settings_for, token_counter
    from scratchlm.retrieval.embeddings import Embedder
    from scratchlm.retrieval.memory_index import hit_of
    from scratchlm.retrieval.own_questions import make_questions, sweep

    tried, hits = _numbers("--sizes", sizes), _numbers("--ks", ks)
    read = _documents(documents)
    embedder = Embedder.open(model, precision)  # type: ignore[arg-type]
    for size in tried:  # before the first of them is embedded
        settings_for(embedder, size)
    count, cut = token_counter(embedder), settings_for(embedder)
    passages = [hit_of(one, chunk, one.path) for one in read for chunk in chunk_document(one, count, cut)]
    asked = make_questions(passages, questions, None if writer is None else _chat(writer), seed)
    print(f"{len(asked):,} questions about {len(read):,} documents; {len(tried)} sizes to embed", file=sys.stderr)
    trials = sweep(read, embedder, asked, sizes=tried, ks=hits)
    if json:
        print_json({"questions": len(asked), "documents": len(read), "trials": [vars(one) for one in trials]})
        return
    print(f"{'tokens':>6}  {'fusion':8}  {'k':>3}  {'found':>6}  {'nDCG':>6}")
    for one in trials:
        print(f"{one.size:6}  {one.fusion:8}  {one.k:3}  {one.found:6.1%}  {one.ndcg:6.3f}")


def _documents(place: Path) -> list[Document]:
    from scratchlm.retrieval.documents import read_documents
    from scratchlm.retrieval.passages import Document

    read = [one for one in read_documents(place, ignore=[STORES]) if isinstance(one, Document)]
    if not read:
        raise UserError(f"{place} has no document that can be read; give a folder with some")
    return read


def _numbers(option: str, text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"{option} {text!r} are no whole numbers; write them with commas, such as 64,128") from error
    if min(found) < 1:
        raise UserError(f"{option} {text!r} has a number below 1; give numbers from 1 on")
    return list(dict.fromkeys(found))


def _chat(model: str) -> Chat:
    from scratchlm import api
    from scratchlm.retrieval.chat_models import LocalChat

    loaded = LocalChat(api.load(model))
    return lambda messages: loaded.chat(messages, max_new_tokens=40)
