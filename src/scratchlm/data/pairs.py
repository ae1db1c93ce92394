"""Pairs of texts for the encoder-decoder: encoded once, padded, and batched by indexing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scratchlm.data.batch import IGNORE, Batch
from scratchlm.errors import UserError
from scratchlm.tokenizers import Tokenizer


@dataclass(frozen=True)
class PairTable:
    """N encoded pairs, padded to the longest. The decoder reads ``[BOS] target`` and must say ``target [EOS]``."""

    sources: Tensor
    """(N, S) int64."""
    source_lengths: Tensor
    """(N,) int64."""
    targets: Tensor
    """(N, T + 2) int64: BOS, the target, EOS, padding."""
    target_lengths: Tensor
    """(N,) int64: what the decoder reads, so the target and one."""
    target_characters: int
    """Code points of all targets, for bits per character."""

    def __len__(self) -> int:
        return len(self.sources)

    def batch(self, rows: Tensor) -> Batch:
        """The pairs at ``rows`` (B,), cut to the longest among them; padding is document -1 and has no label."""
        source_lengths, target_lengths = self.source_lengths[rows, None], self.target_lengths[rows, None]
        source_ids = self.sources[rows, : int(source_lengths.max())]
        targets = self.targets[rows, : int(target_lengths.max()) + 1]
        ids, labels = targets[:, :-1], targets[:, 1:]
        source_padding = torch.arange(source_ids.shape[1]) >= source_lengths
        padding = torch.arange(ids.shape[1]) >= target_lengths
        return Batch(
            ids=ids.contiguous(),
            labels=labels.masked_fill(padding, IGNORE),
            documents=-padding.int() if bool(padding.any()) else None,
            source_ids=source_ids,
            source_documents=-source_padding.int() if bool(source_padding.any()) else None,
        )

    def sample(self, rows: int, generator: torch.Generator) -> Batch:
        """``rows`` pairs drawn at random, with replacement."""
        return self.batch(torch.randint(len(self), (rows,), generator=generator))

    def every(self, rows: int) -> Iterator[Batch]:
        """All pairs in order, ``rows`` at a time, for evaluation."""
        for first in range(0, len(self), rows):
            yield self.batch(torch.arange(first, min(first + rows, len(self))))


def encode_pairs(pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer, context: int) -> PairTable:
    """Encode (source, target) pairs; a target with its BOS, and a source, must fit into ``context`` tokens.

    Raises:
        UserError: no pairs, an empty source, a pair that is too long, or text outside the vocabulary; the line names
            the pair by its number, from one.
        ValueError: the tokenizer has no [PAD], [BOS] or [EOS].
    """
    pad, bos, eos = tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id
    if pad is None or bos is None or eos is None:
        raise ValueError("pairs need a tokenizer with [PAD], [BOS] and [EOS]")
    if not pairs:
        raise UserError("there are no pairs; give at least one source with its target")
    sources, targets = [], []
    for number, (source, target) in enumerate(pairs, 1):
        try:
            source_ids, target_ids = tokenizer.encode(source), tokenizer.encode(target)
        except UserError as error:
            raise UserError(f"pair {number:,}: {error}") from error
        longest = max(len(source_ids), len(target_ids) + 1)
        if not source_ids:
            raise UserError(f"pair {number:,} has an empty source; give it a text or leave it out")
        if longest > context:
            raise UserError(
                f"pair {number:,} needs {longest:,} tokens, the model's context is {context:,}; shorten it, or use "
                f"--set context={longest}"
            )
        sources.append(source_ids)
        targets.append([bos, *target_ids, eos])
    return PairTable(
        sources=_padded(sources, pad),
        source_lengths=torch.tensor([len(ids) for ids in sources]),
        targets=_padded(targets, pad),
        target_lengths=torch.tensor([len(ids) - 1 for ids in targets]),
        target_characters=sum(len(target) for _, target in pairs),
    )


def _padded(rows: list[list[int]], pad: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([ids + [pad] * (width - len(ids)) for ids in rows])
