"""What ``--data`` names: a corpus, a text file, or a folder of text files."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scratchlm.data.chunks import decode_chunks, read_bytes
from scratchlm.data.corpora import corpus_names, corpus_text
from scratchlm.errors import UserError

TEXT_SUFFIXES = frozenset({".txt", ".text", ".md", ".markdown", ".rst"})
"""What is read in a folder. A file that is named itself is read whatever its suffix."""


@dataclass(frozen=True)
class Document:
    """One file (or corpus) that has been read through once and found to be text."""

    origin: Path | str
    """The file's path, or the text itself."""
    name: str
    size: int
    """Bytes."""
    mtime_ns: int
    sha256: str
    characters: int
    """Code points, a byte order mark not counted."""


@dataclass(frozen=True)
class Source:
    """What the user named. Nothing is read before :attr:`documents` is asked for."""

    name: str
    origins: tuple[Path | str, ...]
    """Paths in sorted order, or one text."""
    folder: Path | None = None
    passed_over: tuple[Path, ...] = ()
    """Files of the folder that do not look like text by their suffix."""

    @cached_property
    def _scanned(self) -> tuple[tuple[Document, ...], tuple[str, ...]]:
        documents, notes = [], []
        if self.passed_over:
            some = ", ".join(str(path.relative_to(self.folder or path)) for path in self.passed_over[:3])
            more = ", ..." if len(self.passed_over) > 3 else ""
            suffixes = " ".join(sorted(TEXT_SUFFIXES))
            notes.append(f"skipped {len(self.passed_over)} files that are not {suffixes}: {some}{more}")
        for origin in self.origins:
            try:
                documents.append(scan(origin, self.name))
            except UserError as error:
                if self.folder is None:
                    raise
                notes.append(f"skipped: {error}")
        if not documents:
            reasons = "; ".join(notes[-2:])
            raise UserError(f"{self.name} has no file that can be read as text ({reasons}); give plain UTF-8 text")
        return tuple(documents), tuple(notes)

    @property
    def documents(self) -> tuple[Document, ...]:
        """The readable files, each read through once (the first time) for its length, checksum and encoding.

        Raises:
            UserError: a file named itself, or every file of a folder, is missing, empty, binary or not UTF-8.
        """
        return self._scanned[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each thing that was skipped, for people to read."""
        return self._scanned[1]

    @property
    def characters(self) -> int:
        return sum(document.characters for document in self.documents)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(document.size for document in self.documents)


def resolve_source(data: str | Path) -> Source:
    """Find what ``--data`` names. A corpus goes before a file of the same name; write ``./rumi`` for the file.

    In a folder, files are taken in the sorted order of their relative paths, sub-folders included; hidden ones, and
    those without a text suffix, are passed over. A text corpus is one document.

    Raises:
        UserError: there is no such corpus, file or folder, or the folder holds no text file.
    """
    name = str(data)
    if isinstance(data, str) and name in corpus_names():
        return Source(name, (corpus_text(name),))
    path = Path(data).expanduser()
    try:
        if path.is_dir():
            return _folder(name, path)
        if path.is_file():
            return Source(name, (path,))
        exists = path.exists()
    except OSError as error:
        raise UserError(f"{name} cannot be looked at ({error.strerror or error}); check the path") from error
    if exists:
        raise UserError(f"{name} is neither a file nor a folder; give a text file")
    raise UserError(f"{name!r} is no file, folder or corpus; {_suggestion(name, path)}")


def scan(origin: Path | str, name: str) -> Document:
    """Read a file through once, checking that it is UTF-8 text and not empty.

    Raises:
        UserError: it is not.
    """
    label = str(origin) if isinstance(origin, Path) else name
    digest = hashlib.sha256()
    size = characters = 0
    blank = True

    def counted(chunks: Iterable[bytes]) -> Iterator[bytes]:
        nonlocal size
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            yield chunk

    mtime_ns = modified(origin)
    for text in decode_chunks(counted(read_bytes(origin)), label):
        characters += len(text)
        blank = blank and not text.strip()
    if size == 0:
        raise UserError(f"{label} is empty; give a file with text")
    if blank:
        raise UserError(f"{label} holds nothing but white space; give a file with text")
    return Document(origin, label, size, mtime_ns, digest.hexdigest(), characters)


def modified(origin: Path | str) -> int:
    """When the file was last changed, in nanoseconds; 0 for a text in memory.

    Raises:
        UserError: the file is gone.
    """
    if isinstance(origin, str):
        return 0
    try:
        return origin.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"{origin} cannot be looked at ({error.strerror or error}); check the path") from error


def _folder(name: str, folder: Path) -> Source:
    taken: list[Path] = []
    passed_over: list[Path] = []

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be listed ({error.strerror}); change its permissions") from error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [child for child in folders if not child.startswith(".")]
        for file in files:
            if not file.startswith("."):
                path = Path(parent, file)
                (taken if path.suffix.lower() in TEXT_SUFFIXES else passed_over).append(path)
    if not taken:
        suffixes = " ".join(sorted(TEXT_SUFFIXES))
        raise UserError(f"the folder {name} holds no text file ({suffixes}); add one, or name a file itself")

    def order(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    taken.sort(key=order)
    passed_over.sort(key=order)
    return Source(name, tuple(taken), folder, tuple(passed_over))


def _suggestion(name: str, path: Path) -> str:
    candidates = list(corpus_names())
    try:
        candidates += [str(child) for child in path.parent.iterdir()]
    except OSError:
        if len(path.parts) > 1:
            return f"the folder {path.parent} does not exist"
    near = difflib.get_close_matches(name, candidates, n=1)
    return f"did you mean {near[0]!r}?" if near else f"give a path, or one of: {', '.join(corpus_names())}"
