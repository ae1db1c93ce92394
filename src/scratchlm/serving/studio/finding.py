"""The models that the studio's pages offer: those that are served, those that were fetched, and runs."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from scratchlm.checkpoints.catalogue import Located, entries, find_pulled, resolve
from scratchlm.checkpoints.hub_cache import fetched_ids
from scratchlm.checkpoints.inspect import inspect
from scratchlm.checkpoints.run import DESCRIPTION
from scratchlm.errors import UserError
from scratchlm.generation.advised import chat_sampling
from scratchlm.serving.errors import ApiError
from scratchlm.serving.registry import Registry

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
_DEPTH, _MOST = 3, 500
"""Folders within folders in which runs are looked for, as ``finetune`` with several methods makes; and runs."""


def runs_below(root: Path) -> list[Path]:
    """The run folders in the folder of runs; none where it is not there yet."""
    found: list[Path] = []
    _look(root, _DEPTH, found)
    return found


def _look(folder: Path, depth: int, found: list[Path]) -> None:
    try:
        below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:  # not there yet, or not ours to read
        return
    for path in below:
        if len(found) >= _MOST:
            return
        if (path / DESCRIPTION).is_file():
            found.append(path)
        elif depth > 1:
            _look(path, depth - 1, found)


def run_folder(root: Path, name: str) -> Path:
    """The folder of a run below the folder of runs, by its path in there.

    Raises:
        ApiError: there is none.
    """
    for run in runs_below(root):  # no path of a client's own making reaches the disk
        if run.relative_to(root).as_posix() == name:
            return run
    raise ApiError(404, f"there is no run {name[:80]!r} in {root}", param="run")


def served_name(root: Path, run: Path) -> str:
    """The name by which the model of a run is offered, and served when it is asked for: ``runs/NAME``."""
    return f"{root.resolve().name}/{run.relative_to(root).as_posix()}"


def offered(models: Registry) -> dict[str, Path]:
    """Every model that a page may name, and where it lies: the served first, each place once."""
    found = {name: one.located.path for name, one in list(models.served.items())}  # others may be added meanwhile
    seen = {path.resolve() for path in found.values()}
    for name, path in [*_fetched(), *_runs(models)]:
        if name not in found and path.resolve() not in seen:
            found[name] = path
            seen.add(path.resolve())
    return found


def _fetched() -> list[tuple[str, Path]]:
    found = []
    for name in (*entries(), *fetched_ids()):
        try:
            located = find_pulled(name)
        except UserError:  # damaged, which the page of models tells
            continue
        if located is not None:
            found.append((name, located.path))
    return found


def _runs(models: Registry) -> list[tuple[str, Path]]:
    assert models.settings.studio is not None
    root = models.settings.studio.runs
    return [(served_name(root, run), run) for run in runs_below(root)]


def find_model(models: Registry, name: str) -> Located:
    """The model that a page names. Other paths of this machine cannot be named.

    Raises:
        ApiError: none of this name is offered.
        UserError: it is damaged.
    """
    if name in models.served:
        return models.served[name].located
    if name in entries():
        return resolve(name)
    path = offered(models).get(name)
    if path is None:
        raise ApiError(404, f"there is no model {name[:80]!r} here", param="model", code="model_not_found")
    return resolve(path)


def talking(models: Registry) -> list[dict[str, Any]]:
    """The models that can be talked with, decoders with a chat template: ``name``, whether each is ``served``, and how
    its answers are drawn unless the page says otherwise."""
    found = []
    for name, path in offered(models).items():
        served = models.served.get(name)
        try:
            told = served.told if served is not None else _inspected(path, path.stat().st_mtime_ns)
            if told["architecture"] == "decoder" and told.get("chat_template"):
                drawn = chat_sampling(path if served is None else served.located)
                advised = {"temperature": drawn.temperature, "top_p": drawn.top_p}
                found.append({"name": name, "served": served is not None, "drawn": advised})
        except (UserError, OSError):  # damaged, which the page of models tells
            continue
    return found


@lru_cache(maxsize=512)
def _inspected(path: Path, _changed: int) -> dict[str, Any]:
    return inspect(resolve(path))


async def serve(models: Registry, name: str) -> str:
    """Serve the model that a page names, from now on; if it is served already, by whatever name, that one. The name by
    which it is served.

    Raises:
        ApiError: none of this name is offered.
        UserError: it is damaged or too large.
    """
    located = await models.work(find_model, models, name)
    return (await models.add(str(located.path), name)).name


def check_memory(doing: str, located: Located) -> None:
    """See that a model's weights have room in memory as numbers of 32 bits.

    Raises:
        UserError: they do not, or it is damaged.
    """
    needs, free = inspect(located)["memory"]["float32"]["weights"], psutil.virtual_memory().available
    if needs > free:
        raise UserError(f"{doing} takes {needs / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free")


def check_name(name: str) -> None:
    """Raises UserError unless a name is good for a new file or folder of the studio's."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{name[:80]!r} is no good name; take letters, digits, '.', '_' and '-'")
