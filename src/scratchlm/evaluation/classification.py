"""How well classes and tags are told: accuracy, F1, each class's own figures, who is taken for whom, entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from rich import box
from rich.table import Table
from rich.text import Text

from scratchlm.data.batch import IGNORE
from scratchlm.data.examples import Examples
from scratchlm.data.tags import OUTSIDE, bioes, has_entities
from scratchlm.errors import UserError
from scratchlm.evaluation.plots import figure_style, save_figure
from scratchlm.generation.predict import label_probabilities
from scratchlm.generation.states import StateReader
from scratchlm.models import Decoder, Encoder, evaluating

MOST_DRAWN, _MOST_NUMBERED, _LONGEST_NAME = 30, 20, 24
"""Classes that a picture has, and those up to which its cells have numbers."""
REST = "all others"
_AVERAGES = ("micro avg", "macro avg", "weighted avg")


def confusion_matrix(expected: ArrayLike, predicted: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes): in row i and column j, how often the class i was taken for j.

    Raises:
        ValueError: of different lengths, or a number outside 0 .. classes - 1.
    """
    true, told = np.asarray(expected, np.int64), np.asarray(predicted, np.int64)
    if true.shape != told.shape or true.ndim != 1:
        raise ValueError(f"{true.shape} expected and {told.shape} predicted; give as many of the one as of the other")
    if true.size and not 0 <= min(true.min(), told.min()) <= max(true.max(), told.max()) < classes:
        raise ValueError(f"classes go from 0 to {classes - 1}")
    return np.bincount(true * classes + told, minlength=classes * classes).reshape(classes, classes)


def class_figures(matrix: NDArray[np.int64], labels: Sequence[str], outside: str | None = None) -> dict[str, Any]:
    """The figures of a confusion matrix.

    Args:
        outside: a tag that is no find ("O"); it counts in the accuracy, and in no F1.

    Returns:
        ``rows``; ``accuracy``; ``macro_f1``, the mean of the classes' F1, over those that occur or were predicted;
        ``micro_f1``, of all classes' counts together (where each row has a class, it is the accuracy); ``classes``:
        label -> ``precision``, ``recall``, ``f1`` and ``rows``. What would be divided by zero is 0.
    """
    right, told, true = np.diag(matrix).astype(float), matrix.sum(0), matrix.sum(1)
    precision, recall = _divided(right, told), _divided(right, true)
    f1 = _divided(2 * right, told + true)
    counted = np.array([label != outside for label in labels]) & (told + true > 0)
    both = float((told + true)[counted].sum())
    return {
        "rows": int(matrix.sum()),
        "accuracy": float(right.sum() / max(1, matrix.sum())),
        "macro_f1": float(f1[counted].mean()) if counted.any() else 0.0,
        "micro_f1": 2 * float(right[counted].sum()) / both if both else 0.0,
        "classes": {
            label: {
                "precision": float(precision[n]),
                "recall": float(recall[n]),
                "f1": float(f1[n]),
                "rows": int(true[n]),
            }
            for n, label in enumerate(labels)
        },
    }


def entity_figures(expected: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Precision, recall and F1 of whole entities (kind and both ends right) by seqeval, as conlleval counts them.

    Tags of BIO, IOB1, BIOES and BILOU are understood, whatever their order.

    Returns:
        ``precision``, ``recall``, ``f1`` (over all entities), ``macro_f1`` (the mean over the kinds), ``entities``
        (how many there are) and ``kinds``: kind -> ``precision``, ``recall``, ``f1`` and ``entities``.

    Raises:
        UserError: seqeval is not installed.
        ValueError: sentences of different lengths.
    """
    try:
        from seqeval.metrics.sequence_labeling import classification_report
    except ImportError as error:
        raise UserError(
            "entities are counted by seqeval; install it with: pip install 'scratchlm[finetune]'"
        ) from error
    if [len(tags) for tags in expected] != [len(tags) for tags in predicted]:
        raise ValueError("expected and predicted tags are of different sentences")
    true, told = [bioes(tags) for tags in expected], [bioes(tags) for tags in predicted]
    # seqeval cannot report on sentences without any entity
    found = any(tag != OUTSIDE for tags in (*true, *told) for tag in tags)
    report = classification_report(true, told, output_dict=True, zero_division=0) if found else {}
    kinds = {name: _entity(values) for name, values in report.items() if name not in _AVERAGES}
    whole = _entity(report.get("micro avg", {}))
    return {**whole, "macro_f1": float(report["macro avg"]["f1-score"]) if found else 0.0, "kinds": kinds}


def evaluate_labels(model: Decoder | Encoder, examples: Examples) -> dict[str, Any]:
    """How well a model tells the classes or tags of examples.

    Returns:
        ``loss`` (the mean cross-entropy in nats), what :func:`class_figures` gives, ``confusion`` (the matrix, as
        lists), and for tags that tell entities ``entity``: see :func:`entity_figures`. Of tags the rows are words, and
        "O" has no F1.

    Raises:
        UserError: seqeval is needed and not installed.
    """
    labels, tags = examples.labels, examples.task == "tag"
    with evaluating(model):
        shares = label_probabilities(model, StateReader(model), [examples[n] for n in range(len(examples))])
    expected = examples.targets[examples.targets != IGNORE]
    joined = np.concatenate(shares)
    predicted = joined.argmax(1)
    told = joined[np.arange(len(expected)), expected].astype(float)
    matrix = confusion_matrix(expected, predicted, len(labels))
    figures = {
        "loss": float(-np.log(np.maximum(told, np.finfo(np.float32).tiny)).mean()),
        **class_figures(matrix, labels, OUTSIDE if tags else None),
        "confusion": matrix.tolist(),
    }
    if tags and has_entities(labels):
        ends = np.cumsum([len(share) for share in shares])[:-1]
        sentences = (np.split(numbers, ends) for numbers in (expected, predicted))
        figures["entity"] = entity_figures(*([[labels[n] for n in one] for one in both] for both in sentences))
    return figures


def classes_table(figures: Mapping[str, Any], title: str = "") -> Table:
    """What :func:`evaluate_labels` gave, for people: a row for each entity's kind where there are some, else for each
    class, and those for all together."""
    entity = figures.get("entity")
    table = Table(
        title=title or None,
        title_justify="left",
        caption=f"loss {figures['loss']:.4f}, accuracy {figures['accuracy']:.2%} of {figures['rows']:,}"
        + ("" if entity is None else f" words, entity F1 {entity['f1']:.2%}"),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("" if entity is None else "entities", overflow="fold")
    for heading in ("precision", "recall", "F1", "rows" if entity is None else "entities"):
        table.add_column(heading, justify="right")
    count = "rows" if entity is None else "entities"
    for name, one in (figures["classes"] if entity is None else entity["kinds"]).items():
        shares = (f"{one[key]:.2%}" for key in ("precision", "recall", "f1"))
        table.add_row(Text(name), *shares, f"{one[count]:,}")
    whole = figures if entity is None else entity
    table.add_row("macro", "", "", f"{whole['macro_f1']:.2%}", "")
    micro = whole["micro_f1"] if entity is None else whole["f1"]
    table.add_row("micro", "", "", f"{micro:.2%}", "")
    return table


def plot_confusion(matrix: ArrayLike, labels: Sequence[str], out: str | Path, *, title: str = "") -> Path:
    """Draw who is taken for whom as a PNG: a row for each true class, coloured by its shares, with the counts.

    Of many classes those with the most rows have their own, and the others one together.

    Raises:
        UserError: ``out`` cannot be written.
    """
    counts, names = _largest(np.asarray(matrix, np.int64), list(labels))
    shares = _divided(counts.astype(float), counts.sum(1, keepdims=True))
    names = [name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…" for name in names]
    size = len(names)
    cell = 0.62 if size <= _MOST_NUMBERED else 0.3
    margin = 0.09 * max(map(len, names)) + 0.9
    width = max(size * cell + margin + 1.2, 0.095 * len(title))
    with figure_style():
        figure = Figure(figsize=(width, size * cell + margin + 0.4), layout="constrained")
        panel = figure.subplots()
        # Square roots, so that the few that are taken for another class can be seen.
        image = panel.imshow(shares, cmap=mpl.colormaps["Blues"], norm=PowerNorm(0.5, vmin=0, vmax=1))
        if size <= _MOST_NUMBERED:
            for i, j in np.ndindex(size, size):
                colour = "white" if shares[i, j] > 0.4 else "#22303C" if counts[i, j] else "#b8bec6"
                panel.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", fontsize=9, color=colour)
        upright = max(map(len, names)) > 5 and size > 2
        small = 10 if size <= _MOST_NUMBERED else 8
        panel.set_xticks(range(size), names, rotation=90 if upright else 0, fontsize=small, parse_math=False)
        panel.set_yticks(range(size), names, fontsize=small, parse_math=False)
        panel.tick_params(length=0)
        panel.grid(False)
        for spine in panel.spines.values():
            spine.set_visible(False)
        panel.set_xlabel("predicted")
        panel.set_ylabel("true")
        bar = figure.colorbar(image, ax=panel, shrink=0.7, pad=0.02, aspect=25, ticks=[0, 0.05, 0.25, 0.5, 0.75, 1])
        bar.ax.set_yticklabels(["0", "5 %", "25 %", "50 %", "75 %", "100 %"], fontsize=9)
        bar.set_label("share of the true class", fontsize=10)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, parse_math=False)
        return save_figure(figure, Path(out), dpi=130)


def _divided(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    """The quotients, 0 where they have none."""
    quotients = np.zeros(np.broadcast_shapes(above.shape, below.shape))
    np.divide(above, below, out=quotients, where=below != 0)
    return quotients


def _entity(values: dict[str, Any]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        ours: float(values.get(theirs, 0.0))
        for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score"))
    }
    return figures | {"entities": int(values.get("support", 0))}


def _largest(matrix: NDArray[np.int64], names: list[str]) -> tuple[NDArray[np.int64], list[str]]:
    """The matrix of the classes with the most rows, in their order, with one more for all others."""
    if len(names) <= MOST_DRAWN:
        return matrix, names
    kept = np.sort(np.argsort(-matrix.sum(1), kind="stable")[: MOST_DRAWN - 1])
    place = np.full(len(names), MOST_DRAWN - 1)
    place[kept] = np.arange(len(kept))
    joined = np.zeros((MOST_DRAWN, MOST_DRAWN), np.int64)
    np.add.at(joined, (place[:, None], place[None, :]), matrix)
    return joined, [*(names[n] for n in kept), REST]
