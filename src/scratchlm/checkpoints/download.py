"""Fetching by name: models from the hub, or where it cannot be reached, from Python packages; data sets from these."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from scratchlm.cache import models_folder
from scratchlm.checkpoints.catalogue import Entry, Located, Source, entries, entry_of, find_pulled
from scratchlm.checkpoints.datasets import DataSet, data_file, data_sets
from scratchlm.checkpoints.files import disk_errors
from scratchlm.checkpoints.hub import HubUnreachableError, pull_hub
from scratchlm.checkpoints.hub_cache import damaged_snapshot, is_hub_id, offline
from scratchlm.checkpoints.meter import Meter
from scratchlm.checkpoints.packages import pull_package
from scratchlm.checkpoints.stored import RECORD, damaged, read_record
from scratchlm.errors import UserError


def pull(name: str, *, source: Source = "auto", meter: Meter | None = None) -> Located:
    """Have the model of a catalogue name or a hub id on this machine, whole and checked, and say where it lies.

    What is there already is compared with its sha256, and not fetched again unless it is damaged. Several processes
    may ask for the same model: one fetches, the others wait and find it.

    Args:
        source: ``auto`` takes the hub and, where it cannot be reached, the package; the others insist on one.

    Raises:
        UserError: no such model, no network, a licence to accept, a file that is not what it should be: one line each.
    """
    meter = meter or Meter()
    entry = entry_of(name)
    hub_id = entry.hub if entry is not None else name
    if not is_hub_id(hub_id):
        near = difflib.get_close_matches(name.lower(), [*entries(), *data_sets()], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "scratchlm models list shows all"
        raise UserError(f"the catalogue has no model {name!r}; {hint} (or give a hub id: organisation/name)")
    if source == "package" and (entry is None or entry.package is None):
        having = ", ".join(each.name for each in entries().values() if each.package)
        raise UserError(f"{name} comes from the hub only; packages carry: {having}")
    with _alone(hub_id, meter):
        if (found := _whole(name, source, meter)) is not None:
            meter.say(f"{name} is here and whole: {found.path}")
            return found
        _fetch(name, hub_id, entry, source, meter)
    found = find_pulled(name, source)
    if found is None:
        raise UserError(f"{name} was fetched but cannot be found again; was it removed meanwhile? Try again")
    return found


def pull_data(data: DataSet, *, source: Source = "auto", meter: Meter | None = None) -> Path:
    """Have a data set on this machine, whole and checked, and say where its file lies; as :func:`pull`.

    Raises:
        UserError: it is asked of the hub, there is no network, or a file is not what it should be.
    """
    meter = meter or Meter()
    if source == "hub":
        raise UserError(f"the data set {data.name} comes from a package only; leave out --source")
    with _alone(f"data/{data.name}", meter):
        if not _whole_data(data, meter):
            pull_package(data, meter, offline=offline())
    path = data_file(data.name)
    assert path is not None
    return path


def _whole_data(data: DataSet, meter: Meter) -> bool:
    if not (data.folder / RECORD).exists():
        return False
    try:
        wrong = damaged(data.folder, read_record(data.folder / RECORD, "it is fetched again"))
    except UserError as error:
        meter.say(str(error))
        return False
    meter.say(f"damaged, to be fetched again: {', '.join(wrong)}" if wrong else f"{data.name} is here and whole")
    return not wrong


def damaged_files(located: Located) -> list[str] | None:
    """The files of a fetched model whose sha256 is not what was recorded; None where nothing was (a run, a path).

    Raises:
        UserError: the record itself cannot be read.
    """
    folder = located.path.parent if located.kind == "gguf" else located.path
    if (folder / RECORD).exists():
        return damaged(folder, read_record(folder / RECORD, "fetch the model again"))
    hub_id = located.entry.hub if located.entry is not None else located.name
    if folder.parent.name == "snapshots" and is_hub_id(hub_id):
        return damaged_snapshot(hub_id, folder)
    return None


def _fetch(name: str, hub_id: str, entry: Entry | None, source: Source, meter: Meter) -> None:
    package = entry.package if entry is not None else None
    if source == "package" or offline():
        if entry is None or package is None:
            raise UserError(
                f"{name} is not here and the network is switched off (SCRATCHLM_OFFLINE or HF_HUB_OFFLINE); unset "
                "that, or give the path of a copy"
            )
        pull_package(entry, meter, offline=offline())
        return
    try:
        pull_hub(hub_id, meter)
    except HubUnreachableError as error:
        if source == "hub" or entry is None or package is None:
            raise
        meter.say(f"{error.args[0].partition(';')[0]}; taking {package.name} {package.version} instead")
        pull_package(entry, meter)


def _whole(name: str, source: Source, meter: Meter) -> Located | None:
    """What is on this machine already, if all of it is as it was; the rest is told."""
    try:
        found = find_pulled(name, source)
    except UserError as error:  # a size differs
        meter.say(str(error).partition(";")[0])
        return None
    if found is None:
        return None
    wrong = damaged_files(found)
    if wrong:
        meter.say(f"damaged, to be fetched again: {', '.join(wrong)}")
        return None
    return found


@contextmanager
def _alone(hub_id: str, meter: Meter) -> Iterator[None]:
    """The lock under which one process at a time fetches a model."""
    folder = models_folder() / ".locks"
    with disk_errors(f"into {folder}", "set SCRATCHLM_CACHE to a folder that you may write to"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{hub_id.replace('/', '--')}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            meter.say(f"another process is fetching {hub_id}; waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
