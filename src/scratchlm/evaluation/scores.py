"""Cross-entropy and accuracy over every window of a text, as sums that keep their weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scratchlm.data.batch import IGNORE, Batch
from scratchlm.data.windows import every_block, every_window
from scratchlm.errors import UserError
from scratchlm.models import Encoder, Model, Seq2Seq

if TYPE_CHECKING:
    from scratchlm.tokenizers import Tokenizer

TOKENS_PER_BATCH = 16_384
"""Tokens that go through the model at once: enough to fill the cores, small enough for a laptop's memory."""
LOGITS_AT_ONCE = 2**24
"""Of a large vocabulary, so many logits: 64 MB. Beyond it the projection is made in parts."""


@dataclass
class Scores:
    """Sums over the predictions made; means are taken at the end, so each token weighs the same."""

    nats: float = 0.0
    tokens: int = 0
    correct: int = 0
    characters: int | None = None
    """How many characters the predicted tokens spell; None where that is not known or has no meaning."""

    @property
    def cross_entropy(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """e to the cross-entropy; infinite where that is too large for a number."""
        return math.exp(self.cross_entropy) if self.cross_entropy < 700 else math.inf

    @property
    def accuracy(self) -> float:
        """The share of predictions whose most likely token is the right one."""
        return self.correct / self.tokens

    @property
    def bits_per_character(self) -> float | None:
        """Bits for each character spelled, comparable between tokenizers: nats / characters / ln 2."""
        return self.nats / self.characters / math.log(2) if self.characters else None

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count predictions. logits (N, V), labels (N,) int64, ``IGNORE`` where there is nothing to predict."""
        nats = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")
        self.nats += float(nats.sum(dtype=torch.float64))
        self.tokens += int((labels != IGNORE).sum())
        self.correct += int((logits.argmax(dim=-1) == labels).sum())


def score_batches(model: Model, batches: Iterable[Batch]) -> Scores:
    """Score each label of each batch, whatever the architecture. The model is in evaluation mode meanwhile. Of a large
    vocabulary logits are made only where there is something to predict."""
    scores = Scores()
    with _evaluating(model) as device:
        for batch in batches:
            batch = batch.to(device)
            if batch.labels is None:
                raise ValueError("a batch without labels cannot be scored")
            if isinstance(model, Seq2Seq) or batch.labels.numel() * model.config.vocab_size <= LOGITS_AT_ONCE:
                scores.add(model.forward_batch(batch).flatten(0, 1), batch.labels.flatten())
                continue
            wanted = batch.labels != IGNORE
            states = model.hidden(batch.ids, **batch.places)[wanted]
            labels, rows = batch.labels[wanted], max(1, LOGITS_AT_ONCE // model.config.vocab_size)
            for start in range(0, len(labels), rows):
                scores.add(model.logits(states[start : start + rows]), labels[start : start + rows])
    return scores


def score_text(model: Model, ids: np.ndarray, *, stride: int = 1, counts: np.ndarray | None = None) -> Scores:
    """Predict the next token at every position of every window of a text.

    Args:
        model: a decoder.
        ids: (N,), N >= 2.
        stride: tokens from one window to the next: 1 is every window; the context, windows that do not overlap.
        counts: (N,), the characters of each token (:func:`character_counts`), for bits per character.

    Raises:
        UserError: fewer than two tokens.
    """
    if len(ids) < 2:
        raise UserError(f"the text has {len(ids)} tokens; predicting takes at least 2, so give a longer text")
    context = min(model.config.context, len(ids) - 1)
    rows = max(1, TOKENS_PER_BATCH // context)
    stride = min(stride, context)
    scores = score_batches(model, every_window(ids, context, rows, stride))
    if counts is not None:  # cut into the same windows, the labels are the counts of the tokens predicted
        labels = (batch.labels for batch in every_window(counts, context, rows, stride))
        scores.characters = sum(int(some[some != IGNORE].sum()) for some in labels if some is not None)
    return scores


def score_masked(
    model: Encoder, ids: np.ndarray, *, mask_id: int, special_ids: Iterable[int] = (), stride: int = 1
) -> Scores:
    """Hide each token of each window in turn, one at a time, and predict it from the rest.

    A window of T tokens makes T rows; the projection to the vocabulary is computed at the hidden position only. Special
    tokens are not hidden.

    Raises:
        UserError: no token to hide.
    """
    context = min(model.config.context, len(ids))
    if bool(np.isin(ids, list(special_ids)).all()):  # true of no tokens, too
        raise UserError("the text has no tokens to hide; give a longer one")
    scores = Scores()
    with _evaluating(model) as device:
        # As many windows at a time as fill a batch once each token of theirs is hidden in turn.
        for windows in every_block(ids, context, max(1, TOKENS_PER_BATCH // context**2), stride):
            rows, labels, places = _hide_each(windows, mask_id)
            predicted = ~np.isin(labels.numpy(), list(special_ids))
            rows, labels, places = rows[predicted], labels[predicted], places[predicted]
            hidden = model.hidden(rows.to(device))
            at_gap = hidden[torch.arange(len(rows), device=device), places.to(device)]
            scores.add(model.logits(at_gap), labels.to(device))
    return scores


def character_counts(tokenizer: Tokenizer, ids: np.ndarray) -> np.ndarray | None:
    """How many characters each token of a text completes, (N,) int64, summing to the length of the decoded text.

    Exact for every tokenizer: a character cut into several tokens counts for the one that completes it, and the space
    that a word tokenizer puts before a word counts for that word. None where unknown tokens stand for text whose
    length is lost.
    """
    if tokenizer.unk_id is not None and bool((np.asarray(ids) == tokenizer.unk_id).any()):
        return None
    stream = tokenizer.stream(skip_special=True)
    return np.fromiter((len(stream.push(token)) for token in np.asarray(ids).tolist()), dtype=np.int64, count=len(ids))


def _hide_each(windows: Tensor, mask_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Windows (W, T) -> rows (W * T, T) with one token hidden in each, the tokens hidden (W * T,), their places."""
    count, context = windows.shape
    rows = windows.repeat_interleave(context, dim=0)
    places = torch.arange(context).repeat(count)
    each = torch.arange(len(rows))
    labels = rows[each, places]
    rows[each, places] = mask_id
    return rows, labels, places


class _evaluating:  # noqa: N801 (reads as a verb: with _evaluating(model))
    """Evaluation mode without gradients for a block; gives the model's device."""

    def __init__(self, model: Model) -> None:
        self._model, self._was_training = model, model.training
        self._inference = torch.inference_mode()

    def __enter__(self) -> torch.device:
        self._model.eval()
        self._inference.__enter__()
        return next(self._model.parameters()).device

    def __exit__(self, *_: object) -> None:
        self._inference.__exit__(None, None, None)
        self._model.train(self._was_training)
