"""What a training would take: parameters, memory, disk and time, from a few real steps on this machine."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from scratchlm.data import resolve_source
from scratchlm.data.chunks import read_text
from scratchlm.errors import UserError
from scratchlm.models import build_model
from scratchlm.models.block import recompute_blocks
from scratchlm.training.config import TrainConfig
from scratchlm.training.distributed import World, choose_device
from scratchlm.training.loop import Trainer
from scratchlm.training.pretrain import Plan, make_plan, new_model
from scratchlm.training.progress import Reporter, clock
from scratchlm.training.recipes import recipe
from scratchlm.training.settings import split_settings

SAMPLE_BYTES = 16_000_000
"""Of a larger text only so much is tokenised for an estimate; sizes are scaled up."""
STEPS = 3
LONGEST_STEP = 2.0
"""Seconds: where a whole step would take longer, it is judged by steps of fewer rows."""
PROCESS_BYTES = 100e6
"""What Python and PyTorch take beyond the present, once they work (allocators, thread stacks, logs)."""


@dataclass(frozen=True)
class Estimate:
    """What a training would take on this machine."""

    preset: str
    data: str
    parameters: int
    memory_bytes: float
    """The process's peak."""
    memory_available_bytes: float
    disk_bytes: float
    """Of the run folder at its largest: two checkpoints for a moment, the weights and the token ids."""
    disk_free_bytes: float
    seconds: float | None
    """Training and validation; None where not even one step fits."""
    step_seconds: float | None
    tokens_per_second: float | None
    fits: bool
    problem: str
    """What does not fit, in words; empty where all does."""
    suggestion: dict[str, int]
    """Settings with which it would fit, by name; empty where it fits, or where none was found."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate(
    preset: str, data: str | Path | None, out: str | Path, *, settings: Mapping[str, Any] | None = None
) -> Estimate:
    """Measure what :func:`scratchlm.training.train` would take with the same arguments; writes nothing into ``out``.

    Raises:
        UserError: as ``train`` would for the same arguments.
    """
    model_settings, train_settings = split_settings(settings or {}, "settings")
    chosen = recipe(preset, **train_settings)
    name = chosen.data(data)
    with tempfile.TemporaryDirectory(prefix="scratchlm-estimate-") as folder:
        text, scale = _sample(name, Path(folder), preset)
        plan = make_plan(preset, text, Path(folder), chosen.train, model_settings, Reporter(quiet=True))
        return _measure(plan, name, Path(out), scale)


def show_estimate(found: Estimate) -> None:
    """Print an estimate for people."""
    table = Table(title=f"{found.preset} on {found.data}: what training would take", title_justify="left")
    table.add_column("")
    table.add_column("needs", justify="right")
    table.add_column("there is", justify="right")
    table.add_row("parameters", f"{found.parameters:,}", "")
    table.add_row("memory", size(found.memory_bytes), size(found.memory_available_bytes))
    table.add_row("disk", size(found.disk_bytes), size(found.disk_free_bytes))
    if found.seconds is not None and found.step_seconds is not None and found.tokens_per_second is not None:
        table.add_row("time", clock(found.seconds), "")
        table.add_row("a step", f"{found.step_seconds * 1000:,.0f} ms", "")
        table.add_row("tokens a second", f"{found.tokens_per_second:,.0f}", "")
    Console(file=sys.stdout).print(table)
    if found.problem:
        print(found.problem)
    if found.suggestion:
        print("this would fit: " + " ".join(f"--set {key}={value}" for key, value in found.suggestion.items()))


def size(count: float) -> str:
    """``1500000`` -> ``1.5 MB``."""
    for limit, suffix in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= limit:
            return f"{count / limit:,.1f} {suffix}"
    return f"{count / 1e3:,.0f} kB"


def _sample(name: str, folder: Path, preset: str) -> tuple[str, float]:
    """The text to tokenise, and how many times as much there is in truth."""
    if preset == "transformer":
        return name, 1.0
    source = resolve_source(name)
    if source.size <= SAMPLE_BYTES:
        return name, 1.0
    sample, taken = folder / "sample.txt", 0
    with sample.open("w", encoding="utf-8") as file:
        for document in source.documents:
            for chunk in read_text(document.origin):
                file.write(chunk)
                taken += len(chunk.encode())
                if taken >= SAMPLE_BYTES:
                    return str(sample), source.size / taken
    return str(sample), source.size / max(1, taken)


def _measure(plan: Plan, name: str, out: Path, scale: float) -> Estimate:
    config = plan.train
    device = choose_device(config.device)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build_model(plan.model).parameters())
    states = 2 if config.optimizer == "adamw" else 1.5
    fixed = 4.0 * parameters * (2 + states)  # weights, gradients, and what the optimizer keeps
    before = _used(device)
    available = available_memory(device)
    tokens = plan.sizes.get("train_tokens", 0) + plan.sizes.get("validation_tokens", 0)
    token_bytes = tokens * scale * plan.tokenizer.dtype.itemsize
    disk = 4.0 * parameters * (1 + 2 * (1 + states)) + token_bytes + 1e6
    free = float(shutil.disk_usage(existing_folder(out)).free)
    memory, step_seconds, rows = before + PROCESS_BYTES + fixed, None, config.batch_size
    per_row = 0.0
    if fixed < available:
        try:
            per_row = _activation_bytes(plan, device)
        except (MemoryError, torch.OutOfMemoryError):
            per_row = available
        # Backward holds the gradient of an activation beside the activations themselves, here and there.
        memory += 1.1 * per_row * config.batch_size
        rows = min(config.batch_size, int((available - PROCESS_BYTES - fixed) / max(1.0, 1.1 * per_row)))
        if rows >= 1:
            step_seconds = _step_seconds(plan, device, rows) * config.batch_size / rows
    problem, suggestion = "", {}
    if rows < config.batch_size or fixed >= available:
        problem = f"it needs about {size(memory)} of memory, of which {size(available)} are free"
        if rows >= 1 and fixed < available:
            suggestion = _smaller(config, rows)
        else:
            problem += "; not even one row fits: choose a smaller model (fewer layers, less width) or a shorter context"
    elif disk > free:
        problem = f"the run folder needs {size(disk)}, of which {size(free)} are free; choose another disk for --out"
    seconds = speed = None
    if step_seconds is not None:
        seconds = step_seconds * config.steps + _validation_seconds(plan, step_seconds, scale)
        speed = config.batch_size * config.accumulation * plan.model.context / step_seconds
    return Estimate(
        plan.preset,
        name,
        parameters,
        memory,
        available,
        disk,
        free,
        seconds,
        step_seconds,
        speed,
        not problem,
        problem,
        suggestion,
    )


def _smaller(config: TrainConfig, rows: int) -> dict[str, int]:
    """The same rows a step in smaller passes: the largest divisor of the batch that fits."""
    whole = config.batch_size * config.accumulation
    batch = max(number for number in range(1, rows + 1) if whole % number == 0)
    return {"batch_size": batch, "accumulation": whole // batch}


def _activation_bytes(plan: Plan, device: torch.device) -> float:
    """What one row leaves behind for the backward pass, measured on two passes of different size."""
    found = []
    model = new_model(plan).to(device).train()
    recompute_blocks(model, plan.train.recompute)
    few = _few_rows(plan)
    for rows in (few, 2 * few):
        kept: dict[int, int] = {}

        def pack(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        batch = plan.task.work(0, rows, 1, World(device), torch.Generator().manual_seed(0)).batches[0].to(device)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = plan.task.loss(model, batch)[0]
            found.append(sum(kept.values()))
            del loss
    return max(0.0, (found[1] - found[0]) / few)


def _few_rows(plan: Plan) -> int:
    """Enough tokens for the operations that a real batch uses, and no more."""
    return max(1, -(-64 // plan.model.context))


def _step_seconds(plan: Plan, device: torch.device, rows: int) -> float:
    """The time of a step of ``rows`` rows (and the accumulation asked for), from a few real ones."""
    accumulation, few = plan.train.accumulation, _few_rows(plan)
    if rows > 3 * few:
        # A step costs something whatever its rows (the optimizer), and something for each of them.
        one, two = (_timed(plan, device, number * few, accumulation=1, steps=1) for number in (1, 2))
        each = max(two - one, 0.0) / few
        whole = one + each * (rows * accumulation - few)
        if whole > LONGEST_STEP:
            return whole
    return _timed(plan, device, rows, accumulation, STEPS)


def _timed(plan: Plan, device: torch.device, rows: int, accumulation: int, steps: int) -> float:
    """The median time of ``steps`` steps after one that sets up memory and threads."""
    settings = plan.train.to_dict() | {"batch_size": rows, "accumulation": accumulation}
    trainer = Trainer(new_model(plan), plan.task, TrainConfig(**settings), None, World(device), Reporter(quiet=True))
    taken = []
    for _ in range(1 + steps):
        began = time.perf_counter()
        trainer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def _validation_seconds(plan: Plan, step_seconds: float, scale: float) -> float:
    """A forward pass is about a third of a step's work."""
    config = plan.train
    held_out = plan.sizes.get("validation_tokens", 0) * scale
    if config.eval_tokens:
        held_out = min(held_out, config.eval_tokens)
    if "validation_pairs" in plan.sizes:
        held_out = plan.sizes["validation_pairs"] * plan.model.context / 2
    step_tokens = config.batch_size * config.accumulation * plan.model.context
    validations = -(-config.steps // config.evaluation_interval)
    return validations * step_seconds / 3 * held_out / step_tokens


def _used(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device))
    return float(psutil.Process().memory_info().rss)


def available_memory(device: torch.device) -> float:
    """Bytes of memory that are free on the device."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(psutil.virtual_memory().available)


def existing_folder(path: Path) -> Path:
    """The nearest folder above that exists.

    Raises:
        UserError: ``path`` is a file.
    """
    if path.is_file():
        raise UserError(f"{path} is a file; choose a folder for --out")
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
