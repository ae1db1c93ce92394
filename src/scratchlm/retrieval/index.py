"""The index: chunks, their vectors and their words in one store on disk or on object storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from scratchlm.errors import UserError
from scratchlm.retrieval.embeddings import Embedder, EmbedPrecision
from scratchlm.retrieval.filters import Filter, among, plain, quoted
from scratchlm.retrieval.index_settings import IndexSettings, Record, TextEmbedder
from scratchlm.retrieval.passages import Document, Hit, with_headings
from scratchlm.retrieval.store import FULL_TEXT, PARTITION, VECTORS, Store, good_version
from scratchlm.retrieval.updating import Cut, Entry, Passed, Source, Updater, UpdateReport, read_entries, refuse_one

Where = Filter | None
PROBES, REFINE = 0.4, 2
"""Of the approximate index: the share of its parts that are looked at, and how many times as many candidates as are
asked for are compared exactly. With fewer parts recall@10 falls below 0.95."""
_TIES = 16
"""More than asked for, so that of equal scores the same ones are given every time."""
_QUERY = 10_000
"""Characters of a full-text query that are read."""
_COLUMNS = [
    "id", "file", "kind", "embedded", "headings", "start", "end", "first_line", "last_line", "first_page",
    "last_page", "number",
]  # fmt: skip
_Read = TypeVar("_Read")


class Index:
    """An index as one reader sees it: a version that stays the same until :meth:`refresh`, whatever a writer does.

    Use :meth:`create` and :meth:`open`.

    A search costs a few milliseconds. Below 20,000 chunks vectors are compared exactly; above, an approximate index
    picks candidates, which are then compared exactly.
    """

    def __init__(self, store: Store, table: Any, record: Record, embedder: TextEmbedder | None) -> None:
        self.store, self.record, self.embedder = store, record, embedder
        self._table = table
        self._version = self._rows = 0
        self._indexes: set[str] = set()
        self.refresh()

    @classmethod
    def create(cls, store: str | Path, embedder: TextEmbedder, settings: IndexSettings | None = None) -> Index:
        """Make an empty index.

        Raises:
            UserError: the store holds one already or cannot be written, or the settings do not suit the model.
        """
        settings = settings or IndexSettings()
        if isinstance(embedder, Embedder):
            _cutting(embedder, settings)
        place = Store(store)
        with place.locked():
            place.create(Record.of(embedder, settings))
        return cls.open(store, embedder)

    @classmethod
    def open(
        cls, store: str | Path, embedder: TextEmbedder | None = None, settings: IndexSettings | None = None
    ) -> Index:
        """Open an index.

        Args:
            embedder: of the model that it was made with; needed to update it.
            settings: that it must have been made with; None for any.

        Raises:
            UserError: there is no index, it is damaged or a later version's, or model or settings do not fit it.
        """
        place = Store(store)
        table, record = place.open()
        if embedder is not None:
            record.check_model(embedder, place.place, writing=False)
        if settings is not None:
            record.check_settings(settings, place.place)
        return cls(place, table, record, embedder)

    def open_embedder(self) -> Embedder:
        """The embedder that it was made with, for queries.

        Raises:
            UserError: its model is not here, or has changed.
        """
        name, precision = self.record.model, cast(EmbedPrecision, self.record.precision)
        try:
            embedder = Embedder.open(name, precision)
        except UserError as error:
            if Path(name).is_absolute() and not Path(name).exists():
                raise UserError(
                    f"{self.store.place} was made with {name}, which is there no more; put it back, or index into "
                    "another store"
                ) from error
            raise UserError(f"the embedding model of {self.store.place}: {error}") from error
        self.record.check_model(embedder, self.store.place, writing=False)
        return embedder

    @staticmethod
    def exists(store: str | Path) -> bool:
        """Whether there is an index to open."""
        return Store(store).exists()

    def refresh(self) -> bool:
        """See what a writer has finished since. -> whether that was anything."""
        with self.store.reading():
            version = good_version(self._table)
            changed = version != self._version
            if changed:
                self._table.checkout(version)
                self._version = version
                self._rows = int(self._table.count_rows())
                self._indexes = {one.name for one in self._table.list_indices()}
        return changed

    def __len__(self) -> int:
        """Chunks."""
        return self._rows

    # -- writing ------------------------------------------------------------------------------------------------------

    def update(
        self,
        documents: Source | Iterable[Document | Passed],
        progress: Callable[[int], None] | None = None,
        *,
        partial: bool = False,
        cut: Cut | None = None,
    ) -> UpdateReport:
        """Bring the index up to the documents, and see the result.

        What has not changed is not embedded again; of a :class:`Source`, files of the same size and time are not even
        read. Files that are not among the documents leave. A run that ends early leaves readers what they had, and the
        next one goes on from what was written.

        Args:
            progress: hears how many chunks are written so far.
            partial: files that are not among the documents stay.
            cut: makes a document's chunks; by default as the settings say.

        Raises:
            UserError: the index has no embedder, or another precision's; another process writes; the disk is full.
        """
        refuse_one(documents)
        if self.embedder is None:
            raise UserError(f"{self.store.place} was opened without its model, {self.record.model}; open it with that")
        self.record.check_model(self.embedder, self.store.place, writing=True)
        cut = cut or _cutting(self.embedder, self.record.settings)
        with self.store.locked():
            table, _ = self.store.open()
            report = Updater(self.store, table, self.record, self.embedder, cut, progress).run(
                documents, partial=partial
            )
        self.refresh()
        return report

    # -- searching ----------------------------------------------------------------------------------------------------

    def dense(self, vector: NDArray[np.floating[Any]], count: int, where: Where = None) -> list[Hit]:
        """The chunks whose vectors are nearest to ``vector``, (C,), with their cosine as the score ``dense``.

        Raises:
            UserError: the vector has another length, or something that is no number; or ``count`` is below 1.
        """
        _check_count(count)
        query = np.asarray(vector, np.float32)
        if query.shape != (self.record.dimensions,) or not np.isfinite(query).all():
            raise UserError(
                f"a query's vector has the shape {query.shape} or no finite numbers; {self.store.place} holds "
                f"vectors of {self.record.dimensions} numbers made by {self.record.model}"
            )
        if not self._rows or not query.any():
            return []

        def search() -> list[dict[str, Any]]:
            found = self._table.search(query, vector_column_name="vector").distance_type("cosine")
            if VECTORS in self._indexes:
                found = found.nprobes(max(1, round(PROBES * self._rows / PARTITION))).refine_factor(REFINE)
            return _rows(found, where, count, "_distance")

        rows = self._read(search)
        return _ranked([_hit(row, 1 - row["_distance"], "dense") for row in rows], count)

    def full_text(self, query: str, count: int, where: Where = None) -> list[Hit]:
        """The chunks that have words of ``query``, with BM25 (Robertson and Zaragoza 2009) as the score ``bm25``.

        The query is words and nothing else: no character of it is an operator.

        Raises:
            UserError: ``count`` is below 1.
        """
        from lancedb.query import MatchQuery

        match: Any = MatchQuery  # its type lacks the defaults
        _check_count(count)
        words = plain(query[:_QUERY]).replace("\x00", " ")
        if FULL_TEXT not in self._indexes or not words.strip():
            return []

        def search() -> list[dict[str, Any]]:
            return _rows(self._table.search(match(words, "embedded"), query_type="fts"), where, count, "_score")

        return _ranked([_hit(row, row["_score"], "bm25") for row in self._read(search)], count)

    # -- looking up ---------------------------------------------------------------------------------------------------

    def hits(self, ids: Sequence[str]) -> list[Hit]:
        """Chunks by their ids, in the order of these, with the score 0.

        Raises:
            UserError: the index has no such chunk.
        """
        rows = self._by_id(ids, _COLUMNS)
        return [_hit(rows[one], 0.0) for one in ids]

    def vectors(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """Their vectors, (n, C), of length 1.

        Raises:
            UserError: the index has no such chunk.
        """
        rows = self._by_id(ids, ["id", "vector"])
        return np.array([rows[one]["vector"] for one in ids], np.float32).reshape(-1, self.record.dimensions)

    def neighbours(self, hit: Hit, before: int = 1, after: int = 1) -> list[Hit]:
        """The chunks around ``hit`` in its file, and itself, in order; the others have the score 0.

        Raises:
            UserError: the index has no such chunk, or a number is negative.
        """
        if min(before, after) < 0:
            raise UserError(f"a hit's neighbours are {before} before and {after} after; give numbers from 0 on")
        number = self._by_id([hit.id], ["id", "number"])[hit.id]["number"]
        condition = f"file = {quoted(hit.file)} AND number BETWEEN {number - before} AND {number + after}"
        rows = self._read(lambda: self._table.search().where(condition).select(_COLUMNS).to_list())
        rows.sort(key=lambda row: row["number"])
        return [hit if row["id"] == hit.id else _hit(row, 0.0) for row in rows]

    def passages(self, file: str) -> list[Hit]:
        """All chunks of a file, in its order, with the score 0; none where the index has no such file."""
        condition = f"file = {quoted(file)}"
        rows = self._read(lambda: self._table.search().where(condition).select(_COLUMNS).to_list())
        return [_hit(row, 0.0) for row in sorted(rows, key=lambda row: row["number"])]

    def files(self) -> list[Entry]:
        """By path."""
        return list(self._read(lambda: read_entries(self._table)).values())

    def statistics(self) -> dict[str, Any]:
        """Counts and settings, ready for JSON. ``unfinished``: a run has written what readers do not see yet."""
        files = self.files()
        kinds: dict[str, int] = {}
        for one in files:
            kinds[one.kind] = kinds.get(one.kind, 0) + 1
        with self.store.reading():
            latest, _ = self.store.open()
        return {
            "store": self.store.place,
            "files": len(files),
            "chunks": self._rows,
            "kinds": dict(sorted(kinds.items())),
            "approximate": VECTORS in self._indexes,
            "unfinished": int(latest.version) > self._version,
            "model": self.record.model,
            "dimensions": self.record.dimensions,
            "precision": self.record.precision,
            "settings": vars(self.record.settings),
        }

    def all_chunks(self, batch: int = 1024) -> Iterator[list[Hit]]:
        """Every chunk, ``batch`` at a time, with the score 0; in no order that means anything.

        Raises:
            UserError: ``batch`` is below 1.
        """
        _check_count(batch)
        with self.store.reading():
            for part in self._table.search().select(_COLUMNS).to_batches(batch):
                if rows := part.to_pylist():
                    yield [_hit(row, 0.0) for row in rows]

    def _by_id(self, ids: Sequence[str], columns: list[str]) -> dict[str, dict[str, Any]]:
        if not ids:
            return {}
        found = self._read(lambda: self._table.search().where(among("id", set(ids))).select(columns).to_list())
        rows = {row["id"]: row for row in found}
        for one in ids:
            if one not in rows:
                raise UserError(f"{self.store.place} has no chunk {one[:80]!r} (any more); search again")
        return rows

    def _read(self, read: Callable[[], _Read]) -> _Read:
        """Read; and where a writer has dropped this reader's version meanwhile, which it does after an hour, read the
        one that is good now."""
        try:
            with self.store.reading():
                return read()
        except UserError:
            if not self.refresh():
                raise
        with self.store.reading():
            return read()


def _cutting(embedder: TextEmbedder, settings: IndexSettings) -> Cut:
    """What makes a document's chunks.

    Raises:
        UserError: the chunks would be too small, or larger than the model reads.
    """
    if not isinstance(embedder, Embedder):
        raise ValueError("only scratchlm's own Embedder counts tokens; give update the function cut with another one")
    from scratchlm.retrieval.chunks import chunk_document, settings_for, token_counter

    chosen = settings_for(embedder, settings.size, settings.overlap)
    count = token_counter(embedder)
    return lambda document: chunk_document(document, count, chosen)


def _check_count(count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f"a search asks for {count!r} chunks; give a whole number from 1 on")


def _rows(search: Any, where: Where, count: int, score: str) -> list[dict[str, Any]]:
    condition = None if where is None else where.sql()
    if condition is not None:
        search = search.where(condition)
    found: list[dict[str, Any]] = search.limit(count + _TIES).select([*_COLUMNS, score]).to_list()
    return found


def _hit(row: dict[str, Any], score: float, stage: str | None = None) -> Hit:
    headings = tuple(row["headings"])
    return Hit(
        id=row["id"],
        file=row["file"],
        text=row["embedded"][len(with_headings(headings, "")) :],
        start=row["start"],
        end=row["end"],
        first_line=row["first_line"],
        last_line=row["last_line"],
        first_page=row["first_page"],
        last_page=row["last_page"],
        headings=headings,
        kind=row["kind"],
        score=float(score),
        scores={} if stage is None else {stage: float(score)},
    )


def _ranked(hits: list[Hit], count: int) -> list[Hit]:
    """The best, and of equal ones the first by file and place."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.file, hit.start))[:count]
