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

LARGEST = 2**18
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
    return norm_linear_residual(x, norm_weight, norm_bias, weight, bias, eps=eps, rms=rms)[0]


def norm_linear_residual(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    eps: float = 1e-5,
    rms: bool = False,
) -> tuple[Tensor, Tensor]:
    """:func:`norm_linear`'s result, and x itself for the residual connection.

    Both ways lead through one node of the autograd graph, so that their gradients meet where x's is computed and need
    no addition of their own.
    """
    fits = weight.shape[1:] == x.shape[-1:] and vectors(x.shape[-1], norm_weight, norm_bias)
    fits = fits and vectors(weight.shape[0], bias)
    if not fits or not _pays(x, [weight], norm_weight, norm_bias, bias):
        return F.linear(_norm(x, norm_weight, norm_bias, eps, rms), weight, bias), x
    result: tuple[Tensor, Tensor] = _NormLinear.apply(  # type: ignore[no-untyped-call]
        x, norm_weight, norm_bias, weight, bias, eps, not rms
    )
    return result


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
    return node(_LinearDropoutAdd, x, weight, bias, residual, p)


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
    ) -> tuple[Tensor, Tensor]:
        dense, weight = x.contiguous(), weight.contiguous()
        rows, (outputs, inputs) = _rows(x), weight.shape
        y, statistics = x.new_empty(*x.shape[:-1], outputs), x.new_empty(rows, 2)
        call(
            *("norm_linear_forward", rows, inputs, outputs, dense, norm_weight, norm_bias, float(eps), center),
            *(weight, bias, statistics, y, workspace(size("linear_work", rows, inputs, outputs))),
        )
        ctx.save_for_backward(dense, norm_weight, norm_bias, weight, statistics)
        ctx.center = center
        ctx.set_materialize_grads(False)
        return y, x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, dresidual: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return dresidual, None, None, None, None, None, None
        x, norm_weight, norm_bias, weight, statistics = ctx.saved_tensors
        needs = ctx.needs_input_grad
        rows, (outputs, inputs) = _rows(x), weight.shape
        dresidual = None if dresidual is None else dresidual.contiguous()
        dx, dweight = torch.empty_like(x), _wanted(needs[3], weight)
        dnorm_weight, dnorm_bias = _wanted(needs[1], norm_weight), _wanted(needs[2], norm_weight)
        dbias = x.new_empty(outputs) if needs[4] else None
        call(
            *("norm_linear_backward", rows, inputs, outputs, x, norm_weight, norm_bias, ctx.center, weight, statistics),
            *(grad.contiguous(), dresidual, dx, dnorm_weight, dnorm_bias, dweight, dbias),
            workspace(size("linear_work", rows, inputs, outputs)),
        )
        return dx, dnorm_weight, dnorm_bias, dweight, dbias, None, None


class _LinearDropoutAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, p: float) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        residual = None if residual is None else residual.contiguous()
        rows, (outputs, inputs) = _rows(x), weight.shape
        ctx.p, ctx.seed = float(p), draw_seed(p)
        y = x.new_empty(*x.shape[:-1], outputs)
        call(
            *("linear_dropout_forward", rows, inputs, outputs, x, weight, bias, residual, ctx.p, ctx.seed, y),
            workspace(size("linear_work", rows, inputs, outputs)),
        )
        # x serves the weight's gradient alone: a frozen layer keeps no activations
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        rows, (outputs, inputs) = _rows(grad), weight.shape
        grad = grad.contiguous()
        dx, dweight = grad.new_empty(*grad.shape[:-1], inputs), _wanted(needs[1], weight)
        dbias = grad.new_empty(outputs) if needs[2] else None
        call(
            *("linear_dropout_backward", rows, inputs, outputs, x, weight, ctx.p, ctx.seed, grad, dx, dweight, dbias),
            workspace(size("linear_work", rows, inputs, outputs)),
        )
        return dx, dweight, dbias, grad if needs[3] else None, None


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
        hidden_kept = x.new_empty(size("kept_floats", rows, inner)) if keep and needs[5] else None
        slope = x.new_empty(rows, inner) if keep else None
        call(
            *("mlp_forward", rows, width, inner, x, norm_weight, norm_bias, float(eps), center),
            *(up, up_bias, down, down_bias, ctx.p, ctx.seed, y, statistics, hidden_kept, slope),
            workspace(size("mlp_work", rows, width, inner)),
        )
        ctx.save_for_backward(x, norm_weight, norm_bias, up, down, statistics, hidden_kept, slope)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, up, down, statistics, hidden_kept, slope = ctx.saved_tensors
        needs = ctx.needs_input_grad
        rows, (inner, width) = _rows(x), up.shape
        grad = grad.contiguous()
        dx = torch.empty_like(x)
        dnorm_weight, dnorm_bias = _wanted(needs[1], norm_weight), _wanted(needs[2], norm_weight)
        dup, ddown = _wanted(needs[3], up), _wanted(needs[5], down)
        dup_bias = x.new_empty(inner) if needs[4] else None
        ddown_bias = x.new_empty(width) if needs[6] else None
        call(
            *("mlp_backward", rows, width, inner, x, norm_weight, norm_bias, ctx.center, up, down, ctx.p, ctx.seed),
            *(statistics, hidden_kept, slope, grad, dx, dnorm_weight, dnorm_bias, dup, dup_bias, ddown, ddown_bias),
            workspace(size("mlp_work", rows, width, inner)),
        )
        return dx, dnorm_weight, dnorm_bias, dup, dup_bias, ddown, ddown_bias, None, None, None, None
