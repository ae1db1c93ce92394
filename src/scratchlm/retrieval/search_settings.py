"""How a search is made: what is looked with, how its findings become one order, and what is done with that."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, get_args

from scratchlm.errors import UserError
from scratchlm.ranges import check_choice, check_whole
from scratchlm.retrieval.fusion import Normalise

Mode = Literal["hybrid", "dense", "bm25"]
Fusion = Literal["weighted", "rrf"]


@dataclass(frozen=True)
class SearchSettings:
    """How a search is made.

    Raises:
        UserError: from ``__post_init__``, for a value out of range; the line names the field.
    """

    mode: Mode = "hybrid"
    """By vectors (``dense``), by words (``bm25``), or by both."""
    fusion: Fusion = "weighted"
    """Of both: the weighted sum of normalised scores, or reciprocal ranks."""
    dense_weight: float = 0.6
    """What vectors weigh in the fusion, from 0 to 1; words weigh the rest."""
    normalise: Normalise = "zscore"
    """How scores are put on one scale before they are weighed; see :func:`~scratchlm.retrieval.fusion.normalised`."""
    rrf_k: float = 60.0
    candidates: int = 100
    """Passages that vectors, and words, find each; from these all that follows chooses."""
    feedback: int = 0
    """So many passages that were found first move the query's vector towards them, and it looks again; 0 for none."""
    feedback_weight: float = 0.5
    """What their mean weighs beside the query's 1."""
    rerank: int = 50
    """The best so many are judged by the re-ranker, where there is one."""
    rerank_weight: float = 0.3
    """What its judgement weighs, from 0 to 1; the fused score weighs the rest."""
    mmr_lambda: float | None = None
    """Maximal marginal relevance: from 0 (variety alone) to 1 (relevance alone); None leaves the order as it is."""
    neighbours: int = 0
    """Passages before and after each that are added to it."""
    join: bool = True
    """Whether passages that follow each other in a file become one hit."""
    distinct: bool = True
    """Whether of passages with the same text only the first is given."""

    def __post_init__(self) -> None:
        choices = {"mode": Mode, "fusion": Fusion, "normalise": Normalise}
        for name, values in choices.items():
            check_choice(name, getattr(self, name), get_args(values))
        for name, least in (("candidates", 1), ("feedback", 0), ("rerank", 0), ("neighbours", 0)):
            check_whole(name, getattr(self, name), least)
        for name, most in (("dense_weight", 1.0), ("rerank_weight", 1.0), ("rrf_k", None), ("feedback_weight", None)):
            _check_number(name, getattr(self, name), most)
        if self.mmr_lambda is not None:
            _check_number("mmr_lambda", self.mmr_lambda, 1.0)
        for name in ("join", "distinct"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} is {getattr(self, name)!r}; give true or false")


def _check_number(name: str, value: Any, most: float | None) -> None:
    number = not isinstance(value, bool) and isinstance(value, int | float) and isfinite(value)
    if not number or value < 0 or (most is not None and value > most):
        between = "of at least 0" if most is None else f"from 0 to {most:g}"
        raise UserError(f"{name} is {value!r}; give a number {between}")
