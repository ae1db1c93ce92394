"""Multi-head attention on packed queries, keys and values, with dropout on the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from scratchlm.kernels.build import call, draw_seed, suits
from scratchlm.kernels.pointwise import check_probability, needs_grad, node

LONGEST, LONGEST_KEPT = 1024, 256
"""From about 1,000 tokens on PyTorch's own attention is as fast. It also keeps no T x T weights for its backward pass
(unless there is dropout), so in training without dropout ours, which does, ends earlier."""


def attention(
    qkv: Tensor, heads: int, kv_heads: int, *, causal: bool, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for every head (Vaswani et al. 2017, equation 1).

    qkv: (B, T, (H + 2G) D), for each token H query heads, then G key heads, then G value heads of size D; query head h
    attends with key/value head h // (H/G) (Ainslie et al. 2023). ``causal``: token t sees tokens 0..t only.
    ``dropout``: on the weights; pass 0 outside training. ``scale``: None for 1/sqrt(D).
    Returns (B, T, H D), heads side by side.

    Raises:
        ValueError: the shape does not fit the heads, or dropout is out of range.
    """
    check_probability(dropout)
    if qkv.dim() != 3 or heads < 1 or kv_heads < 1 or heads % kv_heads or qkv.shape[-1] % (heads + 2 * kv_heads):
        raise ValueError(f"qkv of shape {tuple(qkv.shape)} does not hold {heads} query and {kv_heads} key/value heads")
    head_size = qkv.shape[-1] // (heads + 2 * kv_heads)
    factor = head_size**-0.5 if scale is None else scale
    learning = needs_grad(qkv)
    longest = LONGEST_KEPT if learning and dropout == 0 else LONGEST
    if qkv.shape[1] > longest or not suits(qkv):
        return _plain(qkv, heads, kv_heads, head_size, causal, dropout, factor)
    if not learning:
        return _forward(qkv.contiguous(), heads, kv_heads, head_size, causal, factor, dropout, draw_seed(dropout), None)
    return node(_Attention, qkv, heads, kv_heads, head_size, causal, factor, dropout)


def _plain(
    qkv: Tensor, heads: int, kv_heads: int, head_size: int, causal: bool, dropout: float, scale: float
) -> Tensor:
    rows, length, _ = qkv.shape
    sizes = [heads * head_size, kv_heads * head_size, kv_heads * head_size]
    q, k, v = (part.view(rows, length, -1, head_size).transpose(1, 2) for part in torch.split(qkv, sizes, dim=-1))
    mixed = F.scaled_dot_product_attention(
        q, k, v, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=kv_heads != heads
    )
    return mixed.transpose(1, 2).reshape(rows, length, heads * head_size)


def _forward(
    qkv: Tensor,
    heads: int,
    kv_heads: int,
    head_size: int,
    causal: bool,
    scale: float,
    dropout: float,
    seed: int,
    weights: Tensor | None,
) -> Tensor:
    rows, length, _ = qkv.shape
    out = qkv.new_empty(rows, length, heads * head_size)
    call(
        *("attention_forward", rows, length, heads, kv_heads, head_size, causal, float(scale), float(dropout), seed),
        *(qkv, out, weights),
    )
    return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, heads: int, kv_heads: int, head_size: int, causal: bool, scale: float, dropout: float
    ) -> Tensor:
        qkv = qkv.contiguous()
        rows, length, _ = qkv.shape
        seed = draw_seed(dropout)
        weights = qkv.new_empty(rows, heads, length, -(-length // 32) * 32)
        out = _forward(qkv, heads, kv_heads, head_size, causal, scale, dropout, seed, weights)
        ctx.save_for_backward(qkv, weights)
        ctx.settings = (heads, kv_heads, head_size, causal, float(scale), float(dropout), seed)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None, None]:
        qkv, weights = ctx.saved_tensors
        rows, length, _ = qkv.shape
        dqkv = torch.empty_like(qkv)
        call("attention_backward", rows, length, *ctx.settings, qkv, weights, grad.contiguous(), dqkv)
        return dqkv, None, None, None, None, None, None
