"""Losses on preferences, as pure functions of log-probabilities or rewards.

All tensors are float32, and one loss in nats comes back for each pair, (P,). The log-probabilities are sums over the
tokens of a completion, its end included.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

PairLoss = Literal["dpo", "ipo", "hinge", "orpo", "simpo"]


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0, *, centring: float = 0.0) -> Tensor:
    """-log sigmoid(chosen - rejected - margin) + centring * (chosen + rejected)^2, of rewards (P,).

    Ouyang et al. 2022, equation 1; the margin of Touvron et al. 2023, equation 2; the centring of Eisenstein et al.
    2023, equation 2, without which rewards have no zero.
    """
    return -F.logsigmoid(chosen - rejected - margin) + centring * (chosen + rejected) ** 2


def implicit_rewards(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """What a policy's log-probabilities (N,) say of rewards: beta * (policy - reference), which leaves out what is the
    same for all completions of a prompt (Rafailov et al. 2023, equation 5)."""
    return beta * (policy - reference)


def dpo(gaps: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Rafailov et al. 2023, equation 7, of ``gaps``: how much more the policy prefers the chosen completion than the
    reference does. With smoothing that share of the labels is taken to be wrong (Mitchell 2023, conservative DPO)."""
    right, wrong = -F.logsigmoid(beta * gaps), -F.logsigmoid(-beta * gaps)
    return (1.0 - label_smoothing) * right + label_smoothing * wrong


def ipo(gaps: Tensor, beta: float) -> Tensor:
    """(gaps - 1 / (2 beta))^2 (Azar et al. 2023, equation 17). The gaps are of log-probabilities a token, as in the
    authors' own code: of sums, beta would mean another thing for each length."""
    return (gaps - 1.0 / (2.0 * beta)) ** 2


def hinge(gaps: Tensor, beta: float) -> Tensor:
    """max(0, 1 - beta * gaps): the calibration loss of SLiC (Zhao et al. 2023, equation 2), on DPO's gaps."""
    return torch.relu(1.0 - beta * gaps)


def orpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-chosen - beta * log sigmoid(log odds ratio), of log-probabilities a token (Hong et al. 2024, equations 6 and 7);
    there is no reference, and the chosen completion is learned as in fine-tuning."""
    odds = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
    return -chosen - beta * F.logsigmoid(odds)


def simpo(chosen: Tensor, rejected: Tensor, beta: float, gamma: float) -> Tensor:
    """-log sigmoid(beta * (chosen - rejected) - gamma), of log-probabilities a token (Meng et al. 2024, equation 6)."""
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)


def preference_losses(
    kind: PairLoss,
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    lengths_chosen: Tensor,
    lengths_rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
) -> Tensor:
    """The losses (P,) of pairs, from the sums of log-probabilities and the tokens of each completion, (P,) each.

    Raises:
        ValueError: there is no such loss.
    """
    if kind in ("dpo", "hinge"):
        gaps = (policy_chosen - policy_rejected) - (reference_chosen - reference_rejected)
        return dpo(gaps, beta, label_smoothing) if kind == "dpo" else hinge(gaps, beta)
    chosen, rejected = policy_chosen / lengths_chosen, policy_rejected / lengths_rejected
    if kind == "ipo":
        before = reference_chosen / lengths_chosen - reference_rejected / lengths_rejected
        return ipo((chosen - rejected) - before, beta)
    if kind == "orpo":
        return orpo(chosen, rejected, beta)
    if kind == "simpo":
        return simpo(chosen, rejected, beta, gamma)
    raise ValueError(f"there is no loss {kind!r}")


def kto_baseline(policy: Tensor, reference: Tensor) -> Tensor:
    """How far the policy has left the reference, estimated from completions (M,) of other prompts: their mean gap, at
    least 0, without a gradient. 0-d. (Ethayarajh et al. 2024, section 4.1, the estimate of z0.)"""
    return (policy - reference).mean().clamp(min=0.0).detach()


def kto_losses(
    policy: Tensor,
    reference: Tensor,
    desirable: Tensor,
    baseline: Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """The losses (N,) of completions that are each liked or not: ``desirable`` (N,) bool. Ethayarajh et al. 2024,
    equations 7 and 8: 1 - sigmoid(beta * (gap - baseline)) for what is liked, 1 - sigmoid(beta * (baseline - gap)) for
    what is not."""
    gaps = policy - reference
    liked = desirable_weight * (1.0 - torch.sigmoid(beta * (gaps - baseline)))
    disliked = undesirable_weight * (1.0 - torch.sigmoid(beta * (baseline - gaps)))
    return torch.where(desirable, liked, disliked)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, without the loss of digits on either side (Mächler 2012)."""
    x = x.clamp(max=-1e-7)
    return torch.where(x > -0.6931472, torch.log(-torch.expm1(x)), torch.log1p(-x.exp()))
