"""The demo: both tiny models of the tutorial trained, measured, used and drawn, beside the tutorial's tables."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from scratchlm import api
from scratchlm.errors import UserError
from scratchlm.evaluation.report import comparison_table

ROWS = {"tinybert": 16, "tinygpt": 12}
"""Rows in a batch: fewer than the recipes', so that all is done in a minute or so. Both still learn their texts."""
SENTENCES = (
    "Rumi was [MASK] on 30 September 1207, most",
    "his father died in 1231, Rumi [MASK] a",
    "Muslims, Christians and Jews [MASK] together behind his",
)
"""Eight words each, a window of TinyBERT, from its text."""
LOOKED_AT = {"tinybert": SENTENCES[0], "tinygpt": "Jalāl al-Dīn"}
"""For each preset the text whose attention is drawn."""


@dataclass
class Demo:
    """What was trained, and what came of it."""

    out: Path
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For each preset what ``scratchlm eval`` says of it, and what it did: ``sample`` and ``fills``."""
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
    for preset, looked_at in LOOKED_AT.items():
        model = api.train(preset, out=out / preset, batch_size=ROWS[preset])
        _note("measuring, on every window ...")
        demo.results[preset] = model.evaluate()
        if preset == "tinybert":
            demo.results[preset]["fills"] = [
                {"text": text, "candidates": dict(model.fill(text, top_k=3)[0])} for text in SENTENCES
            ]
        _note("drawing ...")
        demo.figures += api.plot(model.name, out / "figures" / preset, text=looked_at)
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
    for fill in demo.results["tinybert"]["fills"]:
        best = ", ".join(f"{token} {share:.1%}" for token, share in fill["candidates"].items())
        print(f"  {fill['text']}\n    -> {best}")
    print(f"\n{len(demo.figures)} figures in {demo.out / 'figures'}; the runs: {demo.out / 'tinybert'}, ", end="")
    print(f"{demo.out / 'tinygpt'}\nIt took {demo.seconds:.0f} seconds. Go on with:\n")
    program = _program()
    print(f'  {program} generate {demo.out / "tinygpt"} --prompt "Rumi"')
    print(f"  {program} train tinygpt --data YOUR.txt --out runs/yours")


def _program() -> str:
    """What to type: the bare name where the shell finds it, else the path into the environment that runs this."""
    return "scratchlm" if shutil.which("scratchlm") else os.path.relpath(Path(sys.executable).parent / "scratchlm")


def _make_room(out: Path) -> None:
    """Remove an earlier demo's runs, and nothing else."""
    folders = [out / preset for preset in LOOKED_AT if (out / preset).exists()]
    for folder in folders:
        if not (folder / "scratchlm.json").exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} holds something that is no run of an earlier demo; choose another folder: --out")
    for folder in folders:
        shutil.rmtree(folder)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
