"""What the studio is told when a server is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scratchlm.errors import UserError


@dataclass(frozen=True)
class StudioSettings:
    """Where the studio looks on this machine. Neither folder need be there yet.

    Raises:
        UserError: from ``__post_init__``: one of them is a file.
    """

    runs: Path = Path("runs")
    """The folder of run folders."""
    home: Path = Path("studio")
    """The folder for what is made in the studio, such as exported models; made when the first is."""

    def __post_init__(self) -> None:
        for option, folder in (("--runs", self.runs), ("--studio-dir", self.home)):
            if folder.exists() and not folder.is_dir():
                raise UserError(f"{folder} is a file; give {option} a folder")
