"""Answers from documents, each sentence of which points at the characters that it comes from.

A question's hits are cut into sentences, and each sentence is judged by how likely it answers
(:mod:`scratchlm.retrieval.evidence`). Where even the likeliest is unlikely, the answer says that the sources do not
hold it. Otherwise either the likeliest sentences are the answer, word for word ("quote"), or a model writes one from
them ("write"). In both ways each sentence is checked against what it cites (:mod:`scratchlm.retrieval.support`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, get_args

from scratchlm.errors import UserError
from scratchlm.ranges import check_whole
from scratchlm.retrieval.calibration import THRESHOLD, WEIGHTS
from scratchlm.retrieval.chat_models import ChatModel, OnText
from scratchlm.retrieval.evidence import Candidate, Embeds, EvidenceScorer, Judges
from scratchlm.retrieval.followup import Turn, standalone
from scratchlm.retrieval.instructions import neutral, speaks_to_the_model
from scratchlm.retrieval.passages import Hit
from scratchlm.retrieval.prompting import Dropped, build_prompt, candidates_of
from scratchlm.retrieval.support import check_support
from scratchlm.retrieval.wording import sentence_spans

Style = Literal["auto", "quote", "write"]
REFUSAL = "The sources do not answer this question."
LONGEST_QUESTION = 2_000
"""Characters."""
_SECOND = 0.5
"""Of the likeliest sentence's probability a further one must have so much to be quoted as well."""
_CITED = re.compile(r"\s*\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")
_LEADING = re.compile(r"(?:\[\d{1,3}(?:\s*,\s*\d{1,3})*\]\s*)+")
_BULLET = re.compile(r"^(?:[-*+>•]|\d+[.)])\s+")


class Found(Protocol):
    """What a search gives."""

    @property
    def hits(self) -> Sequence[Hit]: ...
    @property
    def timings(self) -> Mapping[str, float]: ...


class Searches(Protocol):
    """What finds passages, such as a ``Searcher``."""

    def search(self, query: str, k: int, where: Any = None) -> Found:
        """The k best hits."""


@dataclass(frozen=True)
class AnswerSettings:
    """How to answer.

    Raises:
        UserError: from ``__post_init__``: a number out of range, or no such style.
    """

    hits: int = 6
    """Passages to look for."""
    sentences: int = 2
    """Sentences to quote at most."""
    threshold: float = THRESHOLD
    """Least probability that the likeliest sentence answers; below it the answer is that there is none."""
    budget: int = 1024
    """Tokens of a prompt at most; no more than the model reads less its answer."""
    max_new_tokens: int = 160
    """Of a written answer."""
    style: Style = "auto"
    """``quote``, ``write``, or ``auto``: write with an endpoint and with a model of a thousand million parameters or
    more, else quote."""

    def __post_init__(self) -> None:
        for name in ("hits", "sentences", "budget", "max_new_tokens"):
            check_whole(f"{name} of an answer", getattr(self, name), 1)
        if not isinstance(self.threshold, int | float) or not 0 <= self.threshold <= 1:
            raise UserError(f"the threshold of an answer is {self.threshold!r}; give a probability from 0 to 1")
        if self.style not in get_args(Style):
            raise UserError(f"there is no style {self.style!r} of answers; choose {', '.join(get_args(Style))}")


@dataclass(frozen=True)
class Citation:
    """What a sentence points at."""

    number: int
    """As in the text, [n]."""
    hit: Hit
    start: int
    end: int
    """Characters of the document."""
    quote: str
    """These characters."""

    def place(self) -> str:
        """Where they stand, for people: as :meth:`Hit.place`, to the line where there are no pages."""
        first = self.hit.first_line + self.hit.text.count("\n", 0, max(0, self.start - self.hit.start))
        last = first + self.quote.rstrip().count("\n")
        return replace(self.hit, first_line=first, last_line=last).place()

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "number": self.number,
            "file": self.hit.file,
            "place": self.place(),
            "start": self.start,
            "end": self.end,
            "quote": self.quote,
        }


@dataclass(frozen=True)
class CitedSentence:
    """A sentence of an answer."""

    text: str
    """Without its [n]."""
    start: int
    end: int
    """Characters of the answer's text."""
    citations: tuple[Citation, ...]
    supported: bool
    """Whether what it cites says so."""
    support: float
    """How well, 0 to 1; see :class:`~scratchlm.retrieval.support.Support`."""

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        own = {name: getattr(self, name) for name in ("text", "start", "end", "supported", "support")}
        return own | {"citations": [one.as_json() for one in self.citations]}


@dataclass(frozen=True)
class Answer:
    """What came of a question."""

    question: str
    text: str
    """With [n] after each sentence that cites."""
    sentences: tuple[CitedSentence, ...]
    refused: bool
    """Whether the sources do not hold the answer."""
    confidence: float
    """Probability that the likeliest sentence of the sources answers, 0 to 1."""
    hits: tuple[Hit, ...]
    timings: Mapping[str, float]
    """Milliseconds of each stage: search, evidence, writing, checking, total."""
    asked: str = ""
    """The question as it was looked for, where it follows others."""
    dropped: tuple[Dropped, ...] = ()
    """Parts of the hits that were left out, since they speak to the model or are hidden."""

    @property
    def supported(self) -> bool:
        """Whether it answers, and every sentence is supported."""
        return not self.refused and bool(self.sentences) and all(one.supported for one in self.sentences)

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        own = {
            name: getattr(self, name) for name in ("question", "asked", "text", "refused", "supported", "confidence")
        }
        return own | {
            "sentences": [one.as_json() for one in self.sentences],
            "hits": [hit.as_json() for hit in self.hits],
            "dropped": [{"file": one.file, "text": one.text, "why": one.why} for one in self.dropped],
            "timings": dict(self.timings),
        }


@dataclass
class _Clock:
    """Milliseconds of the stages so far."""

    timings: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._last = self.began

    def mark(self, stage: str) -> None:
        now = time.perf_counter()
        self.timings[stage], self._last = 1000 * (now - self._last), now
        self.timings["total"] = 1000 * (now - self.began)


@dataclass(frozen=True)
class _Read:
    """A question, the hits and their sentences."""

    question: str
    hits: Sequence[Hit]
    candidates: Sequence[Candidate]
    probabilities: Sequence[float]

    def order(self) -> list[int]:
        """The candidates' numbers, the likeliest first."""
        return sorted(range(len(self.candidates)), key=lambda i: -self.probabilities[i])


class Answerer:
    """Answers questions from what a search finds.

    Args:
        searcher: finds the passages.
        embedder: judges sentences; all-MiniLM-L6-v2, which the threshold was measured with.
        model: writes; None to quote always.
        judge: looks at the likeliest sentences once more before it is decided whether there is an answer, such as a
            :class:`~scratchlm.retrieval.reader.Reader`; None to decide by the signals alone, in about a tenth of a
            second instead of two thirds of one.

    Raises:
        UserError: the style "write" without a model.
    """

    def __init__(
        self,
        searcher: Searches,
        embedder: Embeds,
        model: ChatModel | None = None,
        settings: AnswerSettings | None = None,
        judge: Judges | None = None,
    ) -> None:
        self.searcher, self.model, self.settings = searcher, model, settings or AnswerSettings()
        if model is None and self.settings.style == "write":
            raise UserError("an answer is to be written, and there is no model to write it; give one, or quote")
        self._embedder, self._scorer = embedder, EvidenceScorer(embedder, WEIGHTS, judge)
        style = self.settings.style
        self.writes = model is not None and (style == "write" or (style == "auto" and model.writes))
        """Whether the model writes the answers; else they are quotations."""
        most = self.settings.max_new_tokens
        if model is not None and self.writes and most >= model.context:
            raise UserError(
                f"max_new_tokens of an answer is {most:,}, and {model.name} reads and writes {model.context:,} in all; "
                "give less"
            )

    def ask(
        self,
        question: str,
        history: Sequence[Turn] = (),
        on_text: OnText | None = None,
        where: Any = None,
    ) -> Answer:
        """The answer to a question.

        Args:
            history: what was asked and answered before, for "And who built it?".
            on_text: hears the answer as it comes. What the sentences cite and how they are supported is known at the
                end.
            where: a filter of the searcher's.

        Raises:
            UserError: an empty or too long question, a budget too small, or what the search or the model raise.
        """
        question = " ".join(question.split())
        if not re.search(r"\w", question):
            raise UserError("the question is empty; ask something")
        if len(question) > LONGEST_QUESTION:
            raise UserError(
                f"the question has {len(question):,} characters, and {LONGEST_QUESTION:,} are read; ask shorter"
            )
        clock = _Clock()
        asked = standalone(question, list(history))
        hits = list(self.searcher.search(asked, self.settings.hits, where).hits)[: self.settings.hits]
        clock.mark("search")
        candidates, dropped = candidates_of(hits)
        read = _Read(asked, hits, candidates, self._scorer.probabilities(asked, hits, candidates))
        confidence = max(read.probabilities, default=0.0)
        clock.mark("evidence")
        sentences: list[CitedSentence] = []
        refused = not candidates or confidence < self.settings.threshold
        if refused:
            text = REFUSAL
            if on_text is not None:
                on_text(text)
        elif self.writes:
            text, sentences = self._write(read, on_text, clock)
        else:
            text, sentences = self._quote(read, on_text)
        clock.mark("checking")
        return Answer(
            *(question, text, tuple(sentences), refused, confidence, tuple(hits)),
            timings=clock.timings,
            asked=asked,
            dropped=tuple(dropped),
        )

    def _quote(self, read: _Read, on_text: OnText | None) -> tuple[str, list[CitedSentence]]:
        """The likeliest sentences as they stand in the sources, those of a source in its order."""
        first, *others = read.order()
        enough = _SECOND * read.probabilities[first]
        enough = max(enough, self.settings.threshold)
        chosen = [first, *(i for i in others if read.probabilities[i] >= enough)][: self.settings.sentences]
        numbers: dict[int, int] = {}
        text, sentences = "", []
        for i in chosen:
            one = read.candidates[i]
            number = numbers.setdefault(one.hit, len(numbers) + 1)
            said = _BULLET.sub("", " ".join(neutral(one.text).split()))
            before = len(text)
            text += f"{' ' if text else ''}{said} [{number}]"
            start = before + (1 if before else 0)
            cited = (_citation(number, read.hits[one.hit], one),)
            sentences.append(CitedSentence(said, start, start + len(said), cited, True, 1.0))
            if on_text is not None:
                on_text(text[before:])
        return text, sentences

    def _write(self, read: _Read, on_text: OnText | None, clock: _Clock) -> tuple[str, list[CitedSentence]]:
        """The model's answer, each sentence with what it cites, or else with what is nearest to it."""
        assert self.model is not None
        most = self.settings.max_new_tokens
        budget = min(self.settings.budget, self.model.context - most)
        prompt = build_prompt(read.question, read.hits, read.candidates, read.probabilities, budget, self.model.count)
        text = self.model.chat(prompt.messages, max_new_tokens=most, on_text=on_text).strip()
        clock.mark("writing")
        parts = [(start, end, text[start:end]) for start, end in _written_spans(text)]
        plain = [_CITED.sub("", part).strip() for _, _, part in parts]
        vectors = self._embedder.embed([*plain, *(one.text for one in read.candidates)]).vectors if plain else None
        sentences: list[CitedSentence] = []
        for row, (start, end, part) in enumerate(parts):
            assert vectors is not None
            cosines = vectors[len(plain) :] @ vectors[row]
            sentences.append(self._checked(read, prompt.sources, (start, end, part), plain[row], cosines))
        return text, sentences

    def _checked(
        self, read: _Read, sources: list[int], place: tuple[int, int, str], plain: str, cosines: Any
    ) -> CitedSentence:
        start, end, part = place
        named = [int(n) for marks in _CITED.findall(part) for n in re.split(r"\s*,\s*", marks)]
        cited_hits = [sources[n - 1] for n in dict.fromkeys(named) if 1 <= n <= len(sources)]
        citations, best = [], None
        for hit in cited_hits or sources:
            mine = [i for i, one in enumerate(read.candidates) if one.hit == hit]
            scored = [
                (check_support(plain, read.candidates[i].text, float(cosines[i]), " ".join(read.hits[hit].headings)), i)
                for i in mine
            ]
            if not scored:
                continue
            top = max(scored, key=lambda pair: (pair[0].supported, pair[0].score, cosines[pair[1]]))
            citations.append((top, _citation(sources.index(hit) + 1, read.hits[hit], read.candidates[top[1]])))
        if citations:
            best = max(citations, key=lambda pair: (pair[0][0].supported, pair[0][0].score))
        if not cited_hits and best is not None:  # it names no source: the nearest one, if it says so
            citations = [best] if best[0][0].supported else []
        ordered = tuple(citation for _, citation in citations)
        supported = best is not None and best[0][0].supported and not speaks_to_the_model(plain)
        return CitedSentence(plain, start, end, ordered, supported, best[0][0].score if best is not None else 0.0)


def _citation(number: int, hit: Hit, one: Candidate) -> Citation:
    return Citation(number, hit, hit.start + one.start, hit.start + one.end, one.text)


def _written_spans(text: str) -> list[tuple[int, int]]:
    """The sentences of a written answer, each with the [n] that follow it."""
    spans: list[tuple[int, int]] = []
    for start, end in sentence_spans(text):
        marks = _LEADING.match(text[start:end])
        if marks is not None and spans:
            spans[-1] = spans[-1][0], start + len(marks[0].rstrip())
            start += marks.end()
        if start < end:
            spans.append((start, end))
    return spans
