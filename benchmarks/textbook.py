"""The tutorial's two models as its chapters 3.4 and 4.4 describe them: the yardstick of the speed benchmarks.

One small linear layer per head and per projection, a triangular buffer for the causal mask, softmax and dropout on the
whole score matrix, and the heads' outputs concatenated: what a learner writes first. Nothing here is tuned, and
nothing is slowed down either.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Head(nn.Module):
    """One attention head: its own query, key and value projections."""

    def __init__(self, width: int, head_size: int, context: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.query = nn.Linear(width, head_size, bias=False)
        self.key = nn.Linear(width, head_size, bias=False)
        self.value = nn.Linear(width, head_size, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.causal = causal
        if causal:
            self.register_buffer("tril", torch.tril(torch.ones(context, context)))

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        q, k, v = self.query(x), self.key(x), self.value(x)
        scores = q @ k.transpose(-2, -1) / math.sqrt(k.shape[-1])
        if self.causal:
            scores = scores.masked_fill(self.tril[:length, :length] == 0, float("-inf"))
        return self.dropout(F.softmax(scores, dim=-1)) @ v


class MultiHead(nn.Module):
    """All heads side by side, joined by a projection."""

    def __init__(self, width: int, heads: int, context: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(width, width // heads, context, dropout, causal) for _ in range(heads))
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.proj(torch.cat([head(x) for head in self.heads], dim=-1)))


class FeedForward(nn.Module):
    """Four times wider and back, with an exact GELU between."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Block(nn.Module):
    """Norm, attention, add; norm, feed-forward, add."""

    def __init__(self, width: int, heads: int, context: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.attention = MultiHead(width, heads, context, dropout, causal)
        self.feed_forward = FeedForward(width, dropout)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


class TextbookModel(nn.Module):
    """TinyGPT with ``causal``, TinyBERT without: embeddings, blocks, a final norm and a biased head."""

    def __init__(
        self,
        vocab_size: int,
        context: int,
        *,
        causal: bool,
        width: int = 128,
        heads: int = 4,
        layers: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*[Block(width, heads, context, dropout, causal) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, ids: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """ids (B, T) -> logits (B, T, V) and, given labels (B, T) with -100 for "no loss here", their mean loss."""
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        logits = self.head(self.norm(self.blocks(x)))
        if labels is None:
            return logits, None
        return logits, F.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1), ignore_index=-100)
