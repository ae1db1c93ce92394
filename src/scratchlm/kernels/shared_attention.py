"""Attention of texts that share beginnings: what is shared is looked at by all and asks once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scratchlm.kernels.attention import is_native
from scratchlm.kernels.build import call, suits, workspace
from scratchlm.kernels.pointwise import needs_grad, node

_FEW = 0.8
"""Of all pairs of tokens, so many at most have to be computed for it to be faster than our own attention of whole
texts, which keeps the shares for the backward pass. PyTorch's takes two to three times as long anyway."""


class Text(NamedTuple):
    """One of the texts that a row's tokens make up."""

    start: int
    end: int
    """Its own tokens, among all that there are: the last ones of the text, and nobody else's."""
    tokens: Tensor
    """(L,) int64: all its tokens, those that it shares first."""


def sharing_pays(qkv: Tensor, texts: Sequence[Text]) -> bool:
    """Whether :func:`shared_attention` is faster than attention of the whole texts."""
    lengths = [len(text.tokens) for text in texts]
    own = [text.end - text.start for text in texts]  # n queries of L keys: n L pairs less n^2 / 2 that come too late
    needed = sum(n * (2 * length - n) for n, length in zip(own, lengths, strict=True))
    return needed <= _FEW * sum(length**2 for length in lengths) or not is_native(qkv, max(lengths))


def shared_attention(
    qkv: Tensor, texts: Sequence[Text], heads: int, kv_heads: int, *, scale: float | None = None
) -> Tensor:
    """Causal attention within each text, for its own tokens only (Vaswani et al. 2017, equation 1).

    A text's own queries look at all its keys, so that of a text of L tokens with n of its own n L pairs are computed,
    not L^2. Products are fp32, under autocast as well; nothing of size n L is kept for the backward pass, which works
    the shares out again. On the CPU both are one call of C each.

    qkv: (N, (H + 2G) D), as :func:`~scratchlm.kernels.attention`; scale: None for 1/sqrt(D). Each of the N tokens is
    exactly one text's own. Returns (N, H D), of the dtype of ``qkv``.
    """
    head_size = qkv.shape[-1] // (heads + 2 * kv_heads)
    settings = (heads, kv_heads, head_size, float(head_size**-0.5 if scale is None else scale))
    if suits(qkv):
        listed = _listed(texts)
        if not needs_grad(qkv):
            return _native_forward(qkv.contiguous(), listed, settings)
        return node(_NativeSharedAttention, qkv, listed, settings)
    if not needs_grad(qkv):
        return _forward(qkv, texts, settings)
    return node(_SharedAttention, qkv, texts, settings)


Settings = tuple[int, int, int, float]
Listed = tuple[Tensor, Tensor, Tensor, Tensor]
"""Where the texts' own tokens start and end, where the tokens of each begin in a list of all, and that list."""


def _listed(texts: Sequence[Text]) -> Listed:
    lengths = torch.tensor([0, *(len(text.tokens) for text in texts)])
    starts, ends = (torch.tensor([getattr(text, name) for text in texts]) for name in ("start", "end"))
    return starts, ends, lengths.cumsum(0), torch.cat([text.tokens for text in texts])


def _native_forward(qkv: Tensor, listed: Listed, settings: Settings) -> Tensor:
    out = qkv.new_empty(len(qkv), settings[0] * settings[2])
    call("shared_forward", len(listed[0]), *listed, *settings, qkv, out)
    return out


class _NativeSharedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, listed: Listed, settings: Settings) -> Tensor:
        qkv = qkv.contiguous()
        ctx.save_for_backward(qkv)
        ctx.listed, ctx.settings = listed, settings
        return _native_forward(qkv, listed, settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (qkv,) = ctx.saved_tensors
        _, kv_heads, size, _ = ctx.settings
        dqkv, told = torch.empty_like(qkv), workspace(len(ctx.listed[3]) * 2 * kv_heads * size)
        call(
            *("shared_backward", len(ctx.listed[0]), *ctx.listed, *ctx.settings, len(qkv)),
            *(qkv, grad.contiguous(), dqkv, told),
        )
        return dqkv, None, None


def _parts(qkv: Tensor, text: Text, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (G, r n, D), those of the r heads that share a key head one after another, keys and values (G, L, D)."""
    heads, kv_heads, size, _ = settings
    asked = qkv[text.start : text.end, : heads * size].float()
    queries = asked.view(len(asked), kv_heads, -1, size).permute(1, 2, 0, 3).reshape(kv_heads, -1, size)
    seen = qkv[:, heads * size :].index_select(0, text.tokens).float()
    keys, values = seen.view(len(seen), 2, kv_heads, size).permute(1, 2, 0, 3)
    return queries, keys, values


def _shares(queries: Tensor, keys: Tensor, own: int, scale: float) -> Tensor:
    """(G, r n, L): each query's shares of attention, summing to 1."""
    scores = torch.bmm(queries * scale, keys.transpose(1, 2))
    late = torch.full((own, own), float("-inf")).triu_(1)
    scores.view(len(keys), -1, own, scores.shape[-1])[..., -own:].add_(late)
    return scores.softmax(-1)


def _side_by_side(x: Tensor, own: int) -> Tensor:
    """(G, r n, D) -> (n, H D)."""
    return x.view(len(x), -1, own, x.shape[-1]).permute(2, 0, 1, 3).reshape(own, -1)


def _forward(qkv: Tensor, texts: Sequence[Text], settings: Settings) -> Tensor:
    heads, _, size, scale = settings
    out = qkv.new_empty(len(qkv), heads * size)
    with torch.autocast("cpu", enabled=False):
        for text in texts:
            queries, keys, values = _parts(qkv, text, settings)
            own = text.end - text.start
            out[text.start : text.end] = _side_by_side(torch.bmm(_shares(queries, keys, own, scale), values), own)
    return out


class _SharedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, texts: Sequence[Text], settings: Settings) -> Tensor:
        ctx.save_for_backward(qkv)
        ctx.texts, ctx.settings = texts, settings
        return _forward(qkv, texts, settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (qkv,) = ctx.saved_tensors
        heads, kv_heads, size, scale = ctx.settings
        found = torch.zeros(qkv.shape)
        for_keys = found[:, heads * size :]
        with torch.autocast("cpu", enabled=False):
            for text in ctx.texts:
                queries, keys, values = _parts(qkv, text, ctx.settings)
                own = text.end - text.start
                shares = _shares(queries, keys, own, scale)
                told = grad[text.start : text.end].float().view(own, kv_heads, -1, size)
                told = told.permute(1, 2, 0, 3).reshape(kv_heads, -1, size)
                scores = torch._softmax_backward_data(
                    torch.bmm(told, values.transpose(1, 2)), shares, -1, torch.float32
                )
                found[text.start : text.end, : heads * size] = _side_by_side(torch.bmm(scores, keys) * scale, own)
                pair = torch.stack(
                    [torch.bmm(scores.transpose(1, 2), queries) * scale, torch.bmm(shares.transpose(1, 2), told)]
                )
                for_keys.index_add_(0, text.tokens, pair.permute(2, 0, 1, 3).reshape(len(text.tokens), -1))
        return found.to(qkv.dtype), None, None
