"""The table in LanceDB that an index is: its columns, its versions, and the one writer's lock.

There is one table, so that every change is one version of it: all of it counts, or none. A tag marks the version that
readers see. A writer adds versions above it and moves the tag when all is done; whatever ends it earlier, readers keep
what they had, and the next writer goes on from the last version.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from scratchlm.checkpoints.files import disk_errors
from scratchlm.errors import UserError, missing_package
from scratchlm.retrieval.index_settings import IndexSettings, Record

TABLE, GOOD, META = "chunks", "good", b"scratchlm"
LOCK = ".scratchlm-index.lock"
KEEP = timedelta(hours=1)
"""How long versions stay that readers may still have open."""
FOREVER = timedelta(days=36500)
APPROXIMATE_FROM = 20_000
"""Chunks. Below, every vector is compared. On two busy cores, with 384 numbers a vector, that took 24 ms for 10,000,
45 ms for 20,000 and 190 ms for 40,000, and the approximate index 14 ms for each."""
PARTITION = 800
"""Vectors in a part of the approximate index, on average. Its vectors have 8 bits a number (IVF_SQ). Of 59,000, looking
at the same 32 of 128 parts, that found 0.94 of the ten nearest and product quantisation (IVF_PQ) 0.88; it was made in
7 s, a graph (HNSW_SQ) of like recall in 113 s."""
MOST_SEGMENTS = 16
"""Of an index, before it is made anew."""
FULL_TEXT, VECTORS = "embedded_idx", "vector_idx"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def schema(record: Record) -> Any:
    """The table's columns: a row for each chunk, which carries its file's entry too."""
    import pyarrow as pa

    text, whole = pa.string(), pa.int64()
    fields = [
        ("id", text), ("file", text), ("kind", text), ("metadata", pa.list_(text)),
        ("digest", text), ("size", whole), ("modified", pa.float64()), ("read", pa.float64()),
        ("number", whole), ("content", text), ("embedded", text), ("headings", pa.list_(text)), ("tokens", whole),
        ("start", whole), ("end", whole), ("first_line", whole), ("last_line", whole),
        ("first_page", whole), ("last_page", whole), ("vector", pa.list_(pa.float32(), record.dimensions)),
    ]  # fmt: skip
    return pa.schema(fields, metadata={META: record.to_json().encode()})


class Store:
    """A place that holds an index: a folder, or an address such as ``s3://bucket/name``.

    Args:
        place: need not exist.

    Raises:
        UserError: LanceDB is not installed, the place is empty or a file.
    """

    def __init__(self, place: str | Path) -> None:
        self.place = str(place)
        self.folder = None if "://" in self.place else Path(place)
        if not self.place.strip():
            raise UserError("an index's store has no name; give a folder, or an address such as s3://bucket/name")
        if find_spec("lancedb") is None:
            raise missing_package("an index needs", "lancedb", "rag")
        if self.folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.place} is a file; give a folder for the index")

    def exists(self) -> bool:
        """Whether it holds the table."""
        if self.folder is not None and not (self.folder / f"{TABLE}.lance").is_dir():
            return False
        with self.reading():
            return TABLE in self._database().list_tables().tables

    def create(self, record: Record) -> None:
        """Make the table, without rows.

        Raises:
            UserError: there is one, or the place cannot be written.
        """
        if self.exists():
            raise UserError(f"{self.place} holds an index already; update it, or choose another store")
        with self.writing():
            table = self._database().create_table(TABLE, schema=schema(record))
            table.tags.create(GOOD, table.version)

    def open(self) -> tuple[Any, Record]:
        """The table at its last version, and its record.

        Raises:
            UserError: there is none, it is something else, or damaged.
        """
        if not self.exists():
            raise UserError(
                f"there is no index in {self.place}; make one with: scratchlm index FOLDER --store {self.place}"
            )
        with self.reading():
            table = self._database().open_table(TABLE)
            said = (table.schema.metadata or {}).get(META)
        if said is None:
            raise UserError(f"{self.place} holds a table {TABLE!r} that is no index of scratchlm; use another store")
        record = Record.from_json(said.decode("utf-8", "replace"), self.place)
        if missing := [one for one in schema(record).names if one not in table.schema.names]:
            raise UserError(f"{self.place} lacks the column {missing[0]!r}; delete it and index again")
        return table, record

    def _database(self) -> Any:
        import lancedb

        return lancedb.connect(self.place)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what LanceDB raises at reading into one line."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"the index in {self.place} cannot be read ({first_line(error)}); open it again, or if that does not "
                "help, delete it and index again"
            ) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn what LanceDB and the disk raise at writing into one line."""
        cure = "free some space, or choose another store; what was indexed so far is kept"
        try:
            with disk_errors(f"the index in {self.place}", cure):
                yield
        except (RuntimeError, ValueError) as error:
            said = first_line(error)
            full = "No space left" in str(error) or any(f"os error {one})" in str(error) for one in _FULL)
            conflict = "onflict" in said
            reason = "the disk is full" if full else "another writer has changed it" if conflict else said
            raise UserError(
                f"cannot write the index in {self.place}: {reason}; {'run it again' if conflict else cure}"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers out, where the store is a folder. On object storage LanceDB refuses the second one's
        changes when they meet the first one's.

        Raises:
            UserError: another writer has it, or the folder cannot be written.
        """
        if self.folder is None:
            yield
            return
        with disk_errors(f"the index in {self.place}", "choose a store that you may write to"):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / LOCK, timeout=0)
            try:
                lock.acquire()
            except Timeout:
                raise UserError(f"{self.place} is being indexed by another process; wait for it to end") from None
        try:
            yield
        finally:
            lock.release()


def good_version(table: Any) -> int:
    """The version that readers see. A store whose making was cut short before the tag has its first, empty one."""
    tags = table.tags.list()
    return int(tags[GOOD]["version"]) if GOOD in tags else 1


def finish(table: Any, settings: IndexSettings) -> None:
    """Bring the indexes up to the rows, let readers see them, and drop what no reader has open any more."""
    from lancedb.index import FTS, IvfSq

    rows = table.count_rows()
    names = {one.name for one in table.list_indices()}
    if rows and _due(table, names, FULL_TEXT):
        config = FTS(language=settings.language, stem=settings.stem, remove_stop_words=settings.stop_words)
        table.create_index("embedded", config=config, name=FULL_TEXT, replace=True)
    if rows >= APPROXIMATE_FROM and _due(table, names, VECTORS):
        # By the parts' size: where their number is said, optimize() makes one of them all.
        parts = IvfSq(distance_type="cosine", target_partition_size=PARTITION, max_iterations=15, sample_rate=64)
        table.create_index("vector", config=parts, name=VECTORS, replace=True)
    table.optimize(cleanup_older_than=FOREVER)  # also what makes BM25 count new rows
    publish(table)
    table.optimize(cleanup_older_than=KEEP)


def _due(table: Any, names: set[str], name: str) -> bool:
    """Whether an index is to be made: there is none, or so many updates have each added a segment to it."""
    return name not in names or table.index_stats(name).num_indices > MOST_SEGMENTS


def publish(table: Any) -> None:
    """Let readers see the last version."""
    if GOOD in table.tags.list():
        table.tags.update(GOOD, table.version)
    else:
        table.tags.create(GOOD, table.version)


def first_line(error: BaseException) -> str:
    """Of what another library says, so much as fits in one line."""
    said = str(error).strip().partition("\n")[0]
    said = re.split(r", /(?:rustc|\S*\.cargo)/", said)[0]  # where in its own source LanceDB noticed it
    return said[:160] or type(error).__name__
