"""Writing a model in another program's format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from scratchlm.checkpoints.gguf_write import write_gguf
from scratchlm.checkpoints.huggingface import export_huggingface
from scratchlm.checkpoints.onnx_write import write_onnx
from scratchlm.checkpoints.pooling import copy_pooling
from scratchlm.errors import UserError
from scratchlm.opening import open_model


def export_model(
    name: str | Path,
    to: Literal["huggingface", "gguf", "onnx"],
    out: str | Path,
    *,
    kind: Literal["f16", "q8_0"] = "f16",
    on_step: Callable[[str], None] | None = None,
) -> Path:
    """Write the model of a name as a Hugging Face folder, a GGUF file or a folder with an ONNX file; return its place.

    It appears whole or not at all. An adapter's run is written with its base, merged.

    Args:
        kind: of a GGUF file: how its matrices are held.
        on_step: told what begins, for who shows progress: ``reading``, then ``writing``.

    Raises:
        UserError: no such model, ``out`` exists or cannot be written, or the format cannot express the model.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists already; choose another place for --out")
    tell = on_step or (lambda _: None)
    tell("reading")
    opened = open_model(name, torch.float32)
    tell("writing")
    if to == "gguf":
        write_gguf(opened.model, opened.tokenizer, out, kind)
        return out
    (export_huggingface if to == "huggingface" else write_onnx)(opened.model, opened.tokenizer, out)
    if opened.located.path.is_dir():
        copy_pooling(opened.located.path, out)
    return out
