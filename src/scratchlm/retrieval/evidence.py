"""How likely a sentence of a source answers a question: what is looked at, and one logistic regression over it.

The sentence that is likeliest to answer is what an answer is made of, and where even that one is unlikely, the sources
do not hold the answer. The coefficients were learned once, on documents and questions that
``benchmarks/answer_calibration.py`` reads, and are measured on others by ``answer_quality.py``; nothing is learned when
it runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from scratchlm.retrieval.expected import answer_places, expected_answer, names_in
from scratchlm.retrieval.passages import Hit, with_headings
from scratchlm.retrieval.wording import STOP_WORDS, content_words, stem, words_of

Vectors = NDArray[np.float32]


class Embeds(Protocol):
    """What makes vectors, such as an :class:`~scratchlm.retrieval.embeddings.Embedder`."""

    dimensions: int

    def embed(self, texts: Iterable[str]) -> Embedded:
        """The vectors of texts."""


class Embedded(Protocol):
    """Vectors of texts, (n, C)."""

    @property
    def vectors(self) -> Vectors: ...


class Judged(NamedTuple):
    """A sentence that is to be judged, and where it stands."""

    headings: str
    """May be empty."""
    sentence: str
    passage: str
    """All of the hit."""


class Judges(Protocol):
    """What has read more than the signals, such as a :class:`~scratchlm.retrieval.reader.Reader` or a
    :class:`~scratchlm.retrieval.likelihood.QuestionLikelihood`."""

    judgement: Judgement
    """What its judgement weighs."""
    of_passages: bool
    """Whether it judges the passage, and leaves it to the signals which of its sentences it is."""

    def gains(self, question: str, sentences: Sequence[Judged]) -> list[float]:
        """For each sentence how much speaks for its answering the question, in nats, on a scale of its own."""


@dataclass(frozen=True)
class Candidate:
    """A sentence of a hit."""

    hit: int
    """The hit's place in the list of hits, from 0."""
    start: int
    end: int
    """Characters of the hit's text."""
    text: str


@dataclass(frozen=True)
class Signals:
    """What is known of a question and a sentence. Cosines are those of the embedder, from -1 to 1."""

    headed: float
    """Cosine of the question and the sentence below its headings."""
    alone: float
    """Cosine of the question and the sentence."""
    passage: float
    """Cosine of the question and the whole passage."""
    names_missing: float
    """Share of the question's names and numbers that neither the passage nor its headings or file have."""
    numbers_missing: float
    """1 where one of these is a number, else 0."""
    words: float
    """Over the question's other words, the mean of how near the nearest word of the sentence is: 1 for the same."""
    words_headed: float
    """The same with the words of the headings."""
    kind_there: float
    """1 where the sentence has what kind of thing is asked for (see :mod:`scratchlm.retrieval.expected`), else 0."""
    kind_missing: float
    """1 where a kind is asked for, and the sentence has none, else 0."""
    thing_far: float
    """How far the sentence's nearest word is from the thing that "which ..." or "how many ..." asks for, 0 to 1; 0
    where the question has no such thing."""
    thing_asked: float
    """1 where it has, else 0."""
    worst_word: float
    """As ``words_headed``, of the word that is farthest from the sentence instead of the mean."""
    nobody: float
    """1 where a person is asked for, and the sentence has no name but the question's, else 0."""

    def row(self) -> list[float]:
        """In the order of the fields."""
        return [float(getattr(self, one.name)) for one in fields(self)]


@dataclass(frozen=True)
class Weights:
    """Of the logistic regression: one coefficient for each signal, and the constant.

    Raises:
        ValueError: from ``__post_init__``: not as many coefficients as signals.
    """

    coefficients: tuple[float, ...]
    constant: float

    def __post_init__(self) -> None:
        if len(self.coefficients) != len(fields(Signals)):
            raise ValueError(f"{len(self.coefficients)} coefficients for {len(fields(Signals))} signals")

    def probability(self, signals: Signals) -> float:
        """That the sentence answers, 0 to 1."""
        total = self.constant + sum(w * x for w, x in zip(self.coefficients, signals.row(), strict=True))
        return 1 / (1 + math.exp(-max(-50.0, min(50.0, total))))


@dataclass(frozen=True)
class Judgement:
    """A second regression, over the log-odds of the first and the gain that a judge tells.

    Its constant is one at which the threshold of the first refuses as many answerable questions.
    """

    odds: float
    gain: float
    constant: float

    def probability(self, first: float, gain: float) -> float:
        """That a sentence answers, 0 to 1, from what the first regression says."""
        first = min(max(first, 1e-12), 1 - 1e-12)
        total = self.odds * math.log(first / (1 - first)) + self.gain * gain + self.constant
        return 1 / (1 + math.exp(-max(-50.0, min(50.0, total))))


_KINDS = """
    tall high deep wide far thick broad long large big height depth width length altitude distance diameter wingspan
    elevation thickness area surface heavy weight mass weigh hot cold warm temperature fast quickly speed cost costs
    price fee rent pay pays paid salary worth charge number percentage share fraction year date day month century time
    old age frequent frequently often name title called nickname address cause reason city town country place street
    daily"""
_WORDS_OF_KINDS = frozenset(_KINDS.split())
"""Words that say what kind of answer is wanted: a sentence that has such a one need not have the word."""
_THING = re.compile(
    r"\b(?:how many|how much|which|what(?: kind of| sort of| type of)?|whose)\s+((?:\w+\s+){0,2}\w+)", re.I
)
_VERB_WORDS = "is was are were does did do has have had can could may must will would should lies be"
_VERBS = frozenset(_VERB_WORDS.split())
_COUNTED = re.compile(r"\bhow (?:many|much)\b", re.I)
_AFTER_NUMBER = 5
"""Words from a number on among which the thing that it counts is looked for."""
JUDGED = 2
"""Sentences that a language model judges, the likeliest ones: each takes it about as long as 50 tokens of a prompt."""
_MOST_KNOWN = 20_000
"""Vectors that are kept for other questions, about 30 MB of them."""


class EvidenceScorer:
    """Tells for a question how likely each sentence of some hits answers it.

    Args:
        embedder: what the coefficients were learned with, all-MiniLM-L6-v2; of other embedders the cosines lie
            elsewhere, and the threshold with them.
        weights: of the regression.
        judge: looks at the likeliest sentences once more; None to leave it at the signals.
    """

    def __init__(self, embedder: Embeds, weights: Weights, judge: Judges | None = None) -> None:
        self._embedder, self.weights, self._judge = embedder, weights, judge
        self._known: dict[str, Vectors] = {}

    def signals(self, question: str, hits: Sequence[Hit], candidates: Sequence[Candidate]) -> list[Signals]:
        """The signals of each candidate, in order."""
        if not candidates:
            return []
        sentences = [one.text for one in candidates]
        headed = [with_headings(hits[one.hit].headings, one.text) for one in candidates]
        texts = [question, *(hit.embedded for hit in hits), *sentences, *headed]
        n = len(hits)
        asked = _Asked(question)
        self._learn([*texts, *asked.words, *asked.thing, *(word for one in headed for word in content_words(one))])
        cosines = self._cosines(texts[1:], texts[:1])[:, 0]
        passages = [_Passage(hit) for hit in hits]
        return [
            self._signals(asked, passages[one.hit], one.text, cosines[[n + len(sentences) + i, n + i, one.hit]])
            for i, one in enumerate(candidates)
        ]

    def probabilities(self, question: str, hits: Sequence[Hit], candidates: Sequence[Candidate]) -> list[float]:
        """That each candidate answers, 0 to 1. With a judge those that it has not judged are no likelier than those
        that it has."""
        first = [self.weights.probability(one) for one in self.signals(question, hits, candidates)]
        if self._judge is None or not first:
            return first
        best = sorted(range(len(first)), key=lambda i: -first[i])[:JUDGED]
        gains = self._judge.gains(question, [judged_of(hits, candidates[i]) for i in best])
        weigh = self._judge.judgement.probability
        judged = {i: weigh(first[i], gain) for i, gain in zip(best, gains, strict=True)}
        if self._judge.of_passages:
            for i in best:
                likeliest = next(one for one in best if candidates[one].hit == candidates[i].hit)
                judged[i] = judged[likeliest] * first[i] / first[likeliest]
        least = min(judged.values())
        return [judged.get(i, min(one, least)) for i, one in enumerate(first)]

    def _signals(self, asked: _Asked, passage: _Passage, sentence: str, cosines: Vectors) -> Signals:
        expected = expected_answer(asked.question)
        places = answer_places(expected, asked.question, sentence)
        missing = [name for name in asked.names if stem(name) not in passage.stems]
        wanted = [word for word in asked.words if not (places and word in _WORDS_OF_KINDS)]
        said = content_words(sentence)
        near = self._nearest(wanted, said)
        near_headed = np.maximum(near, self._nearest(wanted, passage.heading_words))
        return Signals(
            headed=float(cosines[0]),
            alone=float(cosines[1]),
            passage=float(cosines[2]),
            names_missing=len(missing) / max(1, len(asked.names)),
            numbers_missing=float(any(name[0].isdigit() for name in missing)),
            words=float(near.mean()) if wanted else 1.0,
            words_headed=float(near_headed.mean()) if wanted else 1.0,
            kind_there=float(bool(places)),
            kind_missing=float(expected.pattern is not None and not places),
            thing_far=1 - self._thing(asked, sentence, said, places) if asked.thing else 0.0,
            thing_asked=float(bool(asked.thing)),
            worst_word=float(near_headed.min()) if wanted else 1.0,
            nobody=float(expected.name == "person" and not names_in(sentence, asked.question)),
        )

    def _thing(self, asked: _Asked, sentence: str, said: list[str], places: list[tuple[int, int]]) -> float:
        """How near the sentence comes to the thing asked for, 0 to 1."""
        if asked.counted:  # the thing stands after the number
            near = (word for start, _ in places for word in words_of(sentence[start:])[:_AFTER_NUMBER])
            others = [word for word in near if word in said and not word.isdigit()]
            if {stem(word) for word in asked.thing} & {stem(word) for word in others}:
                return 1.0
        else:  # the thing is of that kind, as cod is a fish
            others = [word for word in said if stem(word) not in asked.stems]
        return float(self._cosines(asked.thing, others).max()) if others else 0.0

    def _nearest(self, wanted: list[str], said: list[str]) -> Vectors:
        """For each wanted word how near the nearest of the others is, (len(wanted),)."""
        if not wanted or not said:
            return np.zeros(len(wanted), np.float32)
        stems = {stem(word) for word in said}
        same = np.array([stem(word) in stems for word in wanted])
        return np.where(same, np.float32(1), self._cosines(wanted, said).max(1))

    def _cosines(self, some: Sequence[str], others: Sequence[str]) -> Vectors:
        """Of words or texts that were learned, (len(some), len(others))."""
        left, right = (np.stack([self._known[text] for text in texts]) for texts in (some, others))
        found: Vectors = left @ right.T
        return found

    def _learn(self, texts: Iterable[str]) -> None:
        """Make the vectors of words and texts that have none yet; the sentences of a document come up again."""
        wanted = list(dict.fromkeys(texts))
        if len(self._known) > _MOST_KNOWN:
            self._known = {text: self._known[text] for text in wanted if text in self._known}
        new = [text for text in wanted if text not in self._known]
        if new:
            self._known.update(zip(new, _normal(self._embedder.embed(new).vectors), strict=True))


def judged_of(hits: Sequence[Hit], candidate: Candidate) -> Judged:
    """A candidate as judges see it."""
    hit = hits[candidate.hit]
    return Judged(" > ".join(hit.headings), candidate.text, hit.text)


class _Asked:
    """The parts of a question."""

    def __init__(self, question: str) -> None:
        self.question = question
        tokens = re.findall(r"[^\W_]+(?:['’][^\W_]+)*", question)
        named = [one for i, one in enumerate(tokens) if (i and one[0].isupper()) or one[0].isdigit()]
        content = content_words(question)
        names = {word for one in named for word in words_of(one)}
        self.names = [word for word in content if word in names]
        self.words = [word for word in content if word not in names]
        self.stems = {stem(word) for word in content}
        self.counted = _COUNTED.search(question) is not None
        self.thing = [word for word in _thing_of(question) if word not in _WORDS_OF_KINDS]


class _Passage:
    """The words of a hit: of its text, its headings and its file's name."""

    def __init__(self, hit: Hit) -> None:
        file = re.sub(r"[/_.-]", " ", hit.file)
        self.stems = {stem(word) for word in words_of(f"{hit.embedded} {file}")}
        self.heading_words = content_words(" ".join(hit.headings))


def _thing_of(question: str) -> list[str]:
    found = _THING.search(question)
    words = []
    for word in words_of(found[1]) if found else ():
        if word in STOP_WORDS or word in _VERBS:
            break
        words.append(word)
    return words[:2]


def _normal(vectors: Vectors) -> Vectors:
    found: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return found
