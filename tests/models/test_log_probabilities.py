"""Log-probabilities without whole logits: the values and gradients of the textbook's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scratchlm.models.loss import AT_ONCE, linear_log_probabilities


def parts(count: int, bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(count, 12, generator=generator).requires_grad_()
    weight = torch.randn(37, 12, generator=generator).requires_grad_()
    shift = torch.randn(37, generator=generator).requires_grad_() if bias else None
    labels = torch.randint(37, (count,), generator=generator)
    return states, weight, shift, labels, torch.randn(count, generator=generator)


@pytest.mark.parametrize("count", [0, 1, AT_ONCE, 2 * AT_ONCE + 5])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients(count: int, bias: bool, temperature: float) -> None:
    states, weight, shift, labels, slope = parts(count, bias)
    inputs = [tensor for tensor in (states, weight, shift) if tensor is not None]
    found, surprise = linear_log_probabilities(states, weight, shift, labels, temperature, entropy=True)
    spread = (F.linear(states, weight, shift) / temperature).log_softmax(1)
    expected = spread.gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(surprise, -(spread.exp() * spread).sum(1).detach())
    assert not surprise.requires_grad
    ours = torch.autograd.grad((found * slope).sum(), inputs)
    theirs = torch.autograd.grad((expected * slope).sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_frozen_weight_gets_no_gradient(bias: bool, entropy: bool) -> None:
    """The states get the one that they get beside a weight that is trained."""
    states, weight, shift, labels, slope = parts(AT_ONCE + 5, bias)
    whole, _ = linear_log_probabilities(states, weight, shift, labels, 0.7, entropy)
    (expected,) = torch.autograd.grad((whole * slope).sum(), states)
    weight, shift = weight.detach(), None if shift is None else shift.detach()
    found, surprise = linear_log_probabilities(states, weight, shift, labels, 0.7, entropy)
    assert torch.equal(found, whole)
    (found * slope).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is None
    assert states.grad is not None
    torch.testing.assert_close(states.grad, expected, rtol=1e-4, atol=1e-6)
    assert bool(surprise.any()) == entropy


def test_gradients_agree_with_finite_differences() -> None:
    states, weight, shift, labels, _ = parts(3, True)
    assert shift is not None
    inputs = tuple(one.detach().double().requires_grad_() for one in (states, weight, shift))
    assert torch.autograd.gradcheck(lambda s, w, b: linear_log_probabilities(s, w, b, labels, 0.7)[0], inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    """Neither the values nor the gradients, of states that autocast has made as well."""
    states, weight, shift, labels, slope = parts(AT_ONCE + 3, True)
    assert shift is not None
    states = states.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = linear_log_probabilities(states, weight, shift, labels)
    ours = torch.autograd.grad((found * slope).sum(), (states, weight, shift))
    assert found.dtype == torch.float32
    expected = F.linear(states.float(), weight, shift).log_softmax(1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(found, expected)
    for one, other in zip(ours, torch.autograd.grad((expected * slope).sum(), (states, weight, shift)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4 if one.dtype == torch.float32 else 1e-2, atol=1e-5)


def test_second_derivatives_are_refused() -> None:
    states, weight, _, labels, _ = parts(4, False)
    found, _ = linear_log_probabilities(states, weight, None, labels)
    (slope,) = torch.autograd.grad(found.exp().sum(), states, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()  # type: ignore[no-untyped-call]
