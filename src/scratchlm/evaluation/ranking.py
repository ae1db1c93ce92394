"""How well vectors find the text that belongs to a text, among others."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from scratchlm.checkpoints import PoolingSettings
from scratchlm.data import Examples
from scratchlm.generation.states import StateReader
from scratchlm.models import Decoder, Encoder, evaluating

_QUERIES_AT_ONCE = 1024
CUT = 10
"""Places that count in the mean reciprocal rank."""


def rank_figures(ranks: ArrayLike) -> dict[str, float]:
    """Of the places, from 1, at which the right answer of each query stands: ``accuracy_at_1``, ``accuracy_at_5`` (the
    shares that stand there or before) and ``mrr_at_10`` (the mean of 1 / place, 0 beyond the tenth)."""
    places = np.asarray(ranks, np.int64)
    return {
        "accuracy_at_1": float((places <= 1).mean()),
        "accuracy_at_5": float((places <= 5).mean()),
        "mrr_at_10": float(np.where(places <= CUT, 1 / places, 0.0).mean()),
    }


def evaluate_vectors(model: Decoder | Encoder, examples: Examples, pooling: PoolingSettings) -> dict[str, Any]:
    """How well the vectors of texts that look find those that belong to them, by cosine, among all such texts of the
    rows. Texts that occur more than once are looked with, and found, once; a text does not find itself. Of several that
    belong to a text the first counts; of texts equally like those that do not belong come first.

    Returns:
        ``rows``, ``queries`` and ``candidates`` (different texts), and what :func:`rank_figures` gives.
    """
    known: dict[bytes, int] = {}
    names = np.array([known.setdefault(examples[n][0].tobytes(), len(known)) for n in range(len(examples))])
    starts = examples.groups[:-1]
    asked, answers = names[starts], names[starts + 1]
    queries, candidates = np.unique(asked), np.unique(answers)
    firsts = np.unique(names, return_index=True)[1]
    vectors = _unit_vectors(model, [examples[n][0].tolist() for n in firsts], pooling)
    belongs = np.zeros((len(queries), len(candidates)), bool)
    belongs[np.searchsorted(queries, asked), np.searchsorted(candidates, answers)] = True
    ranks: list[NDArray[np.int64]] = []
    for first in range(0, len(queries), _QUERIES_AT_ONCE):
        some, right = queries[first : first + _QUERIES_AT_ONCE], belongs[first : first + _QUERIES_AT_ONCE]
        likeness = vectors[some] @ vectors[candidates].T
        likeness[(some[:, None] == candidates) & ~right] = -np.inf
        best = np.where(right, likeness, -np.inf).max(1, keepdims=True)
        ranks.append(1 + ((likeness >= best) & ~right).sum(1))
    counts = {"rows": len(starts), "queries": len(queries), "candidates": len(candidates)}
    return counts | rank_figures(np.concatenate(ranks))


def _unit_vectors(model: Decoder | Encoder, texts: list[list[int]], pooling: PoolingSettings) -> NDArray[np.float32]:
    """(texts, C), each of length 1."""
    with evaluating(model):
        reader = StateReader(model)
        vectors = np.empty((len(texts), model.config.width), np.float32)
        for rows in reader.batches([len(ids) for ids in texts]):
            found = pooling.vectors(reader.read([texts[n] for n in rows]))
            vectors[rows] = torch.nn.functional.normalize(found, dim=1).cpu().numpy()
    return vectors
