"""Folders of tiny tokenizers, and the folder of published ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .styles import STYLES


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, make in STYLES.items():
        made[name] = tmp_path_factory.mktemp(name)
        make(made[name])
    return made


@pytest.fixture(scope="session")
def real_models() -> Path:
    """The folder of published models, where there is one."""
    folder = os.environ.get("SCRATCHLM_TEST_MODELS")
    if not folder:
        pytest.skip("SCRATCHLM_TEST_MODELS names no folder with published models")
    return Path(folder)
