from __future__ import annotations

import pytest

from scratchlm.evaluation.diversity import distinct, text_units


def test_distinct_counts_different_n_grams_among_all() -> None:
    assert distinct("abab", 1) == 2 / 4
    assert distinct("abab", 2) == 2 / 3
    assert distinct(["to", "be", "or", "not", "to", "be"], 2) == 4 / 5


def test_a_text_shorter_than_the_n_gram_has_none() -> None:
    assert distinct("", 1) == 0.0
    assert distinct("a", 2) == 0.0


def test_n_grams_have_at_least_one_unit() -> None:
    with pytest.raises(ValueError, match="at least one"):
        distinct("a", 0)


def test_units_are_characters_for_character_models_and_words_for_others() -> None:
    assert text_units("a b", "char") == (["a", " ", "b"], "characters")
    assert text_units(" to be\n", "bpe") == (["to", "be"], "words")
