"""The catalogue and a model's description, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_HERE = {None: "–", "damaged": "damaged"}


def show_catalogue(rows: Sequence[Mapping[str, Any]], data: Sequence[Mapping[str, Any]]) -> None:
    """One line for each model of the catalogue, and for each data set."""
    table = _table("model", "size", "licence", "here", "for")
    for row in rows:
        licence = row["licence"] + (", gated" if row["gated"] else "")
        table.add_row(row["name"], row["size"], licence, _HERE.get(row["here"], "yes"), row["purpose"])
    sets = _table("data set", "rows", "licence", "here", "for")
    for row in data:
        here = _HERE.get(row["here"], "yes")
        sets.add_row(row["name"], f"{row['rows']:,}", row["licence"], here, row["purpose"])
    Console().print(table, sets)
    print("fetch one with: scratchlm models pull NAME")


def show_model(figures: Mapping[str, Any]) -> None:
    """Everything that :func:`scratchlm.checkpoints.inspect.inspect` tells."""
    table = _table("", "")
    stored = ", ".join(f"{count} × {kind}" for kind, count in figures["stored"].items())
    heads = f"{figures['heads']}" + (
        f", {figures['kv_heads']} for keys and values" if figures["kv_heads"] != figures["heads"] else ""
    )
    rows = {
        "model": f"{figures['name']} ({figures['kind']})",
        "where": figures["path"],
        "architecture": f"{figures['architecture']}, {figures['family']}",
        "parameters": f"{figures['parameters']:,}",
        "layers": figures["layers"],
        "width": figures["width"],
        "heads": heads,
        "vocabulary": f"{figures['vocabulary']:,}, tokenizer {figures['tokenizer'] or 'missing'}",
        "context": f"{figures['context']:,} tokens",
        "chat template": "yes" if figures["chat_template"] else "no",
        "licence": figures["licence"] or "not stated",
        "on disk": f"{_size(figures['bytes'])} ({stored})",
    }
    if "verified" in figures:
        rows["sha256"] = "all as recorded" if figures["verified"] else "nothing recorded to compare with"
    for name, value in rows.items():
        table.add_row(name, Text(str(value)))
    Console().print(table)
    needs = _table("memory in", "weights", "cache of a full context", "together")
    for precision, parts in figures["memory"].items():
        needs.add_row(precision, *(_size(parts[part]) for part in ("weights", "cache", "total")))
    Console().print(needs)


def show_vectors(texts: Sequence[str], norms: Sequence[float], cosines: Sequence[Sequence[float]]) -> None:
    """Texts, the lengths of their vectors, and how alike each pair is."""
    table = _table("", "text", "norm", *(f"cosine to {n}" for n in range(1, len(texts) + 1)))
    for number, (text, norm, row) in enumerate(zip(texts, norms, cosines, strict=True), 1):
        table.add_row(str(number), Text(text), f"{norm:.4g}", *(f"{value:.3f}" for value in row))
    Console().print(table)


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD if any(headings) else None, pad_edge=False, show_header=any(headings))
    for number, heading in enumerate(headings):
        table.add_column(heading, no_wrap=number == 0, overflow="fold")
    return table


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
