"""A policy and, beside it, a guess of what its completions will be worth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scratchlm.models import Decoder


class ActorCritic(nn.Module):
    """A decoder and a linear layer on its states. The decoder alone is what a run leaves; checkpoints keep both.

    Args:
        policy: shared, not copied.
        leads: whether what the value learns changes the policy's trunk too.
    """

    def __init__(self, policy: Decoder, *, leads: bool = True) -> None:
        super().__init__()
        self.policy, self.leads = policy, leads
        self.config = policy.config
        self.value = nn.Linear(policy.config.width, 1, device=policy.embed.tokens.weight.device)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)
        self.train(policy.training)

    def values(self, states: Tensor, *, alone: bool = False) -> Tensor:
        """What is expected from each state on, float32; ``alone``: no gradient to the trunk. (..., C) -> (...)."""
        with torch.autocast(states.device.type, enabled=False):
            read = states.float() if self.leads and not alone else states.detach().float()
            found: Tensor = self.value(read)
        return found.squeeze(-1)
