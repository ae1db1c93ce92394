"""The texts that a verb is given: by ``--text``, or in a ``--file``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from scratchlm.errors import UserError

Texts = Annotated[list[str] | None, typer.Option("--text", help="A text; may be repeated.", show_default=False)]
File = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="A text a line, .jsonl, .csv or .tsv; - for stdin.", show_default=False),
]
Column = Annotated[str | None, typer.Option(help="Of .jsonl, .csv and .tsv: where the texts are.", show_default="text")]


def check_texts(text: Sequence[str] | None, file: str | None, column: str | None) -> None:
    """
    Raises:
        UserError: none or both are given, or a column of no file.
    """
    if (text is None) == (file is None):
        raise UserError("give the texts, either with --text, which may be repeated, or with --file FILE")
    if text is not None and column is not None:
        raise UserError("--column is for the columns of a --file; leave it out")


def given_texts(text: Sequence[str] | None, file: str | None, column: str | None) -> Iterator[str]:
    """The texts, read as they are asked for.

    Raises:
        UserError: see :func:`~scratchlm.retrieval.read_texts`.
    """
    from scratchlm.retrieval import read_texts

    if text is not None:
        return iter(text)
    return read_texts(sys.stdin.buffer if file == "-" else Path(str(file)), column)


def count_texts(text: Sequence[str] | None, file: str | None, column: str | None) -> int | None:
    """How many texts there are, where that can be found out. A file is read through, so that what is wrong at its end
    is told now and not in an hour."""
    if text is not None:
        return len(text)
    if file == "-" or (Path(str(file)).exists() and not Path(str(file)).is_file()):
        return None
    return sum(1 for _ in given_texts(text, file, column))
