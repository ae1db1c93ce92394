"""Classes and tags by all-MiniLM-L6-v2, beside ``transformers``' Trainer; and TinyBERT from scratch beside TF-IDF.

    python benchmarks/classify_speed.py sentiment|entities|scratch [--json] [--rows N] [--held-out N] [--epochs N]

``sentiment`` tunes on film reviews' sentences, ``entities`` on tagged tweets: the same rows in the same tokens, epochs,
batch, learning rate and schedule, float32, and in both the weights after the last step. The recipe is the better of the
usual two: its collator pads rows to the longest of their batch, where most pad all of them to one length. Ours and the
recipe each run in a process of their own, one after the other, so that each one's peak memory is its own. Seconds are
of the training steps alone. Both tuned models are then measured by the same code on the same held-out rows.

``scratch`` has no model to begin with: TinyBERT, made anew with a vocabulary of the rows, beside logistic regression on
TF-IDF of words and pairs of words, as scikit-learn has it.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from generate_speed import machine
from scratchlm.checkpoints.datasets import data_file
from scratchlm.data import encode_records, read_records, split_records
from scratchlm.errors import UserError
from scratchlm.evaluation.tuned import label_figures, peak_memory
from scratchlm.exporting import export_model
from scratchlm.opening import open_model

MODEL, BATCH, LENGTH = "all-minilm-l6-v2", 16, 128


@dataclass(frozen=True)
class Setting:
    """What is compared."""

    task: str
    data: str
    figure: str
    """The one that is compared, of our evaluation's."""
    shown: str
    """Its name in the result."""
    rows: int
    held_out: int
    epochs: int
    rate: float


SETTINGS = {
    "sentiment": Setting("classify", "rotten-tomatoes", "accuracy", "accuracy", 2000, 3000, 2, 5e-5),
    "entities": Setting("tag", "tweet-entities", "entity_f1", "f1", 1800, 594, 4, 2e-4),
    "scratch": Setting("classify", "rotten-tomatoes", "accuracy", "accuracy", 7530, 1000, 0, 0.0),
}


def write_rows(setting: Setting, folder: Path, rows: int, held_out: int, seed: int) -> None:
    """Rows to train on and rows to judge by, the same for both."""
    source = data_file(setting.data)
    assert source is not None
    task: Any = setting.task
    records = split_records(read_records(source, task=task), held_out, seed=seed)
    assert records.validation is not None
    train = random.Random(seed).sample(records.train.rows, min(rows, len(records.train)))
    for name, part in (("train", train), ("held_out", records.validation.rows)):
        lines = [
            {"text": row.text, "label": row.labels[0]}
            if setting.task == "classify"
            else {"tokens": row.tokens, "tags": row.labels}
            for row in part
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (folder / "labels.json").write_text(json.dumps(records.train.labels), encoding="utf-8")


def recipe(setting: Setting, folder: Path, epochs: int, seed: int) -> dict[str, Any]:
    """What the library's course on these tasks does."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        AutoTokenizer,
        DataCollatorForTokenClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(seed)
    classes = setting.task == "classify"
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    numbers = {label: number for number, label in enumerate(labels)}
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    kind = AutoModelForSequenceClassification if classes else AutoModelForTokenClassification
    model = kind.from_pretrained(
        folder / "base", num_labels=len(labels), id2label=dict(enumerate(labels)), label2id=numbers, dtype=torch.float32
    )
    rows = []
    for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        given = values["text"] if classes else values["tokens"]
        row = tokenizer(given, truncation=True, max_length=LENGTH, is_split_into_words=not classes)
        if classes:
            row["labels"] = numbers[values["label"]]
        else:
            words = row.word_ids()
            first = [word is not None and word != before for before, word in zip([None, *words], words, strict=False)]
            row["labels"] = [numbers[values["tags"][w]] if yes else -100 for w, yes in zip(words, first, strict=True)]
        rows.append(dict(row))
    collator = (DataCollatorWithPadding if classes else DataCollatorForTokenClassification)(tokenizer)
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=epochs,
        learning_rate=setting.rate,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        seed=seed,
        use_cpu=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator)
    seconds = trainer.train().metrics["train_runtime"]
    model.save_pretrained(folder / "peer")
    tokenizer.save_pretrained(folder / "peer")
    return {"seconds": seconds, "memory": peak_memory(torch.device("cpu"))}


def ours(model: str, setting: Setting, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """One command."""
    pairs = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "scratchlm", "finetune", model, "--data", str(folder / "train.jsonl"), "--json"]
    command += ["--task", setting.task, "--method", "full", "--validation", str(folder / "held_out.jsonl")]
    done = subprocess.run([*command, "--out", str(folder / "ours"), *pairs], check=False, stdout=subprocess.PIPE)
    if done.returncode:
        raise UserError("our part of the benchmark failed; what it says above tells why")
    (report,) = json.loads(done.stdout)["runs"]
    return dict(report)


def judged(setting: Setting, folder: Path, tuned: str) -> float:
    """The figure of a tuned model on the held-out rows, by the same code for both."""
    opened = open_model(folder / tuned)
    task: Any = setting.task
    records = read_records(folder / "held_out.jsonl", task=task, labels=opened.config.labels)
    examples = encode_records(records, opened.tokenizer, max_length=LENGTH, causal=False)
    return float(label_figures(opened.model, examples)[setting.figure])


def beside_trainer(name: str, setting: Setting, folder: Path, epochs: int, seed: int) -> dict[str, Any]:
    export_model(MODEL, "huggingface", folder / "base")
    settings = {
        "epochs": epochs,
        "batch_size": BATCH,
        "learning_rate": setting.rate,
        "warmup_steps": 0,
        "max_length": LENGTH,
        "seed": seed,
        "eval_every": 10**9,  # the last weights, as the recipe's
        "save_every": 10**9,
    }
    own = ours(MODEL, setting, folder, settings)
    asked = [name, "--role", "peer", "--folder", str(folder), "--epochs", str(epochs), "--seed", str(seed)]
    done = subprocess.run([sys.executable, __file__, *asked], check=False, stdout=subprocess.PIPE)
    if done.returncode:
        raise UserError("the recipe failed; it needs: pip install transformers accelerate")
    peer = json.loads(done.stdout.splitlines()[-1])
    return {
        "unit": "s",
        "ours": own["seconds"],
        "peer": peer["seconds"],
        "ratio": peer["seconds"] / own["seconds"],
        f"{setting.shown}_ours": judged(setting, folder, "ours"),
        f"{setting.shown}_peer": judged(setting, folder, "peer"),
        "memory_ours_bytes": own["peak_memory_bytes"],
        "memory_peer_bytes": peer["memory"],
        "memory_ratio": own["peak_memory_bytes"] / peer["memory"],
    }


def beside_tfidf(setting: Setting, folder: Path, epochs: int, seed: int) -> dict[str, Any]:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    except ImportError as error:
        raise UserError("the baseline needs: pip install scikit-learn") from error
    own = ours("tinybert", setting, folder, {"seed": seed, **({"epochs": epochs} if epochs else {})})
    parts = [
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("train", "held_out")
    ]
    (texts, labels), (held, answers) = ([[row[key] for row in part] for key in ("text", "label")] for part in parts)
    baseline = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    began = time.perf_counter()
    baseline.fit(texts, labels)
    seconds = time.perf_counter() - began
    return {
        "unit": "s",
        "ours": own["seconds"],
        "peer": seconds,
        "ratio": seconds / own["seconds"],
        "accuracy_ours": judged(setting, folder, "ours"),
        "accuracy_peer": float(baseline.score(held, answers)),
        "memory_ours_bytes": own["peak_memory_bytes"],
    }


def measure(name: str, rows: int, held_out: int, epochs: int, seed: int) -> dict[str, Any]:
    setting = SETTINGS[name]
    rows, held_out, epochs = rows or setting.rows, held_out or setting.held_out, epochs or setting.epochs
    with tempfile.TemporaryDirectory(prefix="scratchlm-bench-") as place:
        folder = Path(place)
        write_rows(setting, folder, rows, held_out, seed)
        if name == "scratch":
            found = beside_tfidf(setting, folder, epochs, seed)
        else:
            found = beside_trainer(name, setting, folder, epochs, seed)
    counts = {"rows": rows, "held_out": held_out, "epochs": epochs, "seed": seed}
    named = {"sentiment": "classify", "scratch": "classify-scratch"}
    return {"name": named.get(name, name), **found, **counts, "machine": machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(SETTINGS))
    parser.add_argument("--json", action="store_true")
    for option in ("--rows", "--held-out", "--epochs", "--seed"):
        parser.add_argument(option, type=int, default=0)
    parser.add_argument("--role", choices=("all", "peer"), default="all", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role == "peer":
        print(json.dumps(recipe(SETTINGS[given.what], given.folder, given.epochs, given.seed)))
        return
    try:
        result = measure(given.what, given.rows, given.held_out, given.epochs, given.seed)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    if given.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:20} {value:,.3f}" if isinstance(value, float) else f"{key:20} {value}")


if __name__ == "__main__":
    main()
