"""The maths of learning from rewards, as pure functions.

Where it says (N,), tensors are flat: only the tokens that were sampled, those of each completion one after the other.
All are float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

KlEstimator = Literal["k1", "k2", "k3"]
AdvantageKind = Literal["grpo", "dr_grpo", "rloo"]
_LEAST_DEVIATION = 1e-4
"""Added to a group's deviation, as is usual, so that a group of nearly equal rewards does not shout."""


def token_kl(log_p: Tensor, log_reference: Tensor, kind: KlEstimator = "k3") -> Tensor:
    """An estimate of the divergence KL(policy, reference) from each token that the policy sampled. (N,) -> (N,).

    Schulman 2020, "Approximating KL divergence", with r = reference / policy: k1 = -log r (unbiased, may be negative),
    k2 = (log r)^2 / 2 (biased, small variance), k3 = r - 1 - log r (unbiased and never negative).

    That is of the values. As a part of a loss, on tokens that the policy has just sampled, k2 has the gradient of this
    divergence on average, k3 that of KL(reference, policy), which is zero at the same place, and k1 none.

    Raises:
        ValueError: there is no such estimator.
    """
    log_ratio = log_reference - log_p
    if kind == "k1":
        return -log_ratio
    if kind == "k2":
        return 0.5 * log_ratio**2
    if kind == "k3":
        return log_ratio.exp() - 1.0 - log_ratio
    raise ValueError(f"there is no estimator {kind!r}")


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates, and the returns that the values should have been (Schulman et al. 2016,
    equation 16).

    Args:
        rewards, values: (B, T), of each token.
        mask: (B, T) bool: where tokens are, from each row's beginning on. After a row's last token nothing comes, so
            that the value there is 0.

    Returns:
        advantages and returns, (B, T) each, 0 outside of the mask.
    """
    keep = mask.to(rewards.dtype)
    advantages = torch.zeros_like(rewards)
    later, next_value = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        later = (delta + gamma * lam * later) * keep[:, t]
        advantages[:, t] = later
        next_value = values[:, t] * keep[:, t]
    return advantages, (advantages + values) * keep


def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """``x`` with a deviation of 1 and, with ``shift_mean``, a mean of 0 over the mask; 0 outside. (B, T) -> (B, T)."""
    chosen = x[mask]
    if not chosen.numel():
        return torch.zeros_like(x)
    mean = chosen.mean()
    found = (x - mean) * torch.rsqrt(chosen.var(correction=0) + 1e-8)
    return (found if shift_mean else found + mean).masked_fill(~mask, 0.0)


def group_advantages(rewards: Tensor, kind: AdvantageKind = "grpo") -> Tensor:
    """How much better each completion is than the others to its prompt. (G, K) -> (G, K).

    ``grpo``: less the group's mean, over its deviation (Shao et al. 2024, section 4.1.2). ``dr_grpo``: less the mean
    alone, since to divide by the deviation favours prompts that are nearly always or nearly never answered well (Liu et
    al. 2025, section 3). ``rloo``: less the mean of the *other* completions (Ahmadian et al. 2024, section 4).

    Raises:
        ValueError: there is no such kind, or a group of one.
    """
    size = rewards.shape[1]
    if size < 2:
        raise ValueError("a group of one completion has nothing to compare it with")
    centred = rewards - rewards.mean(1, keepdim=True)
    if kind == "dr_grpo":
        return centred
    if kind == "rloo":
        return centred * (size / (size - 1))
    if kind == "grpo":
        return centred / (rewards.std(1, keepdim=True) + _LEAST_DEVIATION)
    raise ValueError(f"there are no advantages {kind!r}")


def clipped_policy_losses(
    log_p: Tensor,
    old: Tensor,
    advantages: Tensor,
    *,
    low: float = 0.2,
    high: float = 0.2,
    level: Literal["token", "sequence"] = "token",
    sequences: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """-min(r A, clip(r, 1 - low, 1 + high) A) of each token, r being how much likelier it is than when it was sampled
    (Schulman et al. 2017, equation 7; a higher ``high`` is DAPO's, Yu et al. 2025, equation 10).

    Args:
        log_p, old, advantages: (N,).
        level: with "sequence" the ratio of all tokens of a completion is the geometric mean of theirs (Zheng et al.
            2025, GSPO, equation 7), and each token carries its own part of the gradient (equation 14).
        sequences: (N,) int64: which completion each token is of, from 0; needed with "sequence". Whole completions.

    Returns:
        losses (N,), and (N,) bool: where the clip has cut the gradient off.
    """
    log_ratio = log_p - old
    if level == "sequence":
        if sequences is None:
            raise ValueError("the ratio of sequences needs to know them")
        count = int(sequences.max()) + 1 if len(sequences) else 0
        lengths = sequences.bincount(minlength=count)
        sums = log_ratio.detach().new_zeros(count).index_add(0, sequences, log_ratio.detach())
        # The value is the completion's, the gradient the token's own.
        log_ratio = (sums / lengths)[sequences] + log_p - log_p.detach()
    ratio = log_ratio.exp()
    limited = ratio.clamp(1.0 - low, 1.0 + high)
    losses = torch.maximum(-advantages * ratio, -advantages * limited)
    cut = ((ratio < 1.0 - low) & (advantages < 0)) | ((ratio > 1.0 + high) & (advantages > 0))
    return losses, cut.detach()


def clipped_value_losses(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the squared error of values (N,), the worse of two: as they are, and no farther than ``clip`` from what they
    were; 0 for no clip. (Schulman et al. 2017's code; Ouyang et al. 2022.)"""
    plain = (values - returns) ** 2
    if clip > 0:
        near = old_values + (values - old_values).clamp(-clip, clip)
        plain = torch.maximum(plain, (near - returns) ** 2)
    return 0.5 * plain


def importance_weights(policy: Tensor, sampler: Tensor, cap: float) -> Tensor:
    """min(cap, policy / sampler) of each token, from log-probabilities (N,): what was sampled with other weights, such
    as quantised ones, counts as often as the policy would have said it (truncated importance sampling, Ionides 2008;
    for rollouts Yao et al. 2025). Without a gradient."""
    return (policy - sampler).detach().exp().clamp(max=cap)


@dataclass
class AdaptiveKL:
    """The price of a nat from the reference, which rises where the policy goes too far (Ziegler et al. 2019, section
    2.2)."""

    coefficient: float
    target: float
    """Nats a completion."""
    horizon: int
    """Completions in which the price changes by a factor of about 1.2, the most it can, a fifth or more off target."""

    def update(self, kl: float, samples: int) -> None:
        """``samples`` completions were ``kl`` nats from the reference on average."""
        error = min(0.2, max(-0.2, kl / self.target - 1.0))
        self.coefficient *= 1.0 + error * samples / self.horizon
