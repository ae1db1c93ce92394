"""The training loop, one for every task.

Each step draws all its randomness (rows, masks, dropout) from a seed made of the run's seed and the step's number.
What a step does therefore depends on the weights and the optimizer's state before it and on nothing else, and a run
that was killed goes on to the same bits from its last checkpoint without any generator's state being saved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scratchlm.checkpoints import RunFolder, load_tensors
from scratchlm.data import Batch
from scratchlm.errors import UserError
from scratchlm.models.block import recompute_blocks
from scratchlm.training.config import TrainConfig
from scratchlm.training.distributed import World, choose_device
from scratchlm.training.interruption import Stop, interruptible
from scratchlm.training.optimizers import (
    build_optimizers,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)
from scratchlm.training.placement import Spread, Whole, whole_tensor
from scratchlm.training.precision import autocast
from scratchlm.training.progress import Reporter
from scratchlm.training.schedules import learning_rate_factor
from scratchlm.training.tasks import Task


@dataclass
class FitResult:
    """How a training went."""

    steps: int
    """Optimizer steps taken, those before a resume included."""
    loss: float
    """Nats per label in the last step."""
    best_loss: float | None
    """The lowest validation loss, or None where nothing was held out."""
    best_step: int | None
    seconds: float
    """Time in the training steps, those before a resume included; without validation and saving."""
    tokens_per_second: float
    stopped: str
    """``finished``, ``patience`` (no better validation) or ``interrupted``."""


@dataclass
class _State:
    """The counters that a checkpoint keeps."""

    step: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    worse: int = 0
    """Validations since the best."""
    first_loss: float | None = None
    smooth_loss: float | None = None
    seconds: float = 0.0
    stopped: str = ""
    loss: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "step"}


def fit(
    model: nn.Module,
    task: Task,
    config: TrainConfig,
    run: RunFolder | None = None,
    *,
    place: World | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> FitResult:
    """Train ``model`` in place.

    The loss of a step is the mean over all its labels: over accumulated passes and over processes alike. With a run
    folder, metrics and checkpoints are written there; the model ends with its best weights where something is held
    out, else with its last ones.

    Args:
        run: where to log and save; None for neither.
        place: the process's device and its place among others; None for the config's device, alone.
        resume: go on from the run's last checkpoint, or from the start where there is none yet.

    Raises:
        UserError: the loss is not a number or explodes, the disk refuses, or a checkpoint is not this model's.
    """
    place = place or World(choose_device(config.device))
    if config.batch_size < place.size:
        raise UserError(f"batch_size {config.batch_size} is less than one row for each of {place.size} processes")
    return Trainer(model, task, config, run, place, reporter or Reporter(quiet=True)).run(resume)


class Trainer:
    """A training under way: :func:`fit` runs it to the end, :meth:`step` takes one step.

    The arguments are those of :func:`fit`.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        config: TrainConfig,
        run: RunFolder | None,
        place: World,
        reporter: Reporter,
    ) -> None:
        self.task, self.config, self.folder, self.place, self.reporter = task, config, run, place, reporter
        recompute_blocks(model, config.recompute)
        model = task.learner(model)
        self.placement: Whole
        if config.sharding == "full" and place.size > 1:
            self.placement = Spread(model, task, place)
        else:
            if config.sharding == "full":
                reporter.note("sharding=full has no effect: there is one process, which holds the whole model")
            self.placement = Whole(model, task, place, compiled=config.compile)
        self.model = self.placement.model
        self.optimizers = build_optimizers(self.model, config)
        self.parameters = [p for group in self._groups() for p in group["params"]]
        self.state = _State()
        self.autocast = autocast(config.precision, place.device)
        self.tokens = self.seen = 0
        """Tokens of the last step, and of all steps taken here."""
        self.computed = 1.0
        """The share of the last step's tokens that was computed, as beginnings are shared."""

    def _groups(self) -> Iterator[dict[str, Any]]:
        for optimizer in self.optimizers:
            yield from optimizer.param_groups

    def run(self, resume: bool) -> FitResult:
        state, config = self.state, self.config
        if self.folder is not None:
            if resume:
                self._load()
            if self.place.main:
                self.folder.truncate_metrics(state.step)
        self.reporter.start(state.step, config.steps, self.model, self.place, self.task.span(), config.precision)
        before = state.seconds
        with interruptible() as stop:
            while state.step < config.steps and not state.stopped:
                began = time.perf_counter()
                norm, interrupted = self.step(stop)
                state.seconds += time.perf_counter() - began
                self.reporter.step(state.step, state.loss, self.tokens, self.computed)
                record = self._record(norm) if state.step % config.log_every == 0 or self._last() else None
                if self._due(config.evaluation_interval):
                    validation = self._validate()
                    if validation is not None:
                        record = record or self._record(norm)
                        record["validation_loss"] = validation
                if record is not None:
                    self._log(record)
                # Several processes must agree, which they do once in a step; one alone need not take another.
                interrupted = (interrupted or (stop.asked and self.place.size == 1)) and self._due(1)
                if interrupted or state.stopped or self._due(config.checkpoint_interval):
                    self._save()
                if interrupted and not self._last():
                    state.stopped = "interrupted"
        self.model = self.placement.restored()
        if state.stopped != "interrupted":
            self._end()
        seconds = state.seconds - before
        rate = self.seen / seconds if seconds else 0.0
        self.reporter.finish()
        return FitResult(
            state.step, state.loss, state.best_loss, state.best_step, state.seconds, rate, state.stopped or "finished"
        )

    def _last(self) -> bool:
        return self.state.step >= self.config.steps

    def _due(self, interval: int) -> bool:
        """Whether what comes every ``interval`` steps comes now: at a period's end, and at the last step."""
        period = self.task.period
        return self._last() or self.state.step % (-(-interval // period) * period) == 0

    def step(self, stop: Stop | None = None) -> tuple[float, bool]:
        """One optimizer step; returns the gradient's norm and whether any process was asked to stop."""
        config, place = self.config, self.place
        if not self.model.training:
            self.model.train()
        generator = torch.Generator().manual_seed(_mix(config.seed, self.state.step, 0))
        work = self.task.work(self.state.step, config.batch_size, config.accumulation, place, generator)
        labels = max(1, work.labels)
        self.tokens, self.computed = work.tokens, work.computed
        self.seen += work.tokens
        _seed(_mix(config.seed, self.state.step, 1 + place.rank), place.device)
        if not work.batches:
            self.state.step, self.state.loss = self.state.step + 1, 0.0
            return 0.0, place.sum([float(stop is not None and stop.asked)])[0] > 0
        set_learning_rate(self.optimizers, learning_rate_factor(self.state.step, config))
        total = torch.zeros((), device=place.device)
        batches = self.placement.passes(work.batches)
        with self.autocast():
            self.task.begin(self.model, batches, place)
        for index, batch in enumerate(batches):
            total += self.learn(batch, labels, last=index + 1 == len(batches))
        summed, asked = place.sum([float(total), float(stop is not None and stop.asked)])
        self._check(summed / labels)
        norm = self.update()
        self.state.step += 1
        return norm, asked > 0

    def learn(self, batch: Batch, labels: int, *, last: bool) -> Tensor:
        """One pass of a step with so many labels: gradients are added up. Returns the summed loss (0-d)."""
        part = batch.to(self.place.device)
        with self.placement.adding_up(last=last):
            with self.autocast():
                loss: Tensor = self.placement.objective(part)[0]
            # The mean over processes will be taken; ours is the sum over all labels.
            (loss * (self.place.size / labels)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def update(self) -> float:
        """Change the weights by the gradients, and forget these; returns their norm."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm or math.inf)
        length = float(whole_tensor(norm))
        if not math.isfinite(length):
            raise self._diverged(f"the gradient's norm became {length}")
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return length

    def _check(self, loss: float) -> None:
        """Stop before the step is taken when the loss is no number, or worse than before training began."""
        state = self.state
        state.loss = loss
        state.first_loss = loss if state.first_loss is None else state.first_loss
        state.smooth_loss = loss if state.smooth_loss is None else 0.9 * state.smooth_loss + 0.1 * loss
        if not math.isfinite(loss):
            raise self._diverged(f"the loss became {loss}")
        if (
            self.task.falls
            and state.smooth_loss > 1.5 * state.first_loss + 1.0
            and state.step >= self.config.warmup_steps
        ):
            raise self._diverged(f"the loss exploded from {state.first_loss:.3g} to {loss:.3g}")

    def _diverged(self, what: str) -> UserError:
        """``what`` has happened in the step that was about to be taken."""
        kept = ""
        if self.folder is not None and (checkpoint := self.folder.latest_checkpoint()) is not None:
            kept = f"; the checkpoint at step {checkpoint.step} is kept"
        return UserError(
            f"{what} at step {self.state.step + 1}: lower learning_rate (now {self.config.learning_rate:g}), lengthen "
            f"warmup_steps, or set clip_norm=1{kept}"
        )

    def _validate(self) -> float | None:
        """The held-out loss in nats per label; keeps the weights if it is the best so far."""
        batches = self.task.validation()
        if batches is None:
            return None
        self.model.eval()
        total, count = 0.0, 0.0
        with torch.no_grad(), self.autocast():
            for loss, labels in self.placement.judged(batches):
                total, count = total + float(loss), count + float(labels)
        self.model.train()
        total, count = self.place.sum([total, count])
        loss_mean = total / max(1.0, count)
        state = self.state
        if state.best_loss is None or loss_mean < state.best_loss:
            state.best_loss, state.best_step, state.worse = loss_mean, state.step, 0
            if self.folder is not None:
                with self.placement.gathered(frozen=self.folder.holds_frozen) as model:
                    if self.place.main:
                        self.folder.save_weights(self.task.product(model))
        else:
            state.worse += 1
            if self.config.patience and state.worse >= self.config.patience and not self._last():
                state.stopped = "patience"
        self.reporter.validated(loss_mean)
        return loss_mean

    def _record(self, norm: float) -> dict[str, Any]:
        state = self.state
        return {
            "step": state.step,
            "loss": state.loss,
            "learning_rate": self.config.learning_rate * learning_rate_factor(state.step - 1, self.config),
            "gradient_norm": norm,
            "tokens_per_second": self.reporter.tokens_per_second,
            "seconds": state.seconds,
            **self.task.metrics(),
        }

    def _log(self, record: dict[str, Any]) -> None:
        if self.place.main:
            if self.folder is not None:
                self.folder.append_metrics(record)
            self.reporter.log(record)

    def _save(self) -> None:
        spread = self.placement.spread
        if self.folder is not None and (self.place.main or spread):
            tensors = optimizer_tensors(self.model, self.optimizers)
            self.folder.save_checkpoint(self.state.step, self.model, tensors, self._kept(), shared=spread)

    def _kept(self) -> dict[str, Any]:
        task = self.task.state()
        return self.state.to_dict() | ({"task": task} if task else {})

    def _load(self) -> None:
        assert self.folder is not None
        checkpoint = self.folder.latest_checkpoint()
        if checkpoint is None:
            return
        origin, like = str(checkpoint.path), dict(self.model.named_parameters()) if self.placement.spread else None
        load_tensors(self.model, checkpoint.model_tensors(like), origin, trained_only=True)
        if self.place.main:
            self.folder.drop_older_checkpoints()
        load_optimizer_tensors(self.model, self.optimizers, checkpoint.optimizer_tensors(like), origin)
        for name, value in checkpoint.state.items():
            if hasattr(self.state, name):
                setattr(self.state, name, value)
        self.task.restore(checkpoint.state.get("task", {}))

    def _end(self) -> None:
        """Leave the weights to use in the model and in the folder."""
        if self.folder is None:
            return
        if self.state.best_step is None or self.state.best_step == self.state.step:
            if self.place.main:
                self.folder.save_weights(self.task.product(self.model))
        else:
            self.folder.load_weights(self.task.product(self.model))
        self.place.barrier()


def _mix(seed: int, step: int, stream: int) -> int:
    """A well-spread 63-bit seed for one stream of one step (the finaliser of splitmix64, Steele et al. 2014)."""
    value = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + stream * 0x94D049BB133111EB) & (2**64 - 1)
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (value ^ (value >> 31)) >> 1


def _seed(seed: int, device: torch.device) -> None:
    """What ``torch.manual_seed`` does for the two generators that a step draws from.

    It alone costs half a millisecond: it also notes, with a stack trace, what to do for devices that are not in use.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)
