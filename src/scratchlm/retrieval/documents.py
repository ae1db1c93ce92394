"""Documents out of files and folders: which files are read, and what is passed over, by name and with the reason."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from scratchlm.errors import UserError, missing_package
from scratchlm.retrieval.formats import Unreadable, kind_of, read_bytes_as
from scratchlm.retrieval.passages import Document

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

MOST_BYTES = 100_000_000
"""Of a file, where nothing else is said."""
IGNORE_FILES = (".gitignore", ".scratchlmignore")
"""Of the folder that is read; their patterns count before those that are given, in this order."""
_NEVER = {".git", ".hg", ".svn", ".bzr", "CVS", "_darcs", "__pycache__", "node_modules"}
"""Folders that version control and package managers keep for themselves."""


@dataclass(frozen=True)
class FoundFile:
    """A file that can be read, as far as its name tells."""

    path: str
    """Below the folder, with "/" between the parts; of a single file its name."""
    file: Path
    size: int
    """Bytes."""
    modified: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class PassedOver:
    """A file or folder that is not read, and why: ``f"{path} {why}"`` is the line for people."""

    path: str
    """Printable: what is no character is written as its escape."""
    why: str

    def __str__(self) -> str:
        return f"{self.path} {self.why}"


class UnreadableDocument(UserError):  # noqa: N818
    """A file that could not be read; ``passed_over`` is the same for a report."""

    def __init__(self, passed_over: PassedOver) -> None:
        super().__init__(str(passed_over))
        self.passed_over = passed_over


@dataclass
class Survey:
    """What lies in a folder."""

    files: list[FoundFile] = field(default_factory=list)
    """By path."""
    passed_over: list[PassedOver] = field(default_factory=list)
    """By path."""
    ignored: int = 0
    """Files and folders left out by patterns, because they are hidden, or because they are version control's."""


def find_files(root: Path, *, ignore: Sequence[str] = (), hidden: bool = False) -> list[FoundFile]:
    """The files of :func:`survey`, by path."""
    return survey(root, ignore=ignore, hidden=hidden).files


def survey(root: Path, *, ignore: Sequence[str] = (), hidden: bool = False) -> Survey:
    """Look through a folder, or at one file, without reading any document.

    Left out are what the patterns name, hidden files and folders, those of version control, ``~$`` files of office
    programs, and kinds of files that hold no text, such as images. Links are followed, also out of the folder; a file
    or folder that is met again through one is named and not read twice, so that loops end.

    Args:
        ignore: patterns as in ``.gitignore``; a later one counts more than an earlier one, and more than those of
            :data:`IGNORE_FILES` in the folder.
        hidden: read hidden files and folders as well.

    Raises:
        UserError: there is no such file or folder, it cannot be read, or a pattern is wrong.
    """
    root = Path(root)
    try:
        status = root.stat()
    except OSError as error:
        raise UserError(f"{root} cannot be read ({_reason(error)}); give a file or folder that is there") from error
    if stat.S_ISREG(status.st_mode):
        return Survey([FoundFile(root.name, root, status.st_size, status.st_mtime)])
    if not stat.S_ISDIR(status.st_mode):
        raise UserError(f"{root} is neither a file nor a folder; give one of the two")
    walk = _Walk(root, _spec(root, ignore), hidden)
    walk.run(status)
    return walk.found


def read_document(found: FoundFile, *, limit: int = MOST_BYTES) -> Document:
    """Read a file.

    Args:
        limit: bytes; a larger file is refused without being read.

    Raises:
        UnreadableDocument: a ``UserError``. The file is gone, may not be read, is too large, empty, encrypted, broken,
            in an unknown encoding, of a kind that is not read, or holds no text.
        UserError: a package that reads such files is not installed.
    """
    path = printable(found.path)
    try:
        data, status = _bytes(found.file, limit)
        kind = kind_of(found.path)
        if not data:
            raise Unreadable("is empty; fill it or leave it out")
        read = read_bytes_as(kind, data)
    except OSError as error:
        raise UnreadableDocument(PassedOver(path, f"cannot be read ({_reason(error)}); {_cure(error)}")) from error
    except Unreadable as error:
        raise UnreadableDocument(PassedOver(path, str(error))) from error
    digest = sha256(data).hexdigest()
    return Document(
        found.path, read.text, read.kind, digest, status.st_size, status.st_mtime, read.pages, read.metadata
    )


def read_documents(
    root: Path, *, ignore: Sequence[str] = (), hidden: bool = False, limit: int = MOST_BYTES
) -> Iterator[Document | PassedOver]:
    """Everything that lies in a folder, one after the other: first what is passed over by its name, then the files by
    path, each as its document or with the reason why it is none.

    Raises:
        UserError: as :func:`survey`, or a package that reads such files is not installed.
    """
    found = survey(root, ignore=ignore, hidden=hidden)
    yield from found.passed_over
    for file in found.files:
        try:
            yield read_document(file, limit=limit)
        except UnreadableDocument as error:
            yield error.passed_over


def printable(path: str) -> str:
    """A path as one line that any terminal and any file can take."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode("ascii") for one in path
    )


def _bytes(file: Path, limit: int) -> tuple[bytes, os.stat_result]:
    # Non-blocking: opening a pipe that took the place of a file would wait for a writer for ever.
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise Unreadable("is a folder; give it as the folder to read")
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("is a pipe or a device, no file; leave it out with an ignore pattern")
        with os.fdopen(descriptor, "rb", closefd=False) as opened:
            data = b"" if status.st_size > limit else opened.read(limit + 1)
    finally:
        os.close(descriptor)
    size = max(status.st_size, len(data))  # it may have grown since
    if size > limit:
        raise Unreadable(f"has {size:,} bytes, more than the {limit:,} that are read; split it or raise the limit")
    return data, status


def _spec(root: Path, ignore: Sequence[str]) -> GitIgnoreSpec | None:
    """The patterns compiled; None where there are none."""
    lines: list[tuple[str, str]] = []
    for name in IGNORE_FILES:
        try:
            text = (root / name).read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise UserError(f"{root / name} cannot be read ({error}); mend it or remove it") from error
        lines += [(f"{root / name}, line {number:,}", line) for number, line in enumerate(text.splitlines(), 1)]
    lines += [("the ignore patterns", pattern) for pattern in ignore]
    if not lines:
        return None
    try:
        from pathspec import GitIgnoreSpec
    except ImportError as error:
        raise missing_package("ignore patterns need", "pathspec", "rag") from error
    for where, line in lines:
        try:
            GitIgnoreSpec.from_lines([line])
        except (ValueError, re.error) as error:  # the latter for a range such as [z-a]
            raise UserError(f"{where}: {line!r} is no pattern of .gitignore's kind; mend it or remove it") from error
    return GitIgnoreSpec.from_lines([line for _, line in lines])


class _Walk:
    """One pass through a folder. What lies in it for itself comes first, and then what links lead to, so that a file
    goes by its own path where it has one."""

    def __init__(self, root: Path, spec: GitIgnoreSpec | None, hidden: bool) -> None:
        self.root, self.spec, self.hidden = root, spec, hidden
        self.found = Survey()
        self.seen: dict[tuple[int, int], str] = {}
        self.links: list[str] = []

    def run(self, status: os.stat_result) -> None:
        self._folder("", status)
        while self.links:
            waiting, self.links = sorted(self.links), []
            for path in waiting:
                self._entry(path, follow=True)
        self.found.files.sort(key=lambda one: one.path)
        self.found.passed_over.sort(key=lambda one: one.path)

    def _folder(self, path: str, status: os.stat_result) -> None:
        # Depth is bounded by the longest path that the system takes, breadth by nothing: a stack, no recursion.
        stack = [(path, status)]
        while stack:
            folder, status = stack.pop()
            self.seen[status.st_dev, status.st_ino] = folder or "."
            try:
                names = sorted(one.name for one in (self.root / folder).iterdir())
            except OSError as error:
                if not folder:
                    raise UserError(f"{self.root} cannot be read ({_reason(error)}); {_cure(error)}") from error
                self._pass_over(folder, f"cannot be read ({_reason(error)}); {_cure(error)}")
                continue
            for name in names:
                below = self._entry(f"{folder}/{name}" if folder else name, follow=False)
                if below is not None:
                    stack.append(below)

    def _entry(self, path: str, *, follow: bool) -> tuple[str, os.stat_result] | None:
        """Note a file, or a link for later; a folder is given back, or looked through if it is behind a link."""
        file = self.root / path
        try:
            status = file.stat() if follow else file.lstat()
        except OSError as error:
            self._pass_over(path, self._broken_link(error) if follow else f"cannot be read ({_reason(error)})")
            return None
        if not follow:
            if self._ignored(path, stat.S_ISDIR(status.st_mode)):
                self.found.ignored += 1
                return None
            if stat.S_ISLNK(status.st_mode):
                self.links.append(path)
                return None
        elif (earlier := self.seen.get((status.st_dev, status.st_ino))) is not None:
            self._pass_over(path, f"is a link to {printable(earlier)}, which is read there")
            return None
        if stat.S_ISDIR(status.st_mode):
            if not follow:
                return path, status
            if self._ignored(path, folder=True):
                self.found.ignored += 1
            else:
                self._folder(path, status)
        elif stat.S_ISREG(status.st_mode):
            self._file(path, file, status)
        else:
            self._pass_over(path, "is a pipe, a socket or a device, no file; leave it out with an ignore pattern")
        return None

    def _file(self, path: str, file: Path, status: os.stat_result) -> None:
        self.seen[status.st_dev, status.st_ino] = path
        try:
            path.encode("utf-8")
            kind_of(path)
        except UnicodeEncodeError:
            self._pass_over(path, "has a name that is not UTF-8; rename it")
        except Unreadable as error:
            self._pass_over(path, str(error))
        else:
            self.found.files.append(FoundFile(path, file, status.st_size, status.st_mtime))

    def _ignored(self, path: str, folder: bool) -> bool:
        name = path.rpartition("/")[2]
        if name in IGNORE_FILES or name.startswith("~$") or (folder and name in _NEVER):
            return True
        if name.startswith(".") and not self.hidden:
            return True
        return self.spec is not None and self.spec.match_file(f"{path}/" if folder else path)

    def _broken_link(self, error: OSError) -> str:
        if error.errno == errno.ELOOP:
            return "is a link that leads round in a circle; remove it"
        return f"is a link to something that cannot be read ({_reason(error)}); mend it or remove it"

    def _pass_over(self, path: str, why: str) -> None:
        self.found.passed_over.append(PassedOver(printable(path), why))


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _cure(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "change its permissions or leave it out"
    if isinstance(error, FileNotFoundError):
        return "it was there before; start again"
    return "check the disk"
