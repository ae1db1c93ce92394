"""Losses on preferences: values by plain arithmetic, gradients by finite differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scratchlm.alignment.preference_losses import (
    bradley_terry,
    implicit_rewards,
    kto_baseline,
    kto_losses,
    preference_losses,
)

CHOSEN, REJECTED = [-12.0, -30.5, -4.0], [-15.0, -28.0, -4.0]
BEFORE = [-13.0, -30.0, -5.0], [-14.0, -29.0, -3.0]
LENGTHS = [6.0, 11.0, 2.0], [5.0, 9.0, 2.0]
KINDS = ("dpo", "ipo", "hinge", "orpo", "simpo")


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def by_hand(kind: str, n: int, beta: float, smoothing: float, gamma: float) -> float:
    """The loss of pair ``n``, in doubles."""
    w, other, rw, rl = CHOSEN[n], REJECTED[n], BEFORE[0][n], BEFORE[1][n]
    nw, nl = LENGTHS[0][n], LENGTHS[1][n]
    if kind == "dpo":
        lead = beta * ((w - rw) - (other - rl))
        return -(1 - smoothing) * math.log(sigmoid(lead)) - smoothing * math.log(sigmoid(-lead))
    if kind == "hinge":
        return max(0.0, 1.0 - beta * ((w - rw) - (other - rl)))
    if kind == "ipo":
        return ((w - rw) / nw - (other - rl) / nl - 1 / (2 * beta)) ** 2
    if kind == "simpo":
        return -math.log(sigmoid(beta * (w / nw - other / nl) - gamma))
    pw, pl = math.exp(w / nw), math.exp(other / nl)
    odds = math.log(pw / (1 - pw)) - math.log(pl / (1 - pl))
    return -w / nw - beta * math.log(sigmoid(odds))


def losses(kind: Any, chosen: Tensor, rejected: Tensor, **given: float) -> Tensor:
    before, lengths = torch.tensor(BEFORE, dtype=chosen.dtype), torch.tensor(LENGTHS, dtype=chosen.dtype)
    return preference_losses(kind, chosen, rejected, before[0], before[1], lengths[0], lengths[1], **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("beta", "smoothing", "gamma"), [(0.1, 0.0, 0.5), (0.7, 0.2, 0.0)])
def test_every_loss_is_its_formula(kind: str, beta: float, smoothing: float, gamma: float) -> None:
    found = losses(
        kind, torch.tensor(CHOSEN), torch.tensor(REJECTED), beta=beta, label_smoothing=smoothing, gamma=gamma
    )
    expected = [by_hand(kind, n, beta, smoothing, gamma) for n in range(3)]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_finite_differences(kind: str) -> None:
    chosen, rejected = torch.tensor([CHOSEN, REJECTED], dtype=torch.float64).unbind()
    inputs = chosen.clone().requires_grad_(), rejected.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: losses(kind, a, b, beta=0.3, gamma=0.2), inputs)


def test_an_odds_ratio_of_sure_completions_is_a_number() -> None:
    one = torch.tensor([1.0])
    sure, unsure = torch.tensor([-1e-9]), torch.tensor([-80.0])
    assert preference_losses("orpo", sure, unsure, one, one, one, one, beta=0.1).isfinite().all()
    assert preference_losses("orpo", unsure, sure, one, one, one, one, beta=0.1).isfinite().all()


def test_an_unknown_loss_is_refused() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match="no loss 'dpoo'"):
        preference_losses("dpoo", one, one, one, one, one, one, beta=0.1)  # type: ignore[arg-type]


def test_bradley_terry_with_margin_and_centring() -> None:
    found = bradley_terry(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 2.0]), torch.tensor([0.0, 1.0]), centring=0.1)
    expected = [-math.log(sigmoid(0.5)) + 0.1 * 1.5**2, -math.log(sigmoid(-3.0)) + 0.1 * 2.0**2]
    torch.testing.assert_close(found, torch.tensor(expected))
    inputs = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True), torch.zeros(2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: bradley_terry(a, b, 0.3, centring=0.2), inputs)


def test_bradley_terry_of_far_rewards_is_a_number() -> None:
    far = torch.tensor([500.0, -500.0], requires_grad=True)
    found = bradley_terry(far, -far)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert found.tolist() == [0.0, 1000.0]
    assert far.grad is not None
    assert far.grad.isfinite().all()


def test_kto_values_and_baseline() -> None:
    policy, reference = torch.tensor([-5.0, -9.0]), torch.tensor([-6.0, -7.0])
    baseline = kto_baseline(torch.tensor([-3.0, -4.0]), torch.tensor([-3.5, -4.1]))
    assert baseline.item() == pytest.approx(0.3)
    assert kto_baseline(torch.tensor([-3.0]), torch.tensor([-1.0])).item() == 0.0
    found = kto_losses(
        policy, reference, torch.tensor([True, False]), baseline, beta=0.5, desirable_weight=2.0, undesirable_weight=3.0
    )
    expected = [2.0 * (1 - sigmoid(0.5 * (1.0 - 0.3))), 3.0 * (1 - sigmoid(0.5 * (0.3 + 2.0)))]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_the_baseline_has_no_gradient() -> None:
    policy = torch.tensor([-3.0], requires_grad=True)
    assert not kto_baseline(policy, torch.tensor([-4.0])).requires_grad


def test_implicit_rewards() -> None:
    assert implicit_rewards(torch.tensor([-3.0]), torch.tensor([-5.0]), 0.1).item() == pytest.approx(0.2)
