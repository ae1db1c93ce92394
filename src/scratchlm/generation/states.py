"""The states of whole sequences at once, whatever their lengths: in native code without padding, or in PyTorch."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from scratchlm.errors import UserError
from scratchlm.generation.native import NativeModel
from scratchlm.generation.weights import ModuleWeights, supported
from scratchlm.models import Decoder, Encoder
from scratchlm.models.quantised import quantise

StatePrecision = Literal["fp32", "int8"]
BATCH_TOKENS = {"fp32": 2048, "int8": 1024, "device": 32_768}
"""Tokens computed together. In 8 bits fewer, so that what all weights are multiplied with stays in the cache."""


class StateReader:
    """Reads sequences of token ids.

    On the CPU sequences of different lengths are computed together without padding, in native code. Where that is not
    to be had, PyTorch computes them in batches of similar lengths. Several threads may read at a time; they take turns.

    Args:
        model: put in evaluation mode. Later changes to its weights in place count, but not with "int8".

    Raises:
        UserError: "int8" on a GPU.
    """

    def __init__(self, model: Decoder | Encoder, precision: StatePrecision = "fp32") -> None:
        self.device: torch.device = model.embed.tokens.weight.device
        self.native: NativeModel | None = None
        """What computes it on the CPU; None where PyTorch does."""
        self._lock = threading.Lock()  # the native code has one place to work in, and runs without Python's lock
        self._model = model.eval()
        if supported(model):
            self.native = NativeModel(ModuleWeights(model), precision)
        elif precision == "int8":
            if self.device.type != "cpu":
                raise UserError("int8 is for the CPU; on a GPU leave the precision out")
            self._model = quantise(model, "int8")
        self.batch_tokens = BATCH_TOKENS[precision if self.device.type == "cpu" else "device"]

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Which sequences are to be read together, the shortest first."""
        rows: list[int] = []
        for i in sorted(range(len(lengths)), key=lengths.__getitem__):
            if rows and (len(rows) + 1) * lengths[i] > self.batch_tokens:
                yield rows
                rows = []
            rows.append(i)
        if rows:
            yield rows

    @torch.inference_mode()
    def read(self, sequences: Sequence[list[int]]) -> tuple[Tensor, ...]:
        """Each sequence's states after the final norm, (tokens, C), float32."""
        lengths = [len(ids) for ids in sequences]
        if self.native is not None:
            with self._lock:
                return torch.split(self.native.states(sequences), lengths)
        longest = max(lengths)
        rows = torch.tensor([ids + [0] * (longest - len(ids)) for ids in sequences], device=self.device)
        documents = None
        if min(lengths) < longest:
            place = torch.arange(longest, device=self.device)
            documents = -(place >= torch.tensor(lengths, device=self.device)[:, None]).int()
        states = self._model.hidden(rows, documents=documents).float()
        return tuple(one[:length] for one, length in zip(states, lengths, strict=True))
