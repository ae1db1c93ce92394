"""An index in memory: exact search by vectors and BM25, for some thousand passages and for comparing settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scratchlm.retrieval.embeddings import Embedder
from scratchlm.retrieval.passages import Chunk, Document, Hit
from scratchlm.retrieval.query_words import stems
from scratchlm.retrieval.search import Vectors

Keep = Callable[[Hit], bool]


class BM25:
    """Okapi BM25 (Robertson and Zaragoza 2009) of texts that are lists of words. A word that a query has twice counts
    twice.

    Args:
        k1: how soon more of the same word adds nothing.
        b: how much long texts are held to say less with each word, from 0 to 1.
    """

    def __init__(self, texts: Sequence[Sequence[str]], k1: float = 1.5, b: float = 0.75) -> None:
        lengths = np.array([len(words) for words in texts], np.float64)
        spread = k1 * (1 - b + b * lengths / max(lengths.mean(), 1.0)) if len(texts) else lengths
        self.count = len(texts)
        rows: dict[str, list[int]] = {}
        times: dict[str, list[int]] = {}
        for row, words in enumerate(texts):
            for word, number in Counter(words).items():
                rows.setdefault(word, []).append(row)
                times.setdefault(word, []).append(number)
        self.rarity: dict[str, float] = {}
        """The inverse document frequency of each word."""
        self._postings: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        for word, its in rows.items():
            places, counts = np.array(its), np.array(times[word], np.float64)
            rare = self.rarity[word] = float(np.log1p((len(texts) - len(its) + 0.5) / (len(its) + 0.5)))
            self._postings[word] = places, rare * counts * (k1 + 1) / (counts + spread[places])

    def scores(self, query: Sequence[str]) -> NDArray[np.float64]:
        """(n,): of each text; 0 where it has none of the query's words."""
        return self.weighted_scores(Counter(query))

    def weighted_scores(self, query: Mapping[str, float]) -> NDArray[np.float64]:
        """(n,): of words with weights."""
        found = np.zeros(self.count)
        for word, weight in query.items():
            if word in self._postings:
                places, worth = self._postings[word]
                found[places] += weight * worth
        return found


class MemoryIndex:
    """Passages with their vectors.

    Args:
        hits: with distinct ids; their scores do not matter.
        vectors: (n, C), of any lengths but 0.

    Raises:
        ValueError: another number of vectors than of passages, or an id twice.
    """

    def __init__(self, hits: Sequence[Hit], vectors: Vectors, *, k1: float = 1.5, b: float = 0.75) -> None:
        if len(hits) != len(vectors) or len({hit.id for hit in hits}) != len(hits):
            raise ValueError(f"{len(hits)} passages, {len(vectors)} vectors; ids must be distinct")
        self.all = list(hits)
        self._rows = {hit.id: row for row, hit in enumerate(hits)}
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        self._units = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
        self._words = BM25([stems(hit.embedded) for hit in hits], k1, b)

    @classmethod
    def of(cls, files: Sequence[tuple[Document, Sequence[Chunk]]], embedder: Embedder) -> MemoryIndex:
        """Of documents that are cut in chunks."""
        hits = [
            hit_of(document, chunk, f"{document.path}:{number}")
            for document, chunks in files
            for number, chunk in enumerate(chunks)
        ]
        return cls(hits, embedder.embed([hit.embedded for hit in hits]).vectors)

    def dense(self, vector: Vectors, count: int, where: Keep | None = None) -> list[Hit]:
        """As :meth:`~scratchlm.retrieval.search.SearchIndex.dense`; ``where`` tells which passages count."""
        unit = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return self._best(self._units @ unit, count, where, "dense")

    def full_text(self, query: str, count: int, where: Keep | None = None) -> list[Hit]:
        """As :meth:`~scratchlm.retrieval.search.SearchIndex.full_text`."""
        return [hit for hit in self._best(self._words.scores(stems(query)), count, where, "bm25") if hit.score > 0]

    def vectors(self, ids: Sequence[str]) -> Vectors:
        """(n, C), each of length 1."""
        found: Vectors = self._units[[self._rows[name] for name in ids]]
        return found

    def neighbours(self, hit: Hit, before: int, after: int) -> list[Hit]:
        """The passages around one in its file, in the file's order, without itself."""
        file = sorted((one for one in self.all if one.file == hit.file), key=lambda one: one.start)
        at = [one.id for one in file].index(hit.id)
        return file[max(0, at - before) : at] + file[at + 1 : at + 1 + after]

    def _best(self, scores: NDArray[np.floating], count: int, where: Keep | None, name: str) -> list[Hit]:
        found: list[Hit] = []
        for row in np.argsort(-scores, kind="stable"):
            if len(found) == count:
                break
            if where is None or where(self.all[row]):
                score = float(scores[row])
                found.append(replace(self.all[row], score=score, scores={name: score}))
        return found


def hit_of(document: Document, chunk: Chunk, name: str) -> Hit:
    """A chunk of a document as a search gives it, without a score."""
    return Hit(
        id=name,
        file=document.path,
        text=chunk.text,
        start=chunk.start,
        end=chunk.end,
        first_line=chunk.first_line,
        last_line=chunk.last_line,
        first_page=chunk.first_page,
        last_page=chunk.last_page,
        headings=chunk.headings,
        kind=document.kind,
        score=0.0,
    )
