"""Reading files that nobody vouches for: not from a pipe or a device, which may never end, nor without a limit."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

LARGEST_TEXT = 256 << 20
"""Bytes; the largest tokenizer.json known have about 35 MB."""


def ordinary_size(path: Path) -> int:
    """The size of an ordinary file.

    Raises:
        OSError: there is none, or it is something else, such as a pipe.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    return found.st_size


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """A UTF-8 file's text.

    Raises:
        OSError: it cannot be read, is no ordinary file, or has more than ``largest`` bytes.
        UnicodeDecodeError: it is not UTF-8.
    """
    if (size := ordinary_size(path)) > largest:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than any such file needs", str(path))
    return path.read_text(encoding="utf-8")
