"""The loop: what moves, what one step is, and when it stops."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scratchlm.checkpoints import RunFolder
from scratchlm.data import Batch
from scratchlm.errors import UserError
from scratchlm.models import cross_entropy_sum
from scratchlm.training import fit
from scratchlm.training.schedules import learning_rate_factor
from scratchlm.training.tasks import Sampled

Make = Callable[..., Any]


class Wrapped(Sampled):
    """A task with something done to each loss, and held-out losses that a test decides."""

    def __init__(self, task: Any, change: Callable[[nn.Module, Tensor], Tensor], held_out: list[float] | None = None):
        self.task, self.change = task, change
        self.held_out = iter(held_out) if held_out else None

    def batch(self, rows: int, generator: torch.Generator) -> Batch:
        batch: Batch = self.task.batch(rows, generator)
        return batch

    def validation(self) -> Iterator[Batch] | None:
        return None if self.held_out is None else iter([self.batch(1, torch.Generator().manual_seed(0))])

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        if not model.training:
            assert self.held_out is not None
            return torch.tensor(next(self.held_out)), torch.tensor(1)
        total, count = self.task.loss(model, batch)
        return self.change(model, total), count


def at_step(step: int, then: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
    """Do something to the loss of one step (counted from 1, one pass a step)."""
    calls = 0

    def change(_model: nn.Module, total: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return then(total) if calls == step else total

    return change


def started(path: Path) -> RunFolder:
    run = RunFolder(path)
    run.start(resume=path.exists())
    return run


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("preset", ["tinygpt", "tinybert", "transformer", "modern"])
def test_every_trainable_tensor_moves(
    preset: str, optimizer: str, tiny_model: Make, tiny_task: Make, tiny_config: Make, weights: Make
) -> None:
    model = tiny_model(preset)
    before = weights(model)
    fit(model, tiny_task(preset), tiny_config(steps=3, optimizer=optimizer, validation_fraction=0.0))
    still = [name for name, array in weights(model).items() if np.array_equal(array, before[name])]
    assert still == []


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_frozen_tensors_do_not_move(
    optimizer: str, tiny_model: Make, tiny_task: Make, tiny_config: Make, weights: Make
) -> None:
    model = tiny_model()
    frozen = {name for name, _ in model.named_parameters() if "attention" in name or name.startswith("embed")}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    before = weights(model)
    fit(model, tiny_task(), tiny_config(optimizer=optimizer, weight_decay=0.1))
    moved = {name for name, array in weights(model).items() if not np.array_equal(array, before[name])}
    assert moved == set(before) - frozen


@pytest.mark.parametrize("preset", ["tinygpt", "tinybert", "transformer"])
def test_eight_passes_of_one_row_equal_one_pass_of_eight(
    preset: str, tiny_model: Make, tiny_task: Make, tiny_config: Make, weights: Make
) -> None:
    results = []
    for rows, passes in ((8, 1), (1, 8), (2, 4)):
        model = tiny_model(preset)
        config = tiny_config(batch_size=rows, accumulation=passes, epsilon=1e-4, validation_fraction=0.0)
        result = fit(model, tiny_task(preset), config)
        results.append((result.loss, weights(model)))
    for loss, arrays in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        for name, array in arrays.items():
            np.testing.assert_allclose(array, results[0][1][name], atol=2e-6, err_msg=name)


def test_the_gradient_of_a_step_is_that_of_the_mean_over_all_its_labels(
    tmp_path: Path, tiny_model: Make, tiny_task: Make, tiny_config: Make
) -> None:
    seen: list[Batch] = []
    task = tiny_task("tinybert")
    draw = task.batch
    task.batch = lambda rows, generator: seen.append(draw(rows, generator)) or seen[-1]
    config = tiny_config(steps=1, batch_size=2, accumulation=3, clip_norm=0.0, beta1=0.5)
    fit(tiny_model("tinybert"), task, config, started(tmp_path / "run"))
    model = tiny_model("tinybert")
    counts = [int((row >= 0).sum()) for row in seen[0].labels]
    assert len(counts) == 6
    assert len(set(counts)) > 1
    total, count = cross_entropy_sum(model.forward_batch(seen[0]), seen[0].labels)
    (total / count).backward()
    checkpoint = RunFolder(tmp_path / "run").latest_checkpoint()
    assert checkpoint is not None
    state = checkpoint.optimizer_tensors()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(state[f"{name}/exp_avg"], 0.5 * parameter.grad, rtol=1e-4, atol=1e-7)
    assert records(tmp_path / "run")[0]["loss"] == pytest.approx((total / count).item(), rel=1e-5)


def test_gradients_are_clipped_to_the_norm_asked_for_and_logged_as_they_were(
    tmp_path: Path, tiny_model: Make, tiny_task: Make, tiny_config: Make
) -> None:
    fit(tiny_model(), tiny_task(), tiny_config(steps=1, clip_norm=0.01, beta1=0.5), started(tmp_path / "run"))
    checkpoint = RunFolder(tmp_path / "run").latest_checkpoint()
    assert checkpoint is not None
    averages = [tensor for name, tensor in checkpoint.optimizer_tensors().items() if name.endswith("/exp_avg")]
    assert math.sqrt(sum(float(t.square().sum()) for t in averages)) == pytest.approx(0.5 * 0.01, rel=1e-3)
    assert records(tmp_path / "run")[0]["gradient_norm"] > 0.1


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    optimizer: str, tiny_model: Make, tiny_task: Make, tiny_config: Make, weights: Make
) -> None:
    def trained(seed: int) -> dict[str, np.ndarray]:
        model = tiny_model(dropout=0.3)
        torch.rand(seed + 7)  # whatever was drawn before must not matter
        fit(model, tiny_task(), tiny_config(seed=seed, optimizer=optimizer))
        arrays: dict[str, np.ndarray] = weights(model)
        return arrays

    first, again, other = trained(1), trained(1), trained(2)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_each_step_draws_another_dropout_mask(
    dropout: float, tmp_path: Path, tiny_model: Make, tiny_task: Make, tiny_config: Make
) -> None:
    task = tiny_task()
    always = task.batch(8, torch.Generator().manual_seed(0))
    task.batch = lambda _rows, _generator: always
    still = tiny_config(steps=4, learning_rate=1e-12, log_every=1)  # the weights stay, so only the masks differ
    fit(tiny_model(dropout=dropout), task, still, started(tmp_path / "run"))
    losses = {round(record["loss"], 4) for record in records(tmp_path / "run")}
    assert len(losses) == (4 if dropout else 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_saves_and_the_run_resumes_to_the_same_bits(
    number: signal.Signals, tmp_path: Path, tiny_model: Make, tiny_task: Make, tiny_config: Make
) -> None:
    config = tiny_config(steps=9, save_every=100, log_every=1, eval_every=2)
    fit(tiny_model(dropout=0.2), tiny_task(), config, started(tmp_path / "whole"))

    def interrupt(total: Tensor) -> Tensor:
        os.kill(os.getpid(), number)
        return total

    before = signal.getsignal(number)
    run = started(tmp_path / "cut")
    result = fit(tiny_model(dropout=0.2), Interrupting(tiny_task(), 4, interrupt), config, run)
    run.close()
    assert (result.stopped, result.steps) == ("interrupted", 4)
    assert signal.getsignal(number) is before
    result = fit(tiny_model(seed=5, dropout=0.2), tiny_task(), config, started(tmp_path / "cut"), resume=True)
    assert (result.stopped, result.steps) == ("finished", 9)
    for name in ("model.safetensors", "checkpoints/step-00000009/optimizer.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [r["step"] for r in records(tmp_path / "cut")] == list(range(1, 10))
    assert [r["loss"] for r in records(tmp_path / "cut")] == [r["loss"] for r in records(tmp_path / "whole")]


class Interrupting(Sampled):
    """A task that does something during one training step."""

    def __init__(self, task: Any, step: int, then: Callable[[Tensor], Tensor]) -> None:
        self.task, self.change = task, at_step(step, then)
        self.batch, self.validation = task.batch, task.validation

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        total, count = self.task.loss(model, batch)
        return (self.change(model, total) if model.training else total), count


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    tmp_path: Path, tiny_model: Make, tiny_task: Make, tiny_config: Make
) -> None:
    task = Wrapped(tiny_task(), at_step(5, lambda total: total * math.nan))
    with pytest.raises(UserError, match=r"loss became nan at step 5: lower learning_rate .* step 4 is kept") as error:
        fit(tiny_model(), task, tiny_config(save_every=2), started(tmp_path / "run"))
    assert "\n" not in str(error.value)
    checkpoint = RunFolder(tmp_path / "run").latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == 4
    assert all(bool(tensor.isfinite().all()) for tensor in checkpoint.model_tensors().values())


def test_a_gradient_that_is_no_number_stops_before_it_reaches_the_weights(
    tmp_path: Path, tiny_model: Make, tiny_task: Make, tiny_config: Make
) -> None:
    # The square root of 0 is 0, and its slope is infinite: the loss looks well while the gradient is not.
    task = Wrapped(tiny_task(), at_step(4, lambda total: total + (total - total).sqrt()))
    with pytest.raises(UserError, match="step 4"):
        fit(tiny_model(), task, tiny_config(save_every=2), started(tmp_path / "run"))
    checkpoint = RunFolder(tmp_path / "run").latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == 2
    assert all(bool(tensor.isfinite().all()) for tensor in checkpoint.model_tensors().values())


def test_an_exploding_loss_stops_with_its_step_and_a_suggestion(
    tiny_model: Make, tiny_task: Make, tiny_config: Make
) -> None:
    with pytest.raises(UserError, match=r"exploded from .* to .* at step \d+: lower learning_rate \(now 30\)"):
        fit(tiny_model(), tiny_task(), tiny_config(steps=200, learning_rate=30.0, schedule="constant"))


def test_patience_ends_the_run_and_the_best_weights_are_what_is_left(
    tmp_path: Path, tiny_model: Make, tiny_task: Make, tiny_config: Make, weights: Make
) -> None:
    task = Wrapped(tiny_task(), lambda _model, total: total, held_out=[3.0, 2.0, 2.5, 2.25, 1.0])
    after: dict[int, dict[str, np.ndarray]] = {}
    draw = task.batch

    def batch(rows: int, generator: torch.Generator) -> Batch:
        if rows > 1:  # a training step begins: the weights are those that the step before has left
            after[len(after)] = weights(model)
        return draw(rows, generator)

    task.batch = batch  # type: ignore[method-assign]
    model = tiny_model()
    config = tiny_config(steps=20, eval_every=2, patience=2)
    result = fit(model, task, config, started(tmp_path / "run"))
    assert (result.stopped, result.steps, result.best_step, result.best_loss) == ("patience", 8, 4, 2.0)
    saved = tiny_model(seed=3)
    RunFolder(tmp_path / "run").load_weights(saved)
    for name, array in weights(saved).items():
        assert np.array_equal(array, after[4][name])
        assert np.array_equal(array, weights(model)[name])
    assert [r["validation_loss"] for r in records(tmp_path / "run") if "validation_loss" in r] == [3.0, 2.0, 2.5, 2.25]


def test_the_held_out_loss_is_the_mean_over_labels_not_over_batches(
    tmp_path: Path, tiny_model: Make, tiny_task: Make, tiny_config: Make
) -> None:
    task = tiny_task()
    full = next(iter(task.validation()))
    task.validation = lambda: iter([full.slice(0, 1), full.slice(1, full.rows)])
    fit(tiny_model(), task, tiny_config(steps=1), started(tmp_path / "run"))
    model = tiny_model(seed=9)
    RunFolder(tmp_path / "run").load_weights(model)
    total, count = cross_entropy_sum(model.eval().forward_batch(full), full.labels)
    assert records(tmp_path / "run")[0]["validation_loss"] == pytest.approx((total / count).item(), rel=1e-5)


def test_metrics_have_each_logged_step_once_with_its_learning_rate(
    tmp_path: Path, tiny_model: Make, tiny_task: Make, tiny_config: Make
) -> None:
    config = tiny_config(steps=10, log_every=3, eval_every=5, warmup_steps=4, schedule="linear")
    fit(tiny_model(), tiny_task(), config, started(tmp_path / "run"))
    lines = records(tmp_path / "run")
    assert [line["step"] for line in lines] == [3, 5, 6, 9, 10]
    for line in lines:
        assert line["learning_rate"] == pytest.approx(1e-2 * learning_rate_factor(line["step"] - 1, config))
        assert {"loss", "tokens_per_second", "gradient_norm", "seconds"} <= set(line)


def test_bf16_on_hardware_without_it_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Make, tiny_task: Make, tiny_config: Make
) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    with pytest.raises(UserError, match="no bf16 arithmetic; use precision=fp32"):
        fit(tiny_model(), tiny_task(), tiny_config(precision="bf16"))


def test_training_runs_outside_the_main_thread(tiny_model: Make, tiny_task: Make, tiny_config: Make) -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(fit(tiny_model(), tiny_task(), tiny_config(steps=2))))
    thread.start()
    thread.join()
    assert results[0].stopped == "finished"


@pytest.mark.slow
def test_a_compiled_model_learns_the_same(tiny_model: Make, tiny_task: Make, tiny_config: Make) -> None:
    plain = fit(tiny_model(), tiny_task(), tiny_config(steps=5))
    compiled = fit(tiny_model(), tiny_task(), tiny_config(steps=5, compile=True))
    assert compiled.loss == pytest.approx(plain.loss, rel=1e-4)


def test_of_a_run_killed_right_after_its_last_checkpoint_no_older_one_is_left(
    tmp_path: Path, tiny_model: Make, tiny_task: Make, tiny_config: Make
) -> None:
    config = tiny_config(steps=6, save_every=3)
    fit(tiny_model(), tiny_task(), config, started(tmp_path / "run"))
    checkpoints = tmp_path / "run" / "checkpoints"
    (last,) = checkpoints.iterdir()
    shutil.copytree(last, checkpoints / "step-00000003")
    fit(tiny_model(), tiny_task(), config, RunFolder(tmp_path / "run"), resume=True)
    assert list(checkpoints.iterdir()) == [last]
