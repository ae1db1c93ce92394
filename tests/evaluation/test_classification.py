"""Figures of classes and entities: scikit-learn's and seqeval's, from our own code and theirs; and the picture."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scratchlm.data import encode_records, read_records
from scratchlm.errors import UserError
from scratchlm.evaluation.classification import (
    MOST_DRAWN,
    class_figures,
    confusion_matrix,
    entity_figures,
    evaluate_labels,
    plot_confusion,
)
from scratchlm.models import build_model, model_preset, with_head
from scratchlm.tokenizers import train_tokenizer

NAMES = ["bad", "fair", "good", "best"]


def drawn(seed: int, classes: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes that agree half of the time; the last class never occurs."""
    generator = np.random.default_rng(seed)
    true = generator.integers(0, classes - 1, rows)
    return true, np.where(generator.random(rows) < 0.5, true, generator.integers(0, classes - 1, rows))


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_scikit_learns(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    true, told = drawn(seed, 4, 3 if seed == 3 else 100)
    matrix = confusion_matrix(true, told, 4)
    assert np.array_equal(matrix, metrics.confusion_matrix(true, told, labels=range(4)))
    figures = class_figures(matrix, NAMES)
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(true, told))
    for average in ("macro", "micro"):
        assert figures[f"{average}_f1"] == pytest.approx(metrics.f1_score(true, told, average=average))
    theirs = metrics.precision_recall_fscore_support(true, told, labels=range(4), zero_division=0)
    ours = [[figures["classes"][name][key] for name in NAMES] for key in ("precision", "recall", "f1", "rows")]
    np.testing.assert_allclose(ours, theirs)


def test_the_tag_outside_counts_in_the_accuracy_alone() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    true, told = drawn(9, 4, 200)
    figures = class_figures(confusion_matrix(true, told, 4), ["O", "a", "b", "c"], outside="O")
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(true, told))
    present = sorted({*true, *told} - {0})
    for average in ("macro", "micro"):
        expected = metrics.f1_score(true, told, labels=present, average=average)
        assert figures[f"{average}_f1"] == pytest.approx(expected)
    alone = class_figures(confusion_matrix([0, 0], [0, 0], 2), ["O", "a"], outside="O")
    assert (alone["accuracy"], alone["macro_f1"], alone["micro_f1"]) == (1.0, 0.0, 0.0)


def test_numbers_that_are_no_classes_are_a_mistake_of_the_caller() -> None:
    for true, told in (([0, 3], [0, 0]), ([0, -1], [0, 0]), ([0], [0, 0]), ([[0]], [[0]])):
        with pytest.raises(ValueError, match=r"predicted|classes go"):
            confusion_matrix(true, told, 3)


@pytest.mark.parametrize("tags", [["O", "B-a", "I-a", "B-b", "I-b"], ["O", "I-a", "I-b"], ["O", "S-a", "B-a", "E-a"]])
def test_entities_are_counted_as_conlleval_does(tags: list[str]) -> None:
    metrics = pytest.importorskip("seqeval.metrics", reason="seqeval is not installed")
    draw = random.Random(1)
    true = [[draw.choice(tags) for _ in range(9)] for _ in range(30)]
    told = [[tag if draw.random() < 0.7 else draw.choice(tags) for tag in row] for row in true]
    figures = entity_figures(true, told)
    assert figures["f1"] == pytest.approx(metrics.f1_score(true, told))
    assert figures["macro_f1"] == pytest.approx(metrics.f1_score(true, told, average="macro"))
    assert figures["precision"] == pytest.approx(metrics.precision_score(true, told))
    assert sum(kind["entities"] for kind in figures["kinds"].values()) == figures["entities"]


def test_entities_by_hand() -> None:
    pytest.importorskip("seqeval", reason="seqeval is not installed")
    figures = entity_figures([["B-a", "I-a", "O", "B-b"], ["O"]], [["B-a", "I-a", "O", "O"], ["B-b"]])
    assert (figures["precision"], figures["recall"], figures["entities"]) == (0.5, 0.5, 2)
    assert figures["kinds"]["a"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "entities": 1}
    assert figures["kinds"]["b"]["f1"] == 0.0
    assert entity_figures([["O", "O"]], [["O", "O"]])["kinds"] == {}
    bilou = entity_figures([["B-a", "L-a", "U-b"]], [["B-a", "L-a", "O"]])
    assert (bilou["kinds"]["a"]["f1"], bilou["recall"]) == (1.0, 0.5)
    with pytest.raises(ValueError, match="different sentences"):
        entity_figures([["O"]], [["O", "O"]])


def test_without_seqeval_the_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "seqeval.metrics.sequence_labeling", None)
    with pytest.raises(UserError, match=r"pip install 'scratchlm\[finetune\]'"):
        entity_figures([["B-a"]], [["B-a"]])


@pytest.mark.parametrize("preset", ["tinygpt", "tinybert"])
def test_a_model_is_measured_on_examples_as_one_row_at_a_time(preset: str, tmp_path: Path) -> None:
    """Classes and tags; the loss is that of training."""
    tokenizer = train_tokenizer("wordpiece", ["the cat sat on a mat and the dog lay down"] * 3, vocab_size=60)
    (tmp_path / "rows.csv").write_text("text,label\nthe cat sat,x\na dog,y\nthe mat lay down,x\nthe cat,y\n")
    (tmp_path / "rows.conll").write_text("the O\ncat B-a\nsat O\n\na B-a\ndog I-a\n\nmat B-b\n")
    torch.manual_seed(0)
    for name, task in (("rows.csv", "classify"), ("rows.conll", "tag")):
        if task == "tag":
            pytest.importorskip("seqeval", reason="seqeval is not installed")
        records = read_records(tmp_path / name, task=task)  # type: ignore[arg-type]
        base = build_model(model_preset(preset, tokenizer.vocab_size, context=16))
        model = with_head(base, task, records.labels, seed=3)  # type: ignore[arg-type]
        model.head.weight.data.mul_(40)
        examples = encode_records(records, tokenizer, max_length=16, causal=preset == "tinygpt")
        model.train()
        figures = evaluate_labels(model, examples)
        assert model.training
        model.eval()
        losses, right, sentences = [], 0, []
        for ids, targets in examples:
            with torch.no_grad():
                logits = model(torch.from_numpy(ids.astype(np.int64))[None])[0]
            at = np.flatnonzero(targets >= 0)
            wanted = torch.from_numpy(targets[at].astype(np.int64))
            losses += torch.nn.functional.cross_entropy(logits[at], wanted, reduction="none").tolist()
            right += int((logits[at].argmax(1) == wanted).sum())
            sentences.append([records.labels[n] for n in logits[at].argmax(1).tolist()])
        assert figures["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
        assert figures["accuracy"] == pytest.approx(right / len(losses))
        assert np.sum(figures["confusion"]) == figures["rows"] == len(losses)
        if task == "tag":
            assert figures["entity"] == entity_figures([row.labels for row in records.rows], sentences)
        else:
            assert "entity" not in figures


def test_tags_without_prefixes_have_no_entities(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("wordpiece", ["the cat sat"] * 3, vocab_size=40)
    (tmp_path / "rows.conll").write_text("the DET\ncat NOUN\nsat VERB\n\nthe DET\n")
    records = read_records(tmp_path / "rows.conll", task="tag")
    model = with_head(build_model(model_preset("tinybert", tokenizer.vocab_size)), "tag", records.labels)
    figures = evaluate_labels(model, encode_records(records, tokenizer, max_length=8, causal=False))
    assert "entity" not in figures
    assert figures["rows"] == 4


def test_the_picture_has_a_row_for_each_class_and_one_for_the_rest(tmp_path: Path) -> None:
    small = plot_confusion([[3, 1], [0, 0]], ["no", "yes"], tmp_path / "a" / "small.png", title="a title " * 9)
    many = MOST_DRAWN + 20
    matrix = np.diag(np.arange(many)) + 1
    large = plot_confusion(matrix, [f"class {n} $x_1$" for n in range(many)], tmp_path / "large.png")
    with Image.open(small) as a, Image.open(large) as b:
        assert a.size[0] < b.size[0]
        assert len(a.convert("RGB").getcolors(1 << 20) or []) > 10
    with pytest.raises(UserError, match="cannot write"):
        plot_confusion([[1]], ["only"], small / "x.png")


def test_joining_the_rest_loses_no_row() -> None:
    from scratchlm.evaluation.classification import REST, _largest

    generator = np.random.default_rng(0)
    matrix = generator.integers(0, 9, (50, 50))
    joined, names = _largest(matrix, [str(n) for n in range(50)])
    assert joined.sum() == matrix.sum()
    assert names[-1] == REST
    first = int(names[0])
    assert joined[0, 0] == matrix[first, first]
