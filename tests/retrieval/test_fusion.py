"""Fusion: values worked out by hand, and what cannot be fused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scratchlm.errors import UserError
from scratchlm.retrieval.fusion import (
    distinct,
    expansion,
    mmr,
    normalised,
    order,
    reciprocal_rank,
    rocchio,
    weighted,
)


def test_reciprocal_ranks() -> None:
    found = reciprocal_rank([["a", "b", "c"], ["c", "d"]])
    assert found == pytest.approx({"a": 1 / 61, "b": 1 / 62, "c": 1 / 63 + 1 / 61, "d": 1 / 62})
    assert order(found) == ["c", "a", "b", "d"]
    assert reciprocal_rank([["a"], ["b"]], k=0, weights=[1, 3]) == {"a": 1.0, "b": 3.0}


def test_scores_are_put_on_one_scale() -> None:
    scores = {"a": 1.0, "b": 3.0, "c": 2.0}
    assert normalised(scores) == {"a": 0.0, "b": 1.0, "c": 0.5}
    assert normalised(scores, "max") == pytest.approx({"a": 1 / 3, "b": 1.0, "c": 2 / 3})
    assert normalised(scores, "zscore") == pytest.approx({"a": -(1.5**0.5), "b": 1.5**0.5, "c": 0.0})
    assert normalised(scores, "none") == scores
    for how in ("minmax", "zscore"):
        assert normalised({"a": 5.0, "b": 5.0}, how) == {"a": 0.0, "b": 0.0}  # type: ignore[arg-type]
        assert normalised({}, how) == {}  # type: ignore[arg-type]


def test_weighted_sums_count_what_is_missing_as_lowest() -> None:
    found = weighted([{"a": 1.0, "b": 0.5, "c": 0.0}, {"b": 10.0, "d": 5.0}], [0.75, 0.25])
    assert found == pytest.approx({"a": 0.75, "b": 0.625, "c": 0.0, "d": 0.0})


def test_equal_scores_keep_their_order() -> None:
    assert order({"b": 1.0, "a": 1.0, "c": 2.0}) == ["c", "b", "a"]


def test_mmr_weighs_variety() -> None:
    vectors = np.array([[1, 0], [2, 0], [0, 1]], np.float32)
    relevance = [1.0, 0.9, 0.5]
    assert mmr(vectors, relevance, 1.0, 3) == [0, 1, 2]
    assert mmr(vectors, relevance, 0.5, 2) == [0, 2]
    assert mmr(vectors, relevance, 0.0, 9) == [0, 2, 1]
    assert mmr(vectors[:0], [], 0.5, 3) == []


def test_feedback_moves_the_query() -> None:
    moved = rocchio(np.array([2, 0], np.float32), np.array([[0, 3], [0, 1]], np.float32), 1.0)
    assert moved == pytest.approx(np.array([0.5**0.5, 0.5**0.5]))
    assert rocchio(np.array([2, 0], np.float32), np.empty((0, 2), np.float32), 1.0) == pytest.approx([1, 0])


def test_words_of_what_was_found() -> None:
    found = expansion([["a", "a", "b", "c"], ["c"]], [3.0, 1.0], 2)
    # a: 3/4 * 2/4, c: 3/4 * 1/4 + 1/4
    assert found == pytest.approx({"c": 0.4375 / 0.8125, "a": 0.375 / 0.8125})
    assert list(expansion([["a", "b"]], [1.0], 1, {"b": 2.0})) == ["b"]
    assert expansion([], [], 5) == {}


def test_the_same_text_counts_once() -> None:
    assert distinct(["x", "y", "z"], {"x": "One  text", "y": "other", "z": "one text"}) == ["x", "y"]


NAN = float("nan")
BAD: list[tuple[Any, str]] = [
    (lambda: reciprocal_rank([["a"]], k=-1), "k of the reciprocal"),
    (lambda: reciprocal_rank([["a"]], k=NAN), "k of the reciprocal"),
    (lambda: reciprocal_rank([["a", "a"]]), "more than once"),
    (lambda: reciprocal_rank([["a"]], weights=[1, 2]), "2 weights for 1"),
    (lambda: weighted([{"a": 1.0}], []), "0 weights for 1"),
    (lambda: weighted([{"a": 1.0}], [-1.0]), "weights are -1"),
    (lambda: weighted([{"a": 1.0}], [0.0]), "not all 0"),
    (lambda: weighted([{"a": 1.0}], [NAN]), "weights are nan"),
    (lambda: weighted([{"a": NAN}], [1.0]), "score of a is nan"),
    (lambda: normalised({"a": 1.0}, "rank"), "choose one of"),  # type: ignore[arg-type]
    (lambda: mmr(np.ones((1, 2), np.float32), [1.0], 1.5, 1), "lambda of MMR"),
    (lambda: mmr(np.ones((1, 2), np.float32), [1.0], NAN, 1), "lambda of MMR"),
    (lambda: mmr(np.ones((1, 2), np.float32), [1.0], 0.5, 0), "at least 1"),
]


@pytest.mark.parametrize(("call", "says"), BAD)
def test_what_cannot_be_fused_is_told_in_one_line(call: Any, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
