"""The one training loss of language models, from logits or from the states before them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from scratchlm.data.batch import IGNORE


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy and how many positions it sums over.

    Sums, not means, so that batches, accumulation steps and processes can be joined with the right weights.

    Args:
        logits: (..., V), any float dtype; the sum is taken in float32.
        labels: (...) int64, ``IGNORE`` where nothing is to be predicted.

    Returns:
        The sum in nats (0-d float32) and the count (0-d int64).
    """
    total = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1), ignore_index=IGNORE, reduction="sum"
    )
    return total, (labels != IGNORE).sum()


AT_ONCE = 128
"""Positions whose logits exist at the same time."""


def linear_cross_entropy_sum(
    states: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`cross_entropy_sum` of ``states @ weight.T + bias``, whose logits never exist as a whole.

    A vocabulary is far wider than a model, so that its logits and their gradient take more memory than all else. Here
    they are made for some positions at a time, and only where there is something to predict; the gradients are worked
    out on the way forward, since they are those of a sum.

    Args:
        states: (..., C) floats.
        weight: (V, C), bias: (V,) or None; a frozen one costs no gradient.
        labels: (...) int64, ``IGNORE`` where nothing is to be predicted.

    Returns:
        The sum in nats (0-d float32) and the count (0-d int64).
    """
    wanted = labels != IGNORE
    kind = states.device.type
    if torch.is_autocast_enabled(kind):  # which looks into no function of our own
        states = states.to(torch.get_autocast_dtype(kind))
    with torch.autocast(kind, enabled=False):
        total: Tensor = _LinearCrossEntropy.apply(states[wanted], weight, bias, labels[wanted])  # type: ignore[no-untyped-call]
    return total, wanted.sum()


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
        needs_states, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        d_states = torch.empty_like(states) if needs_states else None
        d_weight = torch.zeros_like(weight) if needs_weight else None
        d_bias = torch.zeros_like(bias) if needs_bias and bias is not None else None
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        matrix, shift = weight.to(states.dtype), None if bias is None else bias.to(states.dtype)
        for first in range(0, len(labels), AT_ONCE):
            part, answers = states[first : first + AT_ONCE], labels[first : first + AT_ONCE, None]
            logits = F.linear(part, matrix, shift).float()
            right = logits.gather(1, answers)
            # In place, step by step: logsumexp would make a second matrix as large.
            most = logits.amax(dim=1, keepdim=True)
            slope = logits.sub_(most).exp_()
            sums = slope.sum(dim=1, keepdim=True)
            total += (sums.log() + most - right).sum()
            if not any(ctx.needs_input_grad):
                continue
            # d loss / d logits: the probabilities, less one where the answer is.
            slope.div_(sums)
            slope.scatter_add_(1, answers, slope.new_full(answers.shape, -1.0))
            slope = slope.to(states.dtype)
            if d_states is not None:
                torch.mm(slope, matrix, out=d_states[first : first + AT_ONCE])
            if d_weight is not None and weight.dtype == states.dtype:
                d_weight.addmm_(slope.mT, part)
            elif d_weight is not None:
                d_weight += slope.mT @ part
            if d_bias is not None:
                d_bias += slope.sum(0)
        ctx.save_for_backward(*(d for d in (d_states, d_weight, d_bias) if d is not None))
        ctx.given = (d_states is not None, d_weight is not None, d_bias is not None)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        return (*(next(saved).mul(grad) if given else None for given in ctx.given), None)


def linear_log_probabilities(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    temperature: float = 1.0,
    entropy: bool = False,
) -> tuple[Tensor, Tensor]:
    """log softmax((states @ weight.T + bias) / temperature) at each label, whose logits never exist as a whole.

    Unlike :func:`linear_cross_entropy_sum`'s, the gradient that comes is another one for each position. A position's
    gradient to its state is its own, times a number: for a frozen matrix it is worked out on the way forward. For one
    that is trained the logits are computed once more on the way back. They are in the weight's own precision, under
    autocast as well: what is learned from is the *difference* of two log-probabilities, which errors of bf16 logits
    can exceed.

    Args:
        states: (N, C) floats.
        weight: (V, C), bias: (V,) or None; a frozen one costs no gradient.
        labels: (N,) int64, all of them in the vocabulary.
        entropy: work out the entropies, too.

    Returns:
        Log-probabilities (N,) and, without a gradient, the distributions' entropies (N,), zeros without ``entropy``;
        both float32 (float64 for float64), in nats.
    """
    with torch.autocast(states.device.type, enabled=False):
        found: tuple[Tensor, Tensor] = _LinearLogProbabilities.apply(  # type: ignore[no-untyped-call]
            states.to(weight.dtype), weight, bias, labels, temperature, entropy
        )
    return found


class _LinearLogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        temperature: float,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        found = torch.empty(len(labels), dtype=_wide(states), device=states.device)
        surprise = torch.zeros_like(found)
        needs_states, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        slopes = torch.empty_like(states) if needs_states and not (needs_weight or needs_bias) else None
        for part in _parts(len(labels)):
            logits = F.linear(states[part], weight, bias).to(found.dtype)
            if temperature != 1:
                logits.div_(temperature)
            right = logits.gather(1, labels[part, None])
            most = logits.amax(dim=1, keepdim=True)
            spread = logits.sub_(most)
            if slopes is None and not entropy:
                found[part] = (right - most - spread.exp_().sum(1, keepdim=True).log_())[:, 0]
                continue
            odds = spread.exp()
            sums = odds.sum(dim=1, keepdim=True)
            whole = sums.log()
            found[part] = (right - most - whole)[:, 0]
            if entropy:  # of softmax(z): log sum exp(z) less the mean of z
                surprise[part] = whole[:, 0] - spread.mul_(odds).sum(1) / sums[:, 0]
            if slopes is not None:  # d log p / d logits: one where the label is, less the probabilities
                odds.div_(-sums).scatter_add_(1, labels[part, None], torch.ones_like(sums))
                torch.mm(odds.to(states.dtype), weight, out=slopes[part])
        if slopes is not None:
            ctx.save_for_backward(slopes.div_(temperature))
        else:
            ctx.save_for_backward(states, weight, bias, labels)
        ctx.temperature, ctx.whole = temperature, slopes is not None
        ctx.mark_non_differentiable(surprise)
        return found, surprise

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.whole:
            (slopes,) = ctx.saved_tensors
            return slopes * grad[:, None].to(slopes.dtype), None, None, None, None, None
        states, weight, bias, labels = ctx.saved_tensors
        needs_states, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        d_states = torch.empty_like(states) if needs_states else None
        d_weight = torch.zeros_like(weight) if needs_weight else None
        d_bias = torch.zeros_like(bias) if needs_bias and bias is not None else None
        for part in _parts(len(labels)):
            slope = F.linear(states[part], weight, bias).to(grad.dtype).div_(ctx.temperature).softmax(1).neg_()
            slope.scatter_add_(1, labels[part, None], torch.ones_like(slope[:, :1]))
            slope = slope.mul_(grad[part, None] / ctx.temperature).to(states.dtype)
            if d_states is not None:
                torch.mm(slope, weight, out=d_states[part])
            if d_weight is not None:
                d_weight.addmm_(slope.mT, states[part])
            if d_bias is not None:
                d_bias += slope.sum(0)
        return d_states, d_weight, d_bias, None, None, None


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _parts(count: int) -> Iterator[slice]:
    for first in range(0, count, AT_ONCE):
        yield slice(first, first + AT_ONCE)
