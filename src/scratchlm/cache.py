"""Where everything that can be made or fetched again is kept: one rule for the whole package."""

from __future__ import annotations

import os
from pathlib import Path

from scratchlm.errors import UserError


def cache_folder() -> Path | None:
    """The user's cache: SCRATCHLM_CACHE, else XDG_CACHE_HOME/scratchlm, else ~/.cache/scratchlm; need not exist yet.

    None where nothing is set and the user has no home, as in some containers.
    """
    chosen = os.environ.get("SCRATCHLM_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    above = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return None if above.startswith("~") else Path(above) / "scratchlm"


def models_folder() -> Path:
    """The folder of that cache in which models lie; need not exist yet.

    Raises:
        UserError: there is no place for a cache.
    """
    folder = cache_folder()
    if folder is None:
        raise UserError("there is no home folder to keep models in; set SCRATCHLM_CACHE to a folder")
    return folder / "models"
