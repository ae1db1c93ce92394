"""Operations that look at each element or each row by itself: dropout with a residual, GELU, norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from scratchlm.kernels.build import call, draw_seed, size, suits, workspace


def dropout_add(x: Tensor, residual: Tensor | None, p: float) -> Tensor:
    """``residual + dropout(x)`` (Srivastava et al. 2014, in its inverted form).

    x, residual: the same shape; ``residual`` None for the dropout alone. ``p``: share of elements dropped, 0 <= p < 1;
    pass 0 outside training. The native form honours p to 1/65536, scales by the share really kept, and draws its mask
    again in the backward pass instead of storing it; ``torch.manual_seed`` fixes it.

    Raises:
        ValueError: p is out of range, or the shapes differ.
    """
    check_probability(p)
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"x has shape {tuple(x.shape)} but residual {tuple(residual.shape)}")
    if p == 0:
        return x if residual is None else residual + x
    if not suits(x, residual) or x.dim() == 0:
        dropped = F.dropout(x, p)
        return dropped if residual is None else residual + dropped
    return node(_DropoutAdd, x, residual, p)


class _DropoutAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, p: float) -> Tensor:
        ctx.p, ctx.seed = p, draw_seed(p)
        return _dropout(x, residual, p, ctx.seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        return _dropout(grad, None, ctx.p, ctx.seed), grad if ctx.needs_input_grad[1] else None, None


def _dropout(x: Tensor, residual: Tensor | None, p: float, seed: int) -> Tensor:
    x = x.contiguous()
    residual = None if residual is None else residual.contiguous()
    out = torch.empty_like(x)
    call("dropout_rows", x.numel() // x.shape[-1], x.shape[-1], x, residual, out, float(p), seed)
    return out


def gelu(x: Tensor) -> Tensor:
    """x Phi(x), exact and not by tanh (Hendrycks & Gimpel 2016); any shape, absolute error below 1e-6."""
    if not suits(x):
        return F.gelu(x)
    if not needs_grad(x):
        return _gelu(x.contiguous())
    return node(_Gelu, x)


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        return _gelu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        call("gelu_backward", x.numel(), x, grad.contiguous(), dx)
        return dx


def _gelu(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    call("gelu_forward", x.numel(), x, out)
    return out


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer 2020, eq. 6). x (..., 2F), the gate first -> (..., F).

    For the backward pass x alone is kept; the gate's activation, half as large, is computed again.
    """
    if not suits(x) or not needs_grad(x):
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up
    return node(_SwiGLU, x)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate, up = x.chunk(2, dim=-1)
        dx = torch.empty_like(x)
        dgate, dup = dx.chunk(2, dim=-1)
        share = torch.sigmoid(gate)
        active = gate * share
        torch.mul(grad, active, out=dup)
        # d silu(g) / dg = s + g s (1 - s) = s (1 - silu(g)) + silu(g)
        torch.mul(grad, up, out=dgate)
        dgate.mul_(share.addcmul_(share, active, value=-1).add_(active))
        return dx


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    """LayerNorm over the last axis (Ba et al. 2016). x (..., C); weight, bias (C,)."""
    if not suits(x, weight, bias) or not vectors(x.shape[-1], weight, bias):
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    return node(_Norm, x, weight, bias, eps, True)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """RMSNorm over the last axis (Zhang & Sennrich 2019). x (..., C); weight (C,)."""
    if not suits(x, weight) or not vectors(x.shape[-1], weight):
        return F.rms_norm(x, weight.shape, weight, eps)
    return node(_Norm, x, weight, None, eps, False)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, center: bool) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        width = x.shape[-1]
        rows = x.numel() // width
        y, statistics = torch.empty_like(x), x.new_empty(rows, 2)
        call("norm_forward", rows, width, x, weight, bias, float(eps), center, y, statistics)
        ctx.save_for_backward(x, weight, statistics)
        ctx.center = center
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        x, weight, statistics = ctx.saved_tensors
        width = x.shape[-1]
        rows = x.numel() // width
        dx, dweight = torch.empty_like(x), torch.empty_like(weight)
        dbias = torch.empty_like(weight) if ctx.needs_input_grad[2] else None
        call(
            *("norm_backward", rows, width, x, statistics, grad.contiguous(), weight, ctx.center),
            *(dx, dweight, dbias, workspace(size("norm_work", rows, width))),
        )
        return dx, dweight, dbias, None, None


def node(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    """``function`` applied, as one node of the autograd graph."""
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


def needs_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd will want the backward pass of an operation on these tensors."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def vectors(size: int, *tensors: Tensor | None) -> bool:
    """Whether these are vectors of ``size`` numbers side by side; PyTorch gets what is not, and says what is wrong."""
    return all(tensor is None or (tensor.shape == (size,) and tensor.is_contiguous()) for tensor in tensors)


def check_probability(p: float) -> None:
    if not 0 <= p < 1:
        raise ValueError(f"a dropout probability is at least 0 and below 1, not {p}")
