"""``scratchlm index``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scratchlm.cli.output import Json, print_json
from scratchlm.cli.stores import StoreOption

if TYPE_CHECKING:
    from scratchlm.retrieval.updating import UpdateReport

MODEL = "all-minilm-l6-v2"
MOST_NAMED = 20
"""Files that are passed over and named one by one; ``--json`` names all."""


def index(
    documents: Annotated[Path, typer.Argument(metavar="DOCS", help="A folder of documents, or one file.")],
    store: StoreOption,
    model: Annotated[str | None, typer.Option(help="The embedding model, for a new index.", show_default=MODEL)] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, or int8, which is faster.", show_default="fp32")] = None,
    size: Annotated[int | None, typer.Option(help="Tokens of a chunk at most.", show_default="256")] = None,
    overlap: Annotated[int, typer.Option(help="Tokens that a chunk repeats of the one before.")] = 0,
    language: Annotated[str, typer.Option(help="Of the words, for stemming.")] = "English",
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Files to leave out, as in .gitignore.", show_default=False),
    ] = None,
    hidden: Annotated[bool, typer.Option("--hidden", help="Read hidden files, too.")] = False,
    json: Json = False,
) -> None:
    """Index a folder of documents; again, to bring the index up to date."""
    from scratchlm.cli.counting import Counting
    from scratchlm.retrieval.documents import survey
    from scratchlm.retrieval.embeddings import Embedder
    from scratchlm.retrieval.folders import Folder
    from scratchlm.retrieval.index import Index
    from scratchlm.retrieval.index_settings import IndexSettings

    source = Folder(documents, ignore or (), hidden)
    survey(documents, ignore=ignore or (), hidden=hidden)  # what is wrong with it shows before a model is read
    settings = IndexSettings(size, overlap, language)
    if Index.exists(store):
        made = Index.open(store).record
        embedder = Embedder.open(model or made.model, precision or made.precision)  # type: ignore[arg-type]
        place = Index.open(store, embedder, settings if settings != IndexSettings() else None)
    else:
        embedder = Embedder.open(model or MODEL, precision or "auto")  # type: ignore[arg-type]
        place = Index.create(store, embedder, settings)
    with Counting("indexing chunks") as progress:
        report = place.update(source, progress)
    for one in report.passed_over[:MOST_NAMED]:
        print(f"passed over: {one}", file=sys.stderr)
    if len(report.passed_over) > MOST_NAMED:
        print(f"and {len(report.passed_over) - MOST_NAMED:,} more; --json names them", file=sys.stderr)
    if json:
        print_json({"store": store, **report.as_json()})
    else:
        print(_line(store, report))


def _line(store: str, report: UpdateReport) -> str:
    counts = {
        "added": len(report.added),
        "changed": len(report.changed),
        "unchanged": len(report.unchanged),
        "removed": len(report.removed),
        "passed over": len(report.passed_over),
    }
    files = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "no files"
    return f"{store}: {files}; {report.chunks:,} chunks, {report.embedded:,} embedded in {report.seconds:.1f} s"
