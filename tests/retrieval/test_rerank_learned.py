"""An order learned from judged queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from scratchlm.errors import UserError
from scratchlm.retrieval.learned_order import LearnedOrder, features, learn_weights
from scratchlm.retrieval.search import Combiner

from .test_search import searcher


class Lengths:
    def score(self, _query: str, passages: Sequence[str]) -> list[float]:
        return [float(len(one)) for one in passages]


def test_weights_are_where_the_loss_is_least() -> None:
    draw = np.random.default_rng(0)
    rows = [draw.normal(size=(12, 3)) for _ in range(20)]
    relevant = [one @ [2.0, -1.0, 0.0] > 1 for one in rows]
    weights = learn_weights(rows, relevant, 0.1)

    def loss(at: np.ndarray) -> float:
        total = 0.0
        for one, which in zip(rows, relevant, strict=True):
            if which.any():
                sums = one @ at
                total += float(np.log(np.exp(sums).sum()) - sums[which].mean())
        return total / sum(bool(which.any()) for which in relevant) + 0.1 * float(at @ at)

    for step in np.eye(3) * 1e-3:
        assert loss(weights) < loss(weights + step)
        assert loss(weights) < loss(weights - step)
    assert weights[0] > 0 > weights[1]
    assert abs(weights[2]) < abs(weights[1])
    harder = learn_weights(rows, relevant, 10.0)
    assert np.abs(harder).sum() < np.abs(weights).sum()


def test_features_are_on_one_scale() -> None:
    found = features(
        "q", ["a", "bbb"], {"dense": [0.2, 0.4], "bm25": [1.0, 1.0]}, {"long": Lengths()}, ["long", "bm25"]
    )
    assert found.tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert features("q", [], {}, {"long": Lengths()}, ["long"]).shape == (0, 1)
    with pytest.raises(UserError, match="no judge 'cross'"):
        features("q", ["a"], {"dense": [0.2]}, {}, ["cross"])


def test_the_search_gives_it_what_its_stages_found() -> None:
    one = searcher(distinct=False)
    plain = one.search("cat dog", 5)
    one.reranker = LearnedOrder({"long": Lengths()}, {"long": 0.0, "dense": 0.0, "bm25": -1.0})
    assert isinstance(one.reranker, Combiner)
    turned = one.search("cat dog", 5)
    words = [hit.scores.get("bm25", 0.0) for hit in turned.hits]
    assert words == sorted(words)
    assert {hit.id for hit in turned.hits} == {hit.id for hit in plain.hits}
    assert turned.hits[0].score == turned.hits[0].scores["reranked"]


def test_alone_its_judges_decide() -> None:
    order = LearnedOrder({"long": Lengths()}, {"long": 2.0, "dense": 1.0})
    assert order.score("q", ["a", "bbb"]) == [-2.0, 2.0]


def test_weights_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="weight of long is None"):
        LearnedOrder({"long": Lengths()}, {})
    with pytest.raises(UserError, match="weight of dense is nan"):
        LearnedOrder({}, {"dense": float("nan")})
    rows, none, some = [np.ones((2, 1))], [np.zeros(2, bool)], [np.array([True, False])]
    with pytest.raises(UserError, match="no query has a relevant"):
        learn_weights(rows, none)
    for penalty in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="penalty"):
            learn_weights(rows, some, penalty)
