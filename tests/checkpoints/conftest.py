"""A folder as Hugging Face has them, with a small Llama in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scratchlm.checkpoints import save_huggingface
from scratchlm.models import build_model

from .folders import LLAMA


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_huggingface(build_model(LLAMA), tmp_path / "llama")
    return tmp_path / "llama"
