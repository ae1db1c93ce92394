"""scratchlm predict: texts in, classes or entities out; and what other verbs say of such a model."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch

import scratchlm
from scratchlm.checkpoints import RunFolder, save_huggingface
from scratchlm.models import build_model, model_preset, with_head
from scratchlm.tokenizers import train_tokenizer

from .conftest import Command, Outcome

LABELS = {"classify": ("bad", "fair", "good"), "tag": ("O", "B-person", "I-person"), "plain": ("NOUN", "VERB")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs classify, tag and plain (tags without prefixes), the model gpt of Hugging Face's form, and files."""
    folder = tmp_path_factory.mktemp("predict")
    tokenizer = train_tokenizer("wordpiece", ["alice met bob in paris , and the cat sat ."] * 3, vocab_size=60)
    for name, labels in LABELS.items():
        torch.manual_seed(0)
        base = build_model(model_preset("tinybert", tokenizer.vocab_size, context=16, init_std=0.2))
        model = with_head(base, "classify" if name == "classify" else "tag", labels, seed=5)
        run = RunFolder(folder / name)
        run.start(resume=False)
        tokenizer.save(run.path)
        tuned = {"words": "spaces"} if name == "plain" else {}
        description = {"preset": "tinybert", "model": model.config.to_dict(), "data": {"name": "x"}}
        run.write_description(description | {"finetune": tuned})
        run.save_weights(model)
        run.close()
    judge = build_model(model_preset("tinygpt", tokenizer.vocab_size, context=16, init_std=0.2))
    save_huggingface(with_head(judge, "reward", seed=3), folder / "judge", tokenizer)
    gpt = build_model(model_preset("tinygpt", tokenizer.vocab_size, context=16))
    save_huggingface(with_head(gpt, "classify", ("no", "yes")), folder / "gpt", tokenizer)
    files = {
        "lines.txt": "the cat sat\nalice met bob .\n\nparis\n",
        "rows.jsonl": '{"text": "the cat"}\n{"text": "paris"}\n',
        "rows.csv": "review,text\nthe cat,x\nparis,y\n",
        "labelled.csv": "text,label\nthe cat,bad\nparis,good\nalice met bob,fair\n",
        "strange.csv": "text,label\nthe cat,bad\nparis,awful\n",
        "tags.conll": "alice B-person\nmet O\n\nbob B-person\n",
        "empty.txt": "",
        "broken.jsonl": '{"text": "the cat"}\n{"text": \n',
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "binary.txt").write_bytes(bytes(range(256)))
    return folder


def refused(outcome: Outcome) -> str:
    """The one line of a mistake that the user can mend."""
    assert outcome.status == 2
    assert outcome.out == ""
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    return line


def test_one_text_is_told_with_all_its_classes(folder: Path, command: Command) -> None:
    outcome = command("predict", str(folder / "classify"), "--text", "the cat sat")
    assert outcome.status == 0
    first, *classes = outcome.out.splitlines()
    assert first == "the cat sat"
    assert sorted(line.split()[-1] for line in classes) == sorted(LABELS["classify"])
    shares = [float(line.split("%")[0]) for line in classes]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.2)


def test_json_is_one_object_with_every_prediction(folder: Path, command: Command) -> None:
    outcome = command("predict", str(folder / "classify"), "--text", "the cat", "--text", "", "--json")
    found = outcome.json
    assert (found["task"], found["labels"], found["texts"]) == ("classify", list(LABELS["classify"]), 2)
    assert (found["truncated"], found["without_token"]) == (0, 1)
    cat, empty = found["predictions"]
    assert cat["probability"] == max(cat["probabilities"].values())
    assert cat["probabilities"][cat["label"]] == cat["probability"]
    assert empty["label"] is None
    assert outcome.err == "note: 1 of 2 texts have no token, so no answer\n"
    assert cat == scratchlm.load(folder / "classify").predict(["the cat"])[0].to_dict()


def test_a_file_gives_a_line_for_each_text_in_its_order(folder: Path, command: Command) -> None:
    outcome = command("predict", str(folder / "classify"), "--file", str(folder / "lines.txt"))
    assert outcome.status == 0
    lines = outcome.out.splitlines()
    assert [line.split("  ")[-1] for line in lines] == ["the cat sat", "alice met bob .", "", "paris"]
    assert lines[2].strip() == "no label"
    rows = command("predict", str(folder / "classify"), "--file", str(folder / "rows.jsonl"), "--json").json
    column = ("--column", "review", "--json")
    assert command("predict", str(folder / "classify"), "--file", str(folder / "rows.csv"), *column).json == rows


def test_a_reward_is_one_number(folder: Path, command: Command) -> None:
    judge = str(folder / "judge")
    outcome = command("predict", judge, "--text", "the cat", "--text", "", "--text", "the cat " * 20, "--json")
    found = outcome.json
    assert (found["task"], found["labels"], found["truncated"], found["without_token"]) == ("reward", [], 1, 1)
    cat, empty, long = found["predictions"]
    assert cat == {"text": "the cat", "reward": pytest.approx(cat["reward"]), "truncated": False}
    assert empty["reward"] is None
    assert long["truncated"]
    model = scratchlm.load(judge)
    ids = torch.tensor([model.tokenizer.encode("the cat")])
    with torch.no_grad():
        assert cat["reward"] == pytest.approx(float(model.model(ids)[0, -1, 0]), abs=1e-5)
    assert command("predict", judge, "--text", "the cat").out == f"{cat['reward']:+9.4f}  the cat\n"
    lines = command("predict", judge, "--file", str(folder / "lines.txt")).out.splitlines()
    assert len(lines) == 4
    assert lines[2].strip() == "no reward"


def test_a_reward_model_says_what_it_is(folder: Path, command: Command) -> None:
    judge = str(folder / "judge")
    assert "gives rewards and no words" in refused(command("generate", judge, "--prompt", "the"))
    assert "gives rewards, no vectors" in refused(command("embed", judge, "--text", "the"))
    assert "gives rewards; export" in refused(command("models", "export", judge, "--to", "gguf", "--out", f"{judge}.x"))


def test_lines_of_standard_input_are_told(folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the cat\nparis\n")))
    assert len(command("predict", str(folder / "gpt"), "--file", "-").out.splitlines()) == 2


def test_entities_are_told_with_their_places(folder: Path, command: Command) -> None:
    texts = ["alice met bob .", "the cat sat in paris ,\tand alice"]
    arguments = [part for text in texts for part in ("--text", text)]
    found = command("predict", str(folder / "tag"), *arguments, "--json").json["predictions"]
    entities = [(text, one) for text, row in zip(texts, found, strict=True) for one in row["entities"]]
    assert entities
    assert all(text[one["start"] : one["end"]] == one["text"] for text, one in entities)
    assert [word["text"] for word in found[1]["words"]] == texts[1].split()
    shown = command("predict", str(folder / "tag"), *arguments).out
    assert all(f"({one['start']}-{one['end']})" in shown for _, one in entities)
    lines = command("predict", str(folder / "tag"), "--file", str(folder / "lines.txt")).out.splitlines()
    assert len(lines) == 4
    assert lines[2] == "no entity"


def test_tags_without_prefixes_are_told_word_by_word_as_the_run_parts_them(folder: Path, command: Command) -> None:
    outcome = command("predict", str(folder / "plain"), "--text", "the cat.", "--json")
    (one,) = outcome.json["predictions"]
    assert [word["text"] for word in one["words"]] == ["the", "cat."]  # the run says that spaces part them
    assert one["entities"] == []
    (line, *_) = command("predict", str(folder / "plain"), "--file", str(folder / "lines.txt")).out.splitlines()
    words, tags = zip(*(part.split("/") for part in line.split()), strict=True)
    assert words == ("the", "cat", "sat")
    assert set(tags) <= set(LABELS["plain"])


def test_a_text_that_is_cut_is_told(folder: Path, command: Command) -> None:
    outcome = command("predict", str(folder / "classify"), "--text", "the cat " * 20)
    assert outcome.err == (
        "note: 1 of 1 texts are longer than the 16 tokens that are read, and their ends count for nothing\n"
    )
    words = command("predict", str(folder / "tag"), "--text", "the cat " * 20, "--json")
    assert len(words.json["predictions"][0]["words"]) == 40
    assert words.err == ""


def test_control_characters_do_not_reach_the_terminal(folder: Path, command: Command) -> None:
    for name in ("classify", "tag"):
        assert "\x1b" not in command("predict", str(folder / name), "--text", "the \x1b[31mcat\nparis").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give the texts, either with --text, which may be repeated, or with --file FILE"),
        (("--text", "a", "--file", "x"), "give the texts, either"),
        (("--text", "a", "--column", "x"), "--column is for the columns of a --file"),
        (("--file", "absent.txt"), "absent.txt"),
        (("--file", "empty.txt"), "holds no text"),
        (("--file", "binary.txt"), "binary.txt"),
        (("--file", "broken.jsonl"), "line 2, is no JSON"),
        (("--file", "rows.csv", "--column", "revue"), "did you mean 'review'?"),
        (("--text", "a", "--max-length", "99"), "max_length is 99; "),
        (("--text", "a", "--max-length", "0"), "max_length is 0; "),
        (("--text", "ca\udcff"), "text 1 is not UTF-8 (character 3)"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    arguments: tuple[str, ...], words: str, folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert words in refused(command("predict", "classify", *arguments))


def test_models_without_labels_are_told_how_to_get_some(runs: Path, command: Command) -> None:
    for name in ("gpt", "bert", "dates"):
        line = refused(command("predict", str(runs / name), "--text", "a"))
        assert "has no classes or tags to tell; teach it some with: scratchlm finetune" in line
    assert "there is no" in refused(command("predict", str(runs / "absent"), "--text", "a"))


@pytest.mark.parametrize("name", ["classify", "tag", "gpt"])
def test_what_such_a_model_cannot_do_names_what_it_can(name: str, folder: Path, command: Command) -> None:
    model = str(folder / name)
    for verb in (
        ("generate", model, "--prompt", "the"),
        ("generate", model, "--prompt", "the", "--beams", "2"),
        ("fill", model, "--text", "the [MASK]"),
        ("embed", model, "--text", "the cat"),
    ):
        line = refused(command(*verb))
        assert f"scratchlm predict {model}" in line, line
    with pytest.raises(scratchlm.UserError, match="cannot continue text; use: scratchlm predict"):
        scratchlm.load(model).engine()
    assert "gives labels" in refused(command("models", "export", model, "--to", "gguf", "--out", f"{model}.gguf"))


def test_eval_measures_labels_on_rows_that_have_them(folder: Path, command: Command) -> None:
    model = str(folder / "classify")
    figures = command("eval", model, "--data", str(folder / "labelled.csv"), "--json").json
    told = [one.label for one in scratchlm.load(model).predict(["the cat", "paris", "alice met bob"])]  # type: ignore[union-attr]
    right = sum(a == b for a, b in zip(told, ["bad", "good", "fair"], strict=True))
    assert (figures["rows"], figures["accuracy"]) == (3, pytest.approx(right / 3))
    table = command("eval", model, "--data", str(folder / "labelled.csv")).out
    assert all(word in table for word in ("precision", "recall", "macro", "fair", "accuracy"))
    assert "settings.yaml cannot be read" in refused(command("eval", model))
    assert "'awful', not among bad, fair, good" in refused(
        command("eval", model, "--data", str(folder / "strange.csv"))
    )
    pytest.importorskip("seqeval", reason="seqeval is not installed")
    arguments = ("eval", str(folder / "tag"), "--data", str(folder / "tags.conll"))
    tags = command(*arguments, "--json").json
    assert tags["entity"]["entities"] == 2
    assert "entity F1" in " ".join(command(*arguments).out.split())
