"""A mistake in a tuning's rows, options or files gets one line: what is wrong, where, and what to do."""

from __future__ import annotations

import json
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

TABLE: list[tuple[str, str]] = [
    # what is typed after "finetune", with --data and --out where they are missing; words that the line has, split at |
    # -- the model
    ("nope", "x"),
    ("rows.jsonl", "x"),
    ("movie-snippets", "x"),
    ("empty-folder", "x"),
    ("tinygpt", "x"),
    ("tinygpt --method qlora", "x"),
    ("transformer --method full", "x"),
    ("tinygpt --method full --data chats.jsonl", "x"),
    ("pairs --data classes.jsonl", "x"),
    ("bert", "x"),
    ("gpt2 --data chats.jsonl", "x"),
    ("classifier", "x"),
    ("orphan", "x"),
    ("cut-adapter", "x"),
    ("garbled-adapter", "x"),
    ("strange-adapter", "x"),
    ("cut-model", "x"),
    # -- options
    ("", "x"),
    ("gpt2 --sing", "x"),
    ("gpt2 --task sing", "x"),
    ("gpt2 --task classify", "x"),
    ("gpt2 --method adapter", "x"),
    ("gpt2 --method full,adapter", "x"),
    ("gpt2 --method ''", "x"),
    ("gpt2 --bad ignore", "x"),
    ("gpt2 --columns text", "x"),
    ("gpt2 --columns words=text", "x"),
    ("gpt2 --columns prompt=promt", "x"),
    ("gpt2 --columns text=7", "x"),
    ("gpt2 --validation 2.5", "x"),
    ("gpt2 --validation 24", "x"),
    ("gpt2 --validation -1", "x"),
    ("gpt2 --validation nan", "x"),
    ("gpt2 --validation 0.001", "x"),
    ("gpt2 --validation nope.jsonl", "x"),
    ("gpt2 --validation rows.jsonl", "x"),
    ("gpt2 --validation classes.jsonl", "x"),
    ("gpt2 --config nope.yaml", "x"),
    ("gpt2 --config broken.yaml", "x"),
    # -- settings
    ("gpt2 --set epoch=2", "x"),
    ("gpt2 --set epochs", "x"),
    ("gpt2 --set epochs=0", "x"),
    ("gpt2 --set epochs=nan", "x"),
    ("gpt2 --set epochs=.inf", "x"),
    ("gpt2 --set epochs=many", "x"),
    ("gpt2 --set epochs=-1", "x"),
    ("gpt2 --set steps=0", "x"),
    ("gpt2 --set steps=5 --set warmup_steps=5", "x"),
    ("gpt2 --set batch_size=0", "x"),
    ("gpt2 --set batch_size=2.5", "x"),
    ("gpt2 --set accumulation=0", "x"),
    ("gpt2 --set learning_rate=0", "x"),
    ("gpt2 --set learning_rate=1e400", "x"),
    ("gpt2 --set learning_rate=1e12 --set clip_norm=0 --method full", "x"),
    ("gpt2 --set width=32", "x"),
    ("gpt2 --set max_length=1000", "x"),
    ("gpt2 --set max_length=1", "x"),
    ("gpt2 --set max_length=-1", "x"),
    ("gpt2 --set pass_tokens=-1", "x"),
    ("gpt2 --set layout=zip", "x"),
    ("gpt2 --set loss_on=prompt", "x"),
    ("gpt2 --set loss_on=assistant", "x"),
    ("gpt2 --set rank=0", "x"),
    ("gpt2 --set rank=big", "x"),
    ("gpt2 --set rank=4000000000", "x"),
    ("gpt2 --set alpha=nan", "x"),
    ("gpt2 --set alpha=0", "x"),
    ("gpt2 --set lora_dropout=1", "x"),
    ("gpt2 --set lora_dropout=-0.1", "x"),
    ("gpt2 --set lora_bias=some", "x"),
    ("gpt2 --set lora_layers=3-", "x"),
    ("gpt2 --set lora_layers=1-0", "x"),
    ("gpt2 --set lora_layers=7", "x"),
    ("gpt2 --set targets=q_proj", "x"),
    ("gpt2 --set targets=c_attn,", "x"),
    ("gpt2 --set targets=,", "x"),
    ("gpt2 --set train_modules=lm_hed", "x"),
    ("gpt2 --set dora=maybe", "x"),
    ("gpt2 --method qlora --set base_bits=nf5", "x"),
    ("gpt2 --set eval_prompts=-1", "x"),
    ("gpt2 --set eval_new_tokens=0", "x"),
    ("gpt2 --set device=warp", "x"),
    ("tinygpt --method full --set width=30 --set heads=4", "x"),
    ("tinygpt --method full --set labels=a", "x"),
    ("tinygpt --method full --set head=mlm", "x"),
    ("tinybert --method full", "x"),
    # -- rows
    ("gpt2 --data nope.jsonl", "x"),
    ("gpt2 --data empty.jsonl", "x"),
    ("gpt2 --data blank.jsonl", "x"),
    ("gpt2 --data empty.csv", "x"),
    ("gpt2 --data header.csv", "x"),
    ("gpt2 --data empty.txt", "x"),
    ("gpt2 --data empty-folder", "x"),
    ("gpt2 --data rows.xyz", "x"),
    ("gpt2 --data mixed", "x"),
    ("gpt2 --data latin1.jsonl", "x"),
    ("gpt2 --data binary.jsonl", "x"),
    ("gpt2 --data broken.jsonl", "x"),
    ("gpt2 --data list.jsonl", "x"),
    ("gpt2 --data array.json", "x"),
    ("gpt2 --data notes.jsonl", "x"),
    ("gpt2 --data null.jsonl", "x"),
    ("gpt2 --data number.jsonl", "x"),
    ("gpt2 --data long.csv", "x"),
    ("gpt2 --data twice.csv", "x"),
    ("gpt2 --data quote.csv", "x"),
    ("gpt2 --data false.parquet", "x"),
    ("gpt2 --data one.jsonl", "x"),
    ("bert --data no-label.jsonl", "x"),
    ("bert --data nan-label.jsonl", "x"),
    ("bert --data half-label.jsonl", "x"),
    ("bert --data one-label.jsonl", "x"),
    ("bert --data tags-short.jsonl", "x"),
    ("bert --data tags.conll --task tag", "x"),
    ("llama --data no-assistant.jsonl", "x"),
    ("llama --data role.jsonl", "x"),
    ("llama --data messages.jsonl", "x"),
    ("llama --data chats.jsonl --set max_length=4", "x"),
    ("llama --data chats.jsonl --set max_length=4 --bad skip", "x"),
    ("gpt2 --data broken-all.jsonl --bad skip", "x"),
    # -- the folder
    ("gpt2 --out rows.jsonl", "x"),
    ("gpt2 --out rows.jsonl/new", "x"),
    ("gpt2 --out mixed", "x"),
    ("gpt2 --out trained", "x"),
    ("gpt2 --out trained --resume", "x"),
    ("gpt2 --out garbled-run --resume", "x"),
    ("gpt2 --out /dev/null/new", "x"),
    ("gpt2 --method full,lora --out rows.jsonl", "x"),
]


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
