"""The loss, from logits and from the states before them."""

from __future__ import annotations

import pytest
import torch

from scratchlm.data.batch import IGNORE
from scratchlm.models import cross_entropy_sum, linear_cross_entropy_sum
from scratchlm.models import loss as room


def parts(bias: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(0, 11, (3, 9))
    labels[0, :4] = labels[2, 5:] = IGNORE
    return (
        torch.randn(3, 9, 6, requires_grad=True),
        torch.randn(11, 6, requires_grad=True),
        torch.randn(11, requires_grad=True) if bias else None,
        labels,
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("at_once", [4, 512])
def test_the_loss_from_states_is_that_of_their_logits(
    bias: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "AT_ONCE", at_once)
    states, weight, offset, labels = parts(bias)
    found, count = linear_cross_entropy_sum(states, weight, offset, labels)
    expected, expected_count = cross_entropy_sum(torch.nn.functional.linear(states, weight, offset), labels)
    torch.testing.assert_close(found, expected)
    assert int(count) == int(expected_count) == 27 - 8
    inputs = [states, weight, *([offset] if offset is not None else [])]
    ours = torch.autograd.grad(found * 0.3, inputs)
    theirs = torch.autograd.grad(expected * 0.3, inputs)
    torch.testing.assert_close(ours, theirs)
    assert not ours[0][0, :4].any()


def test_a_frozen_head_costs_no_gradient_and_a_validation_none_at_all() -> None:
    states, weight, offset, labels = parts(bias=True)
    frozen = weight.detach()
    loss, _ = linear_cross_entropy_sum(states, frozen, None, labels)
    loss.backward()
    assert states.grad is not None
    assert frozen.grad is None
    with torch.no_grad():
        again, _ = linear_cross_entropy_sum(states, weight, offset, labels)
    assert again.grad_fn is None


def test_nothing_to_predict_is_a_loss_of_zero() -> None:
    states, weight, offset, labels = parts(bias=True)
    loss, count = linear_cross_entropy_sum(states, weight, offset, torch.full_like(labels, IGNORE))
    loss.backward()
    assert float(loss) == 0.0
    assert int(count) == 0
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize("states_in", [torch.bfloat16, torch.float32])
def test_in_half_the_bits_under_autocast(states_in: torch.dtype) -> None:
    """As a GPU trains by itself: gradients in each tensor's own precision, near those in full."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(300, 16, generator=generator).to(states_in).requires_grad_()
    weight = torch.randn(50, 16, generator=generator).requires_grad_()
    labels = torch.randint(50, (300,), generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = linear_cross_entropy_sum(states, weight, None, labels)
    found = torch.autograd.grad(total, (states, weight))
    exact, _ = cross_entropy_sum(states.float() @ weight.T, labels)
    wanted = torch.autograd.grad(exact, (states, weight))
    assert float(total) == pytest.approx(float(exact), rel=0.01)
    for one, other, like in zip(found, wanted, (states, weight), strict=True):
        assert one.dtype == like.dtype
        assert (one.float() - other.float()).norm() < 0.03 * other.float().norm()
