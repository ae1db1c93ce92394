"""What the user sees while a model trains: one line on stderr with loss, speed and time left."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from torch import nn

from scratchlm.adapters import FrozenLinear
from scratchlm.training.config import Precision
from scratchlm.training.distributed import World

PLAIN_INTERVAL = 5.0
"""Seconds between lines where stderr is no terminal."""


class Reporter:
    """Shows a training's progress.

    Args:
        quiet: show nothing.
        stream: where to; standard error by default.
        tensorboard: a TensorBoard ``SummaryWriter`` that gets each logged number too.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None, tensorboard: Any = None) -> None:
        self.quiet = quiet
        self.stream = stream or sys.stderr
        self.tensorboard = tensorboard
        self.tokens_per_second = 0.0
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._validation = ""
        self._steps = self._done = 0
        self._flops = self._peak = 0.0
        self._computed = 1.0
        self._began = self._shown = self._last = 0.0
        self._first_step = 0
        self._reading = 0.0

    def start(
        self,
        step: int,
        steps: int,
        model: nn.Module,
        place: World,
        span: float | None = None,
        precision: Precision = "auto",
    ) -> None:
        """Begin at ``step`` of ``steps``, in texts of ``span`` tokens or of the model's context.

        Measures the machine's matrix speed once, in about a fifth of a second.
        """
        self._steps, self._done, self._first_step = steps, step, step
        self.quiet = self.quiet or not place.main
        if not self.quiet:
            self._peak = matrix_speed(place.device, precision) * place.size
            self._flops = flops_per_token(model, span)
            if self.stream.isatty():
                columns = (TextColumn("{task.fields[line]}"), BarColumn(bar_width=20))
                self._progress = Progress(*columns, console=Console(file=self.stream), transient=False)
                self._task = self._progress.add_task("", total=steps, completed=step, line="")
                self._progress.start()
        self._began = self._last = self._shown = time.perf_counter()

    def step(self, done: int, loss: float, tokens: int, computed: float = 1.0) -> None:
        """``done`` steps have been taken, the last with this loss and number of tokens, of which this share was
        computed."""
        now = time.perf_counter()
        rate = tokens / max(now - self._last, 1e-9)
        self._last, self._done, self._computed = now, done, computed
        # A running mean, so that one slow step (a checkpoint, another program) does not shake the estimate.
        self.tokens_per_second = rate if not self.tokens_per_second else 0.95 * self.tokens_per_second + 0.05 * rate
        if self.quiet:
            return
        interval = 0.1 if self._progress is not None else PLAIN_INTERVAL
        if now - self._shown < interval and done < self._steps:
            return
        self._shown = now
        line = self.line(done, loss, now)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, line=line)
        else:
            print(line, file=self.stream, flush=True)

    def line(self, done: int, loss: float, now: float) -> str:
        """The line itself."""
        parts = [f"step {done:,}/{self._steps:,}", f"loss {loss:.4f}"]
        if self._validation:
            parts.append(f"validation {self._validation}")
        parts.append(f"{_short(self.tokens_per_second)} tokens/s")
        if self._peak:
            used = self.tokens_per_second * self._computed * self._flops / self._peak
            parts.append(f"MFU {100 * used:.0f} %")
        elapsed, taken = now - self._began, done - self._first_step
        left = elapsed / max(1, taken) * (self._steps - done)
        parts.append(f"{clock(left)} left" if done < self._steps else f"done in {clock(elapsed)}")
        return "  ".join(parts)

    def validated(self, loss: float) -> None:
        """A validation took place; the time it took does not count as training."""
        self._validation = f"{loss:.4f}"
        self._last = time.perf_counter()

    def log(self, record: dict[str, Any]) -> None:
        """A line of metrics.jsonl was written."""
        if self.tensorboard is not None:
            for name, value in record.items():
                if name != "step":
                    self.tensorboard.add_scalar(name, value, record["step"])

    def note(self, text: str) -> None:
        """Tell the user something."""
        if not self.quiet:
            print(text, file=self.stream, flush=True)

    def bytes_done(self, done: int, total: int) -> None:
        """So many bytes of text have been tokenised."""
        now = time.perf_counter()
        if done == 0 or not self._reading:
            self._reading = now
        if self.quiet or total < 10_000_000 or (now - self._shown < PLAIN_INTERVAL and done < total):
            return
        self._shown = now
        left = (now - self._reading) / max(1, done) * (total - done)
        self.note(f"tokenising: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {clock(left)} left")

    def finish(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if self.tensorboard is not None:
            self.tensorboard.close()


def flops_per_token(model: nn.Module, span: float | None = None) -> float:
    """Floating-point operations of a training step for each token of texts of ``span`` tokens, or of the model's
    context: 6 per weight of a matrix, 4 where it is frozen and takes no gradient, and the attention's.

    Chowdhery et al. 2022, appendix B: 6 N + 12 L H D T, with no discount for the causal mask.
    """
    matrices = 0.0
    for module in model.modules():
        if isinstance(module, nn.Linear):
            matrices += (6.0 if module.weight.requires_grad else 4.0) * module.weight.numel()
        elif isinstance(module, FrozenLinear):
            matrices += 4.0 * module.in_features * module.out_features
    config = getattr(model, "config", None)
    if config is None:
        return matrices
    attention: float = 12.0 * config.layers * config.heads * config.head_size * (span or config.context)
    return matrices + attention


def matrix_speed(device: torch.device, precision: Precision = "auto", seconds: float = 0.2) -> float:
    """The floating-point operations a second of a large matrix product on this machine, in bf16 where the training
    computes in that (on GPUs always) and else in fp32."""
    size = 4096 if device.type == "cuda" else 768
    dtype = torch.bfloat16 if device.type == "cuda" or precision == "bf16" else torch.float32
    a = torch.ones(size, size, device=device, dtype=dtype)
    best, end = 0.0, time.perf_counter() + seconds
    with torch.no_grad():
        while True:
            began = time.perf_counter()
            _ = a @ a
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            now = time.perf_counter()
            best = max(best, 2.0 * size**3 / (now - began))
            if now > end:
                return best


def clock(seconds: float) -> str:
    """``75`` -> ``1:15``, ``3700`` -> ``1:01:40``."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _short(number: float) -> str:
    for limit, suffix in ((1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}{suffix}"
    return f"{number:.0f}"


def tensorboard_writer(folder: str) -> Any:
    """A TensorBoard writer into ``folder``.

    Raises:
        UserError: the extra is not installed.
    """
    from scratchlm.errors import UserError

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("TensorBoard is not installed; run: pip install 'scratchlm[tensorboard]'") from None
    return SummaryWriter(folder)
