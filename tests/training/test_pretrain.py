"""The whole verb: from a preset's name and a text to a run folder, and on from one."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scratchlm.checkpoints import RunFolder
from scratchlm.data import corpus_text
from scratchlm.errors import UserError
from scratchlm.training import Reporter, TrainResult, train

SHAPE: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2, "context": 8}
TINY: dict[str, Any] = SHAPE | {"steps": 6, "batch_size": 4, "warmup_steps": 1, "log_every": 1, "device": "cpu"}


def run(out: Path, preset: str = "tinygpt", data: str | None = None, **more: Any) -> TrainResult:
    resume, reporter = more.pop("resume", False), more.pop("reporter", Reporter(quiet=True))
    settings = more.pop("settings", TINY | more)
    return train(preset, data, out, settings=settings, resume=resume, reporter=reporter)


class Interrupting(Reporter):
    """Presses Ctrl-C after a step."""

    def __init__(self, step: int, stream: io.StringIO) -> None:
        super().__init__(stream=stream)
        self.at = step

    def step(self, done: int, loss: float, tokens: int, computed: float = 1.0) -> None:
        super().step(done, loss, tokens, computed)
        if done == self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("preset", "more"),
    [
        ("tinygpt", {}),
        ("tinybert", {}),
        ("transformer", {"context": 40, "width": 16}),
        ("modern", {"tokenizer": "char", "unknown": "token"}),
    ],
)
def test_a_run_is_one_folder_that_opens_again(preset: str, more: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run(out, preset, "rumi-life" if preset == "modern" else None, **more)
    assert result.fit.stopped == "finished"
    names = {path.name for path in out.iterdir()}
    assert names >= {
        *("scratchlm.json", "settings.yaml", "tokenizer.json", "model.safetensors"),
        *("metrics.jsonl", "README.md", "checkpoints"),
    }
    assert ("config.json" in names) == (preset == "tinygpt")  # the one that transformers has a family for
    assert not [path for path in out.rglob("*") if path.name.endswith((".partial", ".lock"))]
    model, tokenizer = RunFolder.open(out).load_model()
    assert not model.training
    assert tokenizer.fingerprint == result.tokenizer.fingerprint
    for (name, one), (_, other) in zip(model.named_parameters(), result.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_the_card_says_what_the_run_is_and_how_to_use_it(tmp_path: Path) -> None:
    result = run(tmp_path / "mine", "tinybert", steps=7)
    card = (tmp_path / "mine" / "README.md").read_text()
    count = sum(parameter.numel() for parameter in result.model.parameters())
    for words in ("tinybert", "rumi-life", f"{count:,}", "word", "7 of 7 steps", "encoder-only", "scratchlm fill"):
        assert words in card


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"already holds files; .* choose another folder"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    run(tmp_path / "run")
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="already holds a run; add --resume"):
        run(tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == weights


def test_a_file_in_the_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="is a file"):
        run(tmp_path / "run")
    with pytest.raises(UserError, match="cannot write the run folder"):
        run(tmp_path / "run" / "below")


def test_ctrl_c_says_how_to_go_on_and_that_works_without_naming_the_settings_again(tmp_path: Path) -> None:
    run(tmp_path / "whole", dropout=0.3, optimizer="muon")
    said = io.StringIO()
    cut = tmp_path / "my run"
    result = run(cut, dropout=0.3, optimizer="muon", reporter=Interrupting(3, said))
    assert (result.fit.stopped, result.fit.steps) == ("interrupted", 3)
    command = said.getvalue().splitlines()[-1].strip()
    assert command == f"scratchlm train tinygpt --data rumi --out '{cut}' --resume"
    result = run(cut, "tinygpt", "rumi", settings={}, resume=True)
    assert (result.fit.stopped, result.fit.steps) == ("finished", 6)
    assert (cut / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_run_resumes_from_the_data_it_was_begun_on_unless_told_otherwise(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(corpus_text("rumi"))
    run(tmp_path / "run", data=str(text), reporter=Interrupting(2, io.StringIO()))
    assert run(tmp_path / "run", settings={}, resume=True).fit.steps == 6


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path: Path) -> None:
    run(tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert run(tmp_path / "run", resume=True).fit.steps == 6
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_resume_of_what_never_began_starts_at_the_beginning(tmp_path: Path) -> None:
    assert run(tmp_path / "run", resume=True).fit.steps == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.5}, "was begun with learning_rate=0.002, not 0.5"),
        ({"width": 32}, "was begun with width=16, not 32"),
        ({"seed": 4}, "was begun with seed=0, not 4"),
        ({"steps": 9}, "was begun with steps=6, not 9"),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    run(tmp_path / "run", reporter=Interrupting(3, io.StringIO()), learning_rate=0.002)
    with pytest.raises(UserError, match=message):
        run(tmp_path / "run", "tinygpt", None, settings=change, resume=True)


def test_a_run_goes_on_with_another_way_of_logging(tmp_path: Path) -> None:
    run(tmp_path / "run", reporter=Interrupting(3, io.StringIO()))
    assert run(tmp_path / "run", settings={"log_every": 2, "save_every": 2}, resume=True).fit.steps == 6


def test_a_run_does_not_go_on_as_another_preset_or_on_another_text(tmp_path: Path) -> None:
    run(tmp_path / "run", reporter=Interrupting(3, io.StringIO()))
    with pytest.raises(UserError, match="was begun with the preset 'tinygpt', not 'modern'"):
        run(tmp_path / "run", "modern", "rumi", resume=True)
    with pytest.raises(UserError, match="was begun on the data 'rumi', not 'rumi-life'"):
        run(tmp_path / "run", "tinygpt", "rumi-life", resume=True)


def test_a_text_that_has_changed_is_noticed(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(corpus_text("rumi"))
    run(tmp_path / "run", data=str(text), reporter=Interrupting(3, io.StringIO()))
    text.write_text(corpus_text("rumi")[::-1])
    with pytest.raises(UserError, match="has changed since"):
        run(tmp_path / "run", data=str(text), settings={}, resume=True)


@pytest.mark.parametrize("change", [{"dropout": "true"}, {"norm_eps": True}, {"width": 16.5}, {"heads": 3}])
def test_a_wrong_model_setting_is_one_line_and_leaves_no_folder(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        run(tmp_path / "run", **change)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "scratchlm.json").exists()


def test_two_runs_do_not_write_one_folder_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    script = (
        "import sys; from scratchlm.checkpoints import RunFolder; run = RunFolder(sys.argv[1]);"
        "run.start(resume=False); print('in', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"
    with pytest.raises(UserError, match="is in use by another run"):
        run(tmp_path / "run", resume=True)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert holder.stdin is not None
    holder.stdin.close()
    assert run(tmp_path / "run", resume=True).fit.steps == 6


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run(tmp_path / "run", tensorboard=True)
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_a_missing_tensorboard_is_answered_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'scratchlm\[tensorboard\]'"):
        run(tmp_path / "run", tensorboard=True)
