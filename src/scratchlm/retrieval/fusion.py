"""Making one order of several: reciprocal ranks, weighted scores, variety, and feedback from what was found first.

All of it is arithmetic on what searches give. A set of scores is a mapping from ids to numbers, the higher the better;
of equal scores the id that was seen first stands first, so that results do not change from run to run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from scratchlm.errors import UserError

Normalise = Literal["minmax", "zscore", "max", "none"]
Scores = Mapping[str, float]
Vectors = NDArray[np.float32]


def reciprocal_rank(
    rankings: Sequence[Sequence[str]], k: float = 60, weights: Sequence[float] = ()
) -> dict[str, float]:
    """Reciprocal rank fusion (Cormack et al. 2009): each ranking gives an id 1 / (k + its place, from 1).

    Args:
        rankings: ids, the best first.
        weights: one a ranking; empty for 1 each.

    Raises:
        UserError: ``k`` below 0, an id twice in a ranking, or weights that do not fit.
    """
    if not isfinite(k) or k < 0:
        raise UserError(f"k of the reciprocal ranks is {k!r}; give a number of at least 0, such as 60")
    found: dict[str, float] = {}
    for ranking, weight in zip(rankings, checked_weights(weights or [1.0] * len(rankings), len(rankings)), strict=True):
        if len(set(ranking)) != len(ranking):
            raise UserError("a ranking has an id more than once; leave out all but the first")
        for place, name in enumerate(ranking, 1):
            found[name] = found.get(name, 0.0) + weight / (k + place)
    return found


def normalised(scores: Scores, how: Normalise = "minmax") -> dict[str, float]:
    """Scores on a common scale.

    ``minmax`` puts the lowest at 0 and the highest at 1, ``zscore`` the mean at 0 and the standard deviation at 1,
    ``max`` divides by the highest magnitude. Where all are equal, ``minmax`` and ``zscore`` give 0.

    Raises:
        UserError: there is no such way, or a score that is no finite number.
    """
    if how not in get_args(Normalise):
        raise UserError(f"scores are not normalised by {how!r}; choose one of: {', '.join(get_args(Normalise))}")
    values = np.array(list(scores.values()), np.float64)
    if not np.isfinite(values).all():
        name = list(scores)[int(np.isfinite(values).argmin())]
        raise UserError(f"the score of {name} is {scores[name]}; give finite numbers")
    if not len(values) or how == "none":
        return dict(scores)
    if how == "max":
        scale = np.abs(values).max() or 1.0
    elif how == "minmax":
        values, scale = values - values.min(), (np.ptp(values) or 1.0)
    else:
        values, scale = values - values.mean(), (values.std() if np.ptp(values) else 1.0)
    return dict(zip(scores, (values / scale).tolist(), strict=True))


def weighted(scores: Sequence[Scores], weights: Sequence[float], normalise: Normalise = "minmax") -> dict[str, float]:
    """The weighted sum of normalised scores. An id that one of the sets lacks has that set's lowest score there.

    Raises:
        UserError: as :func:`normalised`, or weights that do not fit.
    """
    checked_weights(weights, len(scores))
    found: dict[str, float] = dict.fromkeys((name for one in scores for name in one), 0.0)
    for one, weight in zip(scores, weights, strict=True):
        scaled = normalised(one, normalise)
        least = min(scaled.values(), default=0.0)
        for name in found:
            found[name] += weight * scaled.get(name, least)
    return found


def checked_weights(weights: Sequence[float], count: int) -> Sequence[float]:
    """``weights`` themselves.

    Raises:
        UserError: another number of them than ``count``, one below 0 or not finite, or none above 0.
    """
    if len(weights) != count:
        raise UserError(f"there are {len(weights)} weights for {count} rankings; give one each")
    if any(not isfinite(one) or one < 0 for one in weights) or (count and not any(weights)):
        raise UserError(f"the weights are {', '.join(map(str, weights))}; give numbers from 0 up, not all 0")
    return weights


def order(scores: Scores) -> list[str]:
    """The ids, the highest score first."""
    return sorted(scores, key=lambda name: -scores[name])


def mmr(vectors: Vectors, relevance: Sequence[float], lambda_: float, count: int) -> list[int]:
    """Maximal marginal relevance (Carbonell and Goldstein 1998): at each step the text that is relevant and unlike all
    that were chosen before.

    Args:
        vectors: (n, C), of any lengths but 0; they are compared by cosine.
        relevance: (n,), on the scale of cosines.
        lambda_: what relevance weighs, from 0 (variety alone) to 1 (relevance alone).
        count: how many to choose, at most.

    Returns:
        Rows, in the order in which they are chosen.

    Raises:
        UserError: ``lambda_`` out of range, or ``count`` below 1.
    """
    if not 0 <= lambda_ <= 1:
        raise UserError(f"lambda of MMR is {lambda_!r}; give a number from 0 (variety) to 1 (relevance)")
    if count < 1:
        raise UserError(f"MMR is to choose {count}; give a number of at least 1")
    if len(vectors) != len(relevance):
        raise ValueError(f"{len(vectors)} vectors and {len(relevance)} relevances")
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    left, worth = np.ones(len(units), bool), np.asarray(relevance, np.float64)
    nearest = np.full(len(units), -np.inf)
    chosen: list[int] = []
    while left.any() and len(chosen) < count:
        likeness = nearest if chosen else np.zeros(len(units))
        gain = np.where(left, lambda_ * worth - (1 - lambda_) * likeness, -np.inf)
        best = int(gain.argmax())
        chosen.append(best)
        left[best] = False
        nearest = np.maximum(nearest, units @ units[best])
    return chosen


def rocchio(query: Vectors, found: Vectors, beta: float) -> Vectors:
    """Pseudo relevance feedback (Rocchio 1971): the query's vector moved towards the mean of what it found first.

    Args:
        query: (C,).
        found: (n, C); none leave the query as it is.
        beta: what the mean weighs beside the query's 1, of vectors of length 1.

    Returns:
        (C,), of length 1.
    """
    moved = _unit(query)
    if len(found):
        moved = moved + beta * _unit(found).mean(0)
    return _unit(moved)


def expansion(
    found: Sequence[Sequence[str]], scores: Sequence[float], count: int, rare: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Words that texts found first are likely to have: the relevance model RM1 (Lavrenko and Croft 2001), which mixed
    with the query is RM3.

    Args:
        found: the words of each text.
        scores: of each; a text weighs by its share of them.
        count: how many words, the likeliest.
        rare: what a word's likelihood is multiplied with, such as its inverse document frequency; 1 where unknown.

    Returns:
        Weights that add up to 1, the highest first.
    """
    weights: dict[str, float] = {}
    total = sum(scores)
    for words, score in zip(found, scores, strict=True):
        for word in words:
            weights[word] = weights.get(word, 0.0) + (score / total if total else 1 / len(found)) / len(words)
    if rare is not None:
        weights = {word: weight * rare.get(word, 1.0) for word, weight in weights.items()}
    kept = order(weights)[:count]
    whole = sum(weights[word] for word in kept)
    return {word: weights[word] / whole for word in kept} if whole else {}


def distinct(names: Iterable[str], texts: Mapping[str, str]) -> list[str]:
    """The names without those whose text, but for white space and case, one before them has."""
    known: set[str] = set()
    kept: list[str] = []
    for name in names:
        text = " ".join(texts[name].casefold().split())
        if text not in known:
            known.add(text)
            kept.append(name)
    return kept


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Vectors = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit
