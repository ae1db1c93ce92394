"""What the studio is told when a server is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StudioSettings:
    """Where the studio looks on this machine."""

    runs: Path = Path("runs")
    """The folder of run folders; it need not be there yet."""
    home: Path = Path("studio")
    """The folder for what is made in the studio, such as exported models; made when the first is."""
