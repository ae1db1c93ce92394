"""Texts of any origin with their vectors and metadata, kept in a table of LanceDB: what stands behind vector stores of
other libraries. (Files that are followed as they change are the index's.)"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scratchlm.errors import UserError
from scratchlm.retrieval.filters import among, plain, quoted
from scratchlm.retrieval.store import first_line

if TYPE_CHECKING:
    from lancedb.table import Table

MEMORY = "memory://"
"""The store that is gone when nobody holds it any more."""
FORMAT = 1
"""Of the table; a later one may not be readable here."""
SMALL_PARTS = 64
"""Every call that writes leaves a part of the table, and reading many small ones is slow: so many are made one."""
_IDS = 5_000
"""Named in one condition."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_KEY = b"scratchlm"

Matrix = NDArray[np.float32]
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class StoredText:
    """One of the texts."""

    id: str
    text: str
    metadata: dict[str, Any]
    vector: Matrix = field(repr=False)
    """(C,), of length 1 (or 0, where the text's own has that length)."""
    score: float = 0.0
    """The cosine of its vector and the one that was searched for."""


@dataclass(frozen=True)
class MadeWith:
    """The embedding model of a table's vectors, as far as it can be told again."""

    name: str
    probe: tuple[float, ...]
    """The vector of a fixed text, (C,), by which models of the same name and size are told apart; empty for a model
    that cannot read it."""


class TextTable:
    """A table of texts. Many processes may read it and write it; each sees what the others have written.

    Args:
        store: a folder, which is made when the first text comes; an address that LanceDB knows (``s3://...``); or
            :data:`MEMORY`.
        name: of the table.

    Raises:
        UserError: the name is none, the store cannot be opened, or it was written by a later version.
        ModuleNotFoundError: LanceDB is not installed.
    """

    def __init__(self, store: str | Path = MEMORY, name: str = "texts") -> None:
        import lancedb

        if not _NAME.fullmatch(name):
            raise UserError(f"a table cannot be called {name!r}; use letters, digits, and - _ . between them")
        self.store, self.name = str(store), name
        with self._errors("opened"):
            if "://" not in self.store:
                Path(self.store).mkdir(parents=True, exist_ok=True)
            self._database = lancedb.connect(self.store, read_consistency_interval=timedelta(0))
        self._opened: Table | None = None
        self._creating = Lock()
        _ = self.made_with

    @property
    def _table(self) -> Table | None:
        """None until the first text has come."""
        if self._opened is None:
            with self._errors("opened"):
                try:
                    self._opened = self._database.open_table(self.name)
                except ValueError as error:
                    if "was not found" not in str(error):
                        raise
        return self._opened

    def _create(self, schema: Any) -> Table:
        """The table, made now unless another thread or process was first."""
        with self._creating:
            for wait in (0.05, 0.2, 1.0):
                try:
                    return self._make(schema)
                except (OSError, RuntimeError, ValueError, UserError):
                    time.sleep(wait)  # another process may be making it at this moment
            return self._make(schema)

    def _make(self, schema: Any) -> Table:
        return self._table or self._database.create_table(self.name, schema=schema, exist_ok=True)

    @property
    def made_with(self) -> MadeWith | None:
        """What made the vectors; None as long as there are none.

        Raises:
            UserError: the table is another program's, or a later version's.
        """
        if self._table is None:
            return None
        try:
            found = json.loads((self._table.schema.metadata or {})[_KEY])
            format_, made = int(found["format"]), MadeWith(found["model"], tuple(found["probe"]))
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"the table {self.name!r} in {self.store} is another program's; choose another name or store"
            ) from error
        if format_ > FORMAT:
            raise UserError(f"the store {self.store} was written by a later scratchlm; upgrade this one")
        self._size = int(self._table.schema.field("vector").type.list_size)
        return made

    def __len__(self) -> int:
        if self._table is None:
            return 0
        with self._errors("read"):
            return int(self._table.count_rows())

    def write(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        vectors: Matrix,
        metadatas: Sequence[Mapping[str, Any]],
        made_with: MadeWith,
        *,
        new: bool = False,
    ) -> None:
        """Add texts, each in the place of the one with its id where there is one. All are there at once, or none.

        Args:
            ids: of several with the same id the last one counts.
            vectors: (n, C).
            metadatas: of values that JSON has.
            new: the ids are known to be new.

        Raises:
            UserError: a vector is not of the table's size or has no finite numbers, metadata that JSON does not have,
                or the store cannot be written.
        """
        last = sorted({plain(id_): row for row, id_ in enumerate(ids)}.values())
        if not last:
            return
        if vectors.ndim != 2 or len(vectors) != len(ids):
            raise ValueError(f"{len(ids)} texts have vectors of the shape {vectors.shape}; give one for each")
        if self.made_with is not None and vectors.shape[1] != self._size:
            raise UserError(
                f"the vectors have {vectors.shape[1]:,} numbers and the store's {self._size:,}; use the model it was "
                "made with"
            )
        if not np.isfinite(vectors).all():
            raise UserError("a text's vector has numbers that are not finite; use another embedding model")
        rows = self._rows([(ids[i], texts[i], metadatas[i]) for i in last], _unit(vectors[last]))
        with self._errors("written"):
            table = self._table
            if table is None:
                about = json.dumps({"format": FORMAT, "model": made_with.name, "probe": made_with.probe})
                table = self._create(rows.schema.with_metadata({_KEY: about.encode()}))
            if new:
                table.add(rows)
            else:
                table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
            statistics: Any = table.stats()
            if statistics["fragment_stats"]["num_small_fragments"] >= SMALL_PARTS:
                table.optimize()

    def delete(self, ids: Sequence[str] | None = None) -> None:
        """Delete the texts with these ids, or with None all. Ids that are not there do not matter."""
        if self._table is None:
            return
        with self._errors("written"):
            for condition in ["true"] if ids is None else _among(ids):
                self._table.delete(condition)

    def get(self, ids: Sequence[str]) -> list[StoredText]:
        """The texts with these ids, in the order of the ids; those that are not there are left out."""
        if self._table is None or not ids:
            return []
        with self._errors("read"):
            query = [self._table.search().where(condition).limit(_IDS) for condition in _among(ids)]
            found = {one.id: one for part in query for one in _stored(part.to_list())}
        return [found[plain(one)] for one in ids if plain(one) in found]

    def search(
        self, vector: Matrix, count: int, where: Mapping[str, Scalar | Sequence[Scalar]] | None = None
    ) -> list[StoredText]:
        """The ``count`` texts whose vectors have the highest cosine with ``vector``, (C,), the best first. All are
        compared.

        Args:
            where: what the metadata must have under these keys: a value, or one of several. Text, numbers, booleans and
                None can be looked for, not in lists or mappings.

        Raises:
            UserError: ``count`` below 1, a vector of another size or without finite numbers, or values in ``where``
                that cannot be looked for.
        """
        if count < 1:
            raise UserError(f"{count} texts are asked for; ask for 1 or more")
        condition = _condition(where or {})
        if self.made_with is None or self._table is None:
            return []
        if vector.shape != (self._size,) or not np.isfinite(vector).all():
            raise UserError(
                f"the vector to search for is not of {self._size:,} finite numbers, as the store's are; use its model"
            )
        with self._errors("read"):
            query = self._table.search(_unit(vector[None])[0]).distance_type("dot").limit(count)  # type: ignore[attr-defined]
            if condition:
                query = query.where(condition, prefilter=True)
            return _stored(query.to_list())

    def _rows(self, texts: Sequence[tuple[str, str, Mapping[str, Any]]], vectors: Matrix) -> Any:
        import pyarrow

        columns = [("id", pyarrow.string()), ("text", pyarrow.string()), ("metadata", pyarrow.string())]
        tags, kind = pyarrow.list_(pyarrow.string()), pyarrow.list_(pyarrow.float32(), vectors.shape[1])
        schema = pyarrow.schema([*columns, ("tags", tags), ("vector", kind)])
        listed: Any = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), vectors.shape[1])
        values: list[Any] = [
            [plain(one[0]) for one in texts],
            [plain(one[1]) for one in texts],
            [_json(one[0], one[2]) for one in texts],
            [[_tag(key, value) for key, value in one[2].items() if _is_scalar(value)] for one in texts],
        ]
        arrays = [pyarrow.array(column, field.type) for column, field in zip(values, schema, strict=False)]
        return pyarrow.table([*arrays, listed], schema=schema)

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        """LanceDB's errors, as one line."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"the store {self.store} cannot be {done} ({first_line(error)}); mend that, or choose another"
            ) from error


def _unit(vectors: Matrix) -> Matrix:
    """(n, C), each of length 1; a vector of zeros stays one."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    found: Matrix = np.ascontiguousarray(vectors / np.where(lengths == 0, 1.0, lengths), np.float32)
    return found


def _stored(rows: Sequence[Mapping[str, Any]]) -> list[StoredText]:
    return [
        StoredText(
            row["id"],
            row["text"],
            json.loads(row["metadata"]),
            np.asarray(row["vector"], np.float32),
            1.0 - row.get("_distance", 1.0),
        )
        for row in rows
    ]


def _json(id_: str, metadata: Mapping[str, Any]) -> str:
    try:
        return plain(json.dumps(dict(metadata), ensure_ascii=False))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the metadata of the text {id_!r} cannot be kept: {error}; give text, numbers, lists and mappings"
        ) from error


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | int | float)


def _tag(key: str, value: Scalar) -> str:
    """A key with its value, as one text that is the same for values that are equal."""
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    return json.dumps([key, value])


def _condition(where: Mapping[str, Scalar | Sequence[Scalar]]) -> str:
    parts = []
    for key, wanted in where.items():
        values = wanted if isinstance(wanted, Sequence) and not isinstance(wanted, str) else [wanted]
        if not values or not all(_is_scalar(value) for value in values):
            raise UserError(f"metadata cannot be searched for {key!r}: {wanted!r}; give a value, or a list of values")
        parts.append(f"array_has_any(tags, [{', '.join(quoted(_tag(key, value)) for value in values)}])")
    return " AND ".join(parts)


def _among(ids: Sequence[str]) -> list[str]:
    """Conditions that take all of the ids together, each some of them."""
    return [among("id", ids[first : first + _IDS]) for first in range(0, len(ids), _IDS)]
