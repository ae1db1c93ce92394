"""What was fetched, file by file: sizes and sha256, recorded beside the files and compared ever after."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from scratchlm.checkpoints.files import write_text
from scratchlm.errors import UserError

RECORD = "scratchlm-files.json"
"""The name of the record in a folder of ours. A folder without one is not whole."""
_STEP = 1 << 22


@dataclass(frozen=True)
class Recorded:
    """A file as it was when it was fetched."""

    size: int
    sha256: str


def sha256_of(path: Path, told: Callable[[int], None] | None = None) -> str:
    """The sha256 of a file, in hexadecimal. ``told`` hears how many bytes more were read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_STEP):
            digest.update(block)
            if told is not None:
                told(len(block))
    return digest.hexdigest()


def write_record(path: Path, files: Mapping[str, Recorded], origin: str) -> None:
    """Write the record of ``files`` (names relative to their folder). It appears whole or not at all."""
    listed = {name: {"size": file.size, "sha256": file.sha256} for name, file in files.items()}
    write_text(path, json.dumps({"origin": origin, "files": listed}, indent=1) + "\n")


def read_record(path: Path, cure: str) -> dict[str, Recorded]:
    """The files of a record.

    Raises:
        UserError: it cannot be read; the line ends in ``cure``.
    """
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {name: Recorded(int(file["size"]), str(file["sha256"])) for name, file in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({str(error)[:80]}); {cure}") from error


def check_sizes(folder: Path, files: Mapping[str, Recorded], cure: str) -> None:
    """Compare each file's size with the recorded one: quick enough for every opening.

    Raises:
        UserError: a file is missing, or has another size; the line ends in ``cure``.
    """
    for name, file in files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing; {cure}")
        if (size := path.stat().st_size) != file.size:
            raise UserError(f"{path} is damaged: it has {size:,} bytes instead of {file.size:,}; {cure}")


def damaged(folder: Path, files: Mapping[str, Recorded], told: Callable[[int], None] | None = None) -> list[str]:
    """The names of the files that are missing or differ in size or sha256. Reads all of them."""
    wrong = []
    for name, file in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != file.size or sha256_of(path, told) != file.sha256:
            wrong.append(name)
    return wrong
