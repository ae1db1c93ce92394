"""The one training loss of language models."""

from __future__ import annotations

from torch import Tensor
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
