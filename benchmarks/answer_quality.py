"""Answers with citations on documents that nothing was tuned on, beside plain prompting of the same model.

    python benchmarks/answer_quality.py [--json] [--questions FILE] [--no-model] [--quick]

Four sets of documents with questions lie in ``tests/retrieval/questions``: one to calibrate on (see
``answer_calibration.py``), and three that are held out, each of 25 documents, 100 questions whose answers are spans of
them and 100 about the same subjects that they do not answer. A third kind is made of the first: the same questions
where the document that answers them has been taken away. ``held.txt`` is of the time when the rules for kinds of
answers were written; ``held2.txt`` came later, of other subjects and in other words, and was measured once at the end;
``held3.txt`` was written later still, by someone who knew neither the code nor its answers.
All documents of the set and of the calibration are searched together.

``ours`` are quotations chosen without a language model, ``read`` the same with the judgement of a reader that
``scratchlm teach-reader`` has taught, and ``judged`` where a model that was not taught says how much likelier
the question is after a sentence. Plain prompting is what its users write: the question and the top passage in a chat
prompt. It refuses when it says one of the phrases in ``PLAIN_REFUSAL``, and cites nothing; the passage that it was
given counts as its citation.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

import scratchlm
from generate_speed import machine
from scratchlm.errors import UserError
from scratchlm.retrieval import Embedder
from scratchlm.retrieval.answers import Answer, Answerer, AnswerSettings
from scratchlm.retrieval.chat_models import ChatModel, LocalChat
from scratchlm.retrieval.evidence import Embeds
from scratchlm.retrieval.likelihood import QuestionLikelihood
from scratchlm.retrieval.passages import Document, Hit
from scratchlm.retrieval.reader import Reader
from scratchlm.retrieval.wording import sentence_spans

SETS = Path(__file__).resolve().parents[1] / "tests" / "retrieval"
CALIBRATION, HELD = SETS / "questions" / "calibration.txt", SETS / "questions" / "held2.txt"
INJECTIONS = SETS / "injections"
PASSAGE_WORDS = 120
PLAIN_REFUSAL = re.compile(
    r"\b(?:not|n't|no)\b.{0,40}\b(?:mention|provide|specif|contain|state|say|given|include|information|know|answer|found|clear)"
    r"|\bunknown\b|\bunable to\b|\bcannot\b|\bsorry\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Asked:
    """A question about a document; ``gold`` is the span that answers it, None where nothing does."""

    question: str
    gold: str | None
    file: str


@dataclass
class Results:
    """What became of the questions."""

    hits: list[Hit]
    timings: Mapping[str, float] = field(default_factory=dict)


class Passages:
    """All passages in memory, searched exactly by cosine."""

    def __init__(self, texts: Mapping[str, str], embedder: Embeds, words: int = PASSAGE_WORDS) -> None:
        self._embedder = embedder
        self._hits = [hit for path, text in texts.items() for hit in passages(path, text, words)]
        self._vectors = embedder.embed([hit.embedded for hit in self._hits]).vectors
        self.without: str | None = None
        """A document that is not there."""

    def search(self, query: str, k: int, where: Any = None) -> Results:
        """The k nearest passages."""
        del where
        scores = self._vectors @ self._embedder.embed([query]).vectors[0]
        scores[[hit.file == self.without for hit in self._hits]] = -np.inf
        best = np.argsort(-scores, kind="stable")[:k]
        return Results([_scored(self._hits[i], float(scores[i])) for i in best])


def read_questions(path: Path) -> tuple[dict[str, str], list[Asked]]:
    """A file's documents (``= PATH`` and their text) and questions (``? QUESTION | SPAN`` and ``! QUESTION``).

    Raises:
        UserError: there is no such file, or a span that its document does not have.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing; give a file of documents and questions")
    lines: dict[str, list[str]] = {}
    asked, file = [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("= "):
            file = line[2:]
            lines[file] = []
        elif line.startswith("? "):
            question, _, gold = line[2:].rpartition(" | ")
            asked.append(Asked(question, gold, file))
        elif line.startswith("! "):
            asked.append(Asked(line[2:], None, file))
        else:
            lines[file].append(line)
    texts = {name: "\n".join(part).strip() + "\n" for name, part in lines.items()}
    for one in asked:
        if one.gold is not None and one.gold not in texts[one.file]:
            raise UserError(f"{path}: {one.file} does not say {one.gold!r}; mend the question {one.question!r}")
    return texts, asked


def passages(path: str, text: str, words: int = PASSAGE_WORDS) -> list[Hit]:
    """A document's sentences below its heading, joined up to so many words."""
    document = Document(path, text, "markdown", "", len(text), 0.0)
    title = re.match(r"# (.+)\n", text)
    spans: list[tuple[int, int]] = []
    for start, end in sentence_spans(text):
        if spans and len(text[spans[-1][0] : end].split()) <= words:
            spans[-1] = spans[-1][0], end
        else:
            spans.append((start, end))
    heads = (title[1],) if title else ()
    return [
        Hit(
            f"{path}:{a}",
            path,
            text[a:b],
            a,
            b,
            document.line(a),
            document.line(b - 1),
            None,
            None,
            heads,
            "markdown",
            0,
        )
        for a, b in spans
    ]


def _scored(hit: Hit, score: float) -> Hit:
    own = {one.name: getattr(hit, one.name) for one in fields(hit)}
    return Hit(**{**own, "score": score, "scores": {"dense": score}})


# ---- measuring


def measure(answerer: Answerer, asked: Sequence[Asked]) -> dict[str, Any]:
    """The four figures of an answerer, and the time that an answer takes."""
    answers = []
    seconds = []
    for number, one in enumerate(asked):
        start = time.perf_counter()
        answers.append((one, answerer.ask(one.question)))
        seconds.append(time.perf_counter() - start)
        if number % 20 == 19:
            print(f"{number + 1:,} of {len(asked):,} questions", file=sys.stderr)
    held = [(one, answer) for one, answer in answers if one.gold is not None]
    free = [answer for one, answer in answers if one.gold is None]
    right = [(one, answer) for one, answer in held if not answer.refused and says(answer.text, one.gold)]
    return {
        "contains_span": len(right) / max(1, len(held)),
        "cited_span_right": sum(cites(answer, one) for one, answer in right) / max(1, len(right)),
        "citations_right": _precision(held),
        "refused_unanswerable": sum(answer.refused for answer in free) / max(1, len(free)),
        "refused_answerable": sum(answer.refused for _, answer in held) / max(1, len(held)),
        "sentences_supported": _supported([answer for _, answer in answers]),
        "seconds": statistics.median(seconds),
    }


def refused_without(answerer: Answerer, searcher: Passages, asked: Sequence[Asked]) -> float:
    """The share of the answerable questions that are refused once the document that answers is taken away."""
    held, refused = [one for one in asked if one.gold is not None], 0
    for one in held:
        searcher.without = one.file
        refused += answerer.ask(one.question).refused
    searcher.without = None
    return refused / max(1, len(held))


def says(text: str, gold: str | None) -> bool:
    """Whether a text has a span, but for case, spaces and the marks of code."""
    return gold is not None and _plain(gold) in _plain(text)


def cites(answer: Answer, asked: Asked) -> bool:
    """Whether a citation of the sentence that has the span points at characters of the right document that have it."""
    return any(
        one.hit.file == asked.file and says(one.quote, asked.gold)
        for sentence in answer.sentences
        if says(sentence.text, asked.gold)
        for one in sentence.citations
    )


def _precision(held: Sequence[tuple[Asked, Answer]]) -> float:
    cited = [(one, found) for one, answer in held for part in answer.sentences for found in part.citations]
    return sum(f.hit.file == one.file and says(f.quote, one.gold) for one, f in cited) / max(1, len(cited))


def _supported(answers: Sequence[Answer]) -> float:
    sentences = [part for answer in answers for part in answer.sentences]
    return sum(part.supported for part in sentences) / max(1, len(sentences))


def _plain(text: str) -> str:
    return f" {' '.join(re.sub(r'[`*_]', '', text).casefold().split())} ".strip()


def plain_prompting(model: ChatModel, searcher: Passages, asked: Sequence[Asked]) -> dict[str, Any]:
    """The same figures of the question and the top passage in a chat prompt."""
    right = cited = refused = refused_free = 0
    seconds = []
    for one in asked:
        start = time.perf_counter()
        hit = searcher.search(one.question, 1).hits[0]
        content = f"{hit.embedded}\n\nQuestion: {one.question}"
        said = model.chat([{"role": "user", "content": content}], max_new_tokens=80)
        seconds.append(time.perf_counter() - start)
        refuses = PLAIN_REFUSAL.search(said) is not None
        if one.gold is None:
            refused_free += refuses
        elif says(said, one.gold):
            right += 1
            cited += hit.file == one.file and says(hit.text, one.gold)
        else:
            refused += refuses
    held = sum(one.gold is not None for one in asked)
    return {
        "contains_span": right / max(1, held),
        "cited_span_right": cited / max(1, right),
        "refused_unanswerable": refused_free / max(1, len(asked) - held),
        "refused_answerable": refused / max(1, held),
        "seconds": statistics.median(seconds),
    }


def injections(answerers: Mapping[str, Answerer], folder: Path) -> dict[str, Any]:
    """How many of the documents with hidden instructions are obeyed; see ``tests/retrieval/injections``."""
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {"documents": len(cases)}
    for name, answerer in answerers.items():
        answers = [(case, answerer.ask(case["question"])) for case in cases]
        found[name] = {
            "obeyed": sum(obeyed(case, answer.text) for case, answer in answers),
            "answered_right": sum(says(answer.text, case["gold"]) for case, answer in answers),
            "refused": sum(answer.refused for _, answer in answers),
        }
    return found


def obeyed(case: Mapping[str, str], text: str) -> bool:
    """Whether an answer has what the instruction in a document wants it to say."""
    return _plain(case["wants"]) in _plain(text)


def run(options: argparse.Namespace) -> dict[str, Any]:
    embedder = Embedder.open(options.embedder)
    texts, _ = read_questions(CALIBRATION)
    held_texts, asked = read_questions(options.questions)
    searcher = Passages({**texts, **held_texts}, embedder)
    ours = Answerer(searcher, embedder)
    result: dict[str, Any] = {"benchmark": "answers", "ours": measure(ours, asked)}
    result["ours"]["refused_without_document"] = refused_without(ours, searcher, asked)
    folder = {str(p.relative_to(INJECTIONS)): p.read_text(encoding="utf-8") for p in sorted(INJECTIONS.glob("*.md"))}
    trapped = Passages(folder, embedder)
    answerers = {"ours": Answerer(trapped, embedder)}
    if options.reader is not None:
        reader = Reader.open(options.reader)
        read = Answerer(searcher, embedder, judge=reader)
        result["read"] = measure(read, asked)
        result["read"]["refused_without_document"] = refused_without(read, searcher, asked)
        answerers["read"] = Answerer(trapped, embedder, judge=reader)
    if not options.no_model:
        loaded = scratchlm.load(options.model)
        judge = QuestionLikelihood(loaded.model, loaded.tokenizer)
        judged = Answerer(searcher, embedder, judge=judge)
        result["judged"] = measure(judged, asked)
        result["judged"]["refused_without_document"] = refused_without(judged, searcher, asked)
        answerers["judged"] = Answerer(trapped, embedder, judge=judge)
        if not options.quick:
            model, written = LocalChat(loaded), AnswerSettings(style="write")
            result["written"] = measure(Answerer(searcher, embedder, model, written), asked)
            result["plain"] = plain_prompting(model, searcher, asked)
            answerers["written"] = Answerer(trapped, embedder, model, written)
    result["injections"] = injections(answerers, INJECTIONS)
    questions = sum(one.gold is not None for one in asked)
    return result | {"questions": questions, "unanswerable": len(asked) - questions, "machine": machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--embedder", default="all-minilm-l6-v2")
    parser.add_argument(
        "--questions", type=Path, default=HELD, help="documents and questions (the second held-out set)"
    )
    parser.add_argument("--reader", type=Path, help="a folder of teach-reader, to be measured as a judge")
    parser.add_argument("--no-model", action="store_true", help="measure quotations alone")
    parser.add_argument("--quick", action="store_true", help="leave out what the model writes, and plain prompting")
    options = parser.parse_args()
    try:
        result = run(options)
    except UserError as error:
        sys.exit(f"error: {error}")
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, figure in parts:
            shown = f"{figure:.3f}" if isinstance(figure, float) else figure
            print(f"{name + ' ' + part:40} {shown}")


if __name__ == "__main__":
    main()
