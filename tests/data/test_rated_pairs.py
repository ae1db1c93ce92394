"""Pairs from ratings: which texts meet, and that no held-out text has been learned from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scratchlm.data import join_validation, read_records, split_records
from scratchlm.data.rated_pairs import Pairing, draw_pairs, pairs_from_ratings
from scratchlm.errors import UserError

ROWS = [{"text": f"text {n}", "rating": round(n / 7, 6), "ratings": [1, 2]} for n in range(60)]


def written(folder: Path, rows: list[dict[str, Any]], name: str = "rated.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("margin", [0, 0.5, 1.0])
def test_the_higher_rated_text_is_chosen_and_the_gap_is_the_margin(margin: float) -> None:
    ratings = {row["text"]: row["rating"] for row in ROWS}
    pairs = pairs_from_ratings(ROWS, margin=margin, pairs_per_text=3)
    assert {pair["prompt"] for pair in pairs} == {""}
    for pair in pairs:
        assert pair["margin"] == pytest.approx(ratings[pair["chosen"]] - ratings[pair["rejected"]])
        assert pair["margin"] >= max(margin, 1e-9) - 1e-9
    assert len({(pair["chosen"], pair["rejected"]) for pair in pairs}) == len(pairs)
    assert 2 * 60 < len(pairs) <= 3 * 60


def test_partners_are_drawn_evenly_from_all_that_differ_enough() -> None:
    ratings = np.array([0.0, 3.0, 1.0, 2.0, 2.2])
    counts: dict[tuple[int, int], int] = {}
    for seed in range(2000):
        for high, low in draw_pairs(ratings, 2.0, 1, seed).tolist():
            counts[high, low] = counts.get((high, low), 0) + 1
    # Text 0 draws from 1, 3 and 4; text 1 from 0 and 2; text 2, 3 and 4 have one partner each.
    assert set(counts) == {(1, 0), (1, 2), (3, 0), (4, 0)}
    assert counts[1, 2] == counts[3, 0] == counts[4, 0] == 2000
    assert counts[1, 0] / 2000 == pytest.approx(1 - (2 / 3) * (1 / 2), abs=0.05)


def test_a_gap_of_means_that_is_one_but_for_rounding_counts() -> None:
    assert (1.1 + 2.2) - 2.3 > 1.0 > 2.3 - 1.3000000000000003
    assert len(draw_pairs(np.array([2.3, 1.3000000000000003]), 1.0, 1, 0)) == 1
    assert len(draw_pairs(np.array([2.3, 1.31]), 1.0, 1, 0)) == 0


def test_ties_and_a_text_in_other_words_make_no_pair() -> None:
    assert pairs_from_ratings([{"text": "a", "rating": 1}, {"text": "b", "rating": 1}], margin=0) == []
    assert pairs_from_ratings([{"text": "A  b", "rating": 1}, {"text": "a B", "rating": 4}]) == []
    assert pairs_from_ratings([]) == []


def test_pairs_depend_on_the_seed_alone() -> None:
    assert pairs_from_ratings(ROWS, seed=1) == pairs_from_ratings(ROWS, seed=1)
    assert pairs_from_ratings(ROWS, seed=1) != pairs_from_ratings(ROWS, seed=2)


def test_no_text_is_on_both_sides_of_a_split(tmp_path: Path) -> None:
    records = read_records(written(tmp_path, ROWS), task="preference")
    assert (len(records), records.shape, records.columns) == (60, "text + rating", {"text": "text", "rating": "rating"})
    splits = split_records(records, 0.25, seed=3)
    assert splits.validation is not None
    ours, theirs = ({text for row in part.rows for text in row.texts} for part in (splits.train, splits.validation))
    assert (len(ours), len(theirs), ours & theirs) == (45, 15, set())
    assert splits.validation.shape == "pairs of 15 texts by text + rating"
    row = splits.train.rows[0]
    assert row.place.startswith(f"{tmp_path / 'rated.jsonl'}, line ")
    assert (row.margin >= 1, row.prompt, row.rating) == (True, "", None)
    assert split_records(records, 0.25, seed=3) == splits
    assert split_records(records, 0).train.pairing is None


def test_a_file_of_held_out_texts_takes_them_from_those_learned_from(tmp_path: Path) -> None:
    train = read_records(written(tmp_path, ROWS), task="preference")
    held = read_records(written(tmp_path, ROWS[::3], "held.jsonl"), task="preference")
    splits = join_validation(train, held)
    assert splits.validation is not None
    ours, theirs = ({text for row in part.rows for text in row.texts} for part in (splits.train, splits.validation))
    assert (len(ours), len(theirs), ours & theirs) == (40, 20, set())


def test_how_pairs_are_made_can_be_said(tmp_path: Path) -> None:
    path = written(tmp_path, ROWS)
    few = split_records(read_records(path, task="preference", pairing=Pairing(5.0, 1)), 0).train.rows
    many = split_records(read_records(path, task="preference", pairing=Pairing(5.0, 4)), 0).train.rows
    assert min(row.margin for row in many) >= 5.0 - 1e-9
    assert 2 * len(few) < len(many)


@pytest.mark.parametrize("options", [{"margin": -1}, {"margin": float("nan")}, {"margin": True}, {"margin": "1"}])
def test_a_margin_that_is_none_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"pair_margin is .*; give a number of at least 0"):
        Pairing(**options)


@pytest.mark.parametrize("count", [0, 1.5, True])
def test_a_number_of_pairs_that_is_none_is_refused(count: Any) -> None:
    with pytest.raises(UserError, match=r"pairs_per_text is .*; give a whole number of at least 1"):
        Pairing(pairs_per_text=count)


def test_ratings_that_do_not_differ_enough_are_told(tmp_path: Path) -> None:
    records = read_records(written(tmp_path, ROWS[:5]), task="preference")
    with pytest.raises(UserError, match="of 5 texts no two have ratings that differ by 1; give more texts, or a lower"):
        records.paired()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"rating": 1}, "row 2 has no text; give each a text and a rating"),
        ({"text": " ", "rating": 1}, "row 2 has no text; give each a text and a rating"),
        ({"text": "x"}, "row 2: 'rating' is null, which is no number; give each a text and a rating"),
        ({"text": "x", "rating": float("nan")}, "row 2: 'rating' is NaN; give each a text and a rating"),
    ],
)
def test_rows_without_a_text_or_a_rating_are_refused(row: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        pairs_from_ratings([ROWS[0], row])
    assert str(caught.value) == said
