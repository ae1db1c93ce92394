"""Pictures of a run: its curves, and where each head of each layer looks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from scratchlm.errors import UserError
from scratchlm.evaluation.looking import logit_lens, read_attention
from scratchlm.models import Model

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scratchlm.tokenizers import Tokenizer

FONT = "DejaVu Sans"  # comes with matplotlib and has the letters with diacritics
BLUE, ORANGE, GREY = "#1f5fa8", "#d9661f", "#8a8f98"
_STYLE: Any = {
    "font.family": [FONT],
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e6ea",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
_VISIBLE_NAMES = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍", "": "∅"}
_LONGEST_LABEL = 14
_MOST_COLUMNS = 24
"""Tokens in a picture of a logit lens."""


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, in order. A last line that is still being written is left out.

    Raises:
        UserError: no such file, no record in it, or a line that is no record.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); give the folder of a run that has trained") from error
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or "step" not in record:
                raise ValueError("not a record of a step")
        except ValueError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number}, is damaged; delete that line and plot again") from error
        records.append(record)
    if not records:
        raise UserError(f"{path} has no records yet; let the run train for a while and plot again")
    return records


def plot_curves(metrics: str | Path, out: str | Path, *, title: str = "", floor: float | None = None) -> Path:
    """Draw loss (training and validation) and learning rate over the steps of a metrics.jsonl as a PNG.

    ``floor`` is a cross-entropy, in nats, that no model can go below; it is drawn as a line.

    Raises:
        UserError: see :func:`read_metrics`; also when ``out`` cannot be written.
    """
    records = read_metrics(metrics)
    with figure_style():
        figure = Figure(figsize=(8, 6), layout="constrained")
        losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        steps, values = _series(records, "loss")
        if len(values) > 20:
            losses.plot(steps, values, color=BLUE, alpha=0.25, linewidth=1)
            losses.plot(steps, _smoothed(values), color=BLUE, linewidth=1.8, label="training (smoothed)")
        else:
            losses.plot(steps, values, color=BLUE, linewidth=1.8, marker="o", markersize=4, label="training")
        held_steps, held = _series(records, "validation_loss")
        if len(held):
            losses.plot(held_steps, held, color=ORANGE, linewidth=1.8, marker="o", markersize=4, label="validation")
            best = int(np.argmin(held))
            losses.annotate(
                f"best {held[best]:.4g} at step {int(held_steps[best]):,}",
                (held_steps[best], held[best]),
                xytext=(0, 12),
                textcoords="offset points",
                color=ORANGE,
                ha="center",
            )
        if floor is not None:
            losses.axhline(floor, color=GREY, linestyle="--", linewidth=1.2, label=f"floor of the text, {floor:.4f}")
        drawn = np.concatenate([values, held, [] if floor is None else [floor]])
        if len(drawn) and drawn.min() > 0 and drawn.max() / drawn.min() > 10:
            losses.set_yscale("log")
            losses.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            losses.yaxis.set_minor_formatter(NullFormatter())
        losses.set_ylabel("loss (nats a token)")
        losses.legend()
        losses.set_title(title, loc="left", parse_math=False)
        rate_steps, rate = _series(records, "learning_rate")
        rates.plot(rate_steps, rate, color=GREY, linewidth=1.8)
        rates.set_ylim(bottom=0)
        rates.set_ylabel("learning rate")
        rates.set_xlabel("step")
        return save_figure(figure, Path(out), dpi=150)


def plot_attention(model: Model, tokenizer: Tokenizer, text: str, folder: str | Path) -> list[Path]:
    """Draw where each head looks while the model reads ``text``: one PNG a layer, ``attention-layer-1.png`` and on.

    Row t of a map shows how token t shares its attention out; what a decoder may not see is grey. Of a text longer than
    the context the first tokens are shown. ``[MASK]`` in the text is the mask token.

    Raises:
        UserError: an encoder-decoder, an empty text, unknown characters, or a folder that cannot be written.
    """
    looks = read_attention(model, tokenizer, text)
    shown = _shown(len(looks.ids), looks.total)
    labels = [token_label(tokenizer, token) for token in looks.ids]
    return [
        draw_maps(
            weights.float().cpu().numpy(),
            labels,
            Path(folder) / f"attention-layer-{layer}.png",
            title=f"Layer {layer} of {len(looks.maps)}{shown}",
            causal=looks.causal,
        )
        for layer, weights in enumerate(looks.maps, 1)
    ]


def plot_lens(model: Model, tokenizer: Tokenizer, text: str, out: str | Path) -> Path:
    """Draw what each layer of a model would say at each token of ``text``, as a PNG: the likeliest token in each field,
    darker the likelier it is. The top row is what the model says. A long text's first tokens are shown.

    Raises:
        UserError: as :func:`~scratchlm.evaluation.looking.logit_lens`; or ``out`` cannot be written.
    """
    lens = logit_lens(model, tokenizer, text, top=1, most=_MOST_COLUMNS)
    labels = [token_label(tokenizer, token) for token in lens.ids]
    shares = np.array([[guess.best[0][1] for guess in layer] for layer in lens.layers])
    with figure_style():
        figure = Figure(figsize=(1.6 + 1.05 * len(labels), 1.4 + 0.3 * len(shares)), layout="constrained")
        panel = figure.subplots()
        image = panel.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
        for row, layer in enumerate(lens.layers):
            for column, guess in enumerate(layer):
                ((token, share),) = guess.best
                ink = "white" if share > 0.6 else "black"
                said = token_label(tokenizer, token)
                panel.text(column, row, said, ha="center", va="center", fontsize=8.5, color=ink, parse_math=False)
        panel.set_xticks(range(len(labels)), labels, fontsize=8.5, parse_math=False)
        rows = ["embeddings", *(f"layer {number}" for number in range(1, len(shares)))]
        panel.set_yticks(range(len(rows)), rows, fontsize=8.5)
        panel.tick_params(length=0)
        panel.grid(False)
        panel.set_xlabel("… after this token" if lens.next else "… in place of this token")
        figure.colorbar(image, ax=panel, pad=0.01, aspect=30).set_label("probability")
        figure.suptitle(f"What each layer would say{_shown(len(lens.ids), lens.total)}", x=0.01, ha="left", fontsize=13)
        return save_figure(figure, Path(out), dpi=110)


def draw_maps(maps: np.ndarray, labels: Sequence[str], out: Path, *, title: str, causal: bool) -> Path:
    """Draw one layer's heads side by side. maps (H, T, T) rows summing to 1, labels T."""
    heads, length = maps.shape[:2]
    columns = math.ceil(math.sqrt(heads)) if length > 12 else min(heads, 4)
    rows = math.ceil(heads / columns)
    side = max(2.6, 0.165 * length)  # a label needs about a sixth of an inch
    margin = 0.085 * max(map(len, labels)) + 0.25
    with figure_style():
        size = (columns * (side + margin) + 0.9, rows * (side + margin + 0.35) + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        shown = np.where(np.triu(np.ones((length, length), dtype=bool), 1)[None] & causal, np.nan, maps)
        top = float(np.nanmax(shown))
        colours = mpl.colormaps["Blues"].with_extremes(bad="#eeeeee")
        image: Any = None
        for head, panel in enumerate(panels):
            if head >= heads:
                panel.set_axis_off()
                continue
            # Square roots, so that a share of a few per cent, which is much among 64 tokens, can be seen.
            image = panel.imshow(shown[head], cmap=colours, norm=PowerNorm(0.5, vmin=0, vmax=top))
            _label(panel, labels)
            panel.set_title(f"head {head + 1}", fontsize=11)
        panels[0].set_ylabel("this token …")
        panels[0].set_xlabel("… looks at")
        bar = figure.colorbar(image, ax=list(panels), shrink=0.6, pad=0.015, aspect=30)
        bar.set_label("share of attention")
        figure.suptitle(title, x=0.01, ha="left", fontsize=13)
        return save_figure(figure, out, dpi=110)


def _shown(read: int, total: int) -> str:
    return "" if read == total else f" (the first {read} of {total} tokens)"


def token_label(tokenizer: Tokenizer, token: int) -> str:
    """How a token is written beside a map: white space visible, long ones cut, what the font lacks as U+XXXX."""
    text = tokenizer.decode([token])
    if "\ufffd" in text:  # a part of a character
        text = tokenizer.token(token)
    text = _VISIBLE_NAMES.get(text, text)
    if text.strip() != text:
        text = "".join(_VISIBLE_NAMES.get(character, character) for character in text)
    if len(text) > _LONGEST_LABEL:
        text = text[: _LONGEST_LABEL - 1] + "…"
    known = get_font(findfont(FONT)).get_charmap()
    return "".join(character if ord(character) in known else f"U+{ord(character):04X}" for character in text)


def _label(panel: Axes, labels: Sequence[str]) -> None:
    ticks = range(len(labels))
    short = max(map(len, labels)) <= 2
    size = 10 if short else 8.5
    panel.set_xticks(ticks, labels, rotation=0 if short else 90, fontsize=size, parse_math=False)
    panel.set_yticks(ticks, labels, fontsize=size, parse_math=False)
    panel.xaxis.tick_top()
    panel.tick_params(length=0)
    panel.grid(False)
    for spine in panel.spines.values():
        spine.set_visible(False)


def _series(records: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the records that have a finite number under ``key``."""
    pairs = [
        (record["step"], record[key])
        for record in records
        if isinstance(record.get(key), int | float) and math.isfinite(record[key])
    ]
    steps, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def _smoothed(values: np.ndarray) -> np.ndarray:
    """The mean of each point's neighbourhood, about a thirtieth of the curve wide; it does not lag behind the curve."""
    window = np.ones(len(values) // 30 | 1)
    totals, counts = np.convolve(values, window, "same"), np.convolve(np.ones(len(values)), window, "same")
    return np.asarray(totals / counts)


@contextmanager
def figure_style() -> Iterator[None]:
    """Our look, whatever the user's matplotlib settings say."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def save_figure(figure: Figure, out: Path, *, dpi: int) -> Path:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=dpi, facecolor="white")
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror or error}); choose another folder") from error
    return out
