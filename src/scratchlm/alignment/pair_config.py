"""Settings of what learns from pairs, where these are made of rated texts."""

from __future__ import annotations

from dataclasses import dataclass

from scratchlm.data.rated_pairs import Pairing


@dataclass(frozen=True)
class PairConfig:
    """How pairs are made.

    Raises:
        UserError: from ``__post_init__``, for a value out of range; the line names the field.
    """

    pair_margin: float = 1.0
    """Of rated texts: the least by which the ratings of a pair differ."""
    pairs_per_text: int = 2
    """Of rated texts: pairs that each is first drawn for."""

    def __post_init__(self) -> None:
        Pairing(self.pair_margin, self.pairs_per_text)
