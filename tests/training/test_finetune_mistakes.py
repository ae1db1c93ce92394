"""A mistake in a tuning's rows, options or files gets one line: what is wrong, where, and what to do."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scratchlm.checkpoints import RunFolder
from scratchlm.cli.main import run
from scratchlm.models import build_model, model_preset

from .tuned_models import rows, save_model, tokenizer, write_rows

Command = Callable[[str], list[str]]

LIST = Path(__file__).with_name("finetune_mistakes.txt")
"""What is typed after "finetune", with --data and --out where they are missing, and below it what is said; "..." stands
for words of other libraries."""
TABLE = [tuple(pair.splitlines()) for pair in LIST.read_text(encoding="utf-8").split("\n\n")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and rows, good ones and others."""
    folder = tmp_path_factory.mktemp("mistakes")
    for family in ("gpt2", "llama", "bert"):
        save_model(folder / family, family)
    for name, task in (("rows", "prompt"), ("classes", "classify"), ("chats", "chat"), ("lm", "lm")):
        write_rows(folder / f"{name}.jsonl", rows(task))
    save_model(folder / "classifier", "gpt2", head="classify", labels=("a", "b"), tied_embeddings=False)
    for name, preset in (("pairs", "transformer"), ("trained", "tinygpt")):
        half_run(folder / name, preset)
    for name, base in (
        ("orphan", "gone"),
        ("cut-adapter", "gpt2"),
        ("garbled-adapter", "gpt2"),
        ("strange-adapter", "llama"),
    ):
        tuned = folder / name
        asked = ["finetune", str(folder / "gpt2"), "--data", str(folder / "rows.jsonl"), "--out", str(tuned)]
        assert run([*asked, "--validation", "0", "--set", "steps=1", "--set", "rank=2", "--set", "device=cpu"]) == 0
        config = json.loads((tuned / "adapter_config.json").read_text())
        (tuned / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
    weights = folder / "cut-adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (folder / "garbled-adapter" / "adapter_config.json").write_text('{"peft_type": "LORA",')
    shutil.copytree(folder / "gpt2", folder / "cut-model")
    weights = folder / "cut-model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    shutil.copytree(folder / "orphan", folder / "garbled-run")
    (folder / "garbled-run" / "scratchlm.json").write_text("{")
    row = '{"text": "the sea"}\n'
    for name, text in {
        "empty.jsonl": "",
        "blank.jsonl": "\n \n\n",
        "empty.csv": "",
        "header.csv": "text,label\n",
        "empty.txt": "",
        "rows.xyz": row,
        "mixed/a.jsonl": row,
        "mixed/b.csv": "text\nthe sea\n",
        "broken.jsonl": f'{row}{row}{{"text": "the sea\n{row}',
        "broken-all.jsonl": '{"text"\n{"text"\n',
        "list.jsonl": f'{row}["the sea"]\n',
        "array.json": '[{"text": "the sea"},',
        "notes.jsonl": '{"note": "the sea"}\n{"note": "the wind"}\n',
        "null.jsonl": f'{row}{row}{{"text": null}}\n',
        "number.jsonl": f'{row}{{"text": 7}}\n',
        "long.csv": "prompt,completion\na,b\nc,d,e\n",
        "twice.csv": "text,text\na,b\n",
        "quote.csv": 'text\nred\n"blue\ngood\n',
        "false.parquet": "no table",
        "one.jsonl": row,
        "no-label.jsonl": '{"text": "sea", "label": "x"}\n{"text": "sea"}\n{"text": "sea", "label": "y"}\n',
        "nan-label.jsonl": '{"text": "sea", "label": 1.0}\n{"text": "sea", "label": NaN}\n',
        "half-label.jsonl": '{"text": "sea", "label": 1}\n{"text": "sea", "label": 0.5}\n',
        "one-label.jsonl": '{"text": "sea", "label": "x"}\n{"text": "wind", "label": "x"}\n',
        "tags-short.jsonl": '{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["a", "b"], "tags": ["O"]}\n',
        "tags.conll": "red O\nblue B-x\n\ngood\n",
        "no-assistant.jsonl": '{"messages": [{"role": "user", "content": "sea"}]}\n',
        "role.jsonl": '{"messages": [{"role": "user", "content": "sea"}, {"role": "bot", "content": "sea"}]}\n',
        "messages.jsonl": '{"messages": "sea"}\n',
        "broken.yaml": "epochs: 2\nrank: [\n",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "latin1.jsonl").write_bytes(b'{"text": "the sea"}\n{"text": "caf\xe9"}\n')
    (folder / "binary.jsonl").write_bytes(bytes(range(256)))
    (folder / "empty-folder").mkdir()
    return folder


def half_run(path: Path, preset: str) -> None:
    """A run of ``scratchlm train``, as far as it is looked at."""
    words = tokenizer("gpt2")
    model = build_model(model_preset(preset, words.vocab_size, width=16, heads=2, layers=1))
    folder = RunFolder(path)
    folder.start(resume=False)
    words.save(path)
    folder.write_settings({"steps": 1})
    folder.write_description({"preset": preset, "model": model.config.to_dict(), "data": {"name": "x"}})
    folder.save_weights(model)
    folder.close()


@pytest.fixture
def refused(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the program in the folder; what it says on standard error, whose last line is the mistake."""
    monkeypatch.delenv("SCRATCHLM_DEBUG", raising=False)
    monkeypatch.chdir(folder)

    def call(typed: str) -> list[str]:
        words = shlex.split(typed)
        words += [] if "--data" in words or not words else ["--data", "rows.jsonl"]
        words += [] if "--out" in words or not words else ["--out", "new"]
        capfd.readouterr()
        status = run(["finetune", *words])
        out, err = capfd.readouterr()
        assert (status, out) == (2, "")
        return err.splitlines()

    return call


@pytest.mark.parametrize(("typed", "line"), TABLE, ids=[typed for typed, _ in TABLE])
def test_a_mistake_gets_its_line_and_leaves_nothing(typed: str, line: str, refused: Command, folder: Path) -> None:
    before = contents(folder)
    told = refused(typed.removeprefix("$ "))[-1]
    assert re.fullmatch(".*".join(map(re.escape, line.split("..."))), told), told
    assert contents(folder) == before


def test_the_list_is_long() -> None:
    assert len(TABLE) > 100


def contents(folder: Path) -> dict[str, int]:
    """Every file and folder with its size."""
    return {str(path.relative_to(folder)): path.stat().st_size if path.is_file() else -1 for path in folder.rglob("*")}
