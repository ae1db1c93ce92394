"""Tensors that are spread over processes, written and read by each process for its own share.

By torch's distributed checkpoint, in safetensors files of each process's own (its usual format would be pickles). Any
number of processes can read what any other number has written. Importing this takes a while.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from scratchlm.errors import UserError

FILE_BYTES = 2**27
"""About as large is a file, and so much memory writing takes more than once: no more, however large a share is."""


def check_version() -> None:
    """Raises:
    UserError: this PyTorch is too old for checkpoints in shares.
    """
    if torch.__version__ < "2.9":
        raise UserError(
            f"checkpoints in shares need PyTorch 2.9, this is {torch.__version__}; run: pip install -U torch"
        )


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write this process's share of ``tensors``, and what is whole in all of them once. All processes call it at once.

    Raises:
        OSError: in every process, if the disk has refused one of them.
    """
    try:
        writer = HuggingFaceStorageWriter(str(folder), _files(tensors), save_distributed=True)
        save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        raise _cause(error) from None


def _files(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Which of a process's files each tensor goes to."""
    numbers, number, filled = {}, 1, 0
    for name, tensor in tensors.items():
        share: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if filled and filled + share.nbytes > FILE_BYTES:
            number, filled = number + 1, 0
        numbers[name] = number
        filled += share.nbytes
    return numbers


def read_shards(
    folder: Path,
    chosen: Callable[[str], bool],
    empty: Callable[[str, torch.Size, torch.dtype], Tensor],
    cure: str,
) -> dict[str, Tensor]:
    """The tensors in a folder's safetensors files whose names are ``chosen``.

    Args:
        empty: makes the memory for one, from its name, shape and type; of a DTensor only the share is read.
        cure: the end of an error's line.

    Raises:
        UserError: a file is damaged, or a share is missing.
    """
    check_version()
    reader = HuggingFaceStorageReader(str(folder))
    try:
        entries: dict[str, Any] = reader.read_metadata().state_dict_metadata
        found = {name: entry for name, entry in entries.items() if chosen(name)}
        for name, entry in found.items():
            if sum(chunk.sizes.numel() for chunk in entry.chunks) != entry.size.numel():
                raise UserError(f"{folder} holds only a part of the tensor {name!r}; {cure}")
        tensors = {name: empty(name, entry.size, entry.properties.dtype) for name, entry in found.items()}
        if tensors:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it takes one process to be alone is as it should be
                load(tensors, storage_reader=reader, no_dist=True)
        return tensors
    except (CheckpointException, SafetensorError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(_cause(error)).split())[:100]
        raise UserError(f"{folder} is damaged or unreadable ({reason}); {cure}") from error


def _cause(error: BaseException) -> BaseException:
    """What went wrong in one of the processes; if it can be, what the system refused."""
    if not isinstance(error, CheckpointException):
        return error
    causes = [cause for cause, _ in error.failures.values()]
    return next((cause for cause in causes if isinstance(cause, OSError)), causes[0])
