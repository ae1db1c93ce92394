"""A folder as the source of an index: its files are looked at, and read only where they have changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scratchlm.retrieval.documents import (
    MOST_BYTES,
    FoundFile,
    PassedOver,
    UnreadableDocument,
    read_document,
    survey,
)
from scratchlm.retrieval.passages import Document


@dataclass(frozen=True)
class Folder:
    """A folder, or one file.

    Args:
        ignore: patterns as in ``.gitignore``.
        hidden: read hidden files and folders as well.
        limit: bytes; larger files are passed over.
    """

    root: Path
    ignore: Sequence[str] = ()
    hidden: bool = False
    limit: int = MOST_BYTES

    def found(self) -> Iterator[FoundFile | PassedOver]:
        """What lies there, without reading it.

        Raises:
            UserError: there is no such folder, it cannot be read, or a pattern is wrong.
        """
        seen = survey(self.root, ignore=self.ignore, hidden=self.hidden)
        yield from seen.passed_over
        yield from seen.files

    def read(self, found: FoundFile) -> Document | PassedOver:
        """One of its files.

        Raises:
            UserError: a package that reads such files is not installed.
        """
        try:
            return read_document(found, limit=self.limit)
        except UnreadableDocument as error:
            return error.passed_over
