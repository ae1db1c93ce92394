"""Options that narrow a search to some of the documents."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.retrieval.filters import Filter

Paths = Annotated[
    list[str] | None,
    typer.Option(
        "--path",
        metavar="PATTERN",
        help="Only files like this, such as 'guide/*.md'; may be repeated.",
        show_default=False,
    ),
]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind", metavar="KIND", help="Only such files: pdf, code, markdown ...; may be repeated.", show_default=False
    ),
]
After = Annotated[
    str | None, typer.Option(metavar="DATE", help="Only files changed on that day or later.", show_default=False)
]
Before = Annotated[
    str | None, typer.Option(metavar="DATE", help="Only files changed before that day.", show_default=False)
]
Meta = Annotated[
    list[str] | None,
    typer.Option(
        "--meta",
        metavar="NAME=VALUE",
        help="Only documents that say so at their head, such as author=Rumi; may be repeated.",
        show_default=False,
    ),
]


def narrowed(
    paths: Sequence[str] | None,
    kinds: Sequence[str] | None,
    after: str | None,
    before: str | None,
    meta: Sequence[str] | None,
) -> Filter | None:
    """What a search is narrowed to; None for nothing.

    Raises:
        UserError: no such kind, no date, or metadata without a name.
    """
    from scratchlm.retrieval.filters import Filter
    from scratchlm.retrieval.formats import KINDS

    for one in kinds or ():
        if one not in KINDS:
            near = difflib.get_close_matches(one, KINDS, n=1)
            cure = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(KINDS)}"
            raise UserError(f"--kind: there are no documents of the kind {one!r}; {cure}")
    if any(not one.strip("/") for one in paths or ()):
        raise UserError("--path: the pattern is empty; give one such as 'guide/*.md'")
    entries = {}
    for one in meta or ():
        name, sign, value = one.partition("=")
        if not sign or not name:
            raise UserError(f"--meta: {one!r} has no name and value; write NAME=VALUE, such as author=Rumi")
        entries[name] = value
    first, end = _day("--after", after), _day("--before", before)
    if not (paths or kinds or first or end or entries):
        return None
    return Filter(tuple(paths or ()), tuple(kinds or ()), first, end, entries)


def _day(option: str, text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{option}: {text!r} is no date; write it as 2026-01-31") from error
