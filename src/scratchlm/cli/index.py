"""``scratchlm index``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scratchlm.cli.output import Json, print_json
from scratchlm.cli.stores import StoreOption, absolute
from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.retrieval.updating import UpdateReport

MODEL = "all-minilm-l6-v2"
STORES = "*.lance/"
"""What indexes lie in: one that stands among the documents is none of them."""
MOST_NAMED = 20
"""Files that are passed over and named one by one; ``--json`` names all."""


def index(
    documents: Annotated[Path, typer.Argument(metavar="DOCS", help="A folder of documents, or one file.")],
    store: StoreOption,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Files to leave out, as in .gitignore; may be repeated.", show_default=False
        ),
    ] = None,
    hidden: Annotated[bool, typer.Option("--hidden", help="Read hidden files, too.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Makes the vectors: a name that `models list` shows, or a folder.", show_default=MODEL
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of the vectors' model: fp32, or int8, which is faster.", show_default="fp32")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="The longest passage that is found as one, in tokens.", show_default="256")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(help="Tokens that a passage repeats of the one before.", show_default="0")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Of the documents, to find a word's other forms.", show_default="English")
    ] = None,
    json: Json = False,
) -> None:
    """Index a folder of documents, or bring an index up to date.

    Run it again after documents have changed: only those are read. What an index was made with is kept.
    """
    from dataclasses import replace

    from scratchlm.cli.counting import Counting
    from scratchlm.retrieval.documents import survey
    from scratchlm.retrieval.embeddings import Embedder
    from scratchlm.retrieval.folders import Folder
    from scratchlm.retrieval.index import Index
    from scratchlm.retrieval.index_settings import IndexSettings

    source = Folder(documents, (STORES, *(ignore or ())), hidden)
    seen = survey(documents, ignore=source.ignore, hidden=hidden)  # its faults show before a model is read
    if not seen.files:
        raise UserError(f"{documents} holds no documents; give another folder, or see --ignore and --hidden")
    given: dict[str, Any] = {"size": size, "overlap": overlap, "language": language}
    given = {name: value for name, value in given.items() if value is not None}
    if Index.exists(store):
        made = Index.open(store).record
        made.check_settings(replace(made.settings, **given), store)
        embedder = Embedder.open(model or made.model, precision or made.precision)  # type: ignore[arg-type]
        place = Index.open(store, embedder)
    else:
        settings = IndexSettings(**given)
        embedder = Embedder.open(absolute(model or MODEL), precision or "auto")  # type: ignore[arg-type]
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
