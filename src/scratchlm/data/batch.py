"""The one batch type that every stage of training passes around."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypedDict

import torch
from torch import Tensor

IGNORE = -100
"""The label of a position that takes no part in the loss (the field's convention, torch's default)."""


class Places(TypedDict):
    """Of :class:`Batch`."""

    positions: Tensor | None
    documents: Tensor | None
    opened: Tensor | None


@dataclass
class Batch:
    """Rows of tokens and what the model should say at each position.

    Labels are aligned with the logits: ``labels[b, t]`` is what the model must predict *at* position ``t``, so a
    language model's labels are its ids shifted by one (done by whoever builds the batch) and a masked model's labels
    are the hidden tokens in place. ``IGNORE`` marks positions without a loss. One loss function serves all tasks.
    """

    ids: Tensor
    """(B, T) int64: the tokens that go in."""
    labels: Tensor | None = None
    """(B, T) int64: the targets, or None where nothing is to be learned."""
    positions: Tensor | None = None
    """(B, T) int64: positions, or None for 0..T-1 in every row."""
    documents: Tensor | None = None
    """(B, T) int32: which document a token belongs to, -1 for padding; None when every row is one whole document.
    Attention never crosses from one document to another."""
    opened: Tensor | None = None
    """(B, E) int64, where several texts of a row share a beginning that is there once: of which of the row's tokens
    its texts consist, one after the other; ``documents`` are then (B, E). None where each token is one text's."""
    source_ids: Tensor | None = None
    """(B, S) int64: an encoder-decoder's input."""
    source_documents: Tensor | None = None
    """(B, S) int32: 0 for the source's tokens, -1 for its padding; None when no source is padded."""

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on ``device``."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def slice(self, start: int, end: int) -> Batch:
        """Rows ``start`` to ``end`` alone, as views."""
        return self._each(lambda tensor: tensor[start:end])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """A batch of the changed tensors; what is absent stays so."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(tensor) for name, tensor in parts.items() if tensor is not None})

    @property
    def places(self) -> Places:
        """Where the tokens stand: what a model's ``hidden`` is told beside the ids."""
        return Places(positions=self.positions, documents=self.documents, opened=self.opened)

    @property
    def rows(self) -> int:
        return int(self.ids.shape[0])

    def label_count(self) -> int:
        """How many positions take part in the loss."""
        return 0 if self.labels is None else int((self.labels != IGNORE).sum())
