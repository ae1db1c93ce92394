"""One checkpoint: the weights that are trained, the optimizer's state and the counters of a moment of a training.

Of a model that one process holds whole there are two files of tensors; of one that is spread over processes, a folder
of shares, with files of each process. Either can be read by one process and by several.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scratchlm.checkpoints.files import partial_of, read_tensors, write_folder_atomically, write_tensors
from scratchlm.checkpoints.weights import SINGLE
from scratchlm.errors import UserError

OPTIMIZER, STATE, SHARES = "optimizer.safetensors", "state.json", "shares"


@dataclass(frozen=True)
class Checkpoint:
    """A moment that training can go on from."""

    path: Path
    step: int
    """Optimizer steps taken."""
    state: dict[str, Any]
    """The loop's counters."""

    def model_tensors(self, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The weights that were trained.

        Args:
            like: the model's parameters by name, where they are spread over processes: each reads its share alone.

        Raises:
            UserError: a file is missing or damaged.
        """
        return self._tensors(SINGLE, like)

    def optimizer_tensors(self, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The optimizer's state, by the parameters' names: ``name/exp_avg``; otherwise as :meth:`model_tensors`."""
        return self._tensors(OPTIMIZER, like)

    def _tensors(self, file: str, like: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        shares = self.path / SHARES
        spread = shares.is_dir()
        if like is None and not spread:
            return read_tensors(self.path / file, self._cure)
        from scratchlm.checkpoints.shards import read_shards  # slow to import, and seldom wanted

        def empty(name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
            known = None if like is None else like.get(name.partition("/")[0])
            if known is None or known.shape != shape:
                return torch.empty(shape, dtype=dtype)
            return torch.empty_like(known, dtype=dtype, requires_grad=False)

        if spread and len(_files(shares)) != self.state.get(SHARES):
            raise UserError(f"{shares} lacks the share of a process; {self._cure}")
        if not spread and not (self.path / file).exists():
            raise UserError(f"{self.path / file} is missing; {self._cure}")
        folder = shares if spread else self.path
        return read_shards(folder, lambda name: ("/" in name) == (file == OPTIMIZER), empty, self._cure)

    @property
    def _cure(self) -> str:
        return f"delete the folder {self.path} and resume from the start, or train anew"


def write_checkpoint(
    target: Path, trained: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any], shared: bool
) -> None:
    """Write a checkpoint, which is there once it is whole. With ``shared`` every process calls this, for its share.

    Raises:
        OSError: the disk refuses; of the shared ones, in every process.
    """
    if not shared:
        write_folder_atomically(target, lambda folder: _write_whole(folder, trained, optimizer, state))
        return

    def write_share(folder: Path, then: Callable[[Path], None]) -> None:
        from scratchlm.checkpoints.shards import write_shards

        dist.barrier()  # the main process has made the folder
        write_shards(folder / SHARES, {**trained, **optimizer})
        then(folder)

    def write_state(folder: Path) -> None:
        _write_state(folder, {**state, SHARES: len(_files(folder / SHARES))})

    if dist.get_rank() == 0:
        write_folder_atomically(target, lambda folder: write_share(folder, write_state))
    else:
        write_share(partial_of(target), lambda _folder: None)
    dist.barrier()


def _write_whole(
    folder: Path, trained: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    write_tensors(folder / SINGLE, trained)
    write_tensors(folder / OPTIMIZER, optimizer)
    _write_state(folder, state)


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    (folder / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")


def _files(shares: Path) -> list[Path]:
    return list(shares.glob("*.safetensors"))
