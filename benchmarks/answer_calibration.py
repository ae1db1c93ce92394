"""Learn what ``scratchlm/retrieval/calibration.py`` holds: the coefficients of evidence and the threshold of refusal.

    python benchmarks/answer_calibration.py [--json] [--model NAME] [--embedder NAME] [--no-model] [--reader FOLDER]

From the documents and questions of ``tests/retrieval/questions/calibration.txt``. Figures are of documents left out in
cross-validation, neighbours together. ``answer_quality.py`` measures other documents.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

import scratchlm
from answer_quality import CALIBRATION, PASSAGE_WORDS, Asked, Passages, read_questions
from scratchlm.errors import UserError
from scratchlm.retrieval import Embedder
from scratchlm.retrieval.evidence import JUDGED, Embeds, EvidenceScorer, Judged, Judges, Signals, Weights, judged_of
from scratchlm.retrieval.likelihood import QuestionLikelihood
from scratchlm.retrieval.prompting import candidates_of
from scratchlm.retrieval.reader import Reader

Numbers = NDArray[np.float64]
K, FOLDS, RIDGE = 6, 8, 1.0
SHORT_PASSAGE_WORDS = 30
"""Calibrated on passages of both lengths, so that what is learned does not lean on one."""
ANSWERED_REFUSED, READ_REFUSED = 0.13, 0.11
"""Shares of the answerable questions that the threshold refuses in cross-validation, without a reader and with one; the
goal is 15 % at most, also of other documents."""


class Table:
    """The signals of all candidates of all questions."""

    def __init__(self, embedder: Embeds, texts: Mapping[str, str], asked: Sequence[Asked]) -> None:
        scorer = EvidenceScorer(embedder, Weights((0.0,) * len(fields(Signals)), 0.0))
        rows, right, holds, owners = [], [], [], []
        self.judged: list[Judged] = []
        """What a judge sees of each row."""
        self.asked = [*asked, *asked]
        for length, words in enumerate((PASSAGE_WORDS, SHORT_PASSAGE_WORDS)):
            searcher = Passages(texts, embedder, words)
            for number, one in enumerate(asked):
                hits = searcher.search(one.question, K).hits
                candidates, _ = candidates_of(hits)
                for candidate, signals in zip(candidates, scorer.signals(one.question, hits, candidates), strict=True):
                    hit = hits[candidate.hit]
                    rows.append(signals.row())
                    owners.append(number + length * len(asked))
                    right.append(one.gold is not None and hit.file == one.file and one.gold in candidate.text)
                    holds.append(one.gold is not None and hit.file == one.file and one.gold in hit.text)
                    self.judged.append(judged_of(hits, candidate))
        self.signals, self.right, self.owner = np.array(rows), np.array(right, float), np.array(owners)
        self.holds = np.array(holds, float)
        """Whether each row's passage answers."""
        names = list(dict.fromkeys(one.file for one in asked))  # neighbours are alike, and stay in one fold
        self.folds = np.array([names.index(one.file) // 2 % FOLDS for one in self.asked])
        self.answerable = np.array([one.gold is not None for one in self.asked])

    def best(self, values: Numbers, count: int) -> list[NDArray[np.int64]]:
        """Of each question the rows of the highest values."""
        own = (np.flatnonzero(self.owner == number) for number in range(len(self.asked)))
        return [rows[np.argsort(-values[rows], kind="stable")[:count]] for rows in own]

    def figures(self, sure: Numbers, threshold: float) -> dict[str, float]:
        """Of each question's confidence."""
        yes, no = sure[self.answerable], sure[~self.answerable]
        return {
            "refused_answerable": float((yes < threshold).mean()),
            "refused_unanswerable": float((no < threshold).mean()),
            "area_under_curve": float((yes[:, None] > no).mean()),
        }


def calibrate(table: Table, judge: Judges | None, reader: Judges | None = None) -> dict[str, Any]:
    """The coefficients, the threshold, and the figures of cross-validation."""
    odds = cross_validated(table.signals, table.right, table.folds[table.owner])
    best = table.best(odds, JUDGED)
    sure = np.array([odds[rows[0]] for rows in best])
    least = float(np.quantile(sure[table.answerable], ANSWERED_REFUSED))
    coefficients, constant = regression(table.signals, table.right)
    top = np.array([table.right[rows[0]] for rows in best])[table.answerable]
    found: dict[str, Any] = {
        "weights": dict(zip((one.name for one in fields(Signals)), coefficients.tolist(), strict=True)),
        "constant": constant,
        "threshold": float(1 / (1 + np.exp(-least))),
        "top_sentence_right": float(top.mean()),
        "signals": table.figures(sure, least),
    }
    if judge is not None:
        found |= weighed(table, judge, ("judgement", "judged"), table.right, ANSWERED_REFUSED, (odds, best, least))
    if reader is not None:  # it has read passages, and a passage is what it is right about
        found |= weighed(table, reader, ("reading", "read"), table.holds, READ_REFUSED, (odds, best, least))
    return found


def weighed(
    table: Table,
    judge: Judges,
    names: tuple[str, str],
    right: Numbers,
    refused: float,
    first: tuple[Numbers, list[NDArray[np.int64]], float],
) -> dict[str, Any]:
    """What a judge's gains weigh beside the signals, at the same threshold, and the figures of cross-validation."""
    odds, best, least = first
    gains = [
        judge.gains(one.question, [table.judged[i] for i in rows]) for one, rows in zip(table.asked, best, strict=True)
    ]
    chosen = np.concatenate(best)
    matrix = np.column_stack([odds[chosen], np.concatenate(gains)])
    owner = table.owner[chosen]
    again = cross_validated(matrix, right[chosen], table.folds[owner])
    judged = np.array([again[owner == number].max() for number in range(len(table.asked))])
    weights, second = regression(matrix, right[chosen])
    shift = least - float(np.quantile(judged[table.answerable], refused))
    told = {"odds": weights[0], "gain": weights[1], "constant": second + shift}
    return {names[0]: told, names[1]: table.figures(judged + shift, least)}


def cross_validated(matrix: Numbers, labels: Numbers, folds: NDArray[np.int64]) -> Numbers:
    """Log-odds of each row, by what the other folds teach."""
    found = np.zeros(len(matrix))
    for fold in range(FOLDS):
        coefficients, constant = regression(matrix[folds != fold], labels[folds != fold])
        found[folds == fold] = matrix[folds == fold] @ coefficients + constant
    return found


def regression(matrix: Numbers, labels: Numbers) -> tuple[Numbers, float]:
    """Logistic regression by Newton's method, with a ridge on the standardised columns."""
    mean, deviation = matrix.mean(0), matrix.std(0) + 1e-9
    rows = np.column_stack([(matrix - mean) / deviation, np.ones(len(matrix))])
    ridge = np.diag([RIDGE] * matrix.shape[1] + [0.0])
    found = np.zeros(rows.shape[1])
    for _ in range(50):
        odds = 1 / (1 + np.exp(-(rows @ found)))
        slope = rows.T @ (labels - odds) - ridge @ found
        step = np.linalg.solve(rows.T @ (rows * (odds * (1 - odds))[:, None]) + ridge, slope)
        found += step
        if np.abs(step).max() < 1e-9:
            break
    coefficients = found[:-1] / deviation
    return coefficients, float(found[-1] - coefficients @ mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--embedder", default="all-minilm-l6-v2")
    parser.add_argument("--reader", help="a folder of teach-reader, to be weighed as well")
    parser.add_argument("--no-model", action="store_true", help="learn from the signals alone")
    options = parser.parse_args()
    try:
        table = Table(Embedder.open(options.embedder), *read_questions(CALIBRATION))
        judge = None
        if not options.no_model:
            loaded = scratchlm.load(options.model)
            judge = QuestionLikelihood(loaded.model, loaded.tokenizer)
        found = calibrate(table, judge, None if options.reader is None else Reader.open(options.reader))
    except UserError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(found, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
