"""Folders that lie, are damaged or hold pickles: one line, no code run, no memory taken."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scratchlm.checkpoints import load_huggingface, model_tensors

from .folders import CONFIG, INDEX, WEIGHTS, complaint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "damaged"),
        (b"[]", "holds no object"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"hidden_size": NaN}', "no JSON"),
        (b'{"model_type": "gpt2", "model_type": "bert"}', "twice"),
        (b" " * (5 << 20), "more than any such file needs"),
        (None, "is missing"),
    ],
)
def test_a_config_that_is_no_config(content: bytes | None, words: str, folder: Path) -> None:
    (folder / CONFIG).unlink() if content is None else (folder / CONFIG).write_bytes(content)
    line = complaint(folder)
    assert words in line, line
    assert CONFIG in line


def packed(header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        packed({}, length=2**63),
        packed({}, length=99_000_000),
        packed(b"{" * 50),
        packed(b'{"a":' * 20_000),
        packed(b"\xff\xff\xff"),
        packed({"a": ONE}),
        packed({"a": ONE}, bytes(7)),
        packed({"a": ONE}, bytes(9)),
        packed({"a": ONE, "b": ONE}, bytes(8)),
        packed({"a": ONE | {"data_offsets": [8, 16]}}, bytes(16)),
        packed({"a": ONE | {"data_offsets": [8, 0]}}, bytes(8)),
        packed({"a": ONE | {"shape": [-2]}}, bytes(8)),
        packed({"a": ONE | {"shape": [2**40, 2**40]}}, bytes(8)),
        packed({"a": ONE | {"shape": [3]}}, bytes(8)),
        packed({"a": ONE | {"dtype": "F99"}}, bytes(8)),
        packed({"a": 5}),
    ],
)
def test_a_hostile_safetensors_file_is_one_line(content: bytes, folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(content)
    assert WEIGHTS in complaint(folder)


def test_a_file_cut_short_anywhere_is_one_line(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    for length in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        (folder / WEIGHTS).write_bytes(whole[:length])
        assert WEIGHTS in complaint(folder)


def sharded(folder: Path, index: dict[str, str] | None = None) -> None:
    """Split the folder's file into two shards, with an index that may be changed."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    table = {name: file for file, part in parts.items() for name in part} | (index or {})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": table}))


def test_shards_are_read(folder: Path) -> None:
    before = model_tensors(load_huggingface(folder))
    sharded(folder)
    after = model_tensors(load_huggingface(folder))
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "place", ["../one.safetensors", "/etc/passwd", "a/one.safetensors", "one.bin", "", 7, "..\\one.safetensors"]
)
def test_an_index_that_points_elsewhere_is_refused(place: Any, folder: Path) -> None:
    sharded(folder, {"model.norm.weight": place})
    save_file({"model.norm.weight": torch.ones(16)}, folder.parent / "one.safetensors")
    line = complaint(folder)
    assert INDEX in line
    assert "which is no safetensors file beside it" in line


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"model.norm.weight": "three.safetensors"}, "three.safetensors is missing"),
        ({"model.nothing": "one.safetensors"}, "puts 'model.nothing' into one.safetensors, which lacks it"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(index: dict[str, str], words: str, folder: Path) -> None:
    sharded(folder, index)
    assert words in complaint(folder)


def test_the_same_tensor_in_two_shards_is_refused(folder: Path) -> None:
    sharded(folder)
    for file in ("one.safetensors", "two.safetensors"):
        save_file(load_file(folder / file) | {"model.norm.weight": torch.ones(16)}, folder / file)
    assert "holds 'model.norm.weight' a second time" in complaint(folder)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_a_pickle_is_never_opened_and_the_line_says_how_to_convert_it(name: str, folder: Path) -> None:
    sprung = folder / "sprung"
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(Trap(sprung)))
    for place in (folder, folder / name):
        line = complaint(place)
        assert "is a pickle" in line
        assert "save_file" in line
    assert not sprung.exists()


def test_the_line_about_pickles_converts_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    program = complaint(folder).split('python -c "')[1].removesuffix('"')
    monkeypatch.chdir(folder)
    exec(program, {})
    assert torch.equal(load_huggingface(folder).embed.tokens.weight, tensors["model.embed_tokens.weight"])
