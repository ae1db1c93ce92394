"""The recipe: a decoder learns from twins to answer or to say that there is no answer.

1. Of each twin its questions and those of the other become rows: the passage, the question, the span or "none". One
   question of another text is added.
2. The model is fine-tuned on them by LoRA; all questions of a passage are learned in one step, which reads it once.
3. Passages of held-out twins are searched and asked about as documents are, and the refusals counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from scratchlm.checkpoints import RunFolder
from scratchlm.checkpoints.files import disk_errors, write_rows, write_text
from scratchlm.errors import UserError
from scratchlm.opening import open_model
from scratchlm.retrieval.calibration import THRESHOLD, WEIGHTS
from scratchlm.retrieval.embeddings import Embedder
from scratchlm.retrieval.evidence import Embeds, EvidenceScorer, Judges
from scratchlm.retrieval.passages import Hit
from scratchlm.retrieval.prompting import candidates_of
from scratchlm.retrieval.reader import MODEL, NONE, READER, Reader, asked_of
from scratchlm.retrieval.teaching.twins import Passage, own_twins, read_twins
from scratchlm.training import Question, Reporter
from scratchlm.training.distributed import choose_device
from scratchlm.training.finetune import finetune
from scratchlm.training.precision import fastest
from scratchlm.training.settings import check_tuning
from scratchlm.training.tuning_config import upper_blocks

TUNING: Mapping[str, Any] = {
    "batch_size": 88, "learning_rate": 1e-3, "beta2": 0.99, "epochs": 1.25, "pass_tokens": 3000, "eval_prompts": 0,
}  # fmt: skip
"""A step has eight passages, each with all that is asked of it."""
EVERY = 10
"""One pair of twins in so many is held out."""
_MEASURED, _HITS = 30, 6


def teach_reader(
    model: str,
    out: str | Path,
    data: str | Path | None = None,
    *,
    embedder: str = "all-minilm-l6-v2",
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Teach a decoder to tell whether a passage answers a question. Leaves a folder for ``ask --judge``, and returns
    what ``reader.json`` there says: which shares of questions about held-out twins are refused, and the seconds.

    Args:
        data: a file of more twins to learn from (see :mod:`~scratchlm.retrieval.teaching.twins`).
        embedder: the encoder that documents are searched with.
        settings: of the fine-tuning, as ``finetune`` takes them, in place of the recipe's.
        resume: go on with what was begun.

    Raises:
        UserError: the model cannot be taught, the file has other lines, or the folder is another's.
        KeyboardInterrupt: it was broken off; it has been saved and can be resumed.
    """
    report, folder = reporter or Reporter(), Path(out)
    layers = _layers(model)
    run, rows, held_rows = folder / MODEL, folder / "rows.jsonl", folder / "validation.jsonl"
    with disk_errors(str(folder), "choose another folder for --out"):
        held = folder.exists() and any(folder.iterdir())
    if held and not (rows.exists() and resume):
        cure = "go on with --resume, or choose another folder" if rows.exists() else "choose another folder for --out"
        raise UserError(f"{folder} already holds {'a reader' if rows.exists() else 'files'}; {cure}")
    given: dict[str, Any] = {**TUNING, "lora_layers": upper_blocks(layers), **(settings or {})}
    if not RunFolder(run).exists:  # else it goes on in what it was begun in, whatever is faster now
        given.setdefault("precision", fastest(choose_device("auto")))
    check_tuning(given, "lora")
    pairs = own_twins()
    held_out, taught = pairs[::EVERY], [pair for n, pair in enumerate(pairs) if n % EVERY]
    taught += [] if data is None else read_twins(data)
    searching = Embedder.open(embedder)
    random = Random(0)
    with disk_errors(str(folder), "free some space, and go on with --resume"):
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(held_rows, rows_of(held_out[:12], random))
        write_rows(rows, rows_of(taught, random))
    question = Question(model, str(rows), "prompt", "lora", str(held_rows))
    result = finetune(question, run, settings=given, resume=resume, reporter=report)
    if result.fit.stopped == "interrupted":
        raise KeyboardInterrupt
    measured = held_out[:: len(held_out) // _MEASURED or 1]
    report.note(f"passages of {len(measured)} held-out pairs are searched and asked about, a minute or two")
    opened = open_model(str(run))
    told = measure(Reader(opened.model, opened.tokenizer), searching, measured)
    told = {"model": model, **told, "seconds": round(result.fit.seconds, 1)}
    with disk_errors(str(folder), "free some space, and go on with --resume"):
        write_text(folder / READER, json.dumps(told, indent=1) + "\n")
    return told


def rows_of(pairs: Sequence[tuple[Passage, Passage]], random: Random) -> list[dict[str, str]]:
    """Prompts and completions, passage by passage."""
    passages = [one for pair in pairs for one in pair]
    random.shuffle(passages)
    rows = []
    for n, one in enumerate(passages):
        asked = random.sample(one.asked, len(one.asked))
        other = passages[n - 1]
        if other.name != one.name:  # of a question about something else it is easy to say that there is no answer
            asked.append((random.choice(other.asked)[0], None))
        rows += [
            {"prompt": asked_of(one.title, one.text, question), "completion": NONE if span is None else f" {span}"}
            for question, span in asked
        ]
    return rows


def measure(reader: Judges, embedder: Embeds, pairs: Sequence[tuple[Passage, Passage]]) -> dict[str, Any]:
    """The shares of questions about twins that are refused with a reader's judgement, as ``ask`` refuses them.

    Of every pair one passage is there and the other is not; both are asked about. Nothing is harder: what is not
    answered is asked about the very thing that a passage is about.
    """
    there = [pair[n % 2] for n, pair in enumerate(pairs)]
    hits = [_whole(one) for one in there]
    vectors = embedder.embed([hit.embedded for hit in hits]).vectors
    scorer = EvidenceScorer(embedder, WEIGHTS, reader)
    sure: dict[bool, list[float]] = {True: [], False: []}
    for one in there:
        for question, span in one.asked:
            near = np.argsort(-(vectors @ embedder.embed([question]).vectors[0]), kind="stable")[:_HITS]
            found = [hits[n] for n in near]
            likely = scorer.probabilities(question, found, candidates_of(found)[0])
            sure[span is not None].append(max(likely, default=0.0))
    yes, no = np.array(sure[True]), np.array(sure[False])
    return {
        "refused_unanswerable": float((no < THRESHOLD).mean()),
        "refused_answerable": float((yes < THRESHOLD).mean()),
        "area_under_curve": float((yes[:, None] > no).mean()),
        "questions": len(yes) + len(no),
    }


def _whole(one: Passage) -> Hit:
    """A passage as a search finds it."""
    return Hit(one.name, one.name, one.text, 0, len(one.text), 1, 1, None, None, (one.title,), "text", 0.0)


def _layers(model: str) -> int:
    opened = open_model(model, weights=False)
    if opened.config.architecture != "decoder" or opened.config.head != "linear":
        raise UserError(f"{model} is no decoder, and only a decoder can say what a passage answers; choose one")
    return opened.config.layers
