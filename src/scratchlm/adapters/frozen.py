"""Linear layers that are not trained: weights in few bits, and products that keep nothing for a weight's gradient."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from scratchlm.adapters.nf4 import PackedNF4, pack_nf4, unpack_nf4
from scratchlm.kernels.quantised import PackedMatrix, pack, unpack

Kind = Literal["nf4", "int8", "int4"]


class FrozenLinear(nn.Module):
    """``nn.Linear`` with its weight in 4 or 8 bits, (..., K) -> (..., N), with gradients to the input and none to the
    weight, which is brought back to full precision for each product.

    Its bytes are buffers that stay out of the state dict: they are made from the base model, not trained. None of them
    is of floating point, so that ``model.to(dtype)`` leaves them alone.
    """

    def __init__(self, linear: nn.Linear, kind: Kind) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        weight = linear.weight.detach()
        for name, tensor in _bytes(pack_nf4(weight) if kind == "nf4" else pack(weight, kind)).items():
            self.register_buffer(name, tensor.to(weight.device), persistent=False)

    @property
    def packed(self) -> PackedNF4 | PackedMatrix:
        """The bytes as the packing functions gave them."""
        buffers: dict[str, Any] = self._buffers
        if self.kind != "nf4":
            return PackedMatrix(buffers["data"], self.kind, self.out_features, self.in_features)
        statistics = buffers["statistics"].view(torch.float32)
        shape = (self.out_features, self.in_features)
        return PackedNF4(buffers["data"], buffers["scales"], statistics[:-1], statistics[-1], shape)

    def forward(self, x: Tensor) -> Tensor:
        return adapted_linear(x, lambda: dense_weight(self, scratch=True), self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.kind}"


def _bytes(packed: PackedNF4 | PackedMatrix) -> dict[str, Tensor]:
    if isinstance(packed, PackedMatrix):
        return {"data": packed.data}
    statistics = torch.cat([packed.group_scales, packed.offset[None]]).view(torch.int32)
    return {"data": packed.codes, "scales": packed.scales, "statistics": statistics}


def quantise_base(model: nn.Module, kind: Kind, keep: Sequence[str] = ("head",)) -> int:
    """Put the model's linear layers into ``kind`` in place, except those whose path is in ``keep``; how many they were.

    All parameters are frozen. Embeddings, norms and biases stay as they are.
    """
    freeze(model)
    found = [(path, module) for path, module in model.named_modules() if type(module) is nn.Linear]
    chosen = [(path, module) for path, module in found if path not in keep]
    count = len(chosen)
    for path, module in chosen:
        place(model, path, FrozenLinear(module, kind))
    del found, chosen[:]
    give_memory_back()
    return count


def give_memory_back() -> None:
    """What has been freed goes back to the system: glibc would keep it, and what follows would come on top."""
    with suppress(OSError, AttributeError):  # another C library, which has no such call
        ctypes.CDLL(None).malloc_trim(0)


def freeze(model: nn.Module) -> None:
    """No parameter takes a gradient until something says so again."""
    model.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = None


def place(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer, whatever its weight is kept in."""
    return isinstance(module, nn.Linear | FrozenLinear) or _packed(module) is not None


def dense_weight(module: nn.Module, *, scratch: bool = False) -> Tensor:
    """The weight (N, K) of a linear layer; float32 and newly made where it is kept in few bits.

    With ``scratch`` it may lie in memory that the next such call overwrites: for a product that follows at once.

    Raises:
        ValueError: the module is no linear layer.
    """
    if isinstance(module, nn.Linear):
        return module.weight
    packed = _packed(module)
    if packed is None:
        raise ValueError(f"{type(module).__name__} is no linear layer")
    return unpack_nf4(packed, scratch=scratch) if isinstance(packed, PackedNF4) else unpack(packed)


def _packed(module: nn.Module) -> PackedNF4 | PackedMatrix | None:
    """The bytes of :class:`FrozenLinear`, or of the models' own quantised layer."""
    packed = getattr(module, "packed", None)
    return packed if isinstance(packed, PackedNF4 | PackedMatrix) else None


@dataclass(frozen=True)
class LowRank:
    """Where one product B A is added, and which columns of the activations x A^T are its own."""

    rows: slice
    columns: slice
    scale: float


def adapted_linear(
    x: Tensor,
    weight: Callable[[], Tensor],
    bias: Tensor | None,
    *,
    dropped: Tensor | None = None,
    a: Tensor | None = None,
    b: Sequence[Tensor] = (),
    parts: Sequence[LowRank] = (),
) -> Tensor:
    """``x W^T + bias``, and ``scale * (dropped A_i^T) B_i^T`` added to the columns ``rows`` of each part i.

    x (..., K), W (N, K) -> (..., N). ``a`` (R, K) holds the A of all parts one under the other, so that they are one
    product; ``b`` holds (rows, r) each. ``dropped`` is x after dropout, None for x itself. W is asked for again in the
    backward pass and takes no gradient; x is kept only if A takes one.
    """
    result: Tensor = _AdaptedLinear.apply(x, dropped, bias, a, weight, tuple(parts), *b)  # type: ignore[no-untyped-call]
    return result


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        bias: Tensor | None,
        a: Tensor | None,
        weight: Callable[[], Tensor],
        parts: tuple[LowRank, ...],
        *b: Tensor,
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = F.linear(flat, weight().to(x.dtype), bias)
        entering = flat if dropped is None else dropped.reshape(flat.shape)
        low = None
        if a is not None:
            low = entering @ a.T
            for part, one in zip(parts, b, strict=True):
                y[:, part.rows].addmm_(low[:, part.columns], one.T, alpha=part.scale)
        needs = ctx.needs_input_grad
        ctx.save_for_backward(entering if needs[3] else None, low if any(needs[6:]) else None, a, *b)
        ctx.weight, ctx.parts, ctx.shape, ctx.drops = weight, parts, x.shape, dropped is not None
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        entering, low, a, *b = ctx.saved_tensors
        needs = ctx.needs_input_grad
        grad = grad.reshape(-1, grad.shape[-1])
        dx = grad @ ctx.weight().to(grad.dtype) if needs[0] else None
        dbias = grad.sum(dim=0) if needs[2] else None
        ddropped = da = dlow = None
        db: list[Tensor | None] = [None] * len(b)
        if a is not None and (needs[3] or needs[0] or needs[1]):
            dlow = grad.new_empty(len(grad), len(a))
            for part, one in zip(ctx.parts, b, strict=True):
                # beta=0: what lies in the new memory is not read
                dlow[:, part.columns].addmm_(grad[:, part.rows], one, beta=0, alpha=part.scale)
            da = dlow.T @ entering if needs[3] else None
            if needs[1]:
                ddropped = (dlow @ a).view(ctx.shape)
            elif dx is not None and not ctx.drops:
                dx.addmm_(dlow, a)
        for i, (part, one) in enumerate(zip(ctx.parts, b, strict=True)):
            if needs[6 + i]:
                db[i] = torch.empty_like(one).addmm_(
                    grad[:, part.rows].T, low[:, part.columns], beta=0, alpha=part.scale
                )
        return None if dx is None else dx.view(ctx.shape), ddropped, dbias, da, None, None, *db
