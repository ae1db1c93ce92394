"""Hostile folders, runs and archives: each one line, no code run, no memory taken, nothing written."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from scratchlm.checkpoints.inspect import inspect
from scratchlm.checkpoints.meter import Meter
from scratchlm.checkpoints.packages import extract
from scratchlm.errors import UserError
from scratchlm.opening import open_model

from .hostile_files import change_json, huggingface_folder, little_memory, pickled, read_json, safetensors, spoil_header
from .wheels import FILES, entry_for, write_wheel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits its own memory by Linux's means")

Spoil = Callable[[Path], object]
NORM = "model.norm.weight"
NESTED = "[" * 200_000
SHARD = "model-00001-of-00001.safetensors"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return huggingface_folder(tmp_path_factory.mktemp("honest") / "model")


def refusal(call: Callable[[], object]) -> str:
    """The one line, given in little memory."""
    with pytest.raises(UserError) as caught, little_memory():
        call()
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 600, told
    return told


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def write(name: str, content: str | bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def replaced(name: str, target: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return spoil


def piped(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return spoil


def settings(**fields: Any) -> Spoil:
    return lambda folder: change_json(folder / "config.json", **fields)


def header(**fields: Any) -> Spoil:
    return lambda folder: spoil_header(weights(folder), NORM, **fields)


def indexed(target: str) -> Spoil:
    def spoil(folder: Path) -> None:
        names = list(json.loads(_header_text(weights(folder))))
        weights(folder).rename(folder / SHARD)
        table = dict.fromkeys((name for name in names if name != "__metadata__"), SHARD) | {NORM: target}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))

    return spoil


def _header_text(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 : 8 + struct.unpack_from("<Q", content)[0]]


def cut(name: str, share: float) -> Spoil:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return spoil


def twice(name: str, key: str) -> Spoil:
    def spoil(folder: Path) -> None:
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("{", "{" + f'"{key}": 1, "{key}": 2, ', 1))

    return spoil


def vocabulary(**entries: int) -> Spoil:
    """Add entries to the vocabulary of tokenizer.json."""

    def spoil(folder: Path) -> None:
        values = read_json(folder / "tokenizer.json")
        values["model"]["vocab"] |= entries
        (folder / "tokenizer.json").write_text(json.dumps(values))

    return spoil


FOLDERS: list[tuple[str, Spoil, str]] = [
    # what is wrong, how to make it so, words that the line must have, split at |
    ("weights cut in half", cut("model.safetensors", 0.5), "model.safetensors|damaged"),
    ("weights cut in the header", cut("model.safetensors", 0.001), "model.safetensors|damaged"),
    ("empty weights", write("model.safetensors", b""), "model.safetensors|damaged"),
    ("a header of 8 EiB", write("model.safetensors", b"\xff" * 7 + b"\x7f" + b"{}"), "model.safetensors|header"),
    ("a header as long as memory", write("model.safetensors", struct.pack("<Q", 90_000_000)), "header says 90,000,000"),
    ("a header that is no JSON", write("model.safetensors", safetensors("{" + "x" * 50)), "model.safetensors|damaged"),
    ("a header that is no text", write("model.safetensors", safetensors(b"\xff\xfe{}")), "model.safetensors"),
    ("a header nested without end", write("model.safetensors", safetensors(NESTED)), "nested too deeply"),
    ("a tensor twice", write("model.safetensors", safetensors('{"a": {}, "a": {}}')), "'a' is there twice"),
    ("NaN in a shape", header(shape=[float("nan")]), "NaN is no JSON"),
    ("a negative shape", header(shape=[-8]), f"{NORM}|make no sense"),
    ("a shape beyond all memory", header(shape=[1 << 40, 1 << 40]), NORM),
    ("a shape that is text", header(shape="8"), NORM),
    ("another shape", header(shape=[4, 2]), f"{NORM}|[4, 2]"),
    ("offsets beyond the file", header(data_offsets=[0, 1 << 50]), NORM),
    ("offsets that overlap", header(data_offsets=[0, 32]), "overlap"),
    ("an unknown type", header(dtype="F128"), "unknown type"),
    ("weights that are a pipe", piped("model.safetensors"), "model.safetensors"),
    ("weights that are endless", replaced("model.safetensors", "/dev/zero"), "model.safetensors"),
    ("an index that points outside", indexed("../../model.safetensors"), "../../model.safetensors|beside it"),
    ("an index with an absolute path", indexed("/etc/passwd"), "/etc/passwd|beside it"),
    ("an index that names a pickle", indexed("pytorch_model.bin"), "pytorch_model.bin|beside it"),
    ("an index that names a file that is not there", indexed("model-2.safetensors"), "model-2.safetensors is missing"),
    ("a config that is a list", write("config.json", "[]"), "config.json|object"),
    ("a config nested without end", write("config.json", '{"a":' * 200_000), "config.json|nested too deeply"),
    ("a config cut in half", cut("config.json", 0.5), "config.json|damaged"),
    ("a config with a key twice", twice("config.json", "hidden_size"), "'hidden_size' is there twice"),
    ("a config of another encoding", write("config.json", b"\xff\xfe\x00"), "config.json cannot be read"),
    ("a config that is endless", replaced("config.json", "/dev/zero"), "config.json"),
    ("a config that points to itself", replaced("config.json", "config.json"), ""),
    ("a vocabulary of 10^15", settings(vocab_size=10**15), "config.json|vocab"),
    ("10^9 layers", settings(num_hidden_layers=10**9), "describes"),
    ("10^6 layers", settings(num_hidden_layers=10**6), "describes"),
    ("a width of 10^12", settings(hidden_size=10**12, head_dim=4), "describes"),
    ("a context of 10^15", settings(max_position_embeddings=10**15), "max_position"),
    ("a number of 10^400", settings(intermediate_size=10**400), "config.json"),
    ("NaN in the config", settings(rope_theta=float("nan")), "NaN is no JSON"),
    ("code for a size", settings(hidden_size="__import__('os').system('id')"), "hidden_size"),
    ("-1 heads", settings(num_attention_heads=-1), "num_attention_heads|-1"),
    ("0 heads", settings(num_attention_heads=0), "num_attention_heads|0"),
    ("an architecture that brings its code", settings(model_type="mine", auto_map={"AutoModel": "mine.Model"}), "mine"),
]


@pytest.mark.parametrize(("spoil", "words"), [case[1:] for case in FOLDERS], ids=[case[0] for case in FOLDERS])
def test_a_hostile_folder_is_one_line(spoil: Spoil, words: str, honest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(honest, folder)
    spoil(folder)
    for call in (open_model,) if f"{NORM}|[4, 2]" in words else (open_model, inspect):  # headers alone tell no misfit
        told = refusal(lambda call=call: call(folder))  # type: ignore[misc]
        assert [word for word in words.split("|") if word not in told] == [], told


def test_the_folder_that_the_cases_spoil_is_sound(honest: Path) -> None:
    with little_memory():
        assert open_model(honest).model.config.layers == inspect(honest)["layers"] == 1


TOKENIZERS: list[tuple[str, Spoil]] = [
    ("cut in half", cut("tokenizer.json", 0.5)),
    ("nested without end", write("tokenizer.json", '{"a":' * 200_000)),
    ("no JSON", write("tokenizer.json", b"\x00" * 100)),
    ("of another program", write("tokenizer.json", '{"version": "1.0", "model": {"type": "Surprise"}}')),
    ("an id of four thousand millions", vocabulary(extra=4_000_000_000)),
    ("endless", replaced("tokenizer.json", "/dev/zero")),
    ("a pipe", piped("tokenizer.json")),
    ("settings nested without end", write("tokenizer_config.json", '{"a":' * 200_000)),
    ("settings that are a list", write("tokenizer_config.json", "[1]")),
    ("settings that are endless", replaced("tokenizer_config.json", "/dev/zero")),
]


@pytest.mark.parametrize("spoil", [case[1] for case in TOKENIZERS], ids=[case[0] for case in TOKENIZERS])
def test_a_hostile_tokenizer_is_one_line(spoil: Spoil, honest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(honest, folder)
    settings = read_json(folder / "tokenizer_config.json")
    for name in ("scratchlm_kind", "scratchlm_unknown"):  # as made elsewhere
        settings.pop(name, None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with little_memory():
        open_model(folder)
    spoil(folder)
    assert "tokenizer" in refusal(lambda: open_model(folder))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_a_pickle_is_not_opened(name: str, honest: Path, tmp_path: Path) -> None:
    folder, trace = tmp_path / "model", tmp_path / "trace"
    shutil.copytree(honest, folder)
    weights(folder).unlink()
    (folder / name).write_bytes(pickled(trace))
    for call in (open_model, inspect):
        for target in (folder, folder / name):
            assert "pickle" in refusal(lambda call=call, target=target: call(target))  # type: ignore[misc]
    assert not trace.exists()


@pytest.mark.parametrize("name", ["modeling_mine.py", "sitecustomize.py", "tokenization_mine.py"])
def test_code_beside_a_model_is_not_run(name: str, honest: Path, tmp_path: Path) -> None:
    folder, trace = tmp_path / "model", tmp_path / "trace"
    shutil.copytree(honest, folder)
    (folder / name).write_text(f"open({str(trace)!r}, 'w')")
    change_json(folder / "config.json", auto_map={"AutoModelForCausalLM": f"{name[:-3]}.Model"})
    change_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [f"{name[:-3]}.Tokenizer", None]})
    with suppress(UserError):  # refusing to open such a model is as good
        open_model(folder)
    assert not trace.exists()


def test_any_bit_flipped_in_a_header_is_noticed_or_harmless(honest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(honest, folder)
    content = weights(folder).read_bytes()
    length = len(_header_text(weights(folder)))
    told = []
    with little_memory():
        for place in range(0, 8 * (8 + length), 13):
            spoiled = bytearray(content)
            spoiled[place // 8] ^= 1 << place % 8
            weights(folder).write_bytes(spoiled)
            try:
                open_model(folder)
            except UserError as error:
                told.append(str(error))
    assert len(told) > 100
    assert [line for line in told if "\n" in line] == []


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "description",
    [
        NESTED,
        '{"format": 1, "model": []}',
        '{"format": NaN, "model": {}}',
        '{"format": 1, "model": {"vocab_size": 1e400}}',
        '{"format": 1, "model": {"vocab_size": 1000000000000000}}',
        '{"format": 1, "model": {"vocab_size": 300, "layers": 1000000000}}',
        '{"format": 1, "model": {"vocab_size": 300, "width": 4194304, "heads": 1}}',
        '{"format": 1, "model": {"vocab_size": 300, "context": 1000000000000}}',
        '{"format": 1, "model": {"vocab_size": "300"}}',
    ],
)
def test_a_hostile_run_is_one_line(description: str, honest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(honest, folder)
    (folder / "scratchlm.json").write_text(description)
    for call in (open_model, inspect):
        refusal(lambda call=call: call(folder))  # type: ignore[misc]


# -- archives ---------------------------------------------------------------------------------------------------------


def taken(wheel: Path, target: Path) -> str:
    package = entry_for().package
    assert package is not None
    target.mkdir()
    return refusal(lambda: extract(wheel, package, target, Meter()))


@pytest.mark.parametrize(
    "name",
    [
        "tiny_model/data/../../../escaped.txt",
        "../escaped.txt",
        "/tmp/scratchlm-escaped.txt",
        "tiny_model\\..\\..\\escaped.txt",
        "C:\\escaped.txt",
        "tiny_model/./data/escaped.txt",
        "tiny_model//escaped.txt",
        "tiny_model/data/es\x1bcaped.txt",
    ],
)
def test_an_archive_whose_members_would_leave_is_refused_whole(name: str, tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "shelf", more={name: b"escaped"})
    assert "would leave its folder" in taken(wheel, tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.rglob("*escaped*")) == []
    assert list((tmp_path / "taken").iterdir()) == []


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../secret"])
def test_a_link_in_an_archive_is_refused(target: str, tmp_path: Path) -> None:
    files = {name: content for name, content in FILES.items() if name != "config.json"}
    wheel = write_wheel(tmp_path / "shelf", files, links={"tiny_model/data/config.json": target})
    assert "is a link or a device" in taken(wheel, tmp_path / "taken")


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    files = dict(FILES) | {"model.safetensors": bytes(200 << 20)}
    wheel = write_wheel(tmp_path / "shelf", files)
    assert wheel.stat().st_size < 1 << 20
    assert "209,715,200 bytes instead of 512,000" in taken(wheel, tmp_path / "taken")
    assert not (tmp_path / "taken" / "model.safetensors").exists()


def test_a_bomb_that_says_it_is_small_is_stopped(tmp_path: Path) -> None:
    files = dict(FILES) | {"model.safetensors": bytes(200 << 20)}
    wheel = write_wheel(tmp_path / "shelf", files)
    wheel.write_bytes(wheel.read_bytes().replace(struct.pack("<I", 200 << 20), struct.pack("<I", 512_000)))
    taken(wheel, tmp_path / "taken")
    assert (tmp_path / "taken" / "model.safetensors").stat().st_size <= 512_000


def test_an_archive_with_a_member_twice_is_refused(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "shelf")
    with zipfile.ZipFile(wheel, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("tiny_model/data/config.json", "{}")
    assert "twice" in taken(wheel, tmp_path / "taken")


def test_an_archive_with_very_many_members_is_refused(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "shelf", more={f"tiny_model/{n}": b"" for n in range(10_001)})
    assert "members, more than any package needs" in taken(wheel, tmp_path / "taken")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_an_archive_cut_short_is_one_line(share: float, tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "shelf")
    wheel.write_bytes(wheel.read_bytes()[: int(wheel.stat().st_size * share)])
    assert "damaged" in taken(wheel, tmp_path / "taken")
