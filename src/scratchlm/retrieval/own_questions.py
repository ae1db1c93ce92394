"""Measuring search on one's own documents: questions made from their passages, and settings compared by them.

A question that is made from a passage asks for what that passage says, mostly in its words, and other passages may
answer it as well: figures on such questions compare settings; they do not say how good search is for real questions.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from scratchlm.errors import UserError
from scratchlm.evaluation.retrieval_metrics import measure_run
from scratchlm.retrieval.chunks import chunk_document, settings_for, token_counter
from scratchlm.retrieval.embeddings import Embedder
from scratchlm.retrieval.memory_index import BM25, MemoryIndex
from scratchlm.retrieval.passages import Document, Hit
from scratchlm.retrieval.query_words import content_words, stems
from scratchlm.retrieval.rewriting import Chat
from scratchlm.retrieval.search import Searcher
from scratchlm.retrieval.search_settings import Fusion, SearchSettings

_ASK = "Write one question that this passage answers. Answer with the question alone.\n\n{passage}"
_SENTENCE = re.compile(r"\S(?:.*?[.!?](?=\s|$)|.*$)", re.DOTALL)
_WORDS = 8


@dataclass(frozen=True)
class OwnQuestion:
    """A question and the place that answers it."""

    text: str
    file: str
    start: int
    end: int


@dataclass(frozen=True)
class Trial:
    """Settings and what they came to."""

    size: int
    """The most tokens of a chunk."""
    fusion: Fusion
    k: int
    found: float
    """The share of questions of which one of the k hits overlaps the place that answers."""
    ndcg: float
    """nDCG at k, every chunk that overlaps the place being right."""


def make_questions(
    passages: Sequence[Hit], count: int = 100, chat: Chat | None = None, seed: int = 0
) -> list[OwnQuestion]:
    """Questions that passages answer, of at most ``count`` passages drawn by ``seed``.

    Args:
        chat: a model that writes them; None for the rarest words of one of the passage's sentences, which need none.

    Raises:
        UserError: no passage has a sentence to ask for, or ``count`` is below 1.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f"{count!r} questions are asked for; give a whole number of at least 1")
    rare = BM25([stems(one.text) for one in passages]).rarity
    draw, found = random.Random(seed), list[OwnQuestion]()
    for one in draw.sample(list(passages), len(passages)):
        if len(found) == count:
            break
        sentences = [part for part in _SENTENCE.finditer(one.text) if len(set(stems(part[0]))) >= _WORDS // 2]
        if not sentences:
            continue
        start, end = one.start, one.end
        if chat is None:
            asked = draw.choice(sentences)
            # The sentence answers, not all of its passage: else small chunks beside it would count as right, too.
            start, end = one.start + asked.start(), one.start + asked.end()
            words = content_words(asked[0]).split()
            chosen = sorted(set(words), key=lambda word: (-rare.get(stems(word)[0] if stems(word) else "", 0.0), word))
            text = " ".join(sorted(chosen[:_WORDS], key=words.index))
        else:
            text = chat([{"role": "user", "content": _ASK.format(passage=one.text)}]).strip().split("\n")[0].strip()
        if text:
            found.append(OwnQuestion(text, one.file, start, end))
    if not found:
        raise UserError("no passage has a sentence to make a question of; index documents with sentences")
    return found


def sweep(
    documents: Sequence[Document],
    embedder: Embedder,
    questions: Sequence[OwnQuestion],
    *,
    sizes: Sequence[int] = (64, 128, 256),
    fusions: Sequence[Fusion] = ("weighted", "rrf"),
    ks: Sequence[int] = (3, 5, 10),
    settings: SearchSettings | None = None,
) -> list[Trial]:
    """Cut, embed and search with all combinations, in memory.

    Returns:
        The trials, the highest nDCG first; of equal ones smaller chunks and fewer hits.

    Raises:
        UserError: nothing to try, or a value out of range.
    """
    if not documents or not questions or not sizes or not fusions or not ks:
        raise UserError("a sweep needs documents, questions, and at least one size, fusion and k; give them")
    plain = replace(settings or SearchSettings(), join=False, neighbours=0)
    count, trials = token_counter(embedder), []
    for size in sizes:
        cut = settings_for(embedder, size)
        index = MemoryIndex.of([(one, chunk_document(one, count, cut)) for one in documents], embedder)
        places = [{hit.id: 1 for hit in index.all if _overlap(hit, one)} for one in questions]
        if not all(places):
            raise UserError("a question is of a place that is in no document; make the questions of these documents")
        qrels = {str(n): grades for n, grades in enumerate(places)}
        for fusion, k in product(fusions, ks):
            searcher = Searcher(index, embedder, replace(plain, fusion=fusion))
            found = [searcher.search(one.text, k).hits for one in questions]
            run = {str(n): {hit.id: hit.score for hit in hits} for n, hits in enumerate(found)}
            share = np.mean(
                [any(_overlap(hit, one) for hit in hits) for one, hits in zip(questions, found, strict=True)]
            )
            trials.append(Trial(size, fusion, k, float(share), measure_run(qrels, run, (f"ndcg@{k}",))[f"ndcg@{k}"]))
    return sorted(trials, key=lambda one: (-one.ndcg, one.size, one.k))


def _overlap(hit: Hit, question: OwnQuestion) -> bool:
    return hit.file == question.file and hit.start < question.end and question.start < hit.end
