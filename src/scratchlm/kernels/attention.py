"""Multi-head attention on packed queries, keys and values, with dropout on the weights."""

from __future__ import annotations

from functools import lru_cache
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
    qkv: Tensor,
    heads: int,
    kv_heads: int,
    *,
    causal: bool,
    dropout: float = 0.0,
    scale: float | None = None,
    bounds: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for every head (Vaswani et al. 2017, equation 1).

    qkv: (B, T, (H + 2G) D), for each token H query heads, then G key heads, then G value heads of size D; query head h
    attends with key/value head h // (H/G) (Ainslie et al. 2023). ``causal``: token t sees tokens 0..t only.
    ``dropout``: on the weights; pass 0 outside training. ``scale``: None for 1/sqrt(D). ``bounds`` (texts + 1) int64:
    where texts begin among the B T tokens, counted through, and where the last one ends; tokens see only their own
    text. None where each row is one.
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
    if bounds is None:
        length = qkv.shape[1]
        bounds = _even_bounds(qkv.shape[0], length)
    else:
        length = int(bounds.diff().max())
    if not is_native(qkv, length, dropout):
        return _plain(qkv, heads, kv_heads, head_size, causal, dropout, factor, bounds)
    settings = (heads, kv_heads, head_size, causal, float(factor), float(dropout))
    if not learning:
        return _forward(qkv.contiguous(), bounds, settings, draw_seed(dropout), None)
    return node(_Attention, qkv, bounds, settings)


def is_native(qkv: Tensor, longest: int, dropout: float = 0.0) -> bool:
    """Whether :func:`attention` of texts of at most ``longest`` tokens is our own operation, and not PyTorch's."""
    return suits(qkv) and longest <= (LONGEST_KEPT if needs_grad(qkv) and dropout == 0 else LONGEST)


def rotate_heads(qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, turned: int) -> Tensor:
    """Turn the first ``turned`` of the ``heads`` heads of each token by its angles (Su et al. 2021).

    qkv (B, T, heads D); cos, sin (T, D/2) or (B, T, D/2); coordinates i and i + D/2 of a head form a pair.
    """
    rows, tokens, size = qkv.shape
    half = size // heads // 2
    cos, sin = (part.expand(rows, tokens, half) for part in (cos, sin))
    if suits(qkv, cos, sin):
        return node(_Rotate, qkv, cos.contiguous(), sin.contiguous(), heads, turned)
    split = qkv.view(rows, tokens, heads, 2 * half)
    first, second = split[:, :, :turned].chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(-2).to(qkv.dtype), sin.unsqueeze(-2).to(qkv.dtype)
    done = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return torch.cat((done, split[:, :, turned:]), dim=2).flatten(2)


@lru_cache(maxsize=64)
def _even_bounds(rows: int, length: int) -> Tensor:
    with torch.inference_mode(False):  # it is kept, and may next be wanted for a backward pass
        return torch.arange(rows + 1) * length


def _plain(
    qkv: Tensor,
    heads: int,
    kv_heads: int,
    head_size: int,
    causal: bool,
    dropout: float,
    scale: float,
    bounds: Tensor,
) -> Tensor:
    rows, length, _ = qkv.shape
    sizes = [heads * head_size, kv_heads * head_size, kv_heads * head_size]
    texts = bounds.diff().tolist()
    if texts != [length] * rows:  # of unequal lengths: each by itself, without a mask over all
        parts = (part[None] for part in torch.split(qkv.flatten(0, 1), texts))
        each = [
            _plain(p, heads, kv_heads, head_size, causal, dropout, scale, _even_bounds(1, p.shape[1])) for p in parts
        ]
        return torch.cat(each, dim=1).view(rows, length, heads * head_size)
    q, k, v = (part.view(rows, length, -1, head_size).transpose(1, 2) for part in torch.split(qkv, sizes, dim=-1))
    mixed = F.scaled_dot_product_attention(
        q, k, v, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=kv_heads != heads
    )
    return mixed.transpose(1, 2).reshape(rows, length, heads * head_size)


Settings = tuple[int, int, int, bool, float, float]


def _forward(qkv: Tensor, bounds: Tensor, settings: Settings, seed: int, weights: Tensor | None) -> Tensor:
    rows, length, _ = qkv.shape
    out = qkv.new_empty(rows, length, settings[0] * settings[2])
    call("attention_forward", len(bounds) - 1, bounds, *settings, seed, qkv, out, weights)
    return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bounds: Tensor, settings: Settings) -> Tensor:
        qkv = qkv.contiguous()
        seed = draw_seed(settings[-1])
        weights = qkv.new_empty(call("attention_weights", len(bounds) - 1, bounds, settings[0]))
        out = _forward(qkv, bounds, settings, seed, weights)
        ctx.save_for_backward(qkv, bounds, weights)
        ctx.settings = (*settings, seed)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        qkv, bounds, weights = ctx.saved_tensors
        dqkv = torch.empty_like(qkv)
        call(
            *("attention_backward", len(bounds) - 1, bounds, *ctx.settings),
            *(qkv, weights, grad.contiguous(), dqkv),
        )
        return dqkv, None, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, turned: int) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.heads = (heads, turned)
        return _rotated(qkv, cos, sin, heads, turned, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (cos, sin), (heads, turned) = ctx.saved_tensors, ctx.heads
        return _rotated(grad, cos, sin, heads, turned, -1.0), None, None, None, None


def _rotated(qkv: Tensor, cos: Tensor, sin: Tensor, heads: int, turned: int, sign: float) -> Tensor:
    qkv = qkv.contiguous()
    out = torch.empty_like(qkv)
    rows, tokens, size = qkv.shape
    call("rotate_heads", rows * tokens, heads, turned, size // heads, sign, qkv, cos, sin, out)
    return out
