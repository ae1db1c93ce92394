"""What a sub-layer does around its core: norm and projection on the way in; projection, dropout and residual on the way
out. On the CPU each pair is one fused operation; where a part has been replaced (by an adapter, say) the parts are
called one by one, so that a replacement is never bypassed."""

from __future__ import annotations

from torch import Tensor, nn

from scratchlm import kernels
from scratchlm.models.layers import LayerNorm, RMSNorm


def project_in(x: Tensor, norm: nn.Module | None, linear: nn.Module) -> tuple[Tensor, Tensor]:
    """``linear(norm(x))``, or ``linear(x)`` without a norm, (..., C) -> (..., N); and x for the residual connection.

    Taking x from here rather than from the argument spares the backward pass an addition.
    """
    if norm is not None and type(linear) is nn.Linear and isinstance(norm, LayerNorm | RMSNorm):
        bias = norm.bias if isinstance(norm, LayerNorm) else None
        rms = isinstance(norm, RMSNorm)
        return kernels.norm_linear_residual(x, norm.weight, bias, linear.weight, linear.bias, eps=norm.eps, rms=rms)
    projected: Tensor = linear(x if norm is None else norm(x))
    return projected, x


def project_out(x: Tensor, linear: nn.Module, residual: Tensor, dropout: float) -> Tensor:
    """``residual + dropout(linear(x))``. x (..., K), residual (..., C) -> (..., C)."""
    if type(linear) is nn.Linear:
        return kernels.linear_dropout_add(x, linear.weight, linear.bias, residual, dropout)
    return kernels.dropout_add(linear(x), residual, dropout)


def gelu_feed_forward(
    x: Tensor, norm: nn.Module | None, up: nn.Module, down: nn.Module, dropout: float
) -> Tensor | None:
    """``x + dropout(down(gelu(up(norm(x)))))`` as one operation, or None where the parts do not allow it."""
    if type(up) is not nn.Linear or type(down) is not nn.Linear or not isinstance(norm, LayerNorm | RMSNorm):
        return None
    return kernels.gelu_mlp(
        x,
        norm.weight,
        norm.bias if isinstance(norm, LayerNorm) else None,
        up.weight,
        up.bias,
        down.weight,
        down.bias,
        dropout,
        eps=norm.eps,
        rms=isinstance(norm, RMSNorm),
    )
