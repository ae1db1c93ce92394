"""Figures for people: tables with ours beside the tutorial's, and one JSON object for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

TUTORIAL: dict[str, dict[str, float]] = {
    "tinybert": {"cross_entropy": 0.2245, "perplexity": 1.25, "accuracy": 1.0},
    "tinygpt": {
        "cross_entropy": 0.0399,
        "perplexity": 1.04,
        "accuracy": 0.9848,
        "bits_per_character": 0.058,
        "distinct_1": 0.113,
        "distinct_2": 0.432,
    },
}
"""The tutorial's tables 3.1 and 4.1 (accuracy as a share)."""
TITLES = {"tinybert": "TinyBERT (the tutorial's table 3.1)", "tinygpt": "TinyGPT (the tutorial's table 4.1)"}
Row = tuple[str, Mapping[str, Any]]
_COLUMNS = {
    "cross_entropy": ("Cross-\nentropy", "{:.4f}"),
    "perplexity": ("Per-\nplexity", "{:.2f}"),
    "accuracy": ("Accuracy\n(%)", "{:.2f}"),
    "bits_per_character": ("Bits per\ncharacter", "{:.3f}"),
    "distinct_1": ("Distinct\n-1", "{:.3f}"),
    "distinct_2": ("Distinct\n-2", "{:.3f}"),
}


def comparison_table(preset: str, ours: Mapping[str, Any]) -> Table:
    """The tutorial's table with our row and, where it was computed, the floor of the text.

    ``ours`` is what :func:`~scratchlm.evaluation.evaluate.evaluate_run` returned for a run of ``tinybert`` or
    ``tinygpt``.
    """
    theirs = TUTORIAL[preset]
    rows: list[Row] = [("tutorial", theirs), ("scratchlm", ours)]
    if "floor_cross_entropy" in ours:
        rows.append(("floor", _floor(ours)))
    return _table(TITLES[preset], [key for key in _COLUMNS if key in theirs], rows)


def result_table(results: Mapping[str, Any], title: str = "") -> Table:
    """A run's figures on each of its texts, whatever the preset."""
    rows: list[Row] = []
    for name in ("training", "validation", "text"):
        if name in results:
            # What was generated belongs to the run, not to a text: shown once, in the row that stands for the run.
            figures = results if name == results.get("measured_on") else results[name]
            rows.append((name, figures))
            if "floor_cross_entropy" in figures:
                rows.append(("  floor", _floor(figures)))
    return _table(title, [key for key in _COLUMNS if results.get(key) is not None], rows)


def to_json(results: Mapping[str, Any]) -> str:
    """One JSON object on one line. Infinities and the like, which JSON lacks, become null."""
    return json.dumps(_finite(results), ensure_ascii=False)


def _table(title: str, keys: list[str], rows: list[Row]) -> Table:
    floor = any("floor" in name for name, _ in rows)
    table = Table(
        title=title or None,
        title_justify="left",
        caption="floor: what no model can better, given what the windows show" if floor else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for key in keys:
        table.add_column(_COLUMNS[key][0], justify="right")
    for name, figures in rows:
        table.add_row(name, *(_cell(key, figures.get(key)) for key in keys))
    return table


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return _COLUMNS[key][1].format(100 * value if key == "accuracy" else value)


def _floor(values: Mapping[str, Any]) -> dict[str, float]:
    nats = values["floor_cross_entropy"]
    floor = {"cross_entropy": nats, "perplexity": math.exp(nats), "accuracy": values["floor_accuracy"]}
    # Bits per character are the same nats over the same characters, so the floor scales with the cross-entropy.
    if values.get("bits_per_character") is not None and values["cross_entropy"] > 0:
        floor["bits_per_character"] = values["bits_per_character"] * nats / values["cross_entropy"]
    return floor


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
