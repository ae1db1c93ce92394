"""The processes of a data-parallel training, as `torchrun` starts them: one for each device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from scratchlm.errors import UserError

PATIENCE = timedelta(hours=6)
"""How long the others wait for the process that measures the model, which PyTorch would do for ten minutes."""


@dataclass(frozen=True)
class World:
    """This process's place among all."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes the files and speaks to the user."""
        return self.rank == 0

    def share(self, rows: int) -> tuple[int, int]:
        """Which of ``rows`` rows are this process's: (start, end)."""
        return rows * self.rank // self.size, rows * (self.rank + 1) // self.size

    def sum(self, values: list[float]) -> list[float]:
        """The element-wise sum over all processes, the same in each."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor]

    def add_up(self, tensor: Tensor) -> None:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def most(self, value: int) -> int:
        """The largest of all processes' values, the same in each."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """``auto`` is the first GPU (of this process), else the CPU.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank)
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:80]
        raise UserError(f"device {name!r} cannot be used here ({reason}); use device=auto or device=cpu") from error
    return torch.device(device.type, local_rank) if device.type == "cuda" and device.index is None else device


@contextmanager
def world(device: str = "auto") -> Iterator[World]:
    """Join the other processes that `torchrun` has started, or started again, or be alone without it.

    Raises:
        UserError: another process has ended meanwhile.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    place = choose_device(device, local_rank)
    if size == 1 or dist.is_initialized():
        yield World(place, rank, size)
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    store, _, _ = next(rendezvous("env://", rank, size))
    # Where torchrun has started the processes again, their store still has the addresses of those before them.
    store = PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "nccl" if place.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield World(place, rank, size)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise UserError("another process of the training has ended; see its message, and resume") from error
    finally:
        dist.destroy_process_group()
