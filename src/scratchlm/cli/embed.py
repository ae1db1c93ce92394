"""``scratchlm embed``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scratchlm.cli.output import Json, print_json
from scratchlm.cli.texts import Column, File, Texts, check_texts, count_texts, given_texts
from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.retrieval import Embedder, Embeddings

MOST_SHOWN, MOST_COMPARED = 1_000, 8
"""Texts whose vectors are printed, and texts of the table; more belong in a file."""


class Precision(StrEnum):
    """Of the weights."""

    auto = "auto"
    fp32 = "fp32"
    int8 = "int8"


def embed(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A name that `models list` shows, a run, a folder.", show_default=False),
    ],
    text: Texts = None,
    file: File = None,
    column: Column = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write an .npy or .parquet file.", show_default=False)
    ] = None,
    precision: Annotated[Precision, typer.Option(help="int8 is faster; auto is fp32.")] = Precision.auto,
    json: Json = False,
) -> None:
    """Make vectors of texts."""
    check_texts(text, file, column)
    from scratchlm.cli.counting import Counting
    from scratchlm.retrieval import Embedder, check_target, write_vectors

    if out is not None:
        check_target(out)
    total = count_texts(text, file, column)
    embedder = Embedder.open(model, precision.value)
    figures: dict[str, Any] = {"model": model, "precision": embedder.precision, "dimensions": embedder.dimensions}
    with Counting("embedding", total) as progress:
        if out is not None:
            written = write_vectors(out, embedder, given_texts(text, file, column), progress)
            figures |= {"texts": written.texts, "truncated": written.truncated, "path": str(out)}
        else:
            texts = list(islice(given_texts(text, file, column), MOST_SHOWN + 1))
            if len(texts) > MOST_SHOWN:
                raise UserError(f"there are more than {MOST_SHOWN:,} texts; write their vectors to a file with --out")
            found = embedder.embed(texts, progress)
            figures |= {"texts": len(texts), "truncated": found.truncated}
    if figures["truncated"]:
        print(_cut(figures["truncated"], figures["texts"], embedder), file=sys.stderr)
    if json:
        print_json(figures if out is not None else figures | {"vectors": found.vectors.tolist()})
    elif out is not None:
        print(f"{out}: {figures['texts']:,} vectors of {embedder.dimensions:,} numbers")
    else:
        _show(texts, found)


def _cut(truncated: int, texts: int, embedder: Embedder) -> str:
    return (
        f"note: {truncated:,} of {texts:,} texts are longer than the {embedder.max_length:,} tokens that are read, and "
        "their ends count for nothing"
    )


def _show(texts: Sequence[str], found: Embeddings) -> None:
    """Each vector's length, and how alike the first texts are."""
    import numpy as np

    from scratchlm.cli.tables import show_vectors

    shown = found.vectors[:MOST_COMPARED]
    norms = np.linalg.norm(shown, axis=1)
    units = shown / np.maximum(norms, 1e-12)[:, None]
    show_vectors([one[:60] for one in texts[:MOST_COMPARED]], norms.tolist(), (units @ units.T).tolist())
    print(f"{len(texts):,} vectors of {found.vectors.shape[1]:,} numbers; --json or --out gives them")
