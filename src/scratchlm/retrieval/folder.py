"""A folder as a source of documents, which are read when they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from scratchlm.retrieval.documents import FoundFile, PassedOver, UnreadableDocument, read_document, survey
from scratchlm.retrieval.passages import Document


class Folder:
    """A folder, or one file, for :meth:`~scratchlm.retrieval.index.Index.update`.

    Args:
        ignore, hidden: as :func:`~scratchlm.retrieval.documents.survey`.

    Raises:
        UserError: there is nothing that can be read, or a pattern is wrong.
    """

    def __init__(self, root: str | Path, *, ignore: Sequence[str] = (), hidden: bool = False) -> None:
        self.survey = survey(Path(root), ignore=ignore, hidden=hidden)

    def found(self) -> Iterator[FoundFile | PassedOver]:
        """All its files, without reading them."""
        yield from self.survey.passed_over
        yield from self.survey.files

    def read(self, found: FoundFile) -> Document | PassedOver:
        """One of them, or why it cannot be read."""
        try:
            return read_document(found)
        except UnreadableDocument as error:
            return error.passed_over
