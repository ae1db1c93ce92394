"""Runs that train an adapter: their weights to use are PEFT's files, beside the name of the model they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from scratchlm.adapters.frozen import Kind, quantise_base
from scratchlm.adapters.peft_format import CONFIG, load_adapter, read_into, save_adapter
from scratchlm.checkpoints import RunFolder
from scratchlm.checkpoints.headers import read_json
from scratchlm.checkpoints.run import DESCRIPTION
from scratchlm.errors import UserError

TUNING = "finetune"
"""The part of a run's description that tells what was tuned, and how."""


class AdapterRun(RunFolder):
    """The folder of a run that trains an adapter of the model ``base``."""

    holds_frozen = False

    def __init__(self, path: str | Path, base: str) -> None:
        super().__init__(path)
        self.base = base

    def save_weights(self, model: nn.Module) -> None:
        with self._writing(CONFIG):
            save_adapter(model, self.path, self.base)

    def load_weights(self, model: nn.Module) -> None:
        read_into(model, self.path)


class Belonging(NamedTuple):
    """What an adapter belongs to."""

    base: str
    """A path, a name of the catalogue or an id of the hub."""
    quantised: Kind | None
    """The base's matrices were kept in so many bits while the adapter was trained."""
    model: dict[str, Any] | None
    """The config's fields of the model with the adapter, where the folder is one of our runs."""


def belonging(folder: Path) -> Belonging:
    """What the adapter in a folder belongs to.

    Raises:
        UserError: a file is damaged, or does not say.
    """
    base = read_json(folder / CONFIG, cure="save the adapter again").get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(
            f"{folder / CONFIG} does not say which model the adapter belongs to; put the model's path or "
            "name there as base_model_name_or_path"
        )
    if not (folder / DESCRIPTION).exists():
        return Belonging(base, None, None)
    description = RunFolder.open(folder).description()
    tuning = description.get(TUNING)
    quantised = tuning.get("quantised") if isinstance(tuning, dict) else None
    return Belonging(base, quantised, description["model"])


def attach(model: nn.Module, folder: Path, quantised: Kind | None, *, name: str = "default") -> None:
    """Put the adapter of a folder beside its base, whose matrices take the bits that they had when it was trained.

    Raises:
        UserError: the adapter is damaged, or of another model.
    """
    if quantised is not None:
        quantise_base(model, quantised)
    load_adapter(model, folder, name)
