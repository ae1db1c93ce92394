"""How a model lies on the processes that train it: whole in each (DDP), or spread over them (FSDP).

Either way a step's loss is the sum over the labels of all processes, and the loop is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scratchlm.data import IGNORE, Batch
from scratchlm.errors import UserError
from scratchlm.models.block import Block
from scratchlm.training.distributed import World
from scratchlm.training.tasks import Task


class _Objective(nn.Module):
    """The loss as a module, which is what DistributedDataParallel, FSDP and torch.compile take hold of."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.task.loss(self.model, batch)


class Whole:
    """A model that each process holds whole; the gradients of several are averaged in a step's last pass.

    Args:
        model: moved to the process's device.
        task: whose loss is learned.
        compiled: let torch.compile fuse the two.
    """

    spread = False
    """Whether a process holds a share of each parameter only."""

    def __init__(self, model: nn.Module, task: Task, place: World, *, compiled: bool = False) -> None:
        self.model, self.task, self.place = model.to(place.device), task, place
        objective = _Objective(self.model, task)
        if compiled:
            objective.compile()
        self.objective: Any = objective
        if place.size > 1:
            # Buffers are tables and frozen weights: they are the same in every process, and stay.
            options = signature(DistributedDataParallel).parameters
            name = "forward_sync_buffers" if "forward_sync_buffers" in options else "broadcast_buffers"
            still: dict[str, Any] = {name: False}
            self.objective = DistributedDataParallel(objective, **still)

    def passes(self, batches: list[Batch]) -> list[Batch]:
        """What this process computes for its share of a step."""
        return batches

    def adding_up(self, last: bool) -> AbstractContextManager[None]:
        """The context of a pass: only in the ``last`` of a step do processes look at each other's gradients."""
        context: AbstractContextManager[None]
        context = nullcontext() if last or self.place.size == 1 else self.objective.no_sync()
        return context

    def judged(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
        """The losses and counts of labels of this process's share of held-out batches. Within ``torch.no_grad()``."""
        for number, batch in enumerate(batches):
            if number % self.place.size == self.place.rank:
                yield self.task.loss(self.model, batch.to(self.place.device))

    @contextmanager
    def gathered(self, *, frozen: bool) -> Iterator[nn.Module]:  # noqa: ARG002 - it is all there
        """Within this block the main process has the whole model, or all but its ``frozen`` parameters."""
        yield self.model

    def restored(self) -> nn.Module:
        """The model at the end of the training, whole in every process."""
        return self.model


class Spread(Whole):
    """A model of which each process holds a share of every parameter, its gradient and the optimizer's state (ZeRO,
    Rajbhandari et al. 2020; torch's FSDP2). A block's parameters are brought together for as long as it computes.

    What computes is a twin with the same modules and names, whose parameters are DTensors. The model given lends its
    memory: its parameters are empty until :meth:`restored`, and outside of :meth:`gathered`. Buffers, those of a base
    in few bits too, are whole in every process.

    Args:
        model: the same in every process; what the main one holds counts.

    Raises:
        UserError: the device, or this PyTorch, cannot.
    """

    spread = True

    def __init__(self, model: nn.Module, task: Task, place: World) -> None:
        if place.device.type not in ("cpu", "cuda"):
            raise UserError(f"sharding=full works on cpu and cuda, not on {place.device.type}; use sharding=none")
        from torch.distributed.device_mesh import init_device_mesh  # slow to import, as are the next two
        from torch.distributed.fsdp import fully_shard

        from scratchlm.checkpoints.shards import check_version

        check_version()
        self.given, self.task, self.place = model, task, place
        lent: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.model = deepcopy(model, lent.copy())
        self.objective = _Objective(self.model, task)
        mesh = init_device_mesh(place.device.type, (place.size,))
        blocks = [module for module in self.model.modules() if isinstance(module, Block)]
        for module in (*blocks, self.objective):
            parameters = [parameter for parameter in module.parameters() if id(parameter) in lent]
            for parameter in parameters:
                self._agree(parameter)
            fully_shard(module, mesh=mesh)
            for parameter in parameters:
                _empty(parameter)

    def passes(self, batches: list[Batch]) -> list[Batch]:
        """As many as the process with the most has, since all bring the weights together; some teach nothing."""
        idle = batches[0].slice(0, 1)
        idle = replace(idle, labels=torch.full_like(idle.ids, IGNORE))
        return [*batches, *[idle] * (self.place.most(len(batches)) - len(batches))]

    def adding_up(self, last: bool) -> AbstractContextManager[None]:  # noqa: ARG002
        """In every pass: until the processes have added them up, gradients are as large as the whole model."""
        return nullcontext()

    def judged(self, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
        waiting: list[Batch] = []
        for batch in batches:
            waiting.append(batch)
            if len(waiting) == self.place.size:
                yield self.objective(waiting[self.place.rank].to(self.place.device))
                waiting = []
        if waiting:  # who has none left computes for company
            mine = self.place.rank < len(waiting)
            found = self.objective(waiting[self.place.rank if mine else 0].to(self.place.device))
            if mine:
                yield found
        self.objective.reshard()  # no backward pass does it

    @contextmanager
    def gathered(self, *, frozen: bool) -> Iterator[nn.Module]:
        """As :meth:`Whole.gathered`, in the CPU's memory; every process takes part."""
        self._gather(lambda whole: whole.cpu() if self.place.main else None, frozen)
        yield self.given
        for parameter in self.given.parameters():
            _empty(parameter)

    def restored(self) -> nn.Module:
        self._gather(lambda whole: whole, frozen=True)
        return self.given

    def _gather(self, keep: Callable[[Tensor], Tensor | None], frozen: bool) -> None:
        """One by one, so that a process that keeps none has never more than one."""
        for own, share in zip(self.given.parameters(), self.model.parameters(), strict=True):
            if frozen or share.requires_grad:
                kept = keep(whole_tensor(share.detach()))
                if kept is not None:
                    own.data = kept

    def _agree(self, parameter: nn.Parameter) -> None:
        with torch.no_grad():
            there = parameter.detach().to(self.place.device).contiguous()
            dist.broadcast(there, 0)
            parameter.copy_(there)


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor that may be spread over processes, which then all take part."""
    result: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return result


def _empty(parameter: nn.Parameter) -> None:
    parameter.data = parameter.data.new_empty(0)
