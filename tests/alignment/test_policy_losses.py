"""The maths of learning from rewards: independent plain code, unbiased estimates, and bandits with a known optimum."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scratchlm.alignment.policy_losses import (
    AdaptiveKL,
    clipped_policy_losses,
    clipped_value_losses,
    gae,
    group_advantages,
    importance_weights,
    token_kl,
    whiten,
)


def test_estimators_of_the_divergence() -> None:
    """k1 and k3 have the divergence for their mean, exactly, over the policy's own distribution; k2 comes near."""
    policy = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    reference = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
    exact = sum(float(p) * math.log(float(p) / float(q)) for p, q in zip(policy, reference, strict=True))
    means = {
        kind: float((policy * token_kl(policy.log(), reference.log(), kind)).sum())  # type: ignore[arg-type]
        for kind in ("k1", "k2", "k3")
    }
    assert means["k1"] == pytest.approx(exact)
    assert means["k3"] == pytest.approx(exact)
    assert means["k2"] == pytest.approx(exact, rel=0.1)
    assert means["k2"] != pytest.approx(exact, rel=1e-3)
    assert bool((token_kl(policy.log(), reference.log(), "k3") >= 0).all())


def test_gradients_of_the_estimators() -> None:
    """Their means over what the policy samples: of k1 zero, of k2 the divergence's, of k3 the reverse divergence's."""
    logits = torch.tensor([0.5, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64).log()
    log_p = logits.log_softmax(0)
    means = {
        kind: torch.autograd.grad(
            (log_p.detach().exp() * token_kl(log_p, reference, kind)).sum(),  # type: ignore[arg-type]
            logits,
            retain_graph=True,
        )[0]
        for kind in ("k1", "k2", "k3")
    }
    forth = (log_p.exp() * (log_p - reference)).sum()
    back = (reference.exp() * (reference - log_p)).sum()
    torch.testing.assert_close(means["k1"], torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(means["k2"], torch.autograd.grad(forth, logits, retain_graph=True)[0])
    torch.testing.assert_close(means["k3"], torch.autograd.grad(back, logits)[0])
    assert float((means["k2"] - means["k3"]).norm()) > 0.01


def test_estimates_from_samples_come_to_the_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.25, 0.25])
    exact = float((policy * (policy / reference).log()).sum())
    drawn = torch.multinomial(policy, 200_000, True, generator=generator)
    log_p, before = policy.log()[drawn], reference.log()[drawn]
    k1, k3 = token_kl(log_p, before, "k1"), token_kl(log_p, before, "k3")
    assert float(k1.mean()) == pytest.approx(exact, abs=5 * float(k1.std()) / 200_000**0.5)
    assert float(k3.mean()) == pytest.approx(exact, abs=5 * float(k3.std()) / 200_000**0.5)
    assert float(k3.var()) < float(k1.var())


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_advantages_by_their_definition(gamma: float, lam: float) -> None:
    """Schulman et al. 2016, equation 16: the sum of (gamma lam)^l times the later errors, row by row."""
    generator = torch.Generator().manual_seed(1)
    rewards, values = torch.randn(3, 5, generator=generator), torch.randn(3, 5, generator=generator)
    lengths = [5, 3, 1]
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for row, length in enumerate(lengths):
        r, v = rewards[row, :length].tolist(), [*values[row, :length].tolist(), 0.0]
        errors = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * lam) ** (k - t) * errors[k] for k in range(t, length))
            assert float(advantages[row, t]) == pytest.approx(expected, abs=1e-5)
            assert float(returns[row, t]) == pytest.approx(expected + v[t], abs=1e-5)
    assert not advantages[~mask].any()
    assert not returns[~mask].any()


def test_with_lam_1_a_return_is_the_sum_of_the_rewards_to_come() -> None:
    rewards = torch.tensor([[0.5, -1.0, 2.0]])
    _, returns = gae(rewards, torch.tensor([[3.0, 1.0, -4.0]]), torch.ones(1, 3, dtype=torch.bool), 1.0, 1.0)
    torch.testing.assert_close(returns, torch.tensor([[1.5, 1.0, 2.0]]))


def test_whitening_sees_the_mask_alone() -> None:
    x, mask = torch.tensor([[1.0, 2.0, 99.0], [3.0, 6.0, 99.0]]), torch.tensor([[1, 1, 0], [1, 1, 0]], dtype=torch.bool)
    found = whiten(x, mask)
    assert float(found[mask].mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(found[mask].std(correction=0)) == pytest.approx(1.0, abs=1e-4)
    assert not found[~mask].any()
    assert float(whiten(x, mask, shift_mean=False)[mask].mean()) == pytest.approx(3.0, abs=1e-5)
    assert whiten(torch.full((1, 3), 4.0), torch.ones(1, 3, dtype=torch.bool)).isfinite().all()


def test_advantages_of_groups() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    plain = [0.5, -0.5, -0.5, 0.5]
    spread = math.sqrt(4 * 0.25 / 3)
    torch.testing.assert_close(group_advantages(rewards, "dr_grpo")[0], torch.tensor(plain))
    expected = torch.tensor([a / (spread + 1e-4) for a in plain])
    torch.testing.assert_close(group_advantages(rewards, "grpo")[0], expected)
    others = torch.tensor([1 - 1 / 3, 0 - 2 / 3, 0 - 2 / 3, 1 - 1 / 3])
    torch.testing.assert_close(group_advantages(rewards, "rloo")[0], others)
    for kind in ("grpo", "dr_grpo", "rloo"):
        assert not group_advantages(rewards, kind)[1].any()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a group of one"):
        group_advantages(torch.ones(3, 1))


def clipped_by_hand(log_p: float, old: float, advantage: float, low: float, high: float) -> float:
    ratio = math.exp(log_p - old)
    return -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def test_clipped_losses_and_where_they_are_cut() -> None:
    log_p = torch.tensor([-1.0, -1.0, -1.0, -1.0, -1.0])
    old = torch.tensor([-1.0, -2.0, -2.0, -0.2, -0.2])
    advantages = torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0])
    found, cut = clipped_policy_losses(log_p, old, advantages, low=0.2, high=0.3)
    expected = [
        clipped_by_hand(a, b, c, 0.2, 0.3)
        for a, b, c in zip(log_p.tolist(), old.tolist(), advantages.tolist(), strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert cut.tolist() == [False, True, False, False, True]


def test_where_it_is_cut_there_is_no_gradient() -> None:
    log_p = torch.tensor([-1.0, -1.0, -1.1], requires_grad=True)
    found, cut = clipped_policy_losses(log_p, torch.tensor([-2.0, -0.2, -1.0]), torch.tensor([1.0, -1.0, 1.0]))
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert log_p.grad is not None
    assert cut.tolist() == [True, True, False]
    assert log_p.grad[:2].tolist() == [0.0, 0.0]
    assert float(log_p.grad[2]) == pytest.approx(-math.exp(-0.1))


def test_the_ratio_of_a_sequence() -> None:
    """Its value is the geometric mean of its tokens' ratios; its gradient that of GSPO's objective."""
    log_p = torch.tensor([-1.0, -2.0, -0.5, -1.5, -1.0], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([-1.1, -1.8, -0.6, -1.5, -1.1], dtype=torch.float64)
    owners, advantages = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([1.0, 1.0, -0.5, -0.5, -0.5]).double()
    found, _ = clipped_policy_losses(log_p, old, advantages, level="sequence", sequences=owners)
    ratios = [math.exp((0.1 - 0.2) / 2), math.exp((0.1 + 0.0 + 0.1) / 3)]
    expected = torch.tensor([-ratios[0], -ratios[0], *[0.5 * ratios[1]] * 3], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    lengths = torch.tensor([2.0, 3.0]).double()
    (found / lengths[owners]).sum().backward()  # type: ignore[no-untyped-call]
    leaf = log_p.detach().clone().requires_grad_()
    sums = torch.zeros(2, dtype=torch.float64).index_add(0, owners, leaf - old)
    objective = -((sums / lengths).exp() * torch.tensor([1.0, -0.5]).double()).sum()
    objective.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(log_p.grad, leaf.grad)


def test_clipped_values() -> None:
    values, old, returns = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.9]), torch.tensor([2.0, 0.0])
    found = clipped_value_losses(values, old, returns, 0.2)
    torch.testing.assert_close(found, torch.tensor([0.5 * (0.2 - 2.0) ** 2, 0.5]))
    torch.testing.assert_close(clipped_value_losses(values, old, returns, 0.0), torch.tensor([0.5, 0.5]))


def test_gradients_agree_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(3)
    log_p = (-torch.rand(6, generator=generator, dtype=torch.float64) - 0.1).requires_grad_()
    old = log_p.detach() + 0.05 * torch.randn(6, generator=generator, dtype=torch.float64)
    weights = torch.randn(6, generator=generator, dtype=torch.float64)
    checks: list[Any] = [
        lambda x: clipped_policy_losses(x, old, weights)[0],
        lambda x: clipped_value_losses(x, old, weights, 0.5),
        *(lambda x, kind=kind: token_kl(x, old, kind) for kind in ("k1", "k2", "k3")),
    ]
    for check in checks:
        assert torch.autograd.gradcheck(check, (log_p,))


def test_weights_of_what_others_have_sampled() -> None:
    policy = torch.tensor([-1.0, -1.0, -3.0], requires_grad=True)
    found = importance_weights(policy, torch.tensor([-1.0, -3.0, -1.0]), 2.0)
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0, math.exp(-2.0)]))
    assert not found.requires_grad


def test_what_a_sampler_says_is_corrected() -> None:
    """The mean of a function under the policy, from another distribution's samples."""
    generator = torch.Generator().manual_seed(0)
    policy, sampler = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.4, 0.3, 0.3])
    worth = torch.tensor([1.0, -1.0, 5.0])
    drawn = torch.multinomial(sampler, 100_000, True, generator=generator)
    weights = importance_weights(policy.log()[drawn], sampler.log()[drawn], 10.0)
    assert float((weights * worth[drawn]).mean()) == pytest.approx(float((policy * worth).sum()), abs=0.03)
    assert float(worth[drawn].mean()) != pytest.approx(float((policy * worth).sum()), abs=0.3)


def test_the_price_adapts() -> None:
    price = AdaptiveKL(0.1, 6.0, 1000)
    price.update(12.0, 100)
    assert price.coefficient == pytest.approx(0.1 * 1.02)
    price.update(5.4, 100)
    assert price.coefficient == pytest.approx(0.1 * 1.02 * 0.99)


ARMS = torch.tensor([0.1, 0.9, 0.5, 0.3])


def pull(logits: Tensor, rounds: int, learn: Any) -> Tensor:
    """Gradient ascent on a bandit by ``learn(log_p, old, rewards) -> loss``."""
    generator = torch.Generator().manual_seed(0)
    logits = logits.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(rounds):
        with torch.no_grad():
            drawn = torch.multinomial(logits.softmax(0), 64, True, generator=generator)
            old = logits.log_softmax(0)[drawn]
            rewards = ARMS[drawn] + 0.2 * torch.randn(64, generator=generator)
        for _update in range(2):
            loss = learn(logits.log_softmax(0)[drawn], old, rewards)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return logits.detach().softmax(0)


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo"])
def test_group_advantages_find_the_best_arm(kind: Any) -> None:
    def learn(log_p: Tensor, old: Tensor, rewards: Tensor) -> Tensor:
        advantages = group_advantages(rewards.reshape(8, 8), kind).reshape(-1)
        return clipped_policy_losses(log_p, old, advantages)[0].mean()

    assert float(pull(torch.tensor([3.0, 0.0, 0.0, 0.0]), 150, learn)[1]) > 0.95


def test_values_and_advantages_find_the_best_arm() -> None:
    value = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([value], lr=0.05)

    def learn(log_p: Tensor, old: Tensor, rewards: Tensor) -> Tensor:
        rows, mask = rewards[:, None], torch.ones(64, 1, dtype=torch.bool)
        advantages, returns = gae(rows, value.detach().expand(64, 1), mask, 1.0, 0.95)
        optimizer.zero_grad()
        clipped_value_losses(value.expand(64), value.detach().expand(64), returns[:, 0], 0.2).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return clipped_policy_losses(log_p, old, whiten(advantages, mask)[:, 0])[0].mean()

    assert float(pull(torch.tensor([3.0, 0.0, 0.0, 0.0]), 150, learn)[1]) > 0.95
    assert value.item() == pytest.approx(0.9, abs=0.2)


def test_the_price_of_leaving_decides_where_a_policy_ends() -> None:
    """With a price b on the divergence the optimum is known: reference * exp(reward / b), scaled to 1."""
    price, reference = 0.5, torch.tensor([0.25, 0.25, 0.25, 0.25])

    def learn(log_p: Tensor, old: Tensor, rewards: Tensor) -> Tensor:
        with torch.no_grad():
            paid = rewards - price * token_kl(old, torch.full_like(old, math.log(0.25)), "k1")
            advantages = paid - paid.mean()
        return clipped_policy_losses(log_p, old, advantages, low=0.5, high=0.5)[0].mean()

    optimum = reference * (ARMS / price).exp()
    optimum = optimum / optimum.sum()
    found = pull(torch.zeros(4), 400, learn)
    torch.testing.assert_close(found, optimum, atol=0.06, rtol=0.0)
