"""The GGUF container (versions 2 and 3): its header is read here, and not one number in it is trusted.

Layout, all little-endian: "GGUF", version (u32), number of tensors (u64), number of metadata entries (u64), the
entries, one description for each tensor, padding to the alignment, the tensors' bytes. Source: the GGUF specification
(docs/gguf.md of ggml).
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scratchlm.checkpoints.dequantise import BLOCKS
from scratchlm.errors import UserError

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
_LONGEST_NAME = 65_535
_MOST_DIMENSIONS = 4
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: dict[int, np.dtype[Any]] = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    _BOOL: np.dtype("<u1"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    30: "BF16",
}
_UNREAD_TYPES = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies. ``shape`` is outermost first, as in PyTorch; GGUF itself writes the innermost first."""

    name: str
    type: str
    shape: tuple[int, ...]
    start: int
    """First byte, from the file's beginning."""

    @property
    def row_bytes(self) -> int:
        elements, size = BLOCKS[self.type]
        return self.shape[-1] // elements * size

    @property
    def nbytes(self) -> int:
        return prod(self.shape[:-1]) * self.row_bytes


@dataclass(frozen=True)
class Container:
    """A parsed file. ``data`` is the whole file, mapped privately: nothing written to it reaches the disk."""

    version: int
    metadata: dict[str, Any]
    """Numbers, booleans, strings, lists of strings, and numpy arrays of numbers."""
    tensors: dict[str, TensorInfo]
    data: NDArray[np.uint8]


def read_container(path: Path) -> Container:
    """Map the file and read its header.

    Raises:
        UserError: no such file, not GGUF, or a header that does not fit the file; one line says what and where.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file; give the path of a .gguf file")
    try:
        with path.open("rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if path.stat().st_size else b""
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; mend its permissions") from error
    try:
        return _Reader(buffer).container()
    except _DamagedError as error:
        raise UserError(f"{path}: {error}") from None


class _DamagedError(Exception):
    """What is wrong, without the file's name."""


def _damaged(what: str) -> _DamagedError:
    return _DamagedError(f"{what}; the file is damaged or incomplete, fetch it again")


class _Reader:
    """Walks over the header. Every length is held against what is left of the file before anything is made of it."""

    def __init__(self, buffer: mmap.mmap | bytes) -> None:
        self._buffer = buffer
        self._size = len(buffer)
        self._at = 0

    def container(self) -> Container:
        if self._buffer[:4] != MAGIC:
            raise _DamagedError("not a GGUF file (it does not begin with 'GGUF'); give a .gguf file")
        self._at = 4
        version = self._number("<I", "version")
        if version in (0x02000000, 0x03000000):
            raise _DamagedError("a big-endian GGUF file; convert the model again on a little-endian machine")
        if version not in (2, 3):
            raise _DamagedError(f"GGUF version {version} is not read here (2 and 3 are); convert the model again")
        tensors, entries = self._number("<Q", "number of tensors"), self._number("<Q", "number of metadata entries")
        # The least that one of each takes: name length, one letter, type, value; and name, dimensions, type, offset.
        self._check_count(entries, 8 + 1 + 4 + 1, "metadata entries")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self._name("metadata key")
            if key in metadata:
                raise _damaged(f"the metadata key {key[:80]!r} occurs twice")
            metadata[key] = self._value(self._number("<I", f"type of {key[:80]!r}"), key[:80])
        self._check_count(tensors, 8 + 1 + 4 + 8 + 4 + 8, "tensors")
        infos = [self._tensor() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise _damaged(f"general.alignment is {alignment!r}, which is no power of two up to 1,048,576")
        base = -(-self._at // alignment) * alignment
        data = np.frombuffer(self._buffer, np.uint8)
        return Container(version, metadata, self._placed(infos, base, alignment), data)

    # ---- the parts of the header

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._string(f"the value of {key!r}")
        if kind == _ARRAY:
            return self._array(key)
        if kind not in _SCALARS:
            raise _damaged(f"the metadata key {key!r} has the unknown type {kind}")
        kinds = _SCALARS[kind]
        number = np.frombuffer(self._take(kinds.itemsize, f"the value of {key!r}"), kinds)[0]
        return bool(number) if kind == _BOOL else number.item()

    def _array(self, key: str) -> Any:
        kind = self._number("<I", f"element type of {key!r}")
        count = self._number("<Q", f"length of {key!r}")
        if kind == _STRING:
            self._check_count(count, 8, f"strings in {key!r}")
            return self._strings(count, key)
        if kind == _ARRAY:
            raise _DamagedError(f"the metadata key {key!r} is an array of arrays, which no model has; convert it again")
        if kind not in _SCALARS:
            raise _damaged(f"the array {key!r} has the unknown element type {kind}")
        self._check_count(count, _SCALARS[kind].itemsize, f"elements in {key!r}")
        numbers = np.frombuffer(self._take(count * _SCALARS[kind].itemsize, f"the array {key!r}"), _SCALARS[kind])
        return numbers.astype(bool) if kind == _BOOL else numbers

    def _strings(self, count: int, key: str) -> list[str]:
        """The vocabulary's hundred thousand strings: a plain loop over local names, for speed."""
        buffer, at, size, length_at = self._buffer, self._at, self._size, struct.Struct("<Q").unpack_from
        strings: list[str] = []
        try:
            for _ in range(count):
                if at + 8 > size:
                    raise _damaged(f"the file ends within the strings of {key!r}")
                (length,) = length_at(buffer, at)
                at += 8
                if length > size - at:
                    raise _damaged(f"a string of {key!r} claims {length:,} bytes, {size - at:,} are left in the file")
                strings.append(str(buffer[at : at + length], "utf-8"))
                at += length
        except UnicodeDecodeError:
            raise _damaged(f"string {len(strings)} of {key!r} is not UTF-8") from None
        self._at = at
        return strings

    def _tensor(self) -> TensorInfo:
        """One description; ``start`` is still counted from the beginning of the tensors' bytes."""
        name = self._name("tensor name")
        shown = name[:80]
        count = self._number("<I", f"number of dimensions of {shown!r}")
        if not 1 <= count <= _MOST_DIMENSIONS:
            raise _damaged(f"the tensor {shown!r} has {count} dimensions")
        shape = tuple(self._number("<Q", f"shape of {shown!r}") for _ in range(count))[::-1]
        kind = self._number("<I", f"type of {shown!r}")
        start = self._number("<Q", f"offset of {shown!r}")
        if kind not in _TYPES:
            unread = _UNREAD_TYPES.get(kind)
            if unread is None:
                raise _damaged(f"the tensor {shown!r} has the unknown type {kind}")
            raise _DamagedError(
                f"the tensor {shown!r} is stored as {unread}, which is not read here; "
                f"give a file quantised as one of: {', '.join(_TYPES.values())}"
            )
        elements, _ = BLOCKS[_TYPES[kind]]
        if min(shape) < 1 or prod(shape) > 8 * self._size:  # 2 bits an element is the least that any type takes
            raise _damaged(f"the tensor {shown!r} has the shape {list(shape)}, for which the file is too small")
        if shape[-1] % elements:
            raise _damaged(f"the tensor {shown!r} has rows of {shape[-1]}, no multiple of {_TYPES[kind]}'s {elements}")
        return TensorInfo(name, _TYPES[kind], shape, start)

    def _placed(self, infos: list[TensorInfo], base: int, alignment: int) -> dict[str, TensorInfo]:
        placed: dict[str, TensorInfo] = {}
        for info in infos:
            shown = info.name[:80]
            if info.name in placed:
                raise _damaged(f"the tensor {shown!r} occurs twice")
            if info.start % alignment:
                raise _damaged(f"the tensor {shown!r} begins at {info.start}, no multiple of {alignment}")
            start = base + info.start
            if start + info.nbytes > self._size:
                raise _damaged(f"the tensor {shown!r} ends at byte {start + info.nbytes:,} of {self._size:,}")
            placed[info.name] = TensorInfo(info.name, info.type, info.shape, start)
        by_place = sorted(placed.values(), key=lambda info: info.start)
        for one, next_one in pairwise(by_place):
            if one.start + one.nbytes > next_one.start:
                raise _damaged(f"the tensors {one.name[:80]!r} and {next_one.name[:80]!r} overlap")
        return placed

    # ---- the smallest parts

    def _take(self, count: int, what: str) -> bytes:
        if count > self._size - self._at:
            raise _damaged(f"{what} takes {count:,} bytes, {self._size - self._at:,} are left in the file")
        taken = self._buffer[self._at : self._at + count]
        self._at += count
        return taken

    def _number(self, form: str, what: str) -> int:
        (number,) = struct.unpack(form, self._take(struct.calcsize(form), what))
        return int(number)

    def _string(self, what: str) -> str:
        content = self._take(self._number("<Q", f"the length of {what}"), what)
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise _damaged(f"{what} is not UTF-8") from None

    def _name(self, what: str) -> str:
        length = self._number("<Q", f"the length of a {what}")
        if not 1 <= length <= _LONGEST_NAME:
            raise _damaged(f"a {what} claims {length:,} bytes")
        self._at -= 8
        return self._string(f"a {what}")

    def _check_count(self, count: int, least: int, what: str) -> None:
        if count > (self._size - self._at) // least:
            raise _damaged(f"the header claims {count:,} {what}, more than fit in {self._size:,} bytes")
