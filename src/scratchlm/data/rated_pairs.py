"""Pairs from rated texts: of two texts whose ratings differ enough, the one that is rated higher is the chosen one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scratchlm.data.preference_rows import number_of
from scratchlm.data.record_rows import BadRow, Record
from scratchlm.errors import UserError
from scratchlm.ranges import check_number, check_whole

_ROUNDING = 1e-9
"""Means of whole ratings are not exact, so that a gap of 1 may be a little less."""


@dataclass(frozen=True)
class Pairing:
    """How pairs are made of rated texts.

    Raises:
        UserError: from ``__post_init__``, for a value out of range.
    """

    margin: float = 1.0
    """The least by which two ratings differ. Ties make no pair, whatever it is."""
    pairs_per_text: int = 2
    """Pairs that each text is first drawn for, where it has as many partners; it is drawn for others' as often."""

    def __post_init__(self) -> None:
        check_number("pair_margin", self.margin)
        check_whole("pairs_per_text", self.pairs_per_text, 1)

    def pair(self, rows: Sequence[Record], seed: int) -> list[Record]:
        """The pairs of rated texts, in an order that ``seed`` decides, as its draws do. The margin of each is the gap
        between its ratings; no pair comes twice, and no text is paired with itself in other words (but for case and
        white space)."""
        ratings = np.array([row.rating for row in rows], np.float64)
        same = [" ".join(row.text.casefold().split()) for row in rows]
        return [
            Record(
                place=f"{rows[a].place} and {rows[b].place.rsplit(', ', 1)[-1]}",
                texts=(rows[a].text, rows[b].text),
                margin=float(ratings[a] - ratings[b]),
            )
            for a, b in draw_pairs(ratings, self.margin, self.pairs_per_text, seed).tolist()
            if same[a] != same[b]
        ]


def draw_pairs(ratings: NDArray[np.float64], margin: float, pairs_per_text: int, seed: int) -> NDArray[np.int64]:
    """Which of N rated texts are compared: for each, partners are drawn evenly from all whose ratings differ by
    ``margin`` at least. (N,) -> (P, 2): the higher one first, each pair once."""
    generator = np.random.default_rng([seed, 6])  # 6: a stream of its own
    order = np.argsort(ratings, kind="stable")
    rising = ratings[order]
    gap = max(margin - _ROUNDING, _ROUNDING)
    below = np.searchsorted(rising, rising - gap, side="right")  # partners at [0, below) and at [above, N)
    above = np.searchsorted(rising, rising + gap, side="left")
    partners = below + len(rising) - above
    found = []
    for _ in range(pairs_per_text):
        mine = np.flatnonzero(partners)
        drawn = generator.integers(0, partners[mine])
        theirs = np.where(drawn < below[mine], drawn, drawn - below[mine] + above[mine])
        found.append(np.stack([np.maximum(mine, theirs), np.minimum(mine, theirs)], 1))
    pairs = np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 2), np.int64)
    drawn_pairs: NDArray[np.int64] = order[generator.permutation(pairs)]
    return drawn_pairs


def pairs_from_ratings(
    rows: Iterable[Mapping[str, Any]], *, margin: float = 1.0, pairs_per_text: int = 2, seed: int = 0
) -> list[dict[str, Any]]:
    """Rows of pairs, made of rows with a text and a rating: ``prompt`` (empty), ``chosen``, ``rejected``, ``margin``.

    Split rated texts before pairs are made of them, so that no held-out text has been learned from.

    Raises:
        UserError: a row without a text or a rating, or a value out of range.
    """
    pairing = Pairing(margin, pairs_per_text)
    rated = []
    for number, row in enumerate(rows, 1):
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"row {number:,} has no text; give each a text and a rating")
        try:
            rated.append(Record(f"row {number}", text, rating=number_of(row.get("rating"), "'rating'")))
        except BadRow as error:
            raise UserError(f"row {number:,}: {error}; give each a text and a rating") from error
    return [
        {"prompt": "", "chosen": one.texts[0], "rejected": one.texts[1], "margin": one.margin}
        for one in pairing.pair(rated, seed)
    ]
