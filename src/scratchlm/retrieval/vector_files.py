"""Files of vectors, written as the vectors come: whole under their name, or not at all."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scratchlm.checkpoints.files import disk_errors, write_atomically
from scratchlm.errors import UserError
from scratchlm.retrieval.embeddings import Embedder, Progress

Block = tuple[list[str], NDArray[np.float32]]
"""Texts and their vectors, (n, C)."""
ENDINGS = (".npy", ".parquet")
_HEADER = 128
"""Bytes before the numbers of an .npy file: room for any number of rows, which is known at the end only."""


@dataclass(frozen=True)
class Written:
    """What a file of vectors was made of."""

    texts: int
    truncated: int
    """How many of them were longer than the model reads."""


def check_target(path: Path) -> None:
    """See that vectors can be written to ``path``, before any work is done.

    Raises:
        UserError: another ending than .npy and .parquet, a folder, no such folder, or pyarrow is missing.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"vectors are written to files that end in .npy or .parquet; rename {path}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a file to write to")
    if not path.parent.is_dir():
        raise UserError(f"the folder {path.parent} does not exist; make it, or choose another path")
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise UserError("Parquet needs pyarrow, which is missing; run: pip install 'scratchlm[rag]', or write .npy")


def write_vectors(path: Path, embedder: Embedder, texts: Iterable[str], progress: Progress | None = None) -> Written:
    """Write the vectors of any number of texts, in little memory.

    An .npy file holds the vectors, (n, C) float32. A .parquet file holds the columns ``text`` and ``vector``, a list of
    C float32. The file lies under its name once it is whole, in place of what was there; until then, and after an
    error or Ctrl-C, nothing has changed.

    Raises:
        UserError: as :func:`check_target` and :meth:`Embedder.embed`; or the disk is full.
    """
    check_target(path)
    write = _write_npy if path.suffix.lower() == ".npy" else _write_parquet
    count = truncated = 0

    def blocks() -> Iterator[Block]:
        nonlocal count, truncated
        held: deque[str] = deque()  # the texts of the block that is under way

        def read() -> Iterator[str]:
            for text in texts:
                held.append(text)
                yield text

        for part in embedder.stream(read(), progress):
            yield [held.popleft() for _ in part.vectors], part.vectors
            count += len(part.vectors)
            truncated += part.truncated

    with disk_errors(str(path), "free some space, or choose another path"):
        write_atomically(path, lambda partial: write(partial, blocks(), embedder.dimensions))
    return Written(count, truncated)


def _write_npy(path: Path, blocks: Iterable[Block], columns: int) -> None:
    rows = 0
    with path.open("wb") as file:
        file.write(_npy_header(0, columns))
        for _, vectors in blocks:
            file.write(np.ascontiguousarray(vectors, "<f4").data)
            rows += len(vectors)
        file.seek(0)
        file.write(_npy_header(rows, columns))


def _npy_header(rows: int, columns: int) -> bytes:
    """As version 1.0 of NumPy's format has it, of :data:`_HEADER` bytes."""
    words = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}"
    body = words.ljust(_HEADER - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body.encode("ascii")


def _write_parquet(path: Path, blocks: Iterable[Block], columns: int) -> None:
    import pyarrow
    import pyarrow.parquet

    kind: Any = pyarrow.list_(pyarrow.float32(), columns)
    schema = pyarrow.schema([("text", pyarrow.string()), ("vector", kind)])
    with pyarrow.parquet.ParquetWriter(path, schema) as file:
        for texts, vectors in blocks:
            numbers = pyarrow.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
            lists = pyarrow.FixedSizeListArray.from_arrays(numbers, columns)
            file.write_table(pyarrow.table([pyarrow.array(texts, pyarrow.string()), lists], schema=schema))
