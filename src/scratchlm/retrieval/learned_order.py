"""An order learned from judged queries: the weighted sum of what all stages say, with weights that make it likely that
what is relevant stands first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from scratchlm.errors import UserError
from scratchlm.retrieval.search import Reranker, Stages

Features = NDArray[np.float64]
_STEPS = 50


class LearnedOrder:
    """A re-ranker that weighs what the search knows beside what several judges say.

    Args:
        judges: by the names under which they have weights.
        weights: of the judges, and of the search's stages ``dense``, ``bm25`` and ``feedback``.

    Raises:
        UserError: a judge without a weight, or a weight that is no finite number.
    """

    def __init__(self, judges: Mapping[str, Reranker], weights: Mapping[str, float]) -> None:
        for name in (*judges, *weights):
            if name not in weights or not isfinite(weights[name]):
                raise UserError(f"the weight of {name} is {weights.get(name)}; give a finite number")
        self.judges, self.weights = dict(judges), dict(weights)

    def combine(self, query: str, passages: Sequence[str], stages: Stages) -> list[float]:
        """The weighted sums.

        Args:
            stages: what each stage of the search gave the passages; 0 where it did not find one.

        Raises:
            UserError: a weight is of something that neither the search nor a judge gives.
        """
        marks = features(query, passages, stages, self.judges, list(self.weights))
        return [float(mark) for mark in marks @ np.array(list(self.weights.values()))]

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """By the judges alone."""
        marks = features(query, passages, {}, self.judges, list(self.judges))
        return [float(mark) for mark in marks @ np.array([self.weights[name] for name in self.judges])]


def features(
    query: str, passages: Sequence[str], stages: Stages, judges: Mapping[str, Reranker], names: Sequence[str]
) -> Features:
    """(passages, names): each column with a mean of 0 and a standard deviation of 1.

    Raises:
        UserError: a name of neither a stage nor a judge.
    """
    columns = []
    for name in names:
        if name not in judges and name not in stages:
            raise UserError(f"there is no stage and no judge {name!r}; there are: {', '.join((*stages, *judges))}")
        values = np.array(judges[name].score(query, passages) if name in judges else stages[name], np.float64)
        columns.append((values - values.mean()) / (values.std() or 1.0) if len(values) else values)
    return np.stack(columns, 1) if columns else np.empty((len(passages), 0))


def learn_weights(
    rows: Sequence[Features], relevant: Sequence[NDArray[np.bool_]], penalty: float = 0.3
) -> NDArray[np.float64]:
    """The weights (F,) under which what is relevant is likely to be drawn first.

    The loss of a query is the cross-entropy between an even draw among its relevant passages and the softmax of the
    weighted sums (ListNet with binary grades: Cao et al. 2007), and ``penalty`` times the squared weights is added to
    the mean. It is convex; Newton's steps find the one minimum.

    Args:
        rows: of each query its passages' features, (n, F).
        relevant: of each query which passages are, (n,). A query without any teaches nothing.

    Raises:
        UserError: nothing is relevant, or ``penalty`` is not above 0.
    """
    taught = [(one, which / which.sum()) for one, which in zip(rows, relevant, strict=True) if which.any()]
    if not taught:
        raise UserError("no query has a relevant passage among those that were found; judge more of them")
    if not isfinite(penalty) or penalty <= 0:
        raise UserError(f"the penalty on weights is {penalty!r}; give a number above 0")
    weights = np.zeros(rows[0].shape[1])
    for _ in range(_STEPS):
        slope, bend = 2 * penalty * weights, 2 * penalty * np.eye(len(weights))
        for one, wanted in taught:
            odds = np.exp(one @ weights - (one @ weights).max())
            odds /= odds.sum()
            mean = odds @ one
            slope += (mean - wanted @ one) / len(taught)
            bend += ((one * odds[:, None]).T @ one - np.outer(mean, mean)) / len(taught)
        step = np.linalg.solve(bend, slope)
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return weights
