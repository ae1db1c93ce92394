"""What turns a stack's states into words or labels: the last projection, and BERT's transform before it."""

from __future__ import annotations

from torch import Tensor, nn

from scratchlm.models.config import ModelConfig
from scratchlm.models.layers import activate, build_norm


class HeadTransform(nn.Module):
    """BERT's step before the head: ``norm(activation(dense(x)))``. (..., C) -> (..., C)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = build_norm(config)
        self.activation = config.activation

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(activate(self.dense(x), self.activation))
        return normed


def build_head(config: ModelConfig) -> nn.Linear | None:
    """The projection to the vocabulary, to the labels or to a reward, or None where the config wants none."""
    if config.head == "none":
        return None
    return nn.Linear(config.width, config.outputs, bias=config.head_bias)
