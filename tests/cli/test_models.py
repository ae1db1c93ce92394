"""``scratchlm models``, and the other verbs with models that others trained."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from scratchlm.checkpoints.catalogue import Entry
from scratchlm.cli.transfer import Transfer

from ..checkpoints.hostile_files import gguf, huggingface_folder
from ..checkpoints.wheels import entry_for, write_wheel
from .conftest import Command

INFO = {
    *("name", "kind", "path", "architecture", "family", "layers", "width", "heads", "kv_heads", "vocabulary"),
    *("context", "parameters", "stored", "bytes", "memory", "hub", "licence", "chat_template", "tokenizer"),
}


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "SCRATCHLM_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCRATCHLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return huggingface_folder(tmp_path_factory.mktemp("llama") / "tiny-llama")


@pytest.fixture
def tiny(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """A catalogue whose one model, "tiny", comes as a wheel that pip finds."""
    files = {path.name: path.read_bytes() for path in llama.iterdir()}
    write_wheel(tmp_path / "shelf", files)
    entry = entry_for(files)
    for module in ("download", "catalogue"):  # in this order: the one takes its names from the other
        monkeypatch.setattr(f"scratchlm.checkpoints.{module}.entries", lambda: {"tiny": entry})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return entry


def test_the_list_shows_every_model_and_what_is_here(command: Command) -> None:
    shown = command("models", "list")
    assert shown.status == 0
    assert all(name in shown.out for name in ("smollm2-135m-instruct", "all-minilm-l6-v2", "gpt2", "Apache-2.0"))
    rows = command("models", "list", "--json").json["models"]
    assert len(rows) >= 12
    assert {row["here"] for row in rows} == {None}
    assert {"name", "kind", "size", "licence", "gated", "purpose", "hub", "package", "path"} < set(rows[0])


def test_without_a_verb_the_help_is_shown(command: Command) -> None:
    shown = command("models")
    assert (shown.status, shown.err) == (0, "")
    assert all(verb in shown.out for verb in ("list", "pull", "info", "export"))


@pytest.mark.usefixtures("tiny")
def test_a_model_is_pulled_described_and_used_by_its_name(command: Command, tmp_path: Path) -> None:
    pulled = command("models", "pull", "tiny")
    assert pulled.status == 0
    assert pulled.out == f"{tmp_path / 'cache' / 'models' / 'tiny'}\n"
    assert "the hub cannot be reached" in pulled.err
    assert "taking tiny-model 1.0 instead" in pulled.err
    again = command("models", "pull", "tiny", "--json")
    assert again.json == {"name": "tiny", "kind": "huggingface", "path": pulled.out.strip()}
    assert "here and whole" in again.err
    assert command("models", "list", "--json").json["models"][0]["here"] == "huggingface"
    assert command("models", "info", "tiny", "--verify", "--json").json["verified"] is True
    said = command("generate", "tiny", "--prompt", "the cat", "--max-new-tokens", "3", "--seed", "1", "--json")
    assert said.json["samples"][0]["tokens"] == 3


@pytest.mark.usefixtures("tiny")
def test_a_model_that_is_known_but_not_here_is_not_fetched_by_itself(command: Command) -> None:
    outcome = command("generate", "tiny", "--prompt", "the cat")
    assert outcome.status == 2
    assert outcome.err == "error: tiny is not on this machine yet; fetch it with: scratchlm models pull tiny\n"


@pytest.mark.usefixtures("tiny")
def test_a_damaged_file_is_named_by_info_and_mended_by_pull(command: Command, tmp_path: Path) -> None:
    command("models", "pull", "tiny", "--source", "package")
    weights = tmp_path / "cache" / "models" / "tiny" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + b"\0\0\0\1")
    assert command("models", "info", "tiny").status == 0
    told = command("models", "info", "tiny", "--verify").err
    assert "model.safetensors (sha256 differs)" in told
    assert "scratchlm models pull tiny" in told
    weights.write_bytes(content[:-4])
    for verb in ("info", "export --to gguf --out x"):
        assert "model.safetensors is damaged" in command("models", verb.split()[0], "tiny", *verb.split()[1:]).err
    mended = command("models", "pull", "tiny", "--source", "package")
    assert mended.status == 0
    assert "model.safetensors is damaged" in mended.err
    assert weights.read_bytes() == content


def test_info_tells_all_kinds_of_models_apart(command: Command, llama: Path, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(gguf({"tokenizer.chat_template": "x", "general.license": "mit"}))
    told = {
        kind: command("models", "info", str(path), "--json").json
        for kind, path in (("run", runs / "gpt"), ("huggingface", llama), ("gguf", tmp_path / "tiny.gguf"))
    }
    assert all(figures["kind"] == kind and set(figures) == INFO for kind, figures in told.items())
    assert [figures["architecture"] for figures in told.values()] == ["decoder"] * 3
    assert [figures["family"] for figures in told.values()] == ["tinygpt", "llama", "llama"]
    assert [figures["tokenizer"] for figures in told.values()] == ["char", "bpe", "bpe"]
    assert [figures["chat_template"] for figures in told.values()] == [False, False, True]
    assert told["gguf"]["licence"] == "mit"
    assert told["huggingface"]["bytes"] == (llama / "model.safetensors").stat().st_size


def test_the_memory_is_that_of_the_weights_and_of_the_cache(command: Command, llama: Path) -> None:
    figures = command("models", "info", str(llama), "--json").json
    memory, count = figures["memory"], figures["parameters"]
    assert list(memory) == ["float32", "bfloat16", "int8", "int4"]
    assert memory["float32"]["weights"] == 4 * count
    assert memory["bfloat16"]["weights"] == 2 * count
    assert 1.06 * count < memory["int8"]["weights"] < 1.1 * count
    assert 0.62 * count < memory["int4"]["weights"] < 0.7 * count
    # keys and values x layers x heads x head size x context x bytes
    assert memory["float32"]["cache"] == 2 * 1 * 2 * 4 * 16 * 4
    assert all(parts["total"] == parts["weights"] + parts["cache"] for parts in memory.values())


def test_the_parameters_are_those_of_the_loaded_model(command: Command, runs: Path) -> None:
    import scratchlm

    for name in ("gpt", "bert", "dates"):
        told = command("models", "info", str(runs / name), "--json").json
        model = scratchlm.load(runs / name).model
        assert told["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_info_for_people_has_the_figures_in_it(command: Command, llama: Path) -> None:
    shown = command("models", "info", str(llama))
    assert shown.status == 0
    assert all(word in shown.out for word in ("parameters", "decoder, llama", "16 tokens", "float32", "int4", "cache"))


def test_info_reads_no_weights(command: Command, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scratchlm.checkpoints.weights.safe_open", lambda *_, **__: pytest.fail("weights were read"))
    assert command("models", "info", str(llama)).status == 0


@pytest.mark.parametrize("name", ["gpt", "bert", "dates"])
def test_info_of_an_unfinished_run_says_how_to_go_on(command: Command, runs: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(runs / name, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    assert "--resume" in command("models", "info", str(tmp_path / "run")).err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("models pull", "NAME|scratchlm models pull --help"),
        ("models pull gtp2", "did you mean 'gpt2'"),
        ("models pull gpt2", "the hub cannot be reached for openai-community/gpt2"),
        ("models pull gpt2 --source package", "hub only|smollm2-135m-instruct"),
        ("models pull gpt2 --source disk", "--source|package"),
        ("models pull no/such/name", "no model 'no/such/name'|organisation/name"),
        ("models info", "NAME|scratchlm models info --help"),
        ("models info nope", "'nope'|scratchlm models list"),
        ("models info gpt2", "scratchlm models pull gpt2"),
        ("models info file.txt", "file.txt is not a run"),
        ("models info model.bin", "pickle|convert"),
        ("models export nope --to gguf --out x", "'nope'"),
        ("models export gpt2 --to gguf --out file.txt", "file.txt exists already|--out"),
        ("models export gpt2 --to tflite --out x", "--to|huggingface|onnx"),
        ("models export gpt2 --to onnx --out file.txt", "file.txt exists already|--out"),
        ("models export gpt2 --to gguf", "--out"),
        ("models fetch gpt2", "no such command 'fetch'"),
        ("eval LLAMA", "--data"),
        ("fill LLAMA --text [MASK]", "generate"),
        ("eval LLAMA --data nope.txt", "nope.txt"),
    ],
)
def test_a_mistake_gets_one_line(
    line: str, words: str, command: Command, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.txt").write_text("text")
    Path("model.bin").write_bytes(b"\x80\x04.")
    outcome = command(*line.replace("LLAMA", str(llama)).split())
    assert outcome.status == 2
    assert outcome.out == ""
    (told,) = outcome.err.splitlines()
    assert told.startswith("error: ")
    assert [word for word in words.split("|") if word not in told] == [], told
    assert {path.name for path in tmp_path.iterdir()} <= {"file.txt", "model.bin", "cache", "hf"}


def test_others_models_are_evaluated_on_a_text(command: Command, llama: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 20)
    figures = command("eval", str(llama), "--data", str(tmp_path / "text.txt"), "--json").json
    assert figures["measured_on"] == "text"
    assert figures["cross_entropy"] > 0
    assert figures["bits_per_character"] > 0


@pytest.mark.parametrize("source", ["gpt", "llama"])
def test_an_exported_folder_says_what_the_model_said(
    command: Command, runs: Path, llama: Path, tmp_path: Path, source: str
) -> None:
    name, out = str(runs / "gpt") if source == "gpt" else str(llama), tmp_path / "exported"
    done = command("models", "export", name, "--to", "huggingface", "--out", str(out), "--json")
    assert done.json == {"name": name, "format": "huggingface", "path": str(out)}
    assert json.loads((out / "config.json").read_text())["model_type"] == ("gpt2" if source == "gpt" else "llama")
    options = ("--prompt", "the c" if source == "llama" else "Rumi", "--greedy", "--max-new-tokens", "12", "--json")
    before, after = (command("generate", which, *options).json["samples"] for which in (name, str(out)))
    assert [one["completion"] for one in before] == [one["completion"] for one in after]


def test_an_export_takes_the_pooling_settings_along(command: Command, llama: Path, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "source")
    files = {"modules.json": "[]", "sentence_bert_config.json": "{}", "1_Pooling/config.json": '{"a": 1}'}
    (tmp_path / "source" / "1_Pooling").mkdir()
    for name, content in files.items():
        (tmp_path / "source" / name).write_text(content)
    out = tmp_path / "exported"
    assert command("models", "export", str(tmp_path / "source"), "--to", "huggingface", "--out", str(out)).status == 0
    assert {name: (out / name).read_text() for name in files} == files


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_an_exported_gguf_file_opens_again(command: Command, llama: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "new" / "tiny.gguf"
    done = command("models", "export", str(llama), "--to", "gguf", "--out", str(out), "--kind", kind)
    assert (done.status, done.out) == (0, f"{out}\n"), done.err
    assert sorted(path.name for path in out.parent.iterdir()) == ["tiny.gguf"]
    told, source = (command("models", "info", str(path), "--json").json for path in (out, llama))
    assert told["kind"] == "gguf"
    assert all(told[key] == source[key] for key in ("family", "layers", "width", "heads", "context", "tokenizer"))
    assert {"F32", kind.upper()} <= set(told["stored"])


def _read(terminal: int) -> bytes:
    """What comes next from a pseudo-terminal, which hands on what was written piece by piece; nothing at its end."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # what Linux says once the other side is closed and all has been read
        return b""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal")
def test_on_a_terminal_a_pull_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = os.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "100")
        with Transfer() as meter:
            meter.say("fetching")
            meter.show("model.safetensors", 3_000_000, 12_000_000)
            meter._bars.refresh()
    shown = b"".join(iter(lambda: _read(leader), b"")).decode()
    os.close(leader)
    assert "fetching" in shown
    assert "model.safetensors" in shown
    assert "3.0/12.0 MB" in shown
