"""Collections of documents: those that are served, and the studio's own, to which its page adds files.

Of a collection NAME of the studio's own the files lie in ``documents/NAME`` of its folder and the index in
``indexes/NAME``, so that ``scratchlm index documents/NAME --store indexes/NAME`` does what the page does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scratchlm.checkpoints.catalogue import entries
from scratchlm.checkpoints.files import disk_errors
from scratchlm.errors import UserError
from scratchlm.retrieval.documents import MOST_BYTES
from scratchlm.retrieval.embeddings import Embedder
from scratchlm.retrieval.folders import Folder
from scratchlm.retrieval.formats import Unreadable, kind_of
from scratchlm.retrieval.index import Index
from scratchlm.retrieval.passages import Hit
from scratchlm.serving.documents import Documents
from scratchlm.serving.errors import ApiError
from scratchlm.serving.registry import Registry
from scratchlm.serving.studio.finding import check_name, find_model
from scratchlm.serving.studio.jobs import Job

_LONGEST_NAME = 200
"""Bytes of a file's name."""
_PART = ".part"


@dataclass
class Upload:
    """A piece of a file that is being sent."""

    file: str
    at: int
    """Bytes before it."""
    total: int
    """Bytes of the whole file."""
    data: bytes


class Shelf:
    """All collections of a server."""

    def __init__(self, models: Registry) -> None:
        assert models.settings.studio is not None
        home = models.settings.studio.home
        self._models, self._files, self._indexes = models, home / "documents", home / "indexes"
        self._opened: dict[str, Documents] = {}
        self._opening, self._writing = asyncio.Lock(), threading.Lock()
        self._reports: dict[str, dict[str, Any]] = {}

    def names(self) -> dict[str, bool]:
        """Every collection, and whether it is the studio's own, so that files can be added."""
        found = {name: self._is_own(name) for name in self._models.stores}
        below = self._files.iterdir() if self._files.is_dir() else ()
        own = sorted(path.name for path in below if path.is_dir() and (self._indexes / path.name).is_dir())
        return found | {name: True for name in own if name not in found}

    def _is_own(self, served: str) -> bool:
        """Whether a store that is served is the index of a collection of the studio's own."""
        place = Path(self._models.stores[served].index.store.place)
        return (self._files / served).is_dir() and place.resolve() == (self._indexes / served).resolve()

    def _check(self, name: str, *, own: bool = False) -> None:
        """Raises ApiError unless there is a collection of this name, and, with ``own``, it is the studio's own."""
        names = self.names()  # no path of a client's own making reaches the disk
        if name not in names:
            raise ApiError(404, f"there are no documents {name[:80]!r} here", param="name")
        if own and not names[name]:
            raise ApiError(400, f"{name} is kept up by `scratchlm index`; add files to its folder, and run that again")

    async def documents(self, name: str) -> Documents:
        """A collection, to be asked; opened when it is first asked, with its embedding model.

        Raises:
            ApiError: there is none of this name.
            UserError: it is damaged, or its model is not here.
        """
        await self._models.work(self._check, name)
        if name in self._models.stores:
            return self._models.stores[name]
        async with self._opening:
            if name not in self._opened:
                self._opened[name] = await self._models.work(Documents, str(self._indexes / name))
        return self._opened[name]

    def _index(self, name: str) -> Index:
        self._check(name)
        served = self._models.stores.get(name)
        return Index.open(self._indexes / name if served is None else served.index.store.place)

    # -- what is in it ------------------------------------------------------------------------------------------------

    def told(self, name: str) -> dict[str, Any]:
        """The files of a collection: those that are indexed, those that wait for it, and those that cannot be read."""
        index = self._index(name)
        files = index.files()
        known, report = {one.path for one in files}, self._reports.get(name, {})
        waiting: list[str] = []
        if self.names()[name]:
            there = {one.path for one in Folder(self._files / name).found() if not hasattr(one, "why")}
            waiting = sorted(there - known - {one["path"] for one in report.get("passed_over", ())})
        return {
            "name": name,
            "files": [asdict(one) for one in files],
            "waiting": waiting,
            "chunks": len(index),
            "model": index.record.model,
            "passed_over": report.get("passed_over", []),
        }

    def passages(self, name: str, file: str) -> Sequence[Hit]:
        """What a collection has of a file, in order.

        Raises:
            ApiError: it has no such file.
        """
        found = self._index(name).passages(file)
        if not found:
            raise ApiError(404, f"{name} has no file {file[:80]!r}", param="file")
        return found

    # -- adding to it -------------------------------------------------------------------------------------------------

    def make(self, name: str, model: str) -> None:
        """Make a collection, whose vectors a model makes.

        Raises:
            UserError: the name is no good or taken, or the model gives no vectors.
        """
        check_name(name)
        if name in self.names() or name in self._models.served or (self._indexes / name).exists():
            raise UserError(f"there is something called {name!r} already; take another name")
        located = find_model(self._models, model)
        embedder = Embedder.open(located)
        if model not in entries():  # by its place, which holds from wherever the index is opened
            embedder.name = str(located.path.resolve())
        Index.create(self._indexes / name, embedder)
        with disk_errors(str(self._files / name), "name another folder with --studio-dir"):
            (self._files / name).mkdir(parents=True)

    def put(self, name: str, piece: Upload) -> bool:
        """Take in a piece of a file. The last one, at which True is returned, puts the file in the place of another of
        its name.

        Raises:
            ApiError: the collection is not the studio's own, or the piece does not follow the one before.
            UserError: the file has no good name, is of a kind that is not read, or too large; or the disk is full.
        """
        self._check(name, own=True)
        _check_file(piece)
        part = self._files / name / f".{piece.file}{_PART}"  # hidden, so that it is no document yet
        with self._writing, disk_errors(str(part), "make room, and add the file again"):
            if piece.at:
                size = part.stat().st_size if part.exists() else 0
                if size != piece.at:
                    raise ApiError(409, f"{piece.file} is being added by another page, too; add it again")
            with part.open("ab" if piece.at else "wb") as out:
                out.write(piece.data)
            if piece.at + len(piece.data) < piece.total:
                return False
            part.replace(self._files / name / piece.file)
        return True

    def remove(self, name: str, file: str) -> None:
        """Delete a file of a collection; its index has it until the next :meth:`update`.

        Raises:
            ApiError: the collection is not the studio's own, or has no such file.
        """
        self._check(name, own=True)
        for path in (self._files / name).iterdir():
            if path.name == file:
                with disk_errors(str(path), "see who may change the studio's folder"):
                    path.unlink()
                return
        raise ApiError(404, f"{name} has no file {file[:80]!r}", param="file")

    def check_own(self, name: str) -> None:
        """Raises ApiError unless a collection is there and the studio's own."""
        self._check(name, own=True)

    def update(self, name: str, job: Job) -> Path:
        """Bring a collection's index up to its files. Returns where it lies.

        Raises:
            UserError: another process writes, the model is not here, or the disk is full.
        """
        place = self._indexes / name
        job.say("reading the model")
        embedder = Index.open(place).open_embedder()  # its own: the one that answers questions is in use meanwhile
        index = Index.open(place, embedder)
        job.say("reading the files")
        report = index.update(Folder(self._files / name), lambda chunks: job.say(f"{chunks:,} passages"))
        self._reports[name] = report.as_json()
        return place


def _check_file(piece: Upload) -> None:
    name = piece.file
    plain = name.isprintable() and not name.startswith((".", "~$")) and not set(name) & set('/\\:*?"<>|')
    if not plain or not 0 < len(name.encode("utf-8", "replace")) <= _LONGEST_NAME or name.strip() != name:
        raise UserError(f"{name[:80]!r} is no name for a file here; rename it")
    try:
        kind_of(name)
    except Unreadable as error:
        raise UserError(f"{name} {error}") from error
    if piece.total > MOST_BYTES:
        raise UserError(f"{name} has {piece.total:,} bytes, more than the {MOST_BYTES:,} that are read; split it")
    if not piece.total or piece.at < 0 or not piece.data or piece.at + len(piece.data) > piece.total:
        raise UserError(f"{name} is empty, or its pieces do not fit together; add it again")
