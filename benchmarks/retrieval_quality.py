"""Quality of search: nDCG@10 on CISI (1,460 documents, 76 judged queries), each stage beside the one before.

    python benchmarks/retrieval_quality.py [--json] [--model NAME] [--folds K] [--seeds N] [--reranker RUN]

A document is embedded with its title. ``bm25_plain``, ``dense`` and ``rrf_plain`` are what anyone gets: BM25 (k1 1.2, b
0.75) of all words as they stand, cosines, and their reciprocal ranks with k 60. ``bm25`` has stems and no stop words.
``hybrid`` and ``reranked`` are cross-validated: weights are chosen on the other folds' queries, and the figure is the
mean over the held-out queries of several partings, ``_deviation`` the standard deviation over these. The collection
lies in ``../shared/data/cisi``, seen from the clone.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from embed_speed import read_abstracts
from generate_speed import machine
from scratchlm.errors import UserError
from scratchlm.evaluation.retrieval_metrics import measure_run
from scratchlm.retrieval import Embedder
from scratchlm.retrieval.fusion import order, reciprocal_rank
from scratchlm.retrieval.learned_order import features, learn_weights
from scratchlm.retrieval.memory_index import BM25, MemoryIndex
from scratchlm.retrieval.passages import Hit
from scratchlm.retrieval.rerank import CrossEncoder, WordFeedback, rarity
from scratchlm.retrieval.search import Reranker, Searcher
from scratchlm.retrieval.search_settings import SearchSettings
from scratchlm.retrieval.tuning import cross_validate, figures_of

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "cisi"
DENSE_WEIGHTS = (0.4, 0.5, 0.6, 0.7, 0.8)


def read_cisi(folder: Path) -> tuple[list[str], dict[str, str], dict[str, dict[str, int]]]:
    """The documents' titles and abstracts, the queries, and what is relevant to each."""
    if not (folder / "CISI.REL").is_file():
        raise UserError(f"{folder} has no CISI.REL; put the CISI collection there")
    text = (folder / "CISI.QRY").read_text(encoding="latin-1")
    queries = {}
    for number, body in re.findall(r"^\.I (\d+)\s*$(.*?)(?=^\.I |\Z)", text, flags=re.MULTILINE | re.DOTALL):
        queries[number] = " ".join(re.split(r"^\.[A-Z]\s*$", body.split("\n.W", 1)[1], flags=re.MULTILINE)[0].split())
    qrels: dict[str, dict[str, int]] = {}
    for line in (folder / "CISI.REL").read_text().splitlines():
        if line.strip():
            query, document = line.split()[:2]
            qrels.setdefault(query, {})[document] = 1
    return read_abstracts(folder / "CISI.ALL"), {name: queries[name] for name in qrels}, qrels


class KnownEmbedder:
    """An embedder that remembers: each text is computed once."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder, self.known = embedder, dict[tuple[str, ...], Any]()

    def embed(self, texts: Sequence[str]) -> Any:
        key = tuple(texts)
        if key not in self.known:
            self.known[key] = self.embedder.embed(texts)
        return self.known[key]


class KnownLateInteraction:
    """:class:`~scratchlm.retrieval.rerank.LateInteraction` that remembers tokens' states, in half precision."""

    def __init__(self, embedder: Embedder, weigh: bool = True) -> None:
        self.embedder, self.weigh = embedder, weigh
        self.known: dict[str, tuple[list[int], Tensor]] = {}
        self.best: dict[tuple[str, str], Tensor] = {}

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        new = [text for text in dict.fromkeys((query, *passages)) if text not in self.known]
        for text, (ids, states) in zip(new, self.embedder.token_states(new), strict=True):
            self.known[text] = ids, F.normalize(states, dim=-1).half()
        asked, sought = self.known[query]
        for text in passages:
            if (query, text) not in self.best:
                self.best[query, text] = (sought.float() @ self.known[text][1].float().T).amax(1)
        weights = rarity(asked, [self.known[text][0] for text in passages]) if self.weigh else torch.ones(len(asked))
        return [float(self.best[query, text] @ weights / weights.sum()) for text in passages]


def learned(
    searcher: Searcher,
    judges: dict[str, Reranker],
    queries: dict[str, str],
    qrels: dict[str, dict[str, int]],
    folds: int,
    seeds: int,
) -> list[float]:
    """nDCG@10 of an order whose weights are learned on the other folds' queries, of each parting. All judges are in
    it, and nothing else is chosen."""
    columns = ["dense", "bm25", *judges]
    searcher.reranker = None
    rows, relevant, results = [], [], []
    plain = SearchSettings(join=False)
    for name, query in queries.items():
        found = searcher.search(query, plain.rerank, settings=plain)
        stages = {stage: [hit.scores.get(stage, 0.0) for hit in found.hits] for stage in ("dense", "bm25")}
        rows.append(features(query, [hit.embedded for hit in found.hits], stages, judges, columns))
        relevant.append(np.array([hit.id in qrels[name] for hit in found.hits]))
        results.append([hit.id for hit in found.hits])
    names, means = list(queries), []
    for seed in range(seeds):
        order_of: dict[str, dict[str, float]] = {}
        for fold in np.array_split(np.random.default_rng(seed).permutation(len(names)), folds):
            others = np.setdiff1d(np.arange(len(names)), fold)
            weights = learn_weights([rows[n] for n in others], [relevant[n] for n in others])
            order_of |= {names[n]: dict(zip(results[n], (rows[n] @ weights).tolist(), strict=True)) for n in fold}
        means.append(measure_run(qrels, order_of, ("ndcg@10",))["ndcg@10"])
        told = ", ".join(f"{column} {weight:.2f}" for column, weight in zip(columns, weights, strict=True))
        print(f"re-ranked, parting {seed}: {means[-1]:.4f} ({told})", file=sys.stderr)
    return means


def measure(model: str, folds: int, seeds: int, run: str | None) -> dict[str, Any]:
    """All figures."""
    texts, queries, qrels = read_cisi(FOLDER)
    names = [str(number) for number in range(1, len(texts) + 1)]
    embedder = Embedder.open(model, device="cpu")
    vectors = embedder.embed(texts, lambda done: print(f"{done:,} of {len(texts):,} embedded", file=sys.stderr)).vectors
    hits = [
        Hit(name, name, text, 0, len(text), 1, 1, None, None, (), "text", 0.0)
        for name, text in zip(names, texts, strict=True)
    ]
    plain = BM25([re.findall(r"[a-z0-9]+", text.lower()) for text in texts], k1=1.2)
    index = MemoryIndex(hits, vectors)
    asked = embedder.embed(list(queries.values())).vectors
    cosines = dict(zip(queries, asked @ vectors.T, strict=True))
    words = {name: plain.scores(re.findall(r"[a-z0-9]+", query.lower())) for name, query in queries.items()}

    def scored(rows: dict[str, Any]) -> dict[str, dict[str, float]]:
        return {name: dict(zip(names, row.tolist(), strict=True)) for name, row in rows.items()}

    dense, found = scored(cosines), scored(words)
    both = {name: reciprocal_rank([order(dense[name]), order(found[name])]) for name in queries}
    figures: dict[str, Any] = {
        name: measure_run(qrels, one, ("ndcg@10",))["ndcg@10"]
        for name, one in (("bm25_plain", found), ("dense", dense), ("rrf_plain", both))
    }
    searcher = Searcher(index, KnownEmbedder(embedder))  # type: ignore[arg-type]
    for name, settings in (
        ("bm25", SearchSettings(mode="bm25")),
        ("rrf", SearchSettings(fusion="rrf", dense_weight=0.5)),
    ):
        figures[name] = float(np.mean(figures_of(searcher, queries, qrels, settings)))

    tried = [SearchSettings(dense_weight=weight) for weight in DENSE_WEIGHTS]
    rows = np.array([figures_of(searcher, queries, qrels, settings) for settings in tried])
    hybrid = cross_validate(rows, folds, seeds)
    figures |= {"hybrid": hybrid.mean, "hybrid_deviation": hybrid.deviation, "hybrid_flattered": rows.mean(1).max()}
    judges: dict[str, Reranker] = {
        "words": WordFeedback(),
        "late": KnownLateInteraction(embedder),
        "late_even": KnownLateInteraction(embedder, weigh=False),
    }
    if run is not None:
        judges["cross"] = CrossEncoder.open(run)
    told = learned(searcher, judges, queries, qrels, folds, seeds)
    figures |= {"reranked": float(np.mean(told)), "reranked_deviation": float(np.std(told))}
    return {"benchmark": "retrieval_quality", "measure": "ndcg@10", **figures, "folds": folds, "machine": machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=10, help="ways to part the queries (10)")
    parser.add_argument("--reranker", help="a run of a re-ranker, which is tried too")
    options = parser.parse_args()
    try:
        with torch.inference_mode():
            result = measure(options.model, options.folds, options.seeds, options.reranker)
    except UserError as error:
        sys.exit(f"error: {error}")
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:>20}: {value:.4f}" if isinstance(value, float) else f"{name:>20}: {value}")


if __name__ == "__main__":
    main()
