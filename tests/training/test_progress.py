"""The progress line: what it says, and where."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from scratchlm.data import Batch
from scratchlm.training import Reporter, fit, progress
from scratchlm.training.distributed import World
from scratchlm.training.progress import clock, flops_per_token, matrix_speed
from scratchlm.training.tasks import Work

HERE = World(torch.device("cpu"))
Make = Callable[..., Any]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "matrix_speed", lambda *_asked: 1e9)


def test_without_a_terminal_plain_lines_tell_step_loss_speed_and_time_left(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Make
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now)
    said = io.StringIO()
    reporter = Reporter(stream=said)
    model = tiny_model()
    reporter.start(0, 100, model, HERE)
    for done in range(1, 13):  # a second and 50 tokens a step: a line each 5 seconds
        now += 1.0
        reporter.step(done, 2.5, 50)
        if done == 7:
            reporter.validated(3.25)
    lines = said.getvalue().splitlines()
    mfu = f"MFU {100 * 50 * flops_per_token(model) / 1e9:.0f} %"
    assert lines == [
        f"step 5/100  loss 2.5000  50 tokens/s  {mfu}  1:35 left",
        f"step 10/100  loss 2.5000  validation 3.2500  50 tokens/s  {mfu}  1:30 left",
    ]


def test_the_last_step_is_always_told(tiny_model: Make) -> None:
    said = io.StringIO()
    reporter = Reporter(stream=said)
    reporter.start(0, 3, tiny_model(), HERE)
    for done in (1, 2, 3):
        reporter.step(done, 1.0, 10)
    assert re.fullmatch(r"step 3/3  loss 1\.0000 .* done in 0:00\n", said.getvalue())


def test_time_left_after_a_resume_counts_this_sessions_steps_only(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Make
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now)
    reporter = Reporter(stream=io.StringIO())
    reporter.start(90, 100, tiny_model(), HERE)
    now = 6.0
    assert reporter.line(92, 1.0, now).endswith("0:24 left")


def test_a_terminal_gets_one_line_that_changes(tiny_model: Make, tiny_task: Make, tiny_config: Make) -> None:
    said = Terminal()
    fit(tiny_model(), tiny_task(), tiny_config(steps=3), reporter=Reporter(stream=said))
    assert "step 3/3" in said.getvalue()
    assert said.getvalue().count("\n") <= 2


def test_quiet_says_nothing_and_other_processes_neither(tiny_model: Make, tiny_task: Make, tiny_config: Make) -> None:
    said = io.StringIO()
    fit(tiny_model(), tiny_task(), tiny_config(), reporter=Reporter(quiet=True, stream=said))
    reporter = Reporter(stream=said)
    reporter.start(0, 1, tiny_model(), World(torch.device("cpu"), rank=1, size=2))
    reporter.step(1, 1.0, 1)
    reporter.note("a word")
    assert said.getvalue() == ""


def test_operations_are_six_for_each_weight_and_those_of_attention(tiny_model: Make) -> None:
    model = tiny_model(layers=2)
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    assert flops_per_token(model) == 6 * weights + 12 * 2 * 16 * 8
    assert flops_per_token(nn.Linear(3, 4)) == 6 * 12


def test_what_is_shared_is_not_counted_as_used(tiny_model: Make) -> None:
    said = io.StringIO()
    reporter, model = Reporter(stream=said), tiny_model()
    reporter.start(0, 1, model, HERE)
    reporter.step(1, 2.5, 50, 0.25)
    rate = reporter.tokens_per_second
    assert f"MFU {100 * rate / 4 * flops_per_token(model) / 1e9:.0f} %" in said.getvalue()
    text = torch.zeros(1, 6, dtype=torch.long)
    shared = Batch(text, text, text, text, opened=torch.zeros(1, 10, dtype=torch.long))
    assert Work([shared, Batch(text, text)], 1, 16).computed == 12 / 16
    assert Work([], 1, 0).computed == 1


def test_this_machines_matrix_speed_is_a_speed() -> None:
    for precision in ("fp32", "bf16"):
        assert 1e8 < matrix_speed(torch.device("cpu"), precision, seconds=0.02) < 1e14


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (75, "1:15"), (3599.7, "1:00:00"), (3700, "1:01:40")])
def test_times_are_written_as_on_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_large_texts_show_how_far_they_are_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now)
    said = io.StringIO()
    reporter = Reporter(stream=said)
    for second in range(0, 21, 2):
        now = 1000.0 + second
        reporter.bytes_done(second * 5_000_000, 100_000_000)
    assert said.getvalue().splitlines()[-1] == "tokenising: 100 of 100 MB, 0:00 left"
    assert len(said.getvalue().splitlines()) <= 5
    reporter.bytes_done(500, 1000)  # a small text is done before a line could be read
    assert len(said.getvalue().splitlines()) <= 5
