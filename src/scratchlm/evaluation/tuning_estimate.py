"""What a fine-tuning would train and take: memory, disk and time, from a few real passes on this machine."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from scratchlm.adapters import trainable
from scratchlm.adapters.run import AdapterRun
from scratchlm.data import Batch
from scratchlm.evaluation.continuations import choose_prompts, continue_prompts
from scratchlm.evaluation.tuned import peak_memory, reset_peak_memory
from scratchlm.models import Decoder, evaluating
from scratchlm.training import Question, Reporter, Tuning
from scratchlm.training.contrast import Contrast
from scratchlm.training.distributed import World, choose_device
from scratchlm.training.estimate import available_memory, existing_folder, size
from scratchlm.training.finetune import prepare
from scratchlm.training.loop import Trainer
from scratchlm.training.progress import clock

PASSES = 3
"""Passes that are timed, after one that sets up memory and threads."""
SAMPLE_PROMPTS, SAMPLE_TOKENS = 8, 8
GROWTH = 1.04
"""A process's memory creeps up over its first hundred steps, by what its allocator cannot put together again."""


@dataclass(frozen=True)
class TuningEstimate:
    """What a fine-tuning would take on this machine."""

    model: str
    method: str
    data: str
    train_rows: int
    held_out_rows: int
    steps: int
    parameters: int
    trained_parameters: int
    trained: dict[str, int]
    """Parameters that are trained, by their names with * for the number of a block."""
    memory_bytes: float
    """The process's peak; on a GPU, the GPU's."""
    memory_available_bytes: float
    disk_bytes: float
    """Of the run folder at its largest: two checkpoints for a moment, and the weights."""
    disk_free_bytes: float
    seconds: float | None
    """Of the training steps; None where the model does not fit."""
    evaluation_seconds: float | None
    """Of the validations, and of the answers before and after."""
    tokens_per_second: float | None
    fits: bool
    problem: str
    """What does not fit, in words; empty where all does."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate_tuning(
    question: Question, out: str | Path, *, settings: Mapping[str, Any] | None = None, reporter: Reporter | None = None
) -> TuningEstimate:
    """Measure what :func:`scratchlm.training.finetune` would take with the same arguments; writes nothing.

    Raises:
        UserError: as ``finetune`` would for the same arguments.
    """
    given = dict(settings or {})
    device = choose_device(str(given.get("device", "auto")))
    reset_peak_memory(device)
    place = World(device)
    tuning = prepare(question, AdapterRun(out, question.model), given, reporter or Reporter(), place)
    trained = tuning.trained_parameters
    needed = peak_memory(device) + 12.0 * trained  # their gradients, and the two that the optimizer keeps
    available = available_memory(device)
    disk = _disk(tuning)
    free = float(shutil.disk_usage(existing_folder(Path(out))).free)
    seconds = evaluation = speed = None
    problem = ""
    if 12.0 * trained > available:
        problem = f"it needs more than {size(needed)} of memory, of which {size(available)} are free; use --method lora"
    else:
        per_token, per_step, per_judged = _times(tuning, place)
        plan, config = tuning.task.train, tuning.config
        some = min(config.steps, plan.steps_per_epoch)  # every epoch has the same rows
        tokens = sum(plan.sizes(step)[1] for step in range(some)) * config.steps / some
        seconds = tokens * per_token + config.steps * per_step
        speed = tokens / seconds
        evaluation = _evaluation_seconds(tuning, per_judged)
        needed = GROWTH * peak_memory(device)
        if needed - peak_memory(device) > available:
            problem = f"it needs about {size(needed)} of memory; lower pass_tokens, or use --method lora"
    if not problem and disk > free:
        problem = f"the run folder needs {size(disk)}, of which {size(free)} are free; choose another disk for --out"
    return TuningEstimate(
        question.model,
        question.method,
        question.data,
        tuning.train.count,
        0 if tuning.held_out is None else tuning.held_out.count,
        tuning.config.steps,
        tuning.parameters,
        trained,
        _grouped(tuning),
        needed,
        available,
        disk,
        free,
        seconds,
        evaluation,
        speed,
        not problem,
        problem,
    )


def show_tuning_estimate(found: TuningEstimate) -> None:
    """Print an estimate for people."""
    table = Table(title=f"{found.model} by {found.method} on {found.data}", title_justify="left")
    table.add_column("")
    table.add_column("needs", justify="right")
    table.add_column("there is", justify="right")
    table.add_row("trained parameters", f"{found.trained_parameters:,}", f"{found.parameters:,}")
    table.add_row("memory", size(found.memory_bytes), size(found.memory_available_bytes))
    table.add_row("disk", size(found.disk_bytes), size(found.disk_free_bytes))
    table.add_row("steps", f"{found.steps:,}", "")
    if found.seconds is not None and found.evaluation_seconds is not None:
        table.add_row("training", clock(found.seconds), "")
        table.add_row("evaluation", clock(found.evaluation_seconds), "")
        table.add_row("tokens a second", f"{found.tokens_per_second:,.0f}", "")
    Console(file=sys.stdout).print(table)
    print("trained: " + ", ".join(f"{name} ({count:,})" for name, count in found.trained.items()))
    if found.problem:
        print(found.problem)


def _grouped(tuning: Tuning) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, parameter in trainable(tuning.model).items():
        pattern = ".".join("*" if part.isdecimal() else part for part in name.split("."))
        found[pattern] = found.get(pattern, 0) + parameter.numel()
    return found


def _disk(tuning: Tuning) -> float:
    trained, full = 4.0 * tuning.trained_parameters, tuning.question.method == "full"
    weights = 4.0 * tuning.parameters if full else trained
    checkpoint = 3 * trained  # the weights, and the two that AdamW keeps of each
    return 2 * checkpoint + weights + 8e6


def _times(tuning: Tuning, place: World) -> tuple[float, float, float]:
    """Seconds of a training pass for each token, of a step beside its passes, and of a held-out token."""
    trainer = Trainer(tuning.model, tuning.task, tuning.config, None, place, Reporter(quiet=True))
    if isinstance(tuning.task, Contrast):
        return _times_of_steps(trainer, tuning.task)
    batches = sorted(
        (batch for step in range(4) for batch in tuning.task.train.step(step % tuning.task.train.steps_per_epoch)),
        key=lambda batch: -batch.ids.numel(),
    )
    # The largest first: it decides the peak of memory. Then from the middle, which is what most are like.
    middle = len(batches) // 2
    first, *timed = [batches[0], *(batches[(middle + n) % len(batches)] for n in range(PASSES))]
    _timed_pass(trainer, first)
    taken = [_timed_pass(trainer, batch) for batch in timed]
    per_token = sum(taken) / sum(_tokens(batch) for batch in timed)
    trainer.update()
    _timed_pass(trainer, first)  # the peak is here, with the optimizer's state beside the gradients
    per_step = _clocked(place.device, trainer.update)
    with torch.no_grad(), evaluating(tuning.model), trainer.autocast():
        judged = _clocked(place.device, lambda: tuning.task.loss(tuning.model, timed[0].to(place.device)))
    return per_token, per_step, judged / _tokens(timed[0])


def _times_of_steps(trainer: Trainer, task: Contrast) -> tuple[float, float, float]:
    """The same where a step's passes are not each for itself, so that only whole steps can be timed."""
    device, steps = trainer.place.device, min(PASSES + 1, task.train.steps_per_epoch, trainer.config.steps)
    largest, *others = sorted(range(steps), key=lambda step: -task.train.sizes(step)[1])
    seconds = tokens = 0.0
    for number, step in enumerate([largest, *others, largest]):
        trainer.state.step = step
        taken = _clocked(device, trainer.step)
        if number:  # the first sets up memory, the last finds the optimizer's state there
            seconds, tokens = seconds + taken, tokens + trainer.tokens
    judged = next(iter(task.validation() or ()), None)
    if judged is None:
        return seconds / tokens, 0.0, 0.0
    with torch.no_grad(), evaluating(trainer.model), trainer.autocast():
        alone = _clocked(device, lambda: task.loss(trainer.model, judged.to(device)))
    return seconds / tokens, 0.0, alone / _tokens(judged)


def _timed_pass(trainer: Trainer, batch: Batch) -> float:
    return _clocked(trainer.place.device, lambda: trainer.learn(batch, batch.label_count(), last=True))


def _clocked(device: torch.device, work: Any) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _tokens(batch: Batch) -> int:
    return batch.ids.numel() if batch.documents is None else int((batch.documents >= 0).sum())


def _evaluation_seconds(tuning: Tuning, per_judged: float) -> float:
    """Of the validations of a run, and of the figures before and after."""
    held, records, config = tuning.held_out, tuning.splits.validation, tuning.config
    if held is None or records is None:
        return 0.0
    validations = 2 + -(-config.steps // config.evaluation_interval)
    seconds = validations * per_judged * len(held.ids)
    prompts, most = tuning.tuning.eval_prompts, tuning.tuning.eval_new_tokens
    if held.task in ("classify", "tag", "embed") or not prompts:
        return seconds
    sample = choose_prompts(tuning.tokenizer, records, held, SAMPLE_PROMPTS, SAMPLE_TOKENS, 0, 0.5)
    if not sample:
        return seconds
    assert isinstance(tuning.model, Decoder)
    began = time.perf_counter()
    continue_prompts(tuning.model, tuning.tokenizer, sample, SAMPLE_TOKENS)
    each = (time.perf_counter() - began) / (len(sample) * SAMPLE_TOKENS)
    return seconds + 2 * each * min(prompts, len(held)) * most
