"""What several goals of alignment measure alike."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from scratchlm.data import every_window
from scratchlm.data.corpora import corpus_names, corpus_text
from scratchlm.errors import UserError
from scratchlm.evaluation.scores import score_batches
from scratchlm.models import evaluating
from scratchlm.reading import read_text
from scratchlm.training import Tuning

PLAIN_TOKENS, PLAIN_WINDOW = 4096, 256
"""Of a plain text so many tokens are looked at, in windows of so many."""


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The interval that holds a share's true value in 95 of 100 cases (Wilson 1927), from ``count`` observations."""
    if count == 0:
        return 0.0, 1.0
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def plain_perplexity(tuning: Tuning, name: str) -> float:
    """The model's perplexity on a corpus or a text file, its first 4,096 tokens.

    Raises:
        UserError: there is no such text.
    """
    if name in corpus_names():
        text = corpus_text(name)
    else:
        try:
            text = read_text(Path(name))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"plain_text is {name!r}, which is no corpus and no text file that can be read; give one, or none"
            ) from error
    ids = np.array(tuning.tokenizer.encode(text)[:PLAIN_TOKENS], np.uint32)
    width = min(PLAIN_WINDOW, tuning.model.config.context, len(ids) - 1)
    if width < 1:
        raise UserError(f"plain_text {name!r} has fewer than two tokens; give a longer one, or none")
    with evaluating(tuning.model), torch.no_grad():
        return score_batches(tuning.model, every_window(ids, width, 8, width)).perplexity
