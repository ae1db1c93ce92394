"""Searching: each stage on an index whose vectors and words are known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scratchlm.errors import UserError
from scratchlm.retrieval.joining import join_adjacent
from scratchlm.retrieval.memory_index import BM25, MemoryIndex
from scratchlm.retrieval.passages import Hit
from scratchlm.retrieval.query_words import content_words, stem, stems
from scratchlm.retrieval.search import Rewritten, Searcher
from scratchlm.retrieval.search_settings import SearchSettings

TOPICS = ("cat", "dog", "fish", "bird")
TEXTS = (
    "The cat sleeps on the mat.",
    "A dog barks at the postman.",
    "Fish swim in the cold river.",
    "the  cat sleeps on the mat.",
    "Cats and dogs fight like a cat and a dog.",
)


class Counts:
    """Stands in for an embedder: how often each topic is named, and a little of everything."""

    def embed(self, texts: Iterable[str]) -> Any:
        rows = [[text.lower().count(topic) + 0.01 for topic in TOPICS] for text in texts]
        return SimpleNamespace(vectors=np.array(rows, np.float32).reshape(-1, 4))


def hits_of(texts: Sequence[str], file: str = "pets.txt") -> list[Hit]:
    found, at = [], 0
    for number, text in enumerate(texts):
        found.append(
            Hit(f"{file}:{number}", file, text, at, at + len(text), number + 1, number + 1, None, None, (), "text", 0.0)
        )
        at += len(text) + 1
    return found


def searcher(texts: Sequence[str] = TEXTS, **settings: Any) -> Searcher:
    hits = hits_of(texts)
    index = MemoryIndex(hits, Counts().embed(texts).vectors)
    chosen = SearchSettings(**{"join": False} | settings)
    return Searcher(index, Counts(), chosen)  # type: ignore[arg-type]


def found(result: Any) -> list[str]:
    return [hit.text for hit in result.hits]


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_each_mode_finds_what_is_asked_for(mode: str) -> None:
    result = searcher(mode=mode).search("Where do fish swim?", 2)
    assert found(result)[0] == TEXTS[2]
    best = result.hits[0]
    assert best.score == max(hit.score for hit in result.hits)
    assert ("dense" in best.scores) == (mode != "bm25")
    assert ("bm25" in best.scores) == (mode != "dense")
    assert list(result.timings)[-1] == "total"
    assert sum(result.timings.values()) <= 2 * result.timings["total"] + 1e-6


def test_the_fused_score_is_the_weighted_sum() -> None:
    result = searcher(dense_weight=0.25, normalise="minmax", distinct=False).search("dog", 5)
    dense = {hit.id: hit.scores["dense"] for hit in result.hits}
    words = {hit.id: hit.scores.get("bm25", 0.0) for hit in result.hits}
    low, high = min(dense.values()), max(dense.values())
    for hit in result.hits:
        expected = 0.25 * (dense[hit.id] - low) / (high - low) + 0.75 * words[hit.id] / max(words.values())
        assert hit.score == pytest.approx(expected)


def test_reciprocal_ranks_can_be_asked_for() -> None:
    result = searcher(fusion="rrf", dense_weight=0.5).search("fish", 1)
    assert result.hits[0].score == pytest.approx(1 / 61)  # half of 1 / 61 from each


def test_what_only_words_find_has_a_dense_score_too() -> None:
    result = searcher(candidates=1, distinct=False).search("postman cat", 5)
    assert {hit.text for hit in result.hits} >= {TEXTS[1]}
    assert all("dense" in hit.scores for hit in result.hits)


def test_the_same_text_is_given_once_unless_told() -> None:
    assert found(searcher().search("cat mat", 5)).count(TEXTS[0]) == 1
    assert TEXTS[3] not in found(searcher().search("cat mat", 5))
    assert TEXTS[3] in found(searcher(distinct=False).search("cat mat", 5))


def test_feedback_looks_again() -> None:
    plain = searcher(mode="dense", join=False).search("fish", 5)
    again = searcher(mode="dense", feedback=1, feedback_weight=1.0).search("fish", 5)
    assert "feedback" in again.timings
    assert "feedback" not in plain.timings
    assert "feedback" in again.hits[0].scores


def test_mmr_gives_variety() -> None:
    texts = ("cat cat", "cat cat cat", "cat and dog", "fish")
    plain = found(searcher(texts, mode="dense").search("cat", 2))
    varied = found(searcher(texts, mode="dense", mmr_lambda=0.3).search("cat", 2))
    assert set(plain) == {"cat cat", "cat cat cat"}
    assert len(set(varied) & {"cat cat", "cat cat cat"}) == 1


class Longest:
    """Judges passages by their length."""

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        assert query
        return [float(len(one)) for one in passages]


def test_the_reranker_decides_among_the_best() -> None:
    one = searcher(rerank=2, rerank_weight=1.0, mode="bm25", distinct=False)
    one.reranker = Longest()
    plain = searcher(mode="bm25", distinct=False).search("cat dog", 5)
    result = one.search("cat dog", 5)
    assert {hit.id for hit in result.hits[:2]} == {hit.id for hit in plain.hits[:2]}
    assert len(result.hits[0].text) >= len(result.hits[1].text)
    assert [hit.id for hit in result.hits[2:]] == [hit.id for hit in plain.hits[2:]]
    assert result.hits[0].scores["reranked"] == len(result.hits[0].text)
    scores = [hit.score for hit in result.hits]
    assert scores == sorted(scores, reverse=True)
    assert "rerank" in result.timings


def test_a_rewritten_query_is_what_is_looked_with() -> None:
    one = searcher()
    one.rewriter = lambda _query: Rewritten("fish", ("fish swim",))
    result = one.search("and what of those?", 1)
    assert found(result) == [TEXTS[2]]
    assert result.as_json()["looked_with"] == "fish"


def test_a_filter_narrows_all_stages() -> None:
    result = searcher(distinct=False).search("cat", 5, where=lambda hit: hit.start > 0)
    assert result.hits
    assert all(hit.start > 0 for hit in result.hits)


def test_json_has_what_is_asked_for() -> None:
    told = searcher().search("dog", 1).as_json()
    assert set(told) == {"query", "hits", "timings"}
    assert {"file", "text", "score", "start", "end"} <= set(told["hits"][0])


def test_passages_that_follow_each_other_are_joined() -> None:
    whole = "\n".join(TEXTS[:3])
    one, two, three = hits_of(TEXTS[:3])
    (joined,) = join_adjacent([replace(three, score=2.0), one, two])
    assert (joined.text, joined.start, joined.end) == (whole, 0, len(whole))
    assert (joined.first_line, joined.last_line, joined.score, joined.id) == (1, 3, 2.0, three.id)
    apart = join_adjacent([one, three, replace(two, file="other.txt")])
    assert len(apart) == 3
    overlapping = replace(two, start=one.start + 4, end=one.end + 6, text=one.text[4:] + "\nA dog"[:6])
    assert join_adjacent([one, overlapping])[0].text == one.text + "\nA dog"
    inside = replace(one, id="inside", start=4, end=7, text=one.text[4:7])
    assert join_adjacent([inside, one])[0].text == one.text


def test_neighbours_are_added() -> None:
    result = searcher(neighbours=1, mode="bm25").search("postman", 1)
    assert result.hits[0].text == "\n".join(TEXTS[:3])


def test_no_words_in_common_is_no_hit_by_words() -> None:
    assert searcher(mode="bm25").search("zebra", 5).hits == []
    assert searcher([], mode="bm25").search("cat", 5).hits == []


def test_bm25_by_hand() -> None:
    index = BM25([["a", "a", "b"], ["b"]], k1=1.2, b=0.75)
    rare = np.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    expected = rare * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 2))
    assert index.scores(["a"]) == pytest.approx([expected, 0.0])
    assert index.scores(["a", "a", "z"]) == pytest.approx([2 * expected, 0.0])


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("caresses", "caress"), ("ponies", "poni"), ("agreed", "agre"), ("feed", "feed"), ("hopping", "hop"),
        ("hoping", "hope"), ("happy", "happi"), ("sky", "sky"), ("relational", "relat"), ("conditional", "condit"),
        ("generalizations", "gener"), ("oscillators", "oscil"), ("electricity", "electr"), ("controlling", "control"),
        ("adoption", "adopt"), ("falling", "fall"), ("probate", "probat"), ("rate", "rate"), ("is", "is"),
        ("été", "été"),
    ],
)  # fmt: skip
def test_stems_as_porter_has_them(word: str, expected: str) -> None:
    assert stem(word) == expected


def test_words_that_say_little_are_left_out() -> None:
    assert stems("What is the use of Retrieval Systems?") == ["retriev", "system"]
    assert content_words("What is the cat's name?") == "cat s name"
    assert content_words("What is it?") == "What is it?"


@pytest.mark.parametrize("query", ["", "  \n", None])
def test_an_empty_query_is_refused(query: Any) -> None:
    with pytest.raises(UserError, match="query is empty"):
        searcher().search(query)


@pytest.mark.parametrize("k", [0, -1, 2.5, True])
def test_k_below_one_is_refused(k: Any) -> None:
    with pytest.raises(UserError, match="k is"):
        searcher().search("cat", k)


def test_vectors_need_a_model() -> None:
    index = MemoryIndex([], np.empty((0, 4), np.float32))
    with pytest.raises(UserError, match="embedding model"):
        Searcher(index)
    assert Searcher(index, settings=SearchSettings(mode="bm25")).search("cat").hits == []


@pytest.mark.parametrize(
    "setting",
    [
        {"mode": "sparse"}, {"fusion": "sum"}, {"normalise": "rank"}, {"dense_weight": 1.5}, {"dense_weight": -0.1},
        {"dense_weight": float("nan")}, {"rrf_k": -1}, {"rrf_k": "60"}, {"candidates": 0}, {"candidates": 2.5},
        {"feedback": -1}, {"feedback_weight": float("inf")}, {"rerank": -1}, {"rerank_weight": 2}, {"mmr_lambda": 1.1},
        {"mmr_lambda": True}, {"neighbours": -1}, {"join": "yes"}, {"distinct": 1},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_told_in_one_line(setting: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(setting))) as error:
        SearchSettings(**setting)
    assert "\n" not in str(error.value)
