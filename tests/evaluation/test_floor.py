from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from scratchlm.data.corpora import corpus_text
from scratchlm.evaluation.floor import masked_token_floor, next_token_floor


def floor_by_counting(pairs: list[tuple[tuple[object, ...], int]]) -> tuple[float, float]:
    """(what is seen, the token) -> mean conditional entropy and best accuracy, by dictionaries."""
    continuations: dict[tuple[object, ...], Counter[int]] = defaultdict(Counter)
    for seen, token in pairs:
        continuations[seen][token] += 1
    nats, correct = 0.0, 0
    for counts in continuations.values():
        total = sum(counts.values())
        nats -= sum(count * math.log(count / total) for count in counts.values())
        correct += max(counts.values())
    return nats / len(pairs), correct / len(pairs)


def test_the_tutorials_text_has_the_floor_that_the_book_states() -> None:
    text = corpus_text("rumi")
    floor = next_token_floor(np.array([ord(character) for character in text]), 64)
    assert len(text) == 302
    assert round(floor.cross_entropy, 4) == 0.0346
    assert round(100 * floor.accuracy, 2) == 98.54
    assert floor.tokens == (302 - 64) * 64


@pytest.mark.parametrize("context", [1, 2, 5, 11, 39])
def test_the_next_token_floor_is_the_conditional_entropy_given_the_window_so_far(context: int) -> None:
    ids = np.random.default_rng(0).integers(0, 3, 40)
    pairs = [
        ((t, *ids[start : start + t + 1]), ids[start + t + 1])
        for start in range(len(ids) - context)
        for t in range(context)
    ]
    floor = next_token_floor(ids, context)
    assert (floor.cross_entropy, floor.accuracy) == pytest.approx(floor_by_counting(pairs))


@pytest.mark.parametrize("context", [1, 2, 4, 40])
def test_the_masked_floor_is_the_conditional_entropy_given_all_other_tokens(context: int) -> None:
    ids = np.random.default_rng(1).integers(0, 3, 40).astype(np.uint8)
    pairs = []
    for start in range(len(ids) - context + 1):
        window = ids[start : start + context].tolist()
        pairs += [((t, *window[:t], None, *window[t + 1 :]), window[t]) for t in range(context)]
    floor = masked_token_floor(ids, context)
    assert (floor.cross_entropy, floor.accuracy) == pytest.approx(floor_by_counting(pairs))


def test_a_text_that_is_certain_has_a_floor_of_zero() -> None:
    floor = next_token_floor(np.arange(50), 8)
    assert (floor.cross_entropy, floor.accuracy) == (0.0, 1.0)


def test_a_text_shorter_than_the_context_is_one_window() -> None:
    assert next_token_floor(np.array([3, 3, 4]), 64).tokens == 2
    assert masked_token_floor(np.array([3, 3, 4]), 64).tokens == 3


def test_a_row_that_has_nothing_to_predict_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        next_token_floor(np.array([1]), 8)
    with pytest.raises(ValueError, match="at least 1"):
        masked_token_floor(np.array([], dtype=np.int64), 8)
