"""Choosing settings by judged queries, and saying honestly how good the choice is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scratchlm.errors import UserError
from scratchlm.evaluation.retrieval_metrics import Grades, measure_by_query
from scratchlm.retrieval.passages import Hit
from scratchlm.retrieval.search import Searcher, SearchResult
from scratchlm.retrieval.search_settings import SearchSettings

WEIGHTS: Mapping[str, Sequence[Any]] = {"dense_weight": tuple(round(0.1 * n, 1) for n in range(1, 10))}
"""What is tried unless told otherwise."""
NameOf = Callable[[Hit], str]
"""Under which name a hit is judged: its file, or its chunk."""


@dataclass(frozen=True)
class Validated:
    """A figure whose settings were chosen without the queries that it is measured on."""

    mean: float
    """Over the queries and the ways to part them."""
    deviation: float
    """Standard deviation over the ways to part them."""
    chosen: tuple[int, ...]
    """How often each of the settings was chosen."""


@dataclass(frozen=True)
class Tuned:
    """The best of some settings."""

    settings: SearchSettings
    figure: float
    """On the queries that they were chosen by, so that it flatters."""
    validated: Validated | None
    """What to expect of other queries; None where there are too few to tell."""
    tried: tuple[tuple[SearchSettings, float], ...]


def tune_weights(
    searcher: Searcher,
    queries: Mapping[str, str],
    qrels: Mapping[str, Grades],
    *,
    grid: Mapping[str, Sequence[Any]] = WEIGHTS,
    measure: str = "ndcg@10",
    name_of: NameOf | None = None,
    folds: int = 5,
) -> Tuned:
    """Search with all combinations of a grid of settings, and choose the best for the judged queries.

    Args:
        queries: by id.
        qrels: grades by query and document, which are files unless ``name_of`` says otherwise.
        grid: values to try by the name of the setting; the others are the searcher's.

    Raises:
        UserError: no query is judged, an empty grid, or a value out of range.
    """
    tried = [replace(searcher.settings, **dict(zip(grid, values, strict=True))) for values in product(*grid.values())]
    if not tried:
        raise UserError("there are no settings to try; give at least one value of each")
    figures = np.array(
        [figures_of(searcher, queries, qrels, settings, measure=measure, name_of=name_of) for settings in tried]
    )
    means = figures.mean(1)
    best = int(means.argmax())
    validated = cross_validate(figures, folds) if figures.shape[1] >= 2 * folds else None
    return Tuned(tried[best], float(means[best]), validated, tuple(zip(tried, means.tolist(), strict=True)))


def figures_of(
    searcher: Searcher,
    queries: Mapping[str, str],
    qrels: Mapping[str, Grades],
    settings: SearchSettings,
    *,
    measure: str = "ndcg@10",
    name_of: NameOf | None = None,
) -> list[float]:
    """The measure of each judged query, in the order of the queries. Documents count at the place of their best
    passage.

    Raises:
        UserError: no query is judged, or there is no such measure.
    """
    judged = {query: qrels[query] for query in queries if query in qrels}
    if not judged:
        raise UserError("none of the queries is judged; do the queries and the qrels belong together?")
    cut = measure.partition("@")[2]
    count = 5 * int(cut) if cut.isdecimal() and int(cut) else settings.candidates
    plain = replace(settings, join=False, neighbours=0)
    run = {query: run_of(searcher.search(queries[query], count, settings=plain), name_of) for query in judged}
    return list(measure_by_query(judged, run, measure).values())


def run_of(result: SearchResult, name_of: NameOf | None = None) -> dict[str, float]:
    """What a search has found as a run has it: the best score of each file, or of what ``name_of`` says."""
    found: dict[str, float] = {}
    for hit in result.hits:
        name = hit.file if name_of is None else name_of(hit)
        found[name] = max(hit.score, found.get(name, hit.score))
    return found


def cross_validate(figures: NDArray[np.floating], folds: int = 5, seeds: int = 10) -> Validated:
    """How good the best of some settings is on queries that it was not chosen by.

    The queries are parted into ``folds`` by chance; those of each fold are measured with the settings that are best on
    the others. This is done with ``seeds`` partings.

    Args:
        figures: (settings, queries).

    Raises:
        UserError: fewer queries than folds, or fewer than 2 folds.
    """
    settings, queries = figures.shape
    if not 2 <= folds <= queries or seeds < 1:
        raise UserError(f"{queries} queries cannot be parted into {folds} folds; give from 2 folds to one a query")
    chosen = np.zeros(settings, np.int64)
    means = []
    for seed in range(seeds):
        held = np.empty(queries)
        for fold in np.array_split(np.random.default_rng(seed).permutation(queries), folds):
            others = np.setdiff1d(np.arange(queries), fold)
            best = int(figures[:, others].mean(1).argmax())
            chosen[best] += 1
            held[fold] = figures[best, fold]
        means.append(held.mean())
    return Validated(float(np.mean(means)), float(np.std(means)), tuple(chosen.tolist()))
