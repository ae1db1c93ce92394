"""Writing a model in another program's format."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from scratchlm.checkpoints.gguf_write import write_gguf
from scratchlm.checkpoints.huggingface import export_huggingface
from scratchlm.checkpoints.pooling import copy_pooling
from scratchlm.errors import UserError
from scratchlm.opening import open_model


def export_model(
    name: str | Path,
    to: Literal["huggingface", "gguf"],
    out: str | Path,
    *,
    kind: Literal["f16", "q8_0"] = "f16",
) -> Path:
    """Write the model of a name as a Hugging Face folder or a GGUF file; return where it is. It appears whole.

    Raises:
        UserError: no such model, ``out`` exists or cannot be written, or the format cannot express the model.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists already; choose another place for --out")
    opened = open_model(name, torch.float32)
    if to == "huggingface":
        export_huggingface(opened.model, opened.tokenizer, out)
        if opened.located.path.is_dir():
            copy_pooling(opened.located.path, out)
    else:
        write_gguf(opened.model, opened.tokenizer, out, kind)
    return out
