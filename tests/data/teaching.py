"""What batches teach a model, to be compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scratchlm.data import Batch
from scratchlm.models import cross_entropy_sum


def taught(model: Any, batches: list[Batch]) -> tuple[Tensor, list[Tensor]]:
    """The summed loss and the gradients."""
    model.zero_grad()
    total = torch.zeros(())
    for batch in batches:
        assert batch.labels is not None
        loss, _ = cross_entropy_sum(model.forward_batch(batch), batch.labels)
        loss.backward()
        total = total + loss.detach()
    return total, [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def assert_taught_alike(model: Any, one: list[Batch], other: list[Batch]) -> None:
    (loss, gradients), (other_loss, other_gradients) = taught(model, one), taught(model, other)
    torch.testing.assert_close(loss, other_loss)
    assert len(gradients) == len(other_gradients) > 0
    for ours, theirs in zip(gradients, other_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
