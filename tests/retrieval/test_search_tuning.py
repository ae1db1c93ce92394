"""Choosing settings by judged queries, and what is said of the choice; the collection CISI where it is here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from scratchlm.errors import UserError
from scratchlm.retrieval.memory_index import MemoryIndex
from scratchlm.retrieval.search import Searcher
from scratchlm.retrieval.search_settings import SearchSettings
from scratchlm.retrieval.tuning import cross_validate, figures_of, run_of, tune_weights

from .test_search import Counts, hits_of

QUERIES = {
    str(n): query
    for n, query in enumerate(("zebra zebra cat", "zebra zebra dog", "zebra zebra fish", "zebra zebra bird"))
}


@pytest.fixture
def searcher() -> Searcher:
    """Vectors know the topics, words mislead to the zebra."""
    texts = ["zebra", "a cat", "a dog", "a fish", "a bird"]
    hits = [hit for n, text in enumerate(texts) for hit in hits_of([text], f"{n}.txt")]
    index = MemoryIndex(hits, Counts().embed(texts).vectors)
    return Searcher(index, Counts(), SearchSettings(dense_weight=0.0))  # type: ignore[arg-type]


def test_the_better_weight_is_chosen(searcher: Searcher) -> None:
    qrels = {name: {f"{int(name) + 1}.txt": 1} for name in QUERIES}
    tuned = tune_weights(searcher, QUERIES, qrels, grid={"dense_weight": [0.0, 1.0]}, measure="mrr@5", folds=2)
    assert tuned.settings == SearchSettings(dense_weight=1.0)
    assert tuned.figure == 1.0
    assert tuned.tried[0][1] < 1.0
    assert tuned.validated is not None
    assert tuned.validated.mean == 1.0
    assert tuned.validated.chosen == (0, 20)
    assert tune_weights(searcher, QUERIES, qrels, folds=3).validated is None


def test_documents_count_at_their_best_passage(searcher: Searcher) -> None:
    result = searcher.search("zebra cat", 5, settings=SearchSettings(join=False))
    run = run_of(result, lambda _hit: "one")
    assert run == {"one": max(hit.score for hit in result.hits)}


def test_judgements_that_do_not_fit(searcher: Searcher) -> None:
    with pytest.raises(UserError, match="none of the queries"):
        tune_weights(searcher, QUERIES, {"9": {"1.txt": 1}})
    with pytest.raises(UserError, match="no settings to try"):
        tune_weights(searcher, QUERIES, {"0": {"1.txt": 1}}, grid={"dense_weight": []})
    with pytest.raises(UserError, match="dense_weight"):
        tune_weights(searcher, QUERIES, {"0": {"1.txt": 1}}, grid={"dense_weight": [2.0]})
    with pytest.raises(UserError, match="no measure"):
        figures_of(searcher, QUERIES, {"0": {"1.txt": 1}}, SearchSettings(), measure="best@10")


def test_a_fold_is_not_measured_by_what_was_chosen_on_it() -> None:
    # Each query likes one setting alone: chosen on the others, it is never the one that the query likes.
    told = cross_validate(np.eye(6), folds=6, seeds=3)
    assert told.mean == 0.0
    assert sum(told.chosen) == 18
    same = cross_validate(np.array([[0.2] * 6, [0.4] * 6]), folds=2)
    assert (same.mean, same.deviation, same.chosen) == (pytest.approx(0.4), pytest.approx(0.0), (0, 20))


@pytest.mark.parametrize("folds", [0, 1, 7])
def test_folds_that_there_cannot_be(folds: int) -> None:
    with pytest.raises(UserError, match="cannot be parted"):
        cross_validate(np.ones((2, 6)), folds=folds)


def test_bm25_on_cisi(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(__file__).resolve().parents[2] / "../shared/data/cisi"
    if not (folder / "CISI.REL").is_file():
        pytest.skip("the CISI collection is not in ../shared/data/cisi")
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    texts, queries, qrels = import_module("retrieval_quality").read_cisi(folder)
    hits = [hit for n, text in enumerate(texts, 1) for hit in hits_of([text], str(n))]
    index = MemoryIndex(hits, np.ones((len(hits), 1), np.float32))
    settings = SearchSettings(mode="bm25")
    figures = figures_of(Searcher(index, settings=settings), queries, qrels, settings)
    assert np.mean(figures) > 0.40
