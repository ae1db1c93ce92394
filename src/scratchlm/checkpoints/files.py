"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scratchlm.errors import UserError

_METADATA = {"format": "pt"}  # which transformers asks for


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


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """``write`` makes a file beside ``path``, which then takes its name, once it is safe on the disk."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        _sync_file(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    write_atomically(path, lambda partial: _write_text(partial, text))


def write_folder_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """The same for a folder: ``write`` fills one beside ``path``, which then takes its name."""
    partial = path.with_name(f".{path.name}.partial")
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
    """A safetensors file. A refusal by the disk stays an :class:`OSError`."""
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, _METADATA)
    except SafetensorError as error:
        number = _errno(str(error))
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


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


def _errno(message: str) -> int | None:
    """The operating system's error number in a message such as ``I/O error: ... (os error 28)``."""
    _, found, rest = message.partition("(os error ")
    digits = rest.partition(")")[0]
    return int(digits) if found and digits.isdigit() else None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def _write_text(path: Path, text: str) -> None:
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
