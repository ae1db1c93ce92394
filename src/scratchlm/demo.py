"""The demo: both tiny models of the tutorial trained, measured, used and drawn, beside the tutorial's tables."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from scratchlm import api
from scratchlm.data import corpus_text
from scratchlm.errors import UserError
from scratchlm.evaluation.report import comparison_table

PRESETS = ("tinybert", "tinygpt")
SENTENCES = (
    "Rumi was [MASK] on 30 September 1207, most",
    "his father died in 1231, Rumi [MASK] a",
    "Muslims, Christians and Jews [MASK] together behind his",
)
"""Eight words each, a window of TinyBERT, from its text."""
PROMPT, NEW_TOKENS = "Jalāl ", 400
"""What the tutorial's section 4.4.1 asks its model."""


@dataclass
class Demo:
    """What was trained, and what came of it."""

    out: Path
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For each preset what ``scratchlm eval`` says of it, and its ``fills``."""
    fills: list[tuple[str, list[list[tuple[str, float]]]]] = field(default_factory=list)
    figures: list[Path] = field(default_factory=list)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """One object for JSON: a preset's figures under its name, and the ``seconds`` that all took."""
        return {**self.results, "figures": [str(path) for path in self.figures], "seconds": self.seconds}


def run_demo(out: Path) -> Demo:
    """Train both models into ``out`` (an earlier demo's runs there are replaced), measure, use and draw them.

    Raises:
        UserError: ``out`` holds something else, or cannot be written.
        KeyboardInterrupt: the user stopped a training.
    """
    began = time.perf_counter()
    demo = Demo(out)
    _make_room(out)
    for preset in PRESETS:
        model = api.train(preset, out=out / preset)
        if model.fit is not None and model.fit.stopped == "interrupted":
            raise KeyboardInterrupt
        _note("measuring, on every window ...")
        demo.results[preset] = model.evaluate()
        if preset == "tinybert":
            demo.fills = [(text, model.fill(text, top_k=3)) for text in SENTENCES]
        _note("drawing ...")
        window = SENTENCES[0] if preset == "tinybert" else corpus_text("rumi").strip()[:32]
        demo.figures += api.plot(model.run.path, out / "figures" / preset, text=window)
        demo.figures += api.plot(preset, out / "figures", vocab_size=model.tokenizer.vocab_size)
    demo.seconds = time.perf_counter() - began
    return demo


def show_demo(demo: Demo) -> None:
    """Both tables, what the models wrote, and where everything lies."""
    console = Console()
    for preset, figures in demo.results.items():
        console.print()
        console.print(comparison_table(preset, figures))
    print("\nTinyGPT writes (from 'Jalāl ', temperature 0.8):\n")
    print(demo.results["tinygpt"]["sample"].strip())
    print("\nTinyBERT fills the gaps:\n")
    for text, gaps in demo.fills:
        best = ", ".join(f"{token} {share:.1%}" for token, share in gaps[0])
        print(f"  {text}\n    -> {best}")
    print(f"\n{len(demo.figures)} figures in {demo.out / 'figures'}; the runs: {demo.out / 'tinybert'}, ", end="")
    print(f"{demo.out / 'tinygpt'}\nIt took {demo.seconds:.0f} seconds. Go on with:\n")
    print(f'  scratchlm generate {demo.out / "tinygpt"} --prompt "Rumi"')
    print("  scratchlm train tinygpt --data YOUR.txt --out runs/yours")


def _make_room(out: Path) -> None:
    """Remove an earlier demo's runs, and nothing else."""
    for preset in PRESETS:
        folder = out / preset
        if not folder.exists():
            continue
        if folder.is_dir() and (folder / "scratchlm.json").exists():
            shutil.rmtree(folder)
        elif not folder.is_dir() or any(folder.iterdir()):
            raise UserError(f"{folder} holds something that is no run of an earlier demo; choose another folder: --out")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
