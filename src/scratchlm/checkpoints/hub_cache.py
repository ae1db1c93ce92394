"""The hub's own cache on this machine, read without the hub's library: what any program fetched is found here."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from scratchlm.cache import models_folder
from scratchlm.checkpoints.headers import read_index
from scratchlm.checkpoints.stored import check_sizes, damaged, read_record, sha256_of
from scratchlm.errors import UserError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_SWITCHES = ("SCRATCHLM_OFFLINE", "HF_HUB_OFFLINE")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_id(name: str) -> bool:
    """Whether this is how the hub names a model: ``organisation/name``."""
    return bool(_HUB_ID.fullmatch(name)) and len(name) <= 96 and "--" not in name and ".." not in name


def is_commit(text: str) -> bool:
    """Whether this is a commit of the hub: 40 hexadecimal digits."""
    return bool(_COMMIT.fullmatch(text))


def offline() -> bool:
    """Whether the user forbids the network: SCRATCHLM_OFFLINE or HF_HUB_OFFLINE."""
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in _SWITCHES)


def hub_cache_folder() -> Path:
    """Where the hub's library keeps what it fetched: HF_HUB_CACHE, else HF_HOME/hub, else the user's cache."""
    for name, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if value := os.environ.get(name):
            return Path(value).expanduser() / below
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def repository_folder(hub_id: str) -> Path:
    """Where that cache keeps one model: with ``blobs``, ``refs`` and ``snapshots``."""
    return hub_cache_folder() / f"models--{hub_id.replace('/', '--')}"


def fetched_ids() -> list[str]:
    """The ids of the models that this cache has something of, whoever fetched it."""
    try:
        names = sorted(path.name.removeprefix("models--") for path in hub_cache_folder().glob("models--*--*"))
    except OSError:
        return []
    return [hub_id for name in names if is_hub_id(hub_id := name.replace("--", "/", 1))]


def record_path(hub_id: str, commit: str) -> Path:
    """Our record of what we fetched; in our cache, since the hub's is not ours to add to."""
    return models_folder() / "hub" / f"{hub_id.replace('/', '--')}--{commit}.json"


def unfinished_path(hub_id: str) -> Path:
    """A file that is there from the start of a pull until all is checked."""
    return models_folder() / "hub" / f"{hub_id.replace('/', '--')}.unfinished"


def find_snapshot(hub_id: str, cure: str) -> Path | None:
    """The folder of a model that lies whole in the hub's cache; None if it does not.

    Raises:
        UserError: a file has another size than when we fetched it; the line ends in ``cure``.
    """
    snapshot = _newest(hub_id)
    if snapshot is None or unfinished_path(hub_id).exists() or wanted_files(snapshot) is None:
        return None
    record = record_path(hub_id, snapshot.name)
    if record.exists():
        check_sizes(snapshot, read_record(record, cure), cure)
    return snapshot


def damaged_snapshot(hub_id: str, snapshot: Path) -> list[str]:
    """The names of files whose content is not what the hub says it is. Reads all of them.

    What others fetched is compared with the names in ``blobs``, which are git's hashes, or the sha256 of large files.
    """
    record = record_path(hub_id, snapshot.name)
    if record.exists():
        return damaged(snapshot, read_record(record, "fetch the model again"))
    return [name for name in wanted_files(snapshot) or [] if not _is_what_its_name_says((snapshot / name).resolve())]


def wanted_files(snapshot: Path) -> list[str] | None:
    """Config, weights and tokenizer files of a snapshot; None if config or some of the weights are not there."""
    try:
        weights = sorted({*read_index(snapshot / INDEX).values()}) if (snapshot / INDEX).exists() else [WEIGHTS]
    except UserError:
        return None
    if not all((snapshot / name).is_file() for name in ("config.json", *weights)):
        return None
    return [*weights, *(str(path.relative_to(snapshot)) for path in _small_files(snapshot))]


def _small_files(snapshot: Path) -> Iterator[Path]:
    for pattern in ("*.json", "*.txt", "*.model", "*.jinja", "*_*/config.json"):
        yield from sorted(path for path in snapshot.glob(pattern) if path.is_file())


def _newest(hub_id: str) -> Path | None:
    folder = repository_folder(hub_id)
    try:
        commit = (folder / "refs" / "main").read_text(encoding="ascii")[:41].strip()
    except (OSError, ValueError):
        return None
    snapshot = folder / "snapshots" / commit
    return snapshot if is_commit(commit) and snapshot.is_dir() else None


def _is_what_its_name_says(blob: Path) -> bool:
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return sha256_of(blob) == blob.name
    if is_commit(blob.name):
        return git_hash(blob) == blob.name
    return True  # a file system without links: no name tells


def git_hash(path: Path) -> str:
    """What git calls a file's content: sha1 over ``blob SIZE``, a zero byte and the content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
