"""Opening a model of any kind by its name, with its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from scratchlm.checkpoints.catalogue import Located, resolve
from scratchlm.checkpoints.gguf import GGUFFile, load_gguf
from scratchlm.checkpoints.huggingface import load_huggingface
from scratchlm.checkpoints.run import RunFolder
from scratchlm.errors import UserError
from scratchlm.models import Model
from scratchlm.tokenizers import Tokenizer, tokenizer_from_gguf


@dataclass(frozen=True)
class Opened:
    """A model, ready for use."""

    model: Model
    """In evaluation mode."""
    tokenizer: Tokenizer
    located: Located

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of its chats, if it has one."""
        return self.tokenizer.chat_template

    @property
    def run(self) -> RunFolder | None:
        """The run that it is; None for a model that was trained elsewhere."""
        return RunFolder(self.located.path) if self.located.kind == "run" else None


def open_model(name: str | Path | Located, dtype: torch.dtype = torch.float32) -> Opened:
    """Load the model of a path, a catalogue name or a hub id, in ``dtype``, with its tokenizer. Nothing is fetched.

    Raises:
        UserError: it is not on this machine, damaged, or of a kind that is not supported; the line says what to do.
    """
    located = name if isinstance(name, Located) else resolve(name)
    if located.kind == "run":
        model, tokenizer = RunFolder.open(located.path).load_model()
        model = model.to(dtype)
    elif located.kind == "gguf":
        # The tokenizer first: a file that lacks one is told before the weights are read.
        tokenizer = tokenizer_from_gguf(GGUFFile(located.path).metadata)
        model = load_gguf(located.path, dtype)
    else:
        tokenizer = Tokenizer.open(located.path)
        model = load_huggingface(located.path, dtype)
    if tokenizer.vocab_size > model.config.vocab_size:  # an id without a row would be read from beyond the table
        raise UserError(
            f"{located.path}: the tokenizer has ids up to {tokenizer.vocab_size - 1:,}, the model "
            f"{model.config.vocab_size:,} rows; they do not belong together, fetch or export the model again"
        )
    return Opened(model, tokenizer, located)
