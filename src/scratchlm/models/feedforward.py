"""The feed-forward sub-layer."""

from __future__ import annotations

from torch import Tensor, nn

from scratchlm.models.config import ModelConfig
from scratchlm.models.layers import activate
from scratchlm.models.sublayer import gelu_feed_forward, project_in, project_out


class FeedForward(nn.Module):
    """Two linear layers with a non-linearity between them (Vaswani et al. 2017, eq. 2), and the residual connection.

    ``forward(x, norm)`` is ``x + dropout(down(activation(up(norm(x)))))``, (B, T, C) -> (B, T, C). For ``swiglu`` the
    rows of ``up`` are the gate's, then the values'.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        gates = 2 if config.activation == "swiglu" else 1
        self.up = nn.Linear(config.width, gates * config.ffn_size, bias=config.ffn_bias)
        self.down = nn.Linear(config.ffn_size, config.width, bias=config.ffn_bias)
        self.activation = config.activation
        self.dropout = config.dropout

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if self.activation == "gelu":
            fused = gelu_feed_forward(x, norm, self.up, self.down, dropout)
            if fused is not None:
                return fused
        inner, x = project_in(x, norm, self.up)
        return project_out(activate(inner, self.activation), self.down, x, dropout)
