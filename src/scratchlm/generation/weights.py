"""Where the native forward pass takes its weights from: a model in memory, or a GGUF file."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from scratchlm import kernels
from scratchlm.checkpoints.gguf import GGUFFile
from scratchlm.kernels.quantised import GGUF_TYPES, PackedMatrix, Precision, pack, pack_gguf
from scratchlm.models import Decoder, Encoder, ModelConfig
from scratchlm.models.layers import Rotary

_PLAIN_MODULES = ("scratchlm.models.", "torch.nn.modules.")
_BITS = {"int4": 4, "int8": 8}


class Weights(Protocol):
    """A model's tensors by our names, such as "blocks.0.mlp.up.weight"."""

    config: ModelConfig

    def tensor(self, name: str) -> Tensor | None:
        """Contiguous, float32, on the CPU; None where the model has no such tensor."""

    def packed(self, name: str, precision: Precision) -> PackedMatrix:
        """A matrix in ``precision`` (or one of fewer bits, where it is stored so)."""


class ModuleWeights:
    """A model's own tensors, read where they are: a change to them in place is seen by later float32 passes.

    Raises:
        ValueError: :func:`supported` says no.
    """

    def __init__(self, model: Decoder | Encoder) -> None:
        if not supported(model):
            raise ValueError("the native pass does not compute what this model computes; ask supported() first")
        self.model, self.config = model, model.config

    def tensor(self, name: str) -> Tensor | None:
        if name == "embed.positions.weight" and self.config.positions == "sinusoidal":
            name = "embed.table"
        found: Any = self.model
        for part in name.split("."):
            found = getattr(found, part, None)
            if found is None:
                return None
        return cast(Tensor, found).detach()

    def packed(self, name: str, precision: Precision) -> PackedMatrix:
        weight = self.tensor(name)
        if weight is None:
            raise ValueError(f"the model has no tensor {name!r}")
        return pack(weight, precision)


class GGUFWeights:
    """A file's tensors, brought in one by one; matrices of Q8_0, Q4_0 and Q4_1 keep their very numbers."""

    def __init__(self, file: GGUFFile) -> None:
        self._file = file
        self.config = file.config()
        self._names = set(file.our_names())
        self._rope: Rotary | None = None
        if self.config.positions == "rotary":
            config = self.config
            self._rope = Rotary(config.head_size, config.rope_theta, config.context, config.rope_scaling)

    def tensor(self, name: str) -> Tensor | None:
        if self._rope is not None and name in ("rope.cos", "rope.sin"):
            return (self._rope.cos if name == "rope.cos" else self._rope.sin).contiguous()
        return self._file.tensor(name) if name in self._names else None

    def packed(self, name: str, precision: Precision) -> PackedMatrix:
        pieces = self._file.pieces(name)
        if all(p.type in GGUF_TYPES and _BITS[GGUF_TYPES[p.type][1]] <= _BITS[precision] for p in pieces):
            blocks = [
                (p.type, torch.from_numpy(p.blocks), None if p.order is None else torch.from_numpy(p.order))
                for p in pieces
            ]
            packed = pack_gguf(blocks, pieces[0].shape[1])
            if packed is not None:
                return packed
        return pack(self._file.tensor(name), precision)


def supported(model: nn.Module) -> bool:
    """Whether the native pass computes what ``model`` computes: a plain stack, float32, on the CPU, in evaluation mode.

    A module from elsewhere (an adapter around a linear layer, say) or with hooks leaves the pass to PyTorch.
    """
    if not (isinstance(model, Decoder | Encoder) and kernels.available()):
        return False
    for module in model.modules():
        hooked = module._forward_hooks or module._forward_pre_hooks
        if not type(module).__module__.startswith(_PLAIN_MODULES) or hooked or module.training:
            return False
    tensors = [*model.parameters(), *model.buffers()]
    return all(t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous() for t in tensors)
