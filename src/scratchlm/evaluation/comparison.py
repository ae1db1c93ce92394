"""One fine-tuning before and after, or several side by side: as a table, as rows for programs, and as a picture.

A report is a plain mapping: ``name``, ``method``, ``before`` and ``after`` (figures as
:func:`~scratchlm.evaluation.continuations.evaluate_examples` gives them; either may be empty), and what the training
took: ``trained_parameters``, ``parameters``, ``peak_memory_bytes``, ``seconds``, ``rows_per_second``, ``saved_bytes``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scratchlm.evaluation.plots import BLUE, GREY, ORANGE, figure_style, save_figure
from scratchlm.training.estimate import size
from scratchlm.training.progress import clock

Report = Mapping[str, Any]


class _Column(NamedTuple):
    heading: str
    shown: Callable[[Any], str]


def _share(value: float) -> str:
    return f"{value:.3f}"


def _perplexity(value: float) -> str:
    """In five characters, most of the time."""
    return f"{value:.2f}" if value < 100 else f"{value:.1f}" if value < 1e3 else f"{value:.5g}"


FIGURES = {
    "perplexity": _Column("PPL", _perplexity),
    "bleu": _Column("BLEU", _share),
    **{f"bleu_{n}": _Column(f"{n}-\ngram", _share) for n in range(1, 5)},
    "rouge_1": _Column("ROUGE\n1", _share),
    "rouge_2": _Column("\n2", _share),
    "rouge_l": _Column("\nL", _share),
    "rouge_lsum": _Column("\nLsum", _share),
    "exact_match": _Column("exact\nmatch", _share),
    "accuracy": _Column("accuracy", _share),
    "macro_f1": _Column("macro\nF1", _share),
    "micro_f1": _Column("micro\nF1", _share),
    "entity_precision": _Column("entity\nprecision", _share),
    "entity_recall": _Column("entity\nrecall", _share),
    "entity_f1": _Column("entity\nF1", _share),
    "accuracy_at_1": _Column("found\nfirst", _share),
    "accuracy_at_5": _Column("among\n5", _share),
    "mrr_at_10": _Column("MRR\n@10", _share),
    "gap": _Column("gap of\nrewards", _share),
    "calibration_error": _Column("calibration\nerror", _share),
    "reward_margin": _Column("implicit\ngap", _share),
    "reward": _Column("reward", _share),
    "greedy_reward": _Column("reward,\ngreedy", _share),
    "kl": _Column("nats from\nthe start", _share),
    "tokens_a_completion": _Column("tokens", lambda value: f"{value:.1f}"),
    "plain_perplexity": _Column("plain\ntext's PPL", _perplexity),
}
"""Of texts those of the tutorial's tables 5.1 and 6.1, and exact matches; of labels and tags the next; of vectors how
often the text that belongs to a text is found; then those of alignment."""
EFFORT = {
    "trained_parameters": _Column("trained\nparameters", lambda value: f"{value:,}"),
    "peak_memory_bytes": _Column("peak\nmemory", size),
    "seconds": _Column("\ntime", clock),
    "rows_per_second": _Column("rows\na second", lambda value: f"{value:,.2f}"),
    "saved_bytes": _Column("size of\nwhat is saved", size),
}
TUTORIAL: tuple[dict[str, Any], ...] = (
    {
        "row": "table 5.1 *",
        **{"perplexity": 50.1325, "bleu": 0.7069, "bleu_1": 0.7103, "bleu_2": 0.7079, "bleu_3": 0.7056},
        **{"bleu_4": 0.7036, "rouge_1": 0.6751, "rouge_2": 0.6361, "rouge_l": 0.6742, "rouge_lsum": 0.6742},
        "seconds": 92.3040,
    },
    {
        "row": "table 6.1 *",
        **{"perplexity": 65.4614, "bleu": 0.6626, "bleu_1": 0.6663, "bleu_2": 0.6638, "bleu_3": 0.6612},
        **{"bleu_4": 0.6591, "rouge_1": 0.7467, "rouge_2": 0.6738, "rouge_l": 0.7466, "rouge_lsum": 0.7473},
        "seconds": 83.3375,
    },
)
"""The tutorial's rows: GPT-2 tuned whole, and by LoRA, on data of its own."""
_LEAST_NAME = 11
_METHODS = {"full": BLUE, "lora": ORANGE, "qlora": "#2a8c82"}
_OTHERS = ("#8a5fa8", "#b3a12b", "#4f9d4f", "#c2557a")


def comparison_rows(reports: Sequence[Report]) -> list[dict[str, Any]]:
    """A flat row for each line of the table, ready for JSON: ``row`` (its heading), ``name``, ``method``, ``when``
    ("before" or "after"), the figures and, after the training, what it took. What several runs began from alike is one
    row, whose ``name`` and ``method`` are None."""
    names = _row_names(reports)
    starts = [_known(_figures(report, "before"), FIGURES) for report in reports]
    rows: list[dict[str, Any]] = []
    distinct = [start for number, start in enumerate(starts) if start and start not in starts[:number]]
    for start in distinct:
        having = [number for number, other in enumerate(starts) if other == start]
        row = "before" if len(distinct) == 1 else f"before {', '.join(names[number] for number in having)}"
        only = reports[having[0]] if len(having) == 1 else {}
        rows.append(
            {"row": row, "name": only.get("name"), "method": only.get("method"), "when": "before"}
            | _counts(reports[having[0]]["before"])
            | start
        )
    for name, report in zip(names, reports, strict=True):
        after = _figures(report, "after")
        effort = _known(report, EFFORT) | ({"parameters": report["parameters"]} if report.get("parameters") else {})
        row = name if len(reports) > 1 or not distinct else f"after {name}"
        rows.append(
            {"row": row, "name": report["name"], "method": report["method"], "when": "after"}
            | _counts(after)
            | _known(after, FIGURES)
            | effort
        )
    return rows


def comparison_table(reports: Sequence[Report], *, title: str = "", tutorial: bool = True) -> RenderableType:
    """The figures of reports and, below, what each training took. Fits 80 columns.

    Args:
        tutorial: show the tutorial's rows below those of texts.
    """
    rows = comparison_rows(reports)
    notes = []
    shown = _shown(rows)
    figures = _table(title, {key: FIGURES[key] for key in shown}, rows)
    if counted := _counted(rows):
        notes.append(counted)
    if "bleu" in shown and tutorial:
        figures.add_section()
        for row in TUTORIAL:
            _add(figures, shown, FIGURES, row)
        notes.append("* the tutorial's: GPT-2 tuned whole (5.1) and by LoRA (6.1) on other data")
    after = [row for row in rows if row["when"] == "after"]
    parts: list[RenderableType] = [figures, Text("\n".join(notes), style="dim")] if shown else []
    effort = {key: column for key, column in EFFORT.items() if any(key in row for row in after)}
    if effort:
        parts.append(_table("" if shown else title, effort, after))
    return Group(*parts)


def plot_comparison(reports: Sequence[Report], out: str | Path, *, title: str = "") -> Path:
    """Draw the rows of :func:`comparison_rows` as bars: perplexity, the shares, and with several runs what each took.

    Raises:
        UserError: ``out`` cannot be written.
    """
    rows = comparison_rows(reports)
    after = [row for row in rows if row["when"] == "after"]
    shares = [key for key in _shown(rows) if key != "perplexity"]
    measured = any("perplexity" in row for row in rows)
    effort = [key for key in EFFORT if key != "rows_per_second" and any(key in row for row in after)]
    effort = effort if len(after) > 1 or not (measured or shares) else []
    colours = dict(zip((row["row"] for row in rows), _colours(rows), strict=True))
    above, below = 4.4 * (measured or bool(shares)), (0.75 + 0.34 * len(after)) * bool(effort)
    with figure_style():
        figure = Figure(figsize=(12, above + below), layout="constrained")
        heights = [height for height in (above, below) if height]
        parts = iter(figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).ravel())
        if above:
            widths = [1.0] * measured + [3.4] * bool(shares)
            panels = list(next(parts).subplots(1, len(widths), width_ratios=widths, squeeze=False)[0])
            if measured:
                _bars(panels[0], rows, "perplexity", FIGURES, colours, "perplexity (less is better)")
            if shares:
                _grouped(panels[-1], rows, shares, colours)
        if below:
            for number, (panel, key) in enumerate(
                zip(next(parts).subplots(1, len(effort), squeeze=False)[0], effort, strict=True)
            ):
                heading = " ".join(EFFORT[key].heading.split())
                _bars(panel, after, key, EFFORT, colours, heading, named=number == 0)
        figure.suptitle(title or _counted(rows), x=0.01, ha="left", fontsize=13, parse_math=False)
        return save_figure(figure, Path(out), dpi=120)


# -- rows --------------------------------------------------------------------------------------------------------------


def _row_names(reports: Sequence[Report]) -> list[str]:
    """The method of each; runs of one method are told apart by their names, and those of one name by numbers."""
    methods = [report["method"] for report in reports]
    names = [str(report["name"] if methods.count(report["method"]) > 1 else report["method"]) for report in reports]
    return [
        f"{name} ({names[: number + 1].count(name)})" if names.count(name) > 1 else name
        for number, name in enumerate(names)
    ]


def _shown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = [key for key in FIGURES if any(key in row for row in rows)]
    # The accuracy of tokens says less than perplexity, and the tutorial has none.
    return [key for key in keys if key != "accuracy" or "perplexity" not in keys]


def _figures(report: Report, when: str) -> dict[str, Any]:
    """A report's figures without depth."""
    figures = report.get(when) or {}
    return {**figures, **{f"entity_{key}": value for key, value in figures.get("entity", {}).items()}}


def _known(values: Mapping[str, Any], columns: Mapping[str, _Column]) -> dict[str, Any]:
    return {key: values[key] for key in columns if values.get(key) is not None}


def _counts(figures: Mapping[str, Any]) -> dict[str, Any]:
    """What the figures are of."""
    return {
        key: figures[key] for key in ("rows", "words", "tokens", "prompts", "candidates", "pairs") if key in figures
    }


def _counted(rows: Sequence[Mapping[str, Any]]) -> str:
    for row in reversed(rows):
        if "rows" in row:
            parts = [f"{row['rows']:,} held-out rows"]
            named = {"words": "words", "tokens": "tokens predicted", "prompts": "prompts continued"}
            named["candidates"] = "texts to find"
            parts += [f"{row[key]:,} {what}" for key, what in named.items() if row.get(key)]
            return ", ".join(parts)
        for name in ("pairs", "prompts"):
            if name in row:
                return f"{row[name]:,} held-out {name}"
    return ""


# -- the table ---------------------------------------------------------------------------------------------------------


def _table(title: str, columns: Mapping[str, _Column], rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("", min_width=_LEAST_NAME, overflow="fold")
    for column in columns.values():
        table.add_column(column.heading, justify="right", no_wrap=True)
    for row in rows:
        _add(table, list(columns), columns, row)
    return table


def _add(table: Table, keys: Sequence[str], columns: Mapping[str, _Column], row: Mapping[str, Any]) -> None:
    cells = (columns[key].shown(row[key]) if row.get(key) is not None else "–" for key in keys)
    table.add_row(Text(str(row["row"])), *cells)


# -- the picture -------------------------------------------------------------------------------------------------------


def _colours(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Grey before, and a colour for each method, or for each run where several are of one method."""
    after = [row for row in rows if row["when"] == "after"]
    methods = [row["method"] for row in after]
    own = len(set(methods)) == len(methods)
    spare = iter((*_METHODS.values(), *_OTHERS) if not own else _OTHERS)
    found = []
    greys = iter(np.linspace(0.55, 0.8, max(1, len(rows) - len(after))))
    for row in rows:
        if row["when"] == "before":
            grey = next(greys)
            found.append(GREY if grey == 0.55 else str(grey))
        else:
            found.append(_METHODS[row["method"]] if own and row["method"] in _METHODS else next(spare, GREY))
    return found


def _bars(
    panel: Any,
    rows: Sequence[Mapping[str, Any]],
    key: str,
    columns: Mapping[str, _Column],
    colours: Mapping[str, str],
    heading: str,
    *,
    named: bool = True,
) -> None:
    """One bar for each row, from the first on top to the last, with its value beside it."""
    values = [row.get(key) for row in rows]
    lengths = [value if value is not None and math.isfinite(value) else 0.0 for value in values]
    panel.barh(range(len(rows)), lengths, color=[colours[row["row"]] for row in rows], height=0.72)
    top = max([*lengths, 1e-9])
    for place, (value, length) in enumerate(zip(values, lengths, strict=True)):
        panel.text(length + top * 0.03, place, "–" if value is None else columns[key].shown(value), va="center")
    panel.set_xlim(0, top * 1.55)
    panel.set_yticks(range(len(rows)), [row["row"] for row in rows] if named else [""] * len(rows), parse_math=False)
    panel.tick_params(axis="y", length=0)
    panel.invert_yaxis()
    panel.set_xticks([])
    panel.grid(False)
    panel.spines["bottom"].set_visible(False)
    panel.set_title(heading, loc="left", fontsize=11)


def _grouped(panel: Any, rows: Sequence[Mapping[str, Any]], keys: Sequence[str], colours: Mapping[str, str]) -> None:
    """The shares side by side: a group for each figure, a bar in it for each row."""
    width = 0.82 / len(rows)
    for number, row in enumerate(rows):
        places = np.arange(len(keys)) + (number - (len(rows) - 1) / 2) * width
        heights = [row.get(key) or 0.0 for key in keys]
        bars = panel.bar(places, heights, width * 0.92, color=colours[row["row"]], label=row["row"])
        if len(rows) * len(keys) <= 24:
            panel.bar_label(bars, [f"{height:.2f}" for height in heights], fontsize=8, padding=1)
    panel.set_xticks(range(len(keys)), [_name(key) for key in keys])
    panel.tick_params(axis="x", length=0)
    panel.grid(False, axis="x")
    panel.set_title("shares (more is better)", loc="left", fontsize=11)
    panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _name(key: str) -> str:
    """``rouge_lsum`` -> ROUGE and Lsum on two lines, ``bleu_2`` -> BLEU and 2-gram."""
    first, _, rest = key.partition("_")
    if first in ("bleu", "rouge"):
        rest = f"{rest}-gram" if first == "bleu" and rest else rest.replace("l", "L", 1)
        return f"{first.upper()}\n{rest}".strip()
    return key.replace("_at_", "\n@").replace("_f1", "\nF1").replace("_", "\n")
