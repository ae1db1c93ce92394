"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scratchlm.errors import UserError

_METADATA = {"format": "pt"}  # which transformers asks for
_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@contextmanager
def disk_errors(what: str, cure: str) -> Iterator[None]:
    """Turn the operating system's refusal to write ``what`` into one line for the user, ending in ``cure``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason = "the disk is full"
        else:
            reason = error.strerror or str(error)
        raise UserError(f"cannot write {what}: {reason}; {cure}") from error


def partial_of(path: Path) -> Path:
    """Where a file or folder lies until it is complete."""
    return path.with_name(f".{path.name}.partial")


def write_atomically(path: Path, write: Callable[[Path], None], *, durable: bool = True) -> None:
    """``write`` makes a file beside ``path``, which then takes its name, once it is safe on the disk. If it is not to
    be ``durable``, a power failure may still lose it, until :func:`make_durable`; the end of the program may not."""
    partial = partial_of(path)
    try:
        write(partial)
        if durable:
            _sync_file(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)


def make_durable(path: Path) -> None:
    """Wait until a file and its name are safe on the disk."""
    _sync_file(path)
    _sync_folder(path.parent)


def write_text(path: Path, text: str, *, mode: int | None = None, durable: bool = True) -> None:
    """Write a small text file atomically; with ``mode`` nobody has other rights to it at any time."""
    write_atomically(path, lambda partial: _write_text(partial, text, mode), durable=durable)


def write_folder_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """The same for a folder: ``write`` fills one beside ``path``, which then takes its name."""
    partial = partial_of(path)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        for file in partial.rglob("*"):
            _sync_file(file) if file.is_file() else _sync_folder(file)
        _sync_folder(partial)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _sync_folder(path.parent)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file, as that library writes it, but one tensor after the other: the library makes a copy of them
    all first, which doubles the memory of a training at each save. A refusal by the disk stays an :class:`OSError`."""
    # Its order: the widest types first, so that each tensor begins at a multiple of its type's size; then by name.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": _METADATA}
    end = 0
    for name in names:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if path.exists():
        path.unlink()  # and not written over: the tensors may be mapped from it
    _fill(path, len(text).to_bytes(8, "little") + text, [tensors[name] for name in names])


def _fill(path: Path, head: bytes, tensors: Sequence[Tensor]) -> None:
    with path.open("wb") as file:
        file.write(head)
        for tensor in tensors:
            flat = tensor.detach().cpu().contiguous().view(-1)
            if flat.numel():
                file.write(flat.view(torch.uint8).numpy().data)


def read_tensors(path: Path, cure: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: the file is missing or damaged; the line ends in ``cure``.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {cure}") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or unreadable ({_one_line(error)}); {cure}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSONL, a line each, atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write_text(path: Path, text: str, mode: int | None) -> None:
    if mode is not None:
        path.unlink(missing_ok=True)
        path.touch(mode)
    path.write_text(text, encoding="utf-8")


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Make a new name in the folder durable, where the system lets folders be opened (not on Windows)."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
