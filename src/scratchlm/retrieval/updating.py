"""Bringing an index up to its documents: only what has changed is read, cut and embedded again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scratchlm.errors import UserError
from scratchlm.retrieval.filters import PAIR, among, plain
from scratchlm.retrieval.index_settings import Record, TextEmbedder, unit
from scratchlm.retrieval.passages import Chunk, Document
from scratchlm.retrieval.store import Store, finish, good_version, schema

BATCH = 1024
"""Chunks that are embedded and written at a time, those of one file always together. A run that is killed loses at
most the work on these."""
_NAMES = 500
"""Files that one condition names."""
_FRESH = 2.0
"""Seconds. A file that was changed so shortly before it was read may have been changed again within its time's
precision, so that it is read once more."""

Cut = Callable[[Document], Sequence[Chunk]]


class Found(Protocol):
    """A file that can be read: :class:`~scratchlm.retrieval.documents.FoundFile`."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def modified(self) -> float: ...


class Passed(Protocol):
    """A file that is not read: :class:`~scratchlm.retrieval.documents.PassedOver`."""

    @property
    def path(self) -> str: ...
    @property
    def why(self) -> str: ...


class Source(Protocol):
    """Documents that are read one by one, when they are needed."""

    def found(self) -> Iterable[Found | Passed]:
        """All the files, without reading them."""

    def read(self, found: Any) -> Document | Passed:
        """One of them."""


@dataclass(frozen=True)
class Entry:
    """What the index knows of a file."""

    path: str
    kind: str
    digest: str
    size: int
    modified: float
    read: float
    """When, in seconds since 1970."""
    chunks: int


@dataclass(frozen=True)
class LeftOut:
    """A file that is not in the index, and why."""

    path: str
    why: str

    def __str__(self) -> str:
        return f"{self.path} {self.why}"


@dataclass
class UpdateReport:
    """What an update has done; paths in the order in which they came."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    passed_over: list[LeftOut] = field(default_factory=list)
    read: int = 0
    """Files that had to be read."""
    chunks: int = 0
    """In the index, at the end."""
    embedded: int = 0
    """Texts whose vectors were computed."""
    reused: int = 0
    """Chunks that were written with a vector that was there already."""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return vars(self) | {"passed_over": [{"path": one.path, "why": one.why} for one in self.passed_over]}


def read_entries(table: Any) -> dict[str, Entry]:
    """The files of a table's version, by path."""
    names = ["file", "kind", "digest", "size", "modified", "read"]
    found = table.search().select(names).to_arrow()
    grouped = found.group_by("file").aggregate([*((name, "min") for name in names[1:]), ("file", "count")])
    columns = [grouped[name].to_pylist() for name in ("file", *(f"{one}_min" for one in names[1:]), "file_count")]
    return {row[0]: Entry(*row) for row in sorted(zip(*columns, strict=True))}


class Updater:
    """One run over all documents.

    Args:
        table: at its last version; the caller holds the store's lock.
        progress: hears how many chunks are written so far.
    """

    def __init__(
        self,
        store: Store,
        table: Any,
        record: Record,
        embedder: TextEmbedder,
        cut: Cut,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.store, self.table, self.record, self.embedder, self.cut = store, table, record, embedder, cut
        self.progress = progress
        with store.reading():
            table.checkout_latest()
            self.entries = read_entries(table)
            contents = table.search().select(["content"]).to_arrow()["content"].to_pylist()
        self.contents: set[str] = set(contents)
        self.report = UpdateReport()
        self.written = 0
        self._schema = schema(record)
        self._held: list[tuple[Document, Sequence[Chunk]]] = []
        self._size = 0
        self._seen: set[str] = set()

    def run(self, documents: Source | Iterable[Document | Passed], *, partial: bool = False) -> UpdateReport:
        """Index the documents.

        Args:
            partial: they are not all of the collection, so that files that are not among them stay.

        Raises:
            UserError: the disk is full or the store cannot be written. What was written by then is kept for the next
                run, and readers see what they saw before.
        """
        start = time.perf_counter()
        for document in self._changed(documents):
            chunks = self.cut(document)
            if not chunks:
                self._leave_out(document.path, "holds no text; fill it or leave it out")
                continue
            self._held.append((document, chunks))
            self._size += len(chunks)
            if self._size >= BATCH:
                self._write()
        self._write()
        if not partial:
            self._remove([path for path in self.entries if path not in self._seen])
        with self.store.writing():
            if self.table.version != good_version(self.table):
                finish(self.table, self.record.settings)
            self.report.chunks = self.table.count_rows()
        self.report.seconds = time.perf_counter() - start
        return self.report

    def _changed(self, documents: Source | Iterable[Document | Passed]) -> Iterator[Document]:
        """The documents that the table does not have as they are."""
        lazy = hasattr(documents, "read") and hasattr(documents, "found")
        source: Any = documents
        every: Iterable[Any] = source.found() if lazy else source
        for found in every:
            path = plain(found.path)
            if hasattr(found, "why"):
                self._leave_out(path, found.why)
                continue
            if path in self._seen:
                self.report.passed_over.append(LeftOut(path, "was given twice; the first one counts"))
                continue
            self._seen.add(path)
            known = self.entries.get(path)
            if lazy and known is not None and _same_file(found, known):
                self.report.unchanged.append(path)
                continue
            document = source.read(found) if lazy else found
            if not isinstance(document, Document):
                self._leave_out(path, document.why)
                continue
            self.report.read += 1
            if known is None:
                self.report.added.append(path)
            elif known.digest != document.digest:
                self.report.changed.append(path)
            else:
                self.report.unchanged.append(path)
                if known.modified == document.modified:
                    continue
            yield document

    def _leave_out(self, path: str, why: str) -> None:
        """Name a file; what an earlier run had of it leaves at the end."""
        self.report.passed_over.append(LeftOut(path, why))
        self._seen.discard(path)
        for names in (self.report.added, self.report.changed, self.report.unchanged):
            if names and names[-1] == path:
                names.pop()

    def _write(self) -> None:
        """Embed and write what is held, as one version."""
        if not self._held:
            return
        held, self._held, self._size = self._held, [], 0
        rows = [row for document, chunks in held for row in _rows(document, chunks)]
        vectors = self._vectors(rows)
        replaced = [plain(document.path) for document, _ in held if plain(document.path) in self.entries]
        batch = _batch(rows, vectors, self._schema)
        with self.store.writing():
            if replaced:
                merge = self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                merge.when_not_matched_by_source_delete(among("file", replaced)).execute(batch)
            else:
                self.table.add(batch)
        self.contents.update(row["content"] for row in rows)
        self.written += len(rows)
        if self.progress is not None:
            self.progress(self.written)

    def _vectors(self, rows: Sequence[dict[str, Any]]) -> NDArray[np.float32]:
        """(n, C), of length 1: those of equal texts that are there, and the others computed."""
        place: dict[str, int] = {}
        texts: list[str] = []
        for row in rows:
            if row["content"] not in place:
                place[row["content"]] = len(place)
                texts.append(row["embedded"])
        vectors = np.zeros((len(place), self.record.dimensions), np.float32)
        known = [content for content in place if content in self.contents]
        if known:
            with self.store.reading():
                there = self.table.search().where(among("content", known)).select(["content", "vector"]).to_arrow()
            numbers = there["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            vectors[[place[one] for one in there["content"].to_pylist()]] = numbers.reshape(-1, self.record.dimensions)
        found = set(known)
        new = [at for content, at in place.items() if content not in found]
        if new:
            vectors[new] = unit(self.embedder.embed([texts[at] for at in new]).vectors)
        self.report.embedded += len(new)
        self.report.reused += len(rows) - len(new)
        return vectors[[place[row["content"]] for row in rows]]

    def _remove(self, paths: Sequence[str]) -> None:
        for first in range(0, len(paths), _NAMES):
            with self.store.writing():
                self.table.delete(among("file", paths[first : first + _NAMES]))
        self.report.removed.extend(paths)


def _same_file(found: Found, known: Entry) -> bool:
    """Whether a file is as it was read, by its size and time alone."""
    return found.size == known.size and found.modified == known.modified and known.modified < known.read - _FRESH


def _rows(document: Document, chunks: Sequence[Chunk]) -> Iterator[dict[str, Any]]:
    path, now = plain(document.path), time.time()
    entry = {
        "file": path, "kind": document.kind, "digest": document.digest, "size": document.size,
        "modified": document.modified, "read": now,
        "metadata": [plain(f"{name}{PAIR}{value}") for name, value in sorted(document.metadata.items())],
    }  # fmt: skip
    for number, chunk in enumerate(chunks):
        embedded = plain(chunk.embedded)
        yield entry | {
            "id": f"{number}-{_hash(path)}", "number": number, "content": _hash(embedded), "embedded": embedded,
            "headings": [plain(one) for one in chunk.headings], "tokens": chunk.tokens,
            "start": chunk.start, "end": chunk.end, "first_line": chunk.first_line, "last_line": chunk.last_line,
            "first_page": chunk.first_page, "last_page": chunk.last_page,
        }  # fmt: skip


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _batch(rows: Sequence[dict[str, Any]], vectors: NDArray[np.float32], schema: Any) -> Any:
    """Rows and their vectors as a table of Arrow's."""
    import pyarrow as pa

    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    columns = [pa.array([row[one.name] for row in rows], one.type) for one in schema if one.name != "vector"]
    return pa.Table.from_arrays([*columns, lists], schema=schema)


def refuse_one(documents: object) -> None:
    """See that documents are a list of them, or a source.

    Raises:
        UserError: it is one document, or a text.
    """
    if isinstance(documents, Document | str):
        raise UserError("an index is brought up to all its documents; give a list of them, or a folder to read")
