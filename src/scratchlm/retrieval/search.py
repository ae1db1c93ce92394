"""Searching an index: by vectors and by words, their findings made one order, and that order made better."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scratchlm.errors import UserError
from scratchlm.retrieval.embeddings import Embedder
from scratchlm.retrieval.fusion import distinct, mmr, normalised, order, reciprocal_rank, rocchio, weighted
from scratchlm.retrieval.joining import join_adjacent, with_neighbours
from scratchlm.retrieval.passages import Hit
from scratchlm.retrieval.query_words import content_words
from scratchlm.retrieval.search_settings import SearchSettings

Vectors = NDArray[np.float32]
Where = Any
"""What narrows a search; its form is the index's own."""


class SearchIndex(Protocol):
    """What a search needs of an index."""

    def dense(self, vector: Vectors, count: int, where: Where = None) -> list[Hit]:
        """The passages whose vectors are most like (C,), by cosine, which is their score ``dense``."""

    def full_text(self, query: str, count: int, where: Where = None) -> list[Hit]:
        """The passages whose words the query has, with their score ``bm25``."""

    def vectors(self, ids: Sequence[str]) -> Vectors:
        """(n, C)."""

    def neighbours(self, hit: Hit, before: int, after: int) -> list[Hit]:
        """The passages around one in its file, in the file's order, without itself."""


class Reranker(Protocol):
    """What judges passages anew."""

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """How well each answers the query; higher is better, on any scale."""


Stages = Mapping[str, Sequence[float]]


@runtime_checkable
class Combiner(Protocol):
    """A re-ranker that wants to know what the stages before it have found, and alone decides."""

    def combine(self, query: str, passages: Sequence[str], stages: Stages) -> list[float]:
        """The final score of each."""


@dataclass(frozen=True)
class Rewritten:
    """A query as it is looked with."""

    text: str
    """For the words, and for the re-ranker."""
    passages: tuple[str, ...] = ()
    """Hypothetical answers, whose vectors are averaged with the text's."""


Rewriter = Callable[[str], Rewritten]


@dataclass(frozen=True)
class SearchResult:
    """What a search has found."""

    query: str
    hits: list[Hit]
    """The best first."""
    timings: Mapping[str, float]
    """Milliseconds of each stage, in their order, and in ``total``."""
    rewritten: Rewritten | None = None
    """What was looked with instead, if anything."""
    stages: Mapping[str, list[str]] = field(default_factory=dict)
    """The ids that each stage gave, the best first."""

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        found = {"query": self.query, "hits": [hit.as_json() for hit in self.hits], "timings": dict(self.timings)}
        return found if self.rewritten is None else found | {"looked_with": self.rewritten.text}


class Searcher:
    """Searches an index.

    Args:
        embedder: of the model that the index's vectors were made with; only ``bm25`` does without.
        reranker: judges the best passages anew, such as a :class:`~scratchlm.retrieval.rerank.CrossEncoder`.
        rewriter: makes a query another one first; see :mod:`~scratchlm.retrieval.rewriting`.

    Raises:
        UserError: vectors are to be looked with and there is no embedder.
    """

    def __init__(
        self,
        index: SearchIndex,
        embedder: Embedder | None = None,
        settings: SearchSettings | None = None,
        *,
        reranker: Reranker | Combiner | None = None,
        rewriter: Rewriter | None = None,
    ) -> None:
        self.index, self.embedder, self.settings = index, embedder, settings or SearchSettings()
        self.reranker, self.rewriter = reranker, rewriter
        if embedder is None and self.settings.mode != "bm25":
            raise UserError(f"a {self.settings.mode} search needs an embedding model; give one, or search by bm25")

    def search(
        self, query: str, k: int = 10, where: Where = None, *, settings: SearchSettings | None = None
    ) -> SearchResult:
        """The best ``k`` passages for a query; fewer where there are no more, or where some were joined.

        Args:
            where: narrows the search, in the index's form.
            settings: others than the searcher's.

        Raises:
            UserError: an empty query, ``k`` below 1, or what the index, the models and the settings raise.
        """
        if not isinstance(query, str) or not query.strip():
            raise UserError("the query is empty; ask for something")
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise UserError(f"k is {k!r}; ask for at least 1 passage")
        return _Search(self, query, k, where, settings or self.settings).run()


class _Search:
    """One search: its candidates and their scores as they become known."""

    def __init__(self, searcher: Searcher, query: str, k: int, where: Where, settings: SearchSettings) -> None:
        self.searcher, self.index, self.settings = searcher, searcher.index, settings
        self.query, self.k, self.where = query, k, where
        self.count = max(settings.candidates, k)
        self.hits: dict[str, Hit] = {}
        self.scores: dict[str, dict[str, float]] = {}
        """Of each stage, by id."""
        self.timings: dict[str, float] = {}
        self.stages: dict[str, list[str]] = {}
        self._began = self._last = time.perf_counter()

    def run(self) -> SearchResult:
        settings, rewritten = self.settings, None
        asked = Rewritten(self.query)
        if self.searcher.rewriter is not None:
            asked = rewritten = self.searcher.rewriter(self.query)
            self._done("rewrite")
        vector = self._embed(asked) if settings.mode != "bm25" else None
        if settings.mode != "dense":
            self._note("bm25", self.index.full_text(content_words(asked.text), self.count, self.where))
        if vector is not None:
            self._look(vector)
            if settings.feedback:
                first = order(self._fused())[: settings.feedback]
                if first:
                    self._look(rocchio(vector, self.index.vectors(first), settings.feedback_weight), "feedback")
        final = self.scores["fused"] = self._fused()
        self._done("fuse", order(final))
        if self.searcher.reranker is not None and settings.rerank and final:
            final = self._reranked(self.searcher.reranker, asked.text, final)
        return SearchResult(self.query, self._chosen(final), self._totalled(), rewritten, self.stages)

    def _embed(self, asked: Rewritten) -> Vectors:
        assert self.searcher.embedder is not None
        vectors = self.searcher.embedder.embed([asked.text, *asked.passages]).vectors
        self._done("embed")
        units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        mean: Vectors = units.mean(0)
        return mean / max(float(np.linalg.norm(mean)), 1e-12)

    def _look(self, vector: Vectors, stage: str = "dense") -> None:
        """By a vector; what words alone have found is compared with it, too, so that the fusion knows both."""
        hits = self.index.dense(vector, self.count, self.where)
        known = {hit.id for hit in hits}
        others = [name for name in self.hits if name not in known]
        self._note(stage, hits, "dense")
        if others:
            vectors = self.index.vectors(others)
            lengths = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
            likeness = (vectors @ vector) / lengths
            self.scores[stage].update(zip(others, likeness.tolist(), strict=True))

    def _note(self, stage: str, hits: Sequence[Hit], name: str = "") -> None:
        for hit in hits:
            self.hits.setdefault(hit.id, hit)
        self.scores[stage] = {hit.id: hit.scores.get(name or stage, hit.score) for hit in hits}
        self._done(stage, [hit.id for hit in hits])

    def _fused(self) -> dict[str, float]:
        settings = self.settings
        dense = self.scores.get("feedback", self.scores.get("dense"))
        words = self.scores.get("bm25")
        if dense is None or words is None:
            return dict(dense if dense is not None else words or {})
        weights = [settings.dense_weight, 1 - settings.dense_weight]
        if settings.fusion == "rrf":
            return reciprocal_rank([order(dense)[: self.count], order(words)], settings.rrf_k, weights)
        # A passage that no word has found shares none with the query: its score by words is 0.
        words = {name: words.get(name, 0.0) for name in dense}
        return weighted([dense, words], weights, settings.normalise)

    def _reranked(self, reranker: Reranker | Combiner, query: str, fused: Mapping[str, float]) -> dict[str, float]:
        """Those that are judged stand before the others, which keep their order."""
        first = order(fused)
        judged, rest = first[: self.settings.rerank], first[self.settings.rerank :]
        texts = [self.hits[name].embedded for name in judged]
        if isinstance(reranker, Combiner):
            stages = {stage: [known.get(name, 0.0) for name in judged] for stage, known in self.scores.items()}
            final = dict(zip(judged, reranker.combine(query, texts, stages), strict=True))
            self.scores["reranked"] = dict(final)
        else:
            marks = self.scores["reranked"] = dict(zip(judged, reranker.score(query, texts), strict=True))
            share = self.settings.rerank_weight
            both = [marks, {name: fused[name] for name in judged}]
            final = weighted(both, [share, 1 - share], self.settings.normalise)
        least = min(final.values())
        final |= {name: least - place for place, name in enumerate(rest, 1)}
        self._done("rerank", order(final))
        return final

    def _chosen(self, final: Mapping[str, float]) -> list[Hit]:
        settings, names = self.settings, order(final)
        if settings.distinct:
            names = distinct(names, {name: self.hits[name].text for name in names})
        if settings.mmr_lambda is not None and names:
            names = names[: self.count]
            worth = normalised({name: final[name] for name in names})
            rows = mmr(self.index.vectors(names), list(worth.values()), settings.mmr_lambda, self.k)
            names = [names[row] for row in rows]
            self._done("mmr", names)
        hits = [replace(self.hits[name], score=final[name], scores=self._scores_of(name)) for name in names[: self.k]]
        if settings.neighbours:
            hits = [with_neighbours(hit, self.index.neighbours, settings.neighbours) for hit in hits]
        if settings.join:
            hits = join_adjacent(hits)
        if settings.neighbours or settings.join:
            self._done("join", [hit.id for hit in hits])
        return hits

    def _scores_of(self, name: str) -> dict[str, float]:
        return {stage: scores[name] for stage, scores in self.scores.items() if name in scores}

    def _done(self, stage: str, ids: list[str] | None = None) -> None:
        now = time.perf_counter()
        self.timings[stage] = self.timings.get(stage, 0.0) + 1000 * (now - self._last)
        self._last = now
        if ids is not None:
            self.stages[stage] = ids

    def _totalled(self) -> dict[str, float]:
        return self.timings | {"total": 1000 * (time.perf_counter() - self._began)}
