"""Tools for the files of one folder, which they cannot leave.

A path is walked one part at a time, each opened relative to the folder before it and never through a link
(``openat`` with ``O_NOFOLLOW``), so that nothing that happens on the disk meanwhile can lead outside. ``..``, absolute
paths, links, devices and pipes are refused.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scratchlm.agents.tool import Tool, tool
from scratchlm.errors import UserError

_LARGEST, _LINES, _LISTED, _FOUND, _SEARCHED, _DEEPEST = 4 << 20, 200, 200, 50, 5_000, 32
"""Bytes of a file; lines that are read at once; names that are listed; lines that are found; files that are searched;
folders within folders."""
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FILE = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class Folder:
    """A folder that stays the same, even where its name comes to mean another.

    Raises:
        UserError: it is none, or this system cannot walk without following links.
    """

    def __init__(self, path: Path) -> None:
        if os.open not in os.supports_dir_fd or not getattr(os, "O_NOFOLLOW", 0):
            raise UserError("file tools need a system that opens files relative to a folder, such as Linux or macOS")
        try:
            self._root = os.open(path, _FOLDER & ~os.O_NOFOLLOW)
        except OSError as error:
            raise UserError(f"the folder {path} cannot be opened: {error.strerror}; name a folder") from error

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self._root)

    def names(self, path: str = ".") -> str:
        """The names in a folder, with the sizes of files, a line each."""
        with _told(path), self._inside(_parts(path)) as place:
            names = sorted(os.listdir(place))  # noqa: PTH208
            lines = [_line(name, os.stat(name, dir_fd=place, follow_symlinks=False)) for name in names[:_LISTED]]
        more = [f"[{len(names) - _LISTED:,} more]"] if len(names) > _LISTED else []
        return "\n".join([*lines, *more]) or "(an empty folder)"

    def read(self, path: str, first_line: int = 1) -> str:
        """Some lines of a text; where there are more, the last line says so."""
        lines = self._text(path).splitlines()
        if not 1 <= first_line <= max(1, len(lines)):
            raise ValueError(f"{path} has {len(lines):,} lines; first_line is {first_line}")
        shown = lines[first_line - 1 : first_line - 1 + _LINES]
        last = first_line - 1 + len(shown)
        more = [f"[lines {first_line:,} to {last:,} of {len(lines):,}]"] if len(shown) < len(lines) else []
        return "\n".join([*shown, *more]) or "(an empty file)"

    def search(self, text: str, path: str = ".") -> str:
        """The lines of a folder's files that have a text, in any case, as ``file:line: text``."""
        if not text.strip():
            raise ValueError("give a text to look for")
        found: list[str] = []
        for searched, name in enumerate(self._walk(_parts(path)), 1):
            if searched > _SEARCHED:
                return "\n".join([*found, f"[only {_SEARCHED:,} files were searched]"])
            with suppress(ValueError):  # what is no text, or is gone meanwhile
                for number, line in enumerate(self._text(name).splitlines(), 1):
                    if text.casefold() in line.casefold():
                        if len(found) == _FOUND:
                            return "\n".join([*found, "[more lines have it]"])
                        found.append(f"{name}:{number}: {line.strip()[:200]}")
        return "\n".join(found) or f"no file has {text!r}"

    def write(self, path: str, text: str) -> str:
        """Write a text file, a new one or over an old one; a reader sees the old or the new. Folders are made."""
        *folders, name = _parts(path, named=True)
        data = text.encode("utf-8", "replace")
        if len(data) > _LARGEST:
            raise ValueError(f"the text has {len(data):,} bytes; at most {_LARGEST:,} are written")
        with _told(path), self._inside(folders, make=True) as place:
            mode = None
            with suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=place, follow_symlinks=False)
                if not stat.S_ISREG(found.st_mode):
                    raise ValueError(f"{path} is {_kind(found.st_mode)}; write to a file")
                mode = found.st_mode & 0o777
            partial = f".{secrets.token_hex(8)}.partial"
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o666, dir_fd=place)
            try:
                with open(handle, "wb") as file:  # noqa: PTH123
                    if mode is not None:
                        os.fchmod(file.fileno(), mode)
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                # Takes the name's place: a link that has come to be there is replaced, not followed.
                os.rename(partial, name, src_dir_fd=place, dst_dir_fd=place)
            except BaseException:
                with suppress(OSError):
                    os.unlink(partial, dir_fd=place)
                raise
        return f"wrote {len(data):,} bytes to {path}"

    @contextmanager
    def _inside(self, parts: list[str], make: bool = False) -> Iterator[int]:
        """The folder that parts lead to, open."""
        place = os.dup(self._root)
        try:
            for part in parts:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=place)
                inner = os.open(part, _FOLDER, dir_fd=place)
                os.close(place)
                place = inner
            yield place
        finally:
            os.close(place)

    def _text(self, path: str) -> str:
        """A file's text.

        Raises:
            ValueError: it is no ordinary file, too large, or not UTF-8.
        """
        *folders, name = _parts(path, named=True)
        with _told(path), self._inside(folders) as place:
            handle = os.open(name, _FILE, dir_fd=place)
            try:
                mode = os.fstat(handle).st_mode
                if not stat.S_ISREG(mode):
                    raise ValueError(f"{path} is {_kind(mode)}; read a file")
                with open(handle, "rb", closefd=False) as file:
                    data = file.read(_LARGEST + 1)
            finally:
                os.close(handle)
        if len(data) > _LARGEST:
            raise ValueError(f"{path} has more than {_LARGEST:,} bytes")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError(f"{path} is no text in UTF-8") from None

    def _walk(self, parts: list[str]) -> Iterator[str]:
        """The ordinary files below a folder, in order; links are left out. A file is itself."""
        try:
            with self._inside(parts) as place:
                names = sorted(os.listdir(place))  # noqa: PTH208
                entries = [(name, os.stat(name, dir_fd=place, follow_symlinks=False).st_mode) for name in names]
        except NotADirectoryError:
            yield "/".join(parts)
            return
        except OSError as error:
            raise ValueError(f"{'/'.join(parts) or '.'}: {error.strerror}") from None
        for name, mode in entries:
            if stat.S_ISREG(mode):
                yield "/".join((*parts, name))
            elif stat.S_ISDIR(mode) and len(parts) < _DEEPEST:
                with suppress(ValueError):  # gone meanwhile
                    yield from self._walk([*parts, name])


def _parts(path: str, named: bool = False) -> list[str]:
    """The names that a path leads through.

    Raises:
        ValueError: it is absolute, leads up, or, where it is to be ``named``, names nothing.
    """
    if "\x00" in path:
        raise ValueError("a path has no zero character")
    if path.startswith(("/", "~")) or ".." in path.split("/"):
        raise ValueError(f"{path} leads out of the folder; give a path within it, such as notes/a.txt")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if len(parts) > _DEEPEST or (named and not parts):
        raise ValueError(f"{path[:100] or 'an empty path'} names no file")
    return parts


@contextmanager
def _told(path: str) -> Iterator[None]:
    """The system's refusals in words for the model."""
    try:
        yield
    except OSError as error:
        # A link is no folder, and a link in a file's place is one too many.
        link = error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)
        why = "it is a link, or leads through a file or a link" if link else error.strerror
        raise ValueError(f"{path}: {why}") from None


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link"}
    return kinds.get(stat.S_IFMT(mode), "no ordinary file")


def _line(name: str, found: os.stat_result) -> str:
    if stat.S_ISREG(found.st_mode):
        return f"{name} ({found.st_size:,} bytes)"
    return f"{name}/" if stat.S_ISDIR(found.st_mode) else f"{name} ({_kind(found.st_mode)})"


def file_tools(path: Path, writing: bool = False) -> list[Tool]:
    """``list_files``, ``read_file`` and ``search_files`` for one folder; ``write_file`` where ``writing`` is allowed.

    Raises:
        UserError: as :class:`Folder`.
    """
    folder = Folder(path)

    def list_files(path: str = ".") -> str:
        """List the files of a folder."""
        return folder.names(path)

    def read_file(path: str, first_line: int = 1) -> str:
        """Read a text file, 200 lines at a time."""
        return folder.read(path, first_line)

    def search_files(text: str, path: str = ".") -> str:
        """Find the lines of files that have a text."""
        return folder.search(text, path)

    @tool(effects=True)
    def write_file(path: str, text: str) -> str:
        """Write a text file."""
        return folder.write(path, text)

    reading = [tool(list_files), tool(read_file), tool(search_files)]
    return [*reading, write_file] if writing else reading
