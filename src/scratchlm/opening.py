"""Opening a model of any kind by its name, with its tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from scratchlm.adapters import merge
from scratchlm.adapters.run import attach, belonging
from scratchlm.checkpoints.catalogue import Located, resolve
from scratchlm.checkpoints.gguf import GGUFFile, load_gguf
from scratchlm.checkpoints.huggingface import load_huggingface
from scratchlm.checkpoints.run import DESCRIPTION, RunFolder
from scratchlm.errors import UserError
from scratchlm.models import Model, ModelConfig, with_head
from scratchlm.pause import collector_paused
from scratchlm.tokenizers import Tokenizer, tokenizer_from_gguf


@dataclass
class Opened:
    """A model, ready for use."""

    config: ModelConfig
    tokenizer: Tokenizer
    located: Located
    file: GGUFFile | None
    """Where it is a GGUF file: its tensors one by one, for who needs no model in memory."""
    read: Callable[[], Model]
    """Brings the weights in."""

    @cached_property
    def model(self) -> Model:
        """In evaluation mode; read at first use."""
        return self.read()

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of its chats, if it has one."""
        return self.tokenizer.chat_template

    @property
    def run(self) -> RunFolder | None:
        """The run that it is; None for a model that was trained elsewhere."""
        path = self.located.path
        return RunFolder(path) if path.is_dir() and (path / DESCRIPTION).exists() else None


def open_model(name: str | Path | Located, dtype: torch.dtype = torch.float32, *, weights: bool = True) -> Opened:
    """Open the model of a path, a catalogue name or a hub id, in ``dtype``, with its tokenizer. Nothing is fetched.

    An adapter's folder opens as its base with the adapter worked into the weights. With ``weights=False`` a GGUF file's
    weights, and an adapter's base's, are not read until :attr:`Opened.model` is asked for.

    Raises:
        UserError: it is not on this machine, damaged, or of a kind that is not supported; the line says what to do.
    """
    with collector_paused():
        return _open(name if isinstance(name, Located) else resolve(name), dtype, weights)


def open_tokenizer(name: str | Path | Located) -> Tokenizer:
    """The tokenizer that :func:`open_model` would give. No weights are read.

    Raises:
        UserError: as :func:`open_model`, as far as the tokenizer goes.
    """
    located = name if isinstance(name, Located) else resolve(name)
    if located.kind == "adapter" and not (located.path / "tokenizer.json").exists():
        return open_tokenizer(belonging(located.path).base)
    return _gguf_tokenizer(GGUFFile(located.path)) if located.kind == "gguf" else Tokenizer.open(located.path)


def _open(located: Located, dtype: torch.dtype, weights: bool) -> Opened:
    if located.kind == "adapter":
        opened = _open_adapter(located, dtype)
        if weights:
            _ = opened.model
    elif located.kind == "gguf":
        file = GGUFFile(located.path)
        # The tokenizer first: a file that lacks one is told before the weights are read.
        tokenizer = _gguf_tokenizer(file)
        file.our_names()
        opened = Opened(file.config(), tokenizer, located, file, lambda: load_gguf(located.path, dtype))
        if weights:
            _ = opened.model
    else:
        if located.kind == "run":
            model, tokenizer = RunFolder.open(located.path).load_model()
            model = model.to(dtype)
        else:
            tokenizer = Tokenizer.open(located.path)
            model = load_huggingface(located.path, dtype)
        opened = Opened(model.config, tokenizer, located, None, lambda: model)
    tokenizer = opened.tokenizer
    if tokenizer.vocab_size > opened.config.vocab_size:  # an id without a row would be read from beyond the table
        raise UserError(
            f"{located.path}: the tokenizer has ids up to {tokenizer.vocab_size - 1:,}, the model "
            f"{opened.config.vocab_size:,} rows; they do not belong together, fetch or export the model again"
        )
    return opened


def _open_adapter(located: Located, dtype: torch.dtype) -> Opened:
    """The base of an adapter, brought to the form that it was tuned in, and the adapter merged into it."""
    owner = belonging(located.path)
    try:
        base = _open(resolve(owner.base), dtype, weights=False)
    except UserError as error:
        raise UserError(f"{located.path} is an adapter of {owner.base!r}, which cannot be opened: {error}") from error
    config = base.config if owner.model is None else ModelConfig.from_dict(owner.model)
    own = (located.path / "tokenizer.json").exists()

    def read() -> Model:
        model = with_head(base.model, config.head, config.labels) if config.head != base.config.head else base.model
        attach(model, located.path, owner.quantised)
        merge(model)
        return model.eval()

    tokenizer = Tokenizer.open(located.path) if own else base.tokenizer
    return Opened(config, tokenizer, located, None, read)


def _gguf_tokenizer(file: GGUFFile) -> Tokenizer:
    try:
        return tokenizer_from_gguf(file.metadata)
    except UserError as error:
        raise UserError(f"{file.path}: {error}") from error
