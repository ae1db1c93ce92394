"""A sheet to draw diagrams on: boxes, wires, forks and small matrices in one visual style, measured in inches."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path as Outline
from PIL import Image
from torch import Tensor

COLOURS = {
    "embedding": "#FCE4D6",
    "attention": "#CFE3F7",
    "cross": "#E3D4F0",
    "ffn": "#D5ECD4",
    "norm": "#FFF3C4",
    "head": "#DDE3EA",
    "softmax": "#CDECEA",
}
INK, MUTED, RESIDUAL, PAPER, FRAME = "#22303C", "#66727E", "#C2632B", "#FFFFFF", "#F6F7F9"
LINE = 1.3

Point = tuple[float, float]


class Sheet:
    """Draw in any order; :meth:`save` cuts the sheet to what was drawn."""

    def __init__(self) -> None:
        self.figure = Figure(facecolor=PAPER)
        self.axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self.axes.set_axis_off()
        self.axes.set_aspect("equal")
        self._points: list[Point] = []

    def box(self, x: float, bottom: float, width: float, text: str, kind: str) -> float:
        """A box centred on ``x``: the first line is its title, the rest notes. Returns the height of its top."""
        title, *notes = text.split("\n")
        height = 0.4 + 0.165 * len(notes)
        left = x - width / 2
        self.axes.add_patch(
            FancyBboxPatch(
                (left, bottom), width, height, boxstyle="round,pad=0,rounding_size=0.09",
                facecolor=COLOURS[kind], edgecolor=INK, linewidth=1.0, zorder=4,
            )
        )  # fmt: skip
        self._see((left, bottom), (left + width, bottom + height))
        first = bottom + height - 0.2
        self.text(x, first, title, size=11, bold=True)
        for line, note in enumerate(notes, start=1):
            self.text(x, first - 0.035 - 0.165 * line, note, size=8.5, muted=True)
        return bottom + height

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float,
        align: str = "center",
        bold: bool = False,
        muted: bool = False,
    ) -> None:
        self.axes.text(
            x, y, words, fontsize=size, ha=align, va="center", zorder=6,
            color=MUTED if muted else INK, fontweight="bold" if bold else "normal",
        )  # fmt: skip
        reach = 0.0078 * size * len(words.replace("$", "").replace("\\top", "T"))
        before, after = {"center": (0.5, 0.5), "left": (0.0, 1.0), "right": (1.0, 0.0)}[align]
        self._see((x - before * reach, y - 0.1), (x + after * reach, y + 0.1))

    def wire(self, x: float, bottom: float, top: float, *, head: bool = True) -> float:
        """A straight wire upwards. Returns the height of its end."""
        self.arrow([(x, bottom), (x, top)], head=head)
        return top

    def arrow(self, points: Sequence[Point], *, head: bool = True, residual: bool = False) -> None:
        """A wire along ``points`` with rounded corners; ``residual`` gives it the residual stream's colour."""
        colour = RESIDUAL if residual else INK
        self.axes.add_patch(
            FancyArrowPatch(
                path=_rounded(points), arrowstyle="-|>" if head else "-", mutation_scale=10, color=colour,
                linewidth=LINE, shrinkA=0, shrinkB=0, zorder=3, joinstyle="round", capstyle="butt",
            )
        )  # fmt: skip
        self._see(*points)

    def link(self, start: Point, end: Point) -> None:
        """A dotted line from a step to the picture of its result."""
        self.axes.plot(*zip(start, end, strict=True), color=MUTED, linewidth=0.9, linestyle=(0, (1, 3)), zorder=2)

    def dot(self, x: float, y: float) -> None:
        """Where a wire branches."""
        self.axes.add_patch(Circle((x, y), 0.035, color=RESIDUAL, zorder=5))

    def plus(self, x: float, bottom: float) -> float:
        """An addition. Returns the height of its top."""
        centre = bottom + 0.14
        self.axes.add_patch(Circle((x, centre), 0.14, facecolor=PAPER, edgecolor=INK, linewidth=LINE, zorder=4))
        for end in ((0.08, 0.0), (0.0, 0.08)):
            self.axes.plot(
                [x - end[0], x + end[0]], [centre - end[1], centre + end[1]], color=INK, linewidth=LINE, zorder=5
            )
        return bottom + 0.28

    def badge(self, x: float, y: float, number: int) -> None:
        """A step's number."""
        self.axes.add_patch(Circle((x, y), 0.15, facecolor=INK, edgecolor=PAPER, linewidth=1.2, zorder=6))
        self.axes.text(
            x, y - 0.005, str(number), fontsize=9, ha="center", va="center", color=PAPER, weight="bold", zorder=7
        )
        self._see((x - 0.15, y - 0.15), (x + 0.15, y + 0.15))

    def frame(self, left: float, bottom: float, right: float, top: float) -> None:
        """The ground on which a repeated block stands."""
        self.axes.add_patch(
            FancyBboxPatch(
                (left, bottom), right - left, top - bottom, boxstyle="round,pad=0,rounding_size=0.15",
                facecolor=FRAME, edgecolor=MUTED, linewidth=1.1, zorder=1,
            )
        )  # fmt: skip
        self._see((left, bottom), (right, top))

    def matrix(
        self, left: float, bottom: float, side: float, values: Tensor, rows: Sequence[str], *,
        columns: Sequence[str] = (), shares: bool = False,
    ) -> None:  # fmt: skip
        """A square matrix of (T, T) values as coloured cells with their numbers; row 0 is on top.

        ``shares`` are between 0 and 1; other values are coloured by size around 0, and minus infinity is left blank.
        """
        cell = side / len(rows)
        largest = 1.0 if shares else float(values[values.isfinite()].abs().max())
        for r, name in enumerate(rows):
            y = bottom + side - (r + 1) * cell
            self.text(left - 0.08, y + cell / 2, name, size=7.5, align="right", muted=True)
            for c in range(len(rows)):
                value = float(values[r, c])
                shown = math.isfinite(value)
                colour = _blend(value / largest) if shown else "#ECEEF0"
                self.axes.add_patch(
                    Rectangle(
                        (left + c * cell, y), cell, cell, facecolor=colour, edgecolor=PAPER, linewidth=1, zorder=3
                    )
                )
                digits = f"{value:.2f}" if shares else f"{round(value, 1) + 0.0:.1f}"
                self.axes.text(
                    left + (c + 0.5) * cell, y + cell / 2, (digits if shown else "−∞").replace("-", "−"), fontsize=6.5,
                    ha="center", va="center", color=PAPER if shown and abs(value / largest) > 0.75 else INK, zorder=4,
                )  # fmt: skip
        for c, name in enumerate(columns):
            self.axes.text(
                left + (c + 0.5) * cell, bottom + side + 0.06, name, fontsize=7.5, rotation=45, ha="left", va="bottom",
                color=MUTED, rotation_mode="anchor",
            )  # fmt: skip
        self._see((left, bottom), (left + side, bottom + side + 0.1))

    def save(self, path: str | Path, margin: float = 0.25) -> Path:
        """Write the file; its suffix gives the format. Missing folders are made."""
        path = Path(path)
        xs, ys = zip(*self._points, strict=True)
        left, right, bottom, top = min(xs) - margin, max(xs) + margin, min(ys) - margin, max(ys) + margin
        self.axes.set_xlim(left, right)
        self.axes.set_ylim(bottom, top)
        self.figure.set_size_inches(right - left, top - bottom)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() != ".png":
            self.figure.savefig(path)
            return path
        drawn = io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=120)
        # A few flat colours need no more than a palette, and the file is a third of the size.
        picture = Image.open(drawn).convert("RGB")  # Pillow comes with matplotlib
        picture.quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)
        return path

    def _see(self, *points: Point) -> None:
        self._points.extend(points)


def _blend(share: float) -> str:
    """White at 0, blue towards 1, orange towards -1."""
    end = (44, 104, 164) if share >= 0 else (194, 99, 43)
    return "#" + "".join(f"{round(255 + (channel - 255) * min(abs(share), 1.0)):02x}" for channel in end)


def _rounded(points: Sequence[Point], radius: float = 0.09) -> Outline:
    """A path along ``points`` whose corners are quadratic curves."""
    vertices, codes = [points[0]], [Outline.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        for near, code in ((before, Outline.LINETO), (after, Outline.CURVE3)):
            length = math.dist(near, corner)
            share = min(radius, length / 2) / length if length else 0.0
            point = (corner[0] + (near[0] - corner[0]) * share, corner[1] + (near[1] - corner[1]) * share)
            if code == Outline.CURVE3:
                vertices.append(corner)
                codes.append(Outline.CURVE3)
            vertices.append(point)
            codes.append(code)
    vertices.append(points[-1])
    codes.append(Outline.LINETO)
    return Outline(vertices, codes)
