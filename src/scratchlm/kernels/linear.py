"""Linear layers together with what stands before and after them in a transformer block.

Each function is one node of the autograd graph: what it does to a row of activations happens while that row is in the
processor's cache. On plain PyTorch each is the obvious composition, which its first lines spell out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from scratchlm.kernels.build import call, draw_seed, size, suits, workspace
from scratchlm.kernels.pointwise import (
    check_probability,
    dropout_add,
    gelu,
    layer_norm,
    needs_grad,
    node,
    rms_norm,
    vectors,
)

FEWEST, FEWEST_IN_USE = 64, 256
"""With fewer rows than this (with and without gradients to come), bringing the weights into the order that the native
product wants does not pay."""

LARGEST = 2**20
"""Weights with more numbers than this stream from memory; there PyTorch's own products, with blocks of their own for
every level of cache, are as fast or faster, and only norms, GELU and dropout are native."""


def norm_linear(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    eps: float = 1e-5,
    rms: bool = False,
) -> Tensor:
    """``linear(norm(x))``: x (..., C), norm_weight and norm_bias (C,), weight (N, C), bias (N,) -> (..., N).

    The norm is LayerNorm, or RMSNorm with ``rms`` (then without norm_bias).
    """
    fits = weight.shape[1:] == x.shape[-1:] and vectors(x.shape[-1], norm_weight, norm_bias)
    fits = fits and vectors(weight.shape[0], bias)
    if not fits or not _pays(x, [weight], norm_weight, norm_bias, bias):
        return F.linear(_norm(x, norm_weight, norm_bias, eps, rms), weight, bias)
    keep = needs_grad(x, norm_weight, norm_bias, weight, bias)
    return node(_NormLinear, x, norm_weight, norm_bias, weight, bias, eps, not rms, keep)


def linear_dropout_add(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, p: float = 0.0
) -> Tensor:
    """``residual + dropout(linear(x))``: x (..., K), weight (N, K), bias (N,), residual (..., N) -> (..., N).

    ``p``: share of elements dropped, 0 <= p < 1; pass 0 outside training.

    Raises:
        ValueError: p is out of range.
    """
    check_probability(p)
    fits = weight.shape[1:] == x.shape[-1:] and vectors(weight.shape[0], bias)
    fits = fits and (residual is None or residual.shape == (*x.shape[:-1], weight.shape[0]))
    if not fits or not _pays(x, [weight], bias, residual):
        return dropout_add(F.linear(x, weight, bias), residual, p)
    return node(_LinearDropoutAdd, x, weight, bias, residual, p, needs_grad(x, weight, bias, residual))


def gelu_mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    up: Tensor,
    up_bias: Tensor | None,
    down: Tensor,
    down_bias: Tensor | None,
    p: float = 0.0,
    *,
    eps: float = 1e-5,
    rms: bool = False,
) -> Tensor:
    """A pre-norm feed-forward sub-layer: ``x + dropout(down(gelu(up(norm(x)))))``.

    x (..., C), norm_weight and norm_bias (C,), up (F, C), up_bias (F,), down (C, F), down_bias (C,) -> (..., C).

    Raises:
        ValueError: p is out of range.
    """
    check_probability(p)
    fits = up.shape[1:] == x.shape[-1:] and down.shape == (up.shape[1], up.shape[0])
    fits = fits and vectors(x.shape[-1], norm_weight, norm_bias, down_bias) and vectors(up.shape[0], up_bias)
    if not fits or not _pays(x, [up, down], norm_weight, norm_bias, up_bias, down_bias):
        hidden = gelu(F.linear(_norm(x, norm_weight, norm_bias, eps, rms), up, up_bias))
        return dropout_add(F.linear(hidden, down, down_bias), x, p)
    keep = needs_grad(x, norm_weight, norm_bias, up, up_bias, down, down_bias)
    return node(_GeluMlp, x, norm_weight, norm_bias, up, up_bias, down, down_bias, p, eps, not rms, keep)


def _rows(x: Tensor) -> int:
    return x.numel() // max(x.shape[-1], 1)


def _pays(x: Tensor, weights: list[Tensor], *others: Tensor | None) -> bool:
    """Whether the fused operation takes these tensors and is worth its preparation."""
    if _rows(x) < (FEWEST if needs_grad(x, *weights, *others) else FEWEST_IN_USE):
        return False
    return all(weight.numel() <= LARGEST for weight in weights) and suits(x, *weights, *others)


def _norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, rms: bool) -> Tensor:
    return rms_norm(x, weight, eps) if rms else layer_norm(x, weight, bias, eps)


def _kept(x: Tensor, width: int, wanted: bool) -> Tensor | None:
    """Room for a product's input, ``width`` wide, kept for the weight's gradient; None where nobody asks for it."""
    return x.new_empty(size("kept_floats", _rows(x), width)) if wanted else None


def _wanted(wanted: bool, like: Tensor) -> Tensor | None:
    """Room for a gradient, or None where nobody asks for it."""
    return torch.empty_like(like) if wanted else None


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
        center: bool,
        keep: bool,
    ) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        rows, (outputs, inputs) = _rows(x), weight.shape
        kept, statistics = _kept(x, inputs, keep and ctx.needs_input_grad[3]), x.new_empty(rows, 2)
        y = x.new_empty(*x.shape[:-1], outputs)
        call(
            *("norm_linear_forward", rows, inputs, outputs, x, norm_weight, norm_bias, float(eps), center),
            *(weight, bias, kept, statistics, y, workspace(size("linear_work", rows, inputs, outputs))),
        )
        ctx.save_for_backward(x, norm_weight, weight, kept, statistics)
        ctx.center = center
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, weight, kept, statistics = ctx.saved_tensors
        needs = ctx.needs_input_grad
        rows, (outputs, inputs) = _rows(x), weight.shape
        dx = torch.empty_like(x)
        dnorm_weight, dnorm_bias = _wanted(needs[1], norm_weight), _wanted(needs[2], norm_weight)
        dweight = _wanted(needs[3], weight)
        dbias = x.new_empty(outputs) if needs[4] else None
        call(
            *("norm_linear_backward", rows, inputs, outputs, x, norm_weight, ctx.center, weight, kept, statistics),
            *(grad.contiguous(), dx, dnorm_weight, dnorm_bias, dweight, dbias),
            workspace(size("linear_work", rows, inputs, outputs)),
        )
        return dx, dnorm_weight, dnorm_bias, dweight, dbias, None, None, None


class _LinearDropoutAdd(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, p: float, keep: bool
    ) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        residual = None if residual is None else residual.contiguous()
        rows, (outputs, inputs) = _rows(x), weight.shape
        ctx.p, ctx.seed = float(p), draw_seed(p)
        kept = _kept(x, inputs, keep and ctx.needs_input_grad[1])
        y = x.new_empty(*x.shape[:-1], outputs)
        call(
            *("linear_dropout_forward", rows, inputs, outputs, x, weight, bias, residual, ctx.p, ctx.seed, y, kept),
            workspace(size("linear_work", rows, inputs, outputs)),
        )
        ctx.save_for_backward(kept, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        rows, (outputs, inputs) = _rows(grad), weight.shape
        grad = grad.contiguous()
        dx, dweight = grad.new_empty(*grad.shape[:-1], inputs), _wanted(needs[1], weight)
        dbias = grad.new_empty(outputs) if needs[2] else None
        call(
            *(
                "linear_dropout_backward",
                rows,
                inputs,
                outputs,
                kept,
                weight,
                ctx.p,
                ctx.seed,
                grad,
                dx,
                dweight,
                dbias,
            ),
            workspace(size("linear_work", rows, inputs, outputs)),
        )
        return dx, dweight, dbias, grad if needs[3] else None, None, None


class _GeluMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor | None,
        up: Tensor,
        up_bias: Tensor | None,
        down: Tensor,
        down_bias: Tensor | None,
        p: float,
        eps: float,
        center: bool,
        keep: bool,
    ) -> Tensor:
        x, up, down = x.contiguous(), up.contiguous(), down.contiguous()
        rows, (inner, width) = _rows(x), up.shape
        ctx.p, ctx.seed, ctx.center = float(p), draw_seed(p), center
        needs = ctx.needs_input_grad
        y, statistics = torch.empty_like(x), x.new_empty(rows, 2)
        kept1, kept2 = _kept(x, width, keep and needs[3]), _kept(x, inner, keep and needs[5])
        slope = x.new_empty(rows, inner) if keep else None
        call(
            *("mlp_forward", rows, width, inner, x, norm_weight, norm_bias, float(eps), center),
            *(up, up_bias, down, down_bias, ctx.p, ctx.seed, y, kept1, statistics, kept2, slope),
            workspace(size("mlp_work", rows, width, inner)),
        )
        ctx.save_for_backward(x, norm_weight, up, down, kept1, statistics, kept2, slope)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, up, down, kept1, statistics, kept2, slope = ctx.saved_tensors
        needs = ctx.needs_input_grad
        rows, (inner, width) = _rows(x), up.shape
        grad = grad.contiguous()
        dx = torch.empty_like(x)
        dnorm_weight, dnorm_bias = _wanted(needs[1], norm_weight), _wanted(needs[2], norm_weight)
        dup, ddown = _wanted(needs[3], up), _wanted(needs[5], down)
        dup_bias = x.new_empty(inner) if needs[4] else None
        ddown_bias = x.new_empty(width) if needs[6] else None
        call(
            *("mlp_backward", rows, width, inner, x, norm_weight, ctx.center, up, down, ctx.p, ctx.seed),
            *(kept1, statistics, kept2, slope, grad, dx, dnorm_weight, dnorm_bias, dup, dup_bias, ddown, ddown_bias),
            workspace(size("mlp_work", rows, width, inner)),
        )
        return dx, dnorm_weight, dnorm_bias, dup, dup_bias, ddown, ddown_bias, None, None, None, None
