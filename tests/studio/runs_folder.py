"""Run folders as trainings leave them, with weights where a test needs these."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from scratchlm.checkpoints.run import RunFolder

CONFIG: dict[str, Any] = {
    **{"vocab_size": 32, "architecture": "decoder", "context": 16},
    **{"width": 8, "layers": 1, "heads": 2},
}


def record(step: int, rate: float = 0.01, **more: Any) -> dict[str, Any]:
    return {
        **{"step": step, "loss": 1 + 3 * math.exp(-rate * step), "learning_rate": 1e-3, "gradient_norm": 0.5},
        **{"tokens_per_second": 1000.0, "seconds": 0.1 * step, **more},
    }


def write_run(
    folder: Path, steps: int = 200, *, rate: float = 0.01, finished: bool = True, **settings: Any
) -> RunFolder:
    """A run without weights that has logged every tenth step, and measured every fiftieth on what is held out."""
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    run.write_description({"preset": "tinygpt", "model": CONFIG, "tokenizer": "char", "data": {"name": "rumi"}})
    run.write_settings({"steps": 200, "batch_size": 8, "learning_rate": 1e-3, "optimizer": "adamw", **settings})
    for step in range(10, steps + 1, 10):
        held = {"validation_loss": 1.2 + 3 * math.exp(-rate * step)} if step % 50 == 0 else {}
        run.append_metrics(record(step, rate, **held))
    if finished:
        run.write_card(f"# {folder.name}\n\nA decoder.\n\n| | |\n| --- | --- |\n| ended | finished |\n")
    return run


def write_report(folder: Path) -> None:
    samples = [{"prompt": "Who?", "reference": "Ada.", "output": "Bob."}]
    before, after = {"perplexity": 9.5, "samples": samples}, {"perplexity": 4.25, "samples": []}
    report = {"name": "m", "before": before, "after": after}
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
