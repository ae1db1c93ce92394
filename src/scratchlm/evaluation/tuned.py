"""What a fine-tuning has done: its figures before and after, in one report."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from scratchlm.adapters import give_memory_back
from scratchlm.checkpoints.files import disk_errors, write_text
from scratchlm.checkpoints.headers import read_json
from scratchlm.data import Examples
from scratchlm.errors import UserError
from scratchlm.evaluation.classification import evaluate_labels, plot_confusion
from scratchlm.evaluation.comparison import comparison_table, plot_comparison
from scratchlm.evaluation.continuations import evaluate_examples
from scratchlm.evaluation.ranking import evaluate_vectors
from scratchlm.evaluation.report import to_json
from scratchlm.models import Seq2Seq, evaluating
from scratchlm.training import FitResult, Reporter, Tuning

REPORT = "report.json"
Report = dict[str, Any]


class Measured:
    """Measures a tuning on its held-out rows, before and after, and leaves ``report.json`` in its run."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter

    def __call__(self, tuning: Tuning, fit: FitResult | None) -> None:
        """Called before (``fit`` is None) and after the training. What a stopped run has measured is not done again."""
        path = tuning.run.path / REPORT
        report: Report = read_json(path) if path.exists() else {}
        if fit is None and "before" not in report:
            report = {**_heading(tuning), "before": self.figures(tuning, "before")}
            give_memory_back()
        elif fit is not None:
            report |= _effort(tuning, fit)  # before the figures, whose memory is not the training's
            report["after"] = self.figures(tuning, "after")
        cure = "free some space, and go on with --resume"
        with disk_errors(str(path), cure):
            write_text(path, json.dumps(json.loads(to_json(report)), indent=1, ensure_ascii=False) + "\n")
        if fit is not None and report["after"]:
            self.draw(tuning, report, tuning.run.path / "figures")

    def draw(self, tuning: Tuning, report: Report, folder: Path) -> None:
        """The pictures of a finished report."""
        if "confusion" in report["after"]:
            plot_confusion(report["after"]["confusion"], tuning.train.labels, folder / "confusion.png")
        plot_comparison([report], folder / "before-after.png")

    def figures(self, tuning: Tuning, when: str) -> dict[str, Any]:
        """What there is to say of the model as it is now; empty where nothing is held out."""
        records, examples = tuning.splits.validation, tuning.held_out
        if records is None or examples is None:
            return {}
        if examples.task in ("classify", "tag"):
            return label_figures(tuning.model, examples)
        if tuning.start.pooling is not None:
            assert not isinstance(tuning.model, Seq2Seq)
            return evaluate_vectors(tuning.model, examples, tuning.start.pooling)
        with evaluating(tuning.model):
            return evaluate_examples(
                tuning.model,
                tuning.tokenizer,
                records,
                examples,
                prompts=tuning.tuning.eval_prompts,
                max_new_tokens=tuning.tuning.eval_new_tokens,
                note=lambda text: self.reporter.note(f"{when}: {text}"),
            )


def label_figures(model: Any, examples: Examples) -> dict[str, Any]:
    """:func:`~scratchlm.evaluation.classification.evaluate_labels`, the entities' figures beside the others."""
    figures = evaluate_labels(model, examples)
    entity = figures.get("entity") or {}
    return figures | {f"entity_{name}": entity[name] for name in ("precision", "recall", "f1") if name in entity}


def read_report(folder: Path) -> Report:
    """The report of a run.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / REPORT
    if not path.exists():
        raise UserError(f"{folder} has no {REPORT}; give the --out of a finished scratchlm finetune")
    return read_json(path)


def show_report(reports: list[Report]) -> None:
    """Print the table of one run, or of several side by side."""
    from rich.console import Console

    Console().print(comparison_table(reports))


def _heading(tuning: Tuning) -> Report:
    question = tuning.question
    return {
        "name": tuning.run.path.name,
        "model": question.model,
        "method": question.method,
        "verb": tuning.goal.verb,
        "task": tuning.splits.train.task,
        "data": question.data,
        "train_rows": tuning.train.count,
        "held_out_rows": 0 if tuning.held_out is None else tuning.held_out.count,
        "parameters": tuning.parameters,
        "trained_parameters": tuning.trained_parameters,
    }


def _effort(tuning: Tuning, fit: FitResult) -> Report:
    """What the training took."""
    rows = fit.steps * tuning.task.train.rows / tuning.task.period
    weights = [tuning.run.path / name for name in ("adapter_model.safetensors", "model.safetensors")]
    return {
        "steps": fit.steps,
        "loss": fit.loss,
        "best_loss": fit.best_loss,
        "best_step": fit.best_step,
        "stopped": fit.stopped,
        "seconds": fit.seconds,
        "rows_per_second": rows / fit.seconds if fit.seconds else None,
        "tokens_per_second": fit.tokens_per_second,
        "peak_memory_bytes": peak_memory(next(tuning.model.parameters()).device),
        "saved_bytes": next(path.stat().st_size for path in weights if path.exists()),
    }


def peak_memory(device: torch.device) -> int:
    """The most memory, in bytes, that this process has held; on a GPU, the GPU's."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass  # no Linux
    memory: Any = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return int(memory.peak_wset)
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak of what went before, where the system can (Linux, and on a GPU)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
