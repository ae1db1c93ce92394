"""How good searches and answers are: ranks of what is relevant, and answers beside those that were expected.

Of rankings: nDCG (Jarvelin and Kekalainen 2002) with the grades as gains, recall, the reciprocal rank, and average
precision, as ``trec_eval`` has them; equal scores are ordered by document, the last first, as it does. They are checked
against ``ir-measures`` in the tests.
Of answers: exact match and F1 as SQuAD has them (Rajpurkar et al. 2016), and how citations and refusals fare.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from math import isfinite, log2

from scratchlm.errors import UserError

Grades = Mapping[str, int]
Measured = dict[str, float]
USUAL = ("ndcg@10", "recall@10", "recall@100", "mrr@10", "map")


def ndcg(ranking: Sequence[str], grades: Grades, k: int | None = None) -> float:
    """The discounted gain of the first ``k`` beside the best possible; 0 where nothing is relevant."""
    ideal = _discounted(sorted(grades.values(), reverse=True)[:k])
    return _discounted([grades.get(name, 0) for name in ranking[:k]]) / ideal if ideal else 0.0


def recall(ranking: Sequence[str], grades: Grades, k: int | None = None) -> float:
    """The share of what is relevant that is among the first ``k``."""
    relevant = _relevant(grades)
    return len(relevant & set(ranking[:k])) / len(relevant) if relevant else 0.0


def precision(ranking: Sequence[str], grades: Grades, k: int | None = None) -> float:
    """The share of the first ``k`` places at which something relevant stands."""
    places = len(ranking) if k is None else k
    return len(_relevant(grades) & set(ranking[:k])) / places if places else 0.0


def reciprocal_rank_of(ranking: Sequence[str], grades: Grades, k: int | None = None) -> float:
    """1 / the place of the first that is relevant; 0 where there is none among the first ``k``."""
    relevant = _relevant(grades)
    return next((1 / place for place, name in enumerate(ranking[:k], 1) if name in relevant), 0.0)


def average_precision(ranking: Sequence[str], grades: Grades, k: int | None = None) -> float:
    """The mean, over all that is relevant, of the precision at its place; 0 for what is not among the first ``k``."""
    relevant, found, total = _relevant(grades), 0, 0.0
    for place, name in enumerate(ranking[:k], 1):
        if name in relevant:
            found += 1
            total += found / place
    return total / len(relevant) if relevant else 0.0


_MEASURES: dict[str, Callable[[Sequence[str], Grades, int | None], float]] = {
    "ndcg": ndcg,
    "recall": recall,
    "precision": precision,
    "mrr": reciprocal_rank_of,
    "map": average_precision,
}


def measure_by_query(
    qrels: Mapping[str, Grades], run: Mapping[str, Mapping[str, float]], measure: str = "ndcg@10"
) -> Measured:
    """A measure, such as ``ndcg@10`` or ``map``, of each query that is judged; 0 for one that the run lacks.

    Raises:
        UserError: there is no such measure, no judgement, a run of other queries alone, or a score that is no number.
    """
    name, at, cut = measure.lower().partition("@")
    if name not in _MEASURES or (at and not (cut.isdecimal() and int(cut) > 0)):
        raise UserError(f"there is no measure {measure!r}; choose {', '.join(_MEASURES)}, with @10 for the first ten")
    if not qrels:
        raise UserError("there are no judgements to measure by; give qrels")
    if not set(qrels) & set(run):
        raise UserError("the run has none of the queries that are judged; do the files belong together?")
    k = int(cut) if at else None
    return {query: _MEASURES[name](ranked(run.get(query, {})), grades, k) for query, grades in qrels.items()}


def measure_run(
    qrels: Mapping[str, Grades], run: Mapping[str, Mapping[str, float]], measures: Sequence[str] = USUAL
) -> Measured:
    """The mean of each measure over the queries that are judged.

    Raises:
        UserError: as :func:`measure_by_query`.
    """
    means = {}
    for measure in measures:
        values = measure_by_query(qrels, run, measure)
        means[measure] = sum(values.values()) / len(values)
    return means


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Documents by score; of equal ones the last by name first, as ``trec_eval`` does.

    Raises:
        UserError: a score that is no finite number.
    """
    for name, score in scores.items():
        if not isfinite(score):
            raise UserError(f"the score of document {name} is {score}; give finite numbers")
    return sorted(sorted(scores, reverse=True), key=lambda name: -scores[name])


def normalised_answer(text: str) -> str:
    """An answer without case, punctuation, English articles and white space beyond one between words, as SQuAD's."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact_match(answer: str, expected: Sequence[str]) -> float:
    """1 where the answer is one of those that are expected, normalised; else 0."""
    return float(normalised_answer(answer) in {normalised_answer(one) for one in expected})


def answer_f1(answer: str, expected: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of the answer's words, of the expected answer that it fits best."""
    return max(
        (_f1(normalised_answer(answer).split(), normalised_answer(one).split()) for one in expected), default=0.0
    )


def contains_answer(answer: str, expected: Sequence[str]) -> float:
    """1 where one of the expected answers is in the answer, as words that follow each other; else 0."""
    words = f" {normalised_answer(answer)} "
    return float(any(normalised_answer(one) and f" {normalised_answer(one)} " in words for one in expected))


def citation_scores(cited: Set[str], right: Set[str]) -> tuple[float, float]:
    """Precision and recall of what an answer cites, beside what it should. Nothing cited where nothing should be is
    right: 1 and 1."""
    both = len(cited & right)
    return (both / len(cited) if cited else float(not right)), (both / len(right) if right else 1.0)


def refusal_scores(refused: Sequence[bool], answerable: Sequence[bool]) -> Measured:
    """Of questions: ``refused_unanswerable`` and ``refused_answerable`` (shares of each kind; 0 where there are none)
    and ``accuracy`` (the share that was refused or answered as it should).

    Raises:
        UserError: no questions, or another number of refusals.
    """
    if not answerable or len(refused) != len(answerable):
        raise UserError(f"there are {len(refused)} refusals and {len(answerable)} questions; give as many of both")
    pairs = list(zip(refused, answerable, strict=True))
    of = {kind: [said for said, can in pairs if can == kind] for kind in (False, True)}
    return {
        "refused_unanswerable": sum(of[False]) / len(of[False]) if of[False] else 0.0,
        "refused_answerable": sum(of[True]) / len(of[True]) if of[True] else 0.0,
        "accuracy": sum(said != can for said, can in pairs) / len(pairs),
    }


def _relevant(grades: Grades) -> set[str]:
    return {name for name, grade in grades.items() if grade > 0}


def _discounted(gains: Sequence[int]) -> float:
    return sum(max(gain, 0) / log2(place + 1) for place, gain in enumerate(gains, 1))


def _f1(answer: Sequence[str], expected: Sequence[str]) -> float:
    if not answer or not expected:
        return float(list(answer) == list(expected))
    same = sum((Counter(answer) & Counter(expected)).values())
    return 2 * same / (len(answer) + len(expected))
