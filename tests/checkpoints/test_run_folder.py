"""The run folder: whole files or none, damage named, disks that refuse."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scratchlm.checkpoints import RunFolder, load_tensors, model_tensors
from scratchlm.checkpoints.files import write_atomically, write_text
from scratchlm.errors import UserError
from scratchlm.models import build_model, model_preset
from scratchlm.tokenizers import train_tokenizer


def model(seed: int = 0, **fields: Any) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(model_preset("tinygpt", 5, **({"width": 8, "heads": 2, "layers": 1, "context": 4} | fields)))


def begun(path: Path, **fields: Any) -> RunFolder:
    """A run of the model above that has saved one checkpoint, at step 5."""
    run = RunFolder(path)
    run.start(resume=False)
    train_tokenizer("char", ["abcde"]).save(path)
    config = model(**fields).config
    run.write_settings({"steps": 10})
    run.write_description({"preset": "tinygpt", "model": config.to_dict(), "data": {"name": "letters"}})
    run.save_checkpoint(5, model(1, **fields), {"momentum": torch.ones(3)}, {"loss": 2.0})
    run.save_weights(model(1, **fields))
    return run


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_saved_comes_back(tied: bool, tmp_path: Path) -> None:
    begun(tmp_path / "run", tied_embeddings=tied).close()
    run = RunFolder.open(tmp_path / "run")
    loaded, tokenizer = run.load_model()
    assert same(loaded, model(1, tied_embeddings=tied))
    assert not loaded.training
    assert tokenizer.encode("cab") == [2, 0, 1]
    assert run.settings() == {"steps": 10}
    checkpoint = run.latest_checkpoint()
    assert checkpoint is not None
    assert (checkpoint.step, checkpoint.state["loss"]) == (5, 2.0)
    assert torch.equal(checkpoint.optimizer_tensors()["momentum"], torch.ones(3))
    assert "head.weight" in checkpoint.model_tensors() or tied


def test_a_new_checkpoint_appears_whole_and_takes_the_place_of_older_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path / "run")
    rename, folder = os.rename, tmp_path / "run" / "checkpoints"
    seen: list[list[str]] = []

    def watched(old: Path, new: Path) -> None:
        latest = run.latest_checkpoint()
        assert latest is not None
        assert latest.step == 5
        seen.append(sorted(path.name for path in Path(old).iterdir()))
        rename(old, new)

    monkeypatch.setattr(os, "rename", watched)
    run.save_checkpoint(7, model(2), {}, {})
    assert seen == [["model.safetensors", "optimizer.safetensors", "state.json"]]
    assert [path.name for path in folder.iterdir()] == ["step-00000007"]


def test_what_a_killed_writer_left_is_no_checkpoint_and_is_cleared_away(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    half = tmp_path / "run" / "checkpoints" / ".step-00000007.partial"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    latest = run.latest_checkpoint()
    assert latest is not None
    assert latest.step == 5
    run.save_checkpoint(7, model(2), {}, {})
    assert not half.exists()
    latest = run.latest_checkpoint()
    assert latest is not None
    assert latest.model_tensors().keys() == model_tensors(model()).keys()


def full_disk(*_arguments: Any, **_options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refused(*_arguments: Any, **_options: Any) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize(("refuse", "words"), [(full_disk, "the disk is full"), (refused, "Permission denied")])
@pytest.mark.parametrize("place", ["open", "os.fsync"])
def test_a_disk_that_refuses_is_one_line_and_loses_nothing(
    place: str, refuse: Callable[..., None], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    writes: list[Callable[[], None]] = [
        lambda: run.save_checkpoint(7, model(2), {"momentum": torch.ones(3)}, {}),
        lambda: run.save_weights(model(2)),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse) if place == "open" else patch.setattr(os, "fsync", refuse)
        for write in writes:
            with pytest.raises(UserError, match=f"{words}; the checkpoint at step 5 is intact") as error:
                write()
            assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    run.save_checkpoint(7, model(2), {}, {})


FULL = """
import resource, sys
import torch
from scratchlm.checkpoints import RunFolder
run = RunFolder(sys.argv[1])
run.start(resume=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # as a full disk: writing stops in the middle of a file
try:
    run.save_checkpoint(9, torch.nn.Linear(100, 100), {}, {})
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_file_that_the_system_cuts_short_is_a_full_disk(tmp_path: Path) -> None:
    begun(tmp_path / "run").close()
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "run")], capture_output=True, text=True, check=True
    )
    assert "UserError cannot write a checkpoint" in done.stdout, done.stdout
    assert "step 5 is intact" in done.stdout
    latest = RunFolder(tmp_path / "run").latest_checkpoint()
    assert latest is not None
    assert latest.step == 5
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def test_replacing_a_file_leaves_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_text(file, "old")

    def half(partial: Path) -> None:
        partial.write_text("ne")
        assert file.read_text() == "old"
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError):
        write_atomically(file, half)
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def spoil(run: Path, name: str, content: bytes | None) -> None:
    path = next(run.rglob(name)) if name != "model.safetensors" else run / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scratchlm.json", None, "is not a run: it has no scratchlm.json"),
        ("scratchlm.json", b"{", "scratchlm.json cannot be read"),
        ("scratchlm.json", b"\xff\xff", "scratchlm.json cannot be read"),
        ("scratchlm.json", b"[]", "has format None, this version reads format 1"),
        ("scratchlm.json", b'{"format": 2}', "has format 2, this version reads format 1"),
        ("scratchlm.json", b'{"format": 1, "model": {"width": 8}}', "no 'vocab_size'"),
        ("model.safetensors", b"", "model.safetensors is damaged"),
        ("model.safetensors", b"\xff" * 100, "model.safetensors is damaged"),
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("tokenizer.json", b"{", "tokenizer.json is damaged"),
        ("model.safetensors", None, r"is not finished: .* go on with: scratchlm train tinygpt --data letters"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    begun(tmp_path / "run").close()
    spoil(tmp_path / "run", name, content)
    with pytest.raises(UserError, match=message) as error:
        RunFolder.open(tmp_path / "run").load_model()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [("state.json", b"{"), ("state.json", b"{}"), ("state.json", None), ("optimizer.safetensors", b"\0" * 9)],
)
def test_a_damaged_checkpoint_is_named_with_its_cure(name: str, content: bytes | None, tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    spoil(tmp_path / "run", name, content)

    def read() -> None:
        checkpoint = run.latest_checkpoint()
        assert checkpoint is not None
        checkpoint.optimizer_tensors()

    with pytest.raises(UserError, match=f"{re.escape(name)} is damaged.* delete") as error:
        read()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["nowhere", "file"])
def test_what_is_no_run_is_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"there is no run|is not a run"):
        RunFolder.open(tmp_path / path)


def test_weights_of_another_model_are_refused_by_the_tensors_name() -> None:
    wanted = model_tensors(model())

    def without(name: str) -> dict[str, Tensor]:
        return {key: tensor for key, tensor in wanted.items() if key != name}

    with pytest.raises(UserError, match=r"x lacks the tensor 'blocks\.0\.mlp\.up\.weight'"):
        load_tensors(model(), without("blocks.0.mlp.up.weight"), "x")
    with pytest.raises(UserError, match=r"'norm\.weight' has shape \[9\], the model needs \[8\]"):
        load_tensors(model(), wanted | {"norm.weight": torch.ones(9)}, "x")
    with pytest.raises(UserError, match="x has a tensor 'more'"):
        load_tensors(model(), wanted | {"more": torch.ones(1)}, "x")


def test_the_log_forgets_what_will_be_trained_again_and_half_lines(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    for step in (1, 2, 3, 4):
        run.append_metrics({"step": step, "loss": 1 / step})
    log = tmp_path / "run" / "metrics.jsonl"
    with log.open("a") as file:
        file.write('{"step": 5, "lo')
    run.truncate_metrics(2)
    assert [json.loads(line) for line in log.read_text().splitlines()] == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5},
    ]
    run.append_metrics({"step": 3})
    assert len(log.read_text().splitlines()) == 3


def test_a_run_can_be_moved(tmp_path: Path) -> None:
    begun(tmp_path / "run").close()
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    loaded, _ = RunFolder.open(tmp_path / "elsewhere").load_model()
    assert same(loaded, model(1))
