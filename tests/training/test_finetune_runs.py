"""A tuning as a run: which weights are left, when it ends, when it is measured and saved, and what may be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import scratchlm
from scratchlm.checkpoints import RunFolder
from scratchlm.errors import UserError
from scratchlm.models import evaluating
from scratchlm.opening import open_model
from scratchlm.training import Question, Reporter, TuneResult
from scratchlm.training import finetune as tune

from .tuned_models import rows, save_model, settings, write_rows

QUIET = Reporter(quiet=True)
METHODS = ["full", "lora", "qlora"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, rows to learn, and rows of another kind, on which it gets worse the more it learns."""
    folder = tmp_path_factory.mktemp("bases")
    save_model(folder / "llama", "llama")
    write_rows(folder / "rows.jsonl", rows("prompt"))
    strange = [{"prompt": row["prompt"][::-1], "completion": row["completion"][::-1]} for row in rows("prompt", 6)]
    write_rows(folder / "strange.jsonl", strange)
    return folder


Tune = Callable[..., TuneResult]


@pytest.fixture
def tuned(bases: Path) -> Tune:
    def call(out: Path, method: str = "lora", data: str = "rows.jsonl", resume: bool = False, **changes: Any) -> Any:
        validation = changes.pop("validation", "0.2")
        asked = Question(str(bases / "llama"), str(bases / data), None, method, validation)  # type: ignore[arg-type]
        return tune(asked, out, settings=settings(**changes), resume=resume, reporter=QUIET)

    return call


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def validations(out: Path) -> dict[int, float]:
    return {r["step"]: r["validation_loss"] for r in metrics(out) if "validation_loss" in r}


def held_out_loss(result: TuneResult, model: Any) -> float:
    task = result.tuning.task
    batches = task.validation()
    assert batches is not None
    with torch.no_grad(), evaluating(model):
        found = [task.loss(model, batch) for batch in batches]
    return sum(float(loss) for loss, _ in found) / sum(int(labels) for _, labels in found)


@pytest.mark.parametrize("method", METHODS)
def test_the_weights_that_are_left_are_the_best_by_validation(
    method: str, tuned: Tune, bases: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = tuned(out, method, validation=str(bases / "strange.jsonl"), eval_every=2, learning_rate=0.03, epochs=3)
    seen = validations(out)
    assert result.fit.stopped == "finished"
    assert list(seen) == [2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert result.fit.best_step == min(seen, key=lambda step: seen[step])
    assert result.fit.best_loss == min(seen.values()) < seen[18] - 0.02
    for model in (result.tuning.model, open_model(out).model):
        assert held_out_loss(result, model) == pytest.approx(min(seen.values()), abs=1e-5)


def test_a_tuning_that_gets_no_better_stops_early(tuned: Tune, bases: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    strange = str(bases / "strange.jsonl")
    result = tuned(out, validation=strange, eval_every=1, learning_rate=0.03, epochs=9, patience=3)
    seen = list(validations(out).values())
    best = seen.index(min(seen))
    assert result.fit.stopped == "patience"
    assert result.fit.steps == len(seen) == best + 1 + 3 < 54
    assert held_out_loss(result, open_model(out).model) == pytest.approx(seen[best], abs=1e-5)
    again = tuned(out, validation=strange, eval_every=1, learning_rate=0.03, epochs=9, patience=3, resume=True)
    assert (again.fit.stopped, again.fit.steps) == ("patience", result.fit.steps)


def test_it_is_measured_and_saved_as_often_as_asked(
    tuned: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = RunFolder.save_checkpoint

    def noted(self: RunFolder, step: int, model: nn.Module, *more: Any, **options: Any) -> None:
        saved.append(step)
        save(self, step, model, *more, **options)

    monkeypatch.setattr(RunFolder, "save_checkpoint", noted)
    tuned(tmp_path / "often", eval_every=4, save_every=3, log_every=5)
    assert list(validations(tmp_path / "often")) == [4, 8, 10]
    assert [record["step"] for record in metrics(tmp_path / "often")] == [4, 5, 8, 10]
    assert saved == [3, 6, 9, 10]
    tuned(tmp_path / "epochs", epochs=3)
    assert list(validations(tmp_path / "epochs")) == [5, 10, 15]  # once an epoch, if nothing is said
    tuned(tmp_path / "none", validation="0", epochs=1)
    assert validations(tmp_path / "none") == {}


def test_epochs_may_be_a_part_of_one_and_steps_count_where_given(tuned: Tune, tmp_path: Path) -> None:
    assert tuned(tmp_path / "half", epochs=0.4).fit.steps == 2
    assert tuned(tmp_path / "least", epochs=0.01).fit.steps == 1
    assert tuned(tmp_path / "steps", epochs=2, steps=7).fit.steps == 7
    assert RunFolder(tmp_path / "half").settings()["epochs"] == 0.4


@pytest.mark.parametrize("method", METHODS)
def test_two_runs_of_one_seed_are_the_same_bits_and_of_another_are_not(
    method: str, tuned: Tune, tmp_path: Path
) -> None:
    file = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    torch.manual_seed(1)
    tuned(tmp_path / "one", method)
    torch.manual_seed(2)
    tuned(tmp_path / "two", method)
    tuned(tmp_path / "other", method, seed=5)
    first, second, other = ((tmp_path / name / file).read_bytes() for name in ("one", "two", "other"))
    assert first == second != other


def stopped(monkeypatch: pytest.MonkeyPatch, tuned: Tune, out: Path, after: int, **changes: Any) -> None:
    """A run that fails while it saves the checkpoint after so many."""
    save, left = RunFolder.save_checkpoint, [after]

    def fails(self: RunFolder, *more: Any, **options: Any) -> None:
        if not left[0]:
            raise OSError(28, "No space left on device")
        left[0] -= 1
        save(self, *more, **options)

    monkeypatch.setattr(RunFolder, "save_checkpoint", fails)
    with pytest.raises(OSError, match="No space"):
        tuned(out, **changes)
    monkeypatch.undo()


def test_a_preset_in_a_shape_of_its_own_is_gone_on_with(
    bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = {"width": 24, "layers": 1, "heads": 2, "context": 40, "tokenizer_vocab_size": 290, "save_every": 2}

    def anew(out: Path, resume: bool = False, **changes: Any) -> TuneResult:
        asked = Question("tinygpt", str(bases / "rows.jsonl"), "lm", "full", "4")
        return tune(asked, out, settings=changes, resume=resume, reporter=QUIET)

    anew(tmp_path / "alone", **settings(**shape))
    stopped(monkeypatch, anew, tmp_path / "run", 2, **settings(**shape))
    with pytest.raises(UserError, match="was begun with width=24, not 32"):
        anew(tmp_path / "run", resume=True, width=32)
    assert anew(tmp_path / "run", resume=True, width=24).fit.stopped == "finished"
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("alone", "run"))
    assert one == two


def test_a_run_goes_on_as_it_was_begun_or_not_at_all(
    tuned: Tune, bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    stopped(monkeypatch, tuned, out, 1, save_every=2)
    base, data, method = str(bases / "llama"), str(bases / "rows.jsonl"), "lora"
    for asked, changes, words in (
        (Question(base, data, None, method), {"learning_rate": 0.5}, "learning_rate=0.01, not 0.5"),
        (Question(base, data, None, method), {"rank": 3}, "rank=16, not 3"),
        (Question(base, data, None, method), {"targets": "peft"}, "targets=all-linear, not peft"),
        (Question(base, data, None, method), {"epochs": 5}, "epochs=2.0, not 5.0"),
        (Question(base, data, None, "full"), {}, "method 'lora', not 'full'"),
        (Question(base, data, "chat", method), {}, "task None, not 'chat'"),
        (Question(base, data, None, method, "0.3"), {}, "validation '0.2', not '0.3'"),
        (Question(base, data, None, method, columns={"prompt": "completion"}), {}, "columns {}, not {'prompt'"),
        (Question(base, data, None, method, bad="skip"), {}, "bad 'stop', not 'skip'"),
        (Question(base, str(bases / "strange.jsonl"), None, method), {}, "data '.*rows.jsonl', not '.*strange.jsonl'"),
        (Question(str(tmp_path), data, None, method), {}, "model '.*llama', not "),
    ):
        with pytest.raises(UserError, match=f"was begun with {words}") as error:
            tune(asked, out, settings=changes, resume=True, reporter=QUIET)
        assert "\n" not in str(error.value)
        assert str(error.value).endswith("; go on with the run's own settings, or tune into a new folder")
    result = tune(Question(base, data, None, method), out, settings={"log_every": 3}, resume=True, reporter=QUIET)
    assert (result.fit.stopped, result.fit.steps) == ("finished", 10)
    tuned(tmp_path / "alone", save_every=2)
    one, two = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("alone", "run"))
    assert one == two


def test_rows_that_have_changed_are_refused(
    tuned: Tune, bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(bases / "changing.jsonl", rows("prompt"))
    stopped(monkeypatch, tuned, tmp_path / "run", 1, data="changing.jsonl", save_every=2)
    write_rows(bases / "changing.jsonl", rows("prompt", 25))
    with pytest.raises(UserError, match=r"the rows of .*changing.jsonl have changed since .* was begun"):
        tuned(tmp_path / "run", data="changing.jsonl", save_every=2, resume=True)
    write_rows(bases / "changing.jsonl", rows("prompt"))
    tuned(tmp_path / "run", data="changing.jsonl", save_every=2, resume=True)


def test_a_run_that_is_not_finished_says_how_to_go_on(
    tuned: Tune, bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in METHODS:
        stopped(monkeypatch, tuned, tmp_path / method, 1, method=method, save_every=2)
        with pytest.raises(UserError, match="is not finished") as error:
            open_model(tmp_path / method)
        command = f"scratchlm finetune {bases / 'llama'} --data {bases / 'rows.jsonl'} --method {method} "
        assert str(error.value).endswith(f"go on with: {command}--out {tmp_path / method} --resume")


@pytest.mark.parametrize(
    ("family", "task", "figure"), [("llama", "prompt", "perplexity"), ("bert", "classify", "accuracy")]
)
def test_a_run_is_measured_on_the_rows_that_it_held_out(family: str, task: str, figure: str, tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", family)
    data = write_rows(tmp_path / "rows.jsonl", rows(task))
    scratchlm.finetune(str(base), data, tmp_path / "run", quiet=True, **settings(steps=3, eval_prompts=0))
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    found = scratchlm.load(tmp_path / "run").evaluate()
    assert found[figure] == pytest.approx(report["after"][figure], rel=1e-4)
    assert found["rows"] == report["held_out_rows"]
