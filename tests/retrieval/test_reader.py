"""Twins, the rows that they become, and a reader: what it says, and how it is taught and weighed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from scratchlm import UserError
from scratchlm.cli.asking import judge_of
from scratchlm.models import Decoder, ModelConfig, build_model, model_preset
from scratchlm.retrieval import Embeddings
from scratchlm.retrieval.calibration import READING
from scratchlm.retrieval.evidence import Judged
from scratchlm.retrieval.reader import MODEL, MOST_PASSAGE, NONE, READER, Reader, asked_of
from scratchlm.retrieval.teaching import recipe
from scratchlm.retrieval.teaching.recipe import EVERY, measure, rows_of, teach_reader
from scratchlm.retrieval.teaching.twins import own_twins, parse_twins, read_twins
from scratchlm.retrieval.wording import content_words, stem
from scratchlm.tokenizers import Tokenizer, train_tokenizer
from scratchlm.training import Reporter

PAIR = """
== mills/lower
# The lower mill
The lower mill was built in 1801. Its wheel has 24 blades.
---
The lower mill burned in 1840. Its owner was Ida Moss.
a When was the lower mill built? | 1801
a How many blades has the wheel of the mill? | 24
b Who owned the lower mill? | Ida Moss
"""
TEXT = " ".join(passage.text for pair in own_twins()[:12] for passage in pair)


# ---- twins


def test_each_question_is_asked_of_both_and_answered_by_one() -> None:
    ((first, second),) = parse_twins(PAIR.splitlines(), "mills.txt")
    assert (first.name, first.title) == (second.name, second.title) == ("mills/lower", "The lower mill")
    assert first.text.startswith("The lower mill was built")
    assert dict(first.asked) == {
        "When was the lower mill built?": "1801",
        "How many blades has the wheel of the mill?": "24",
        "Who owned the lower mill?": None,
    }
    assert {question for question, _ in second.asked} == {question for question, _ in first.asked}
    assert dict(second.asked)["Who owned the lower mill?"] == "Ida Moss"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("| 1801", "| 1802"), "line 7: its passage does not say '1802'"),
        (("b Who", "c Who"), "line 9: 'c Who owned"),
        (("# The lower mill\n", ""), "line 2: a pair is"),
        (("---\n", ""), "its passage does not say 'Ida Moss'"),
        (("b Who owned the lower mill? | Ida Moss\n", ""), "line 2: a pair is"),
        (("== mills/lower", "mills/lower"), "line 2: a pair is"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_line(change: tuple[str, str], told: str, tmp_path: Path) -> None:
    file = tmp_path / "mills.txt"
    file.write_text(PAIR.replace(*change))
    with pytest.raises(UserError, match=r"mills\.txt") as error:
        read_twins(file)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    file.write_text("\n")
    with pytest.raises(UserError, match="no twins; begin each pair"):
        read_twins(file)


def test_our_own_twins_say_what_they_are_said_to() -> None:
    pairs = own_twins()
    assert len(pairs) >= 600
    assert len({first.name for first, _ in pairs}) == len(pairs)
    for first, second in pairs:
        assert first.text != second.text
        for one, other in ((first, second), (second, first)):
            spans = [span for _, span in one.asked if span is not None]
            assert len(spans) >= 3
            assert all(span in one.text for span in spans)
            assert {q for q, span in one.asked if span is None} == {q for q, span in other.asked if span is not None}


def test_no_text_of_the_held_out_questions_is_learned_from() -> None:
    questions = Path(__file__).parent / "questions"
    known = {line for path in questions.glob("*.txt") for line in path.read_text().splitlines() if len(line) > 40}
    titles = {line for line in known if line.startswith("# ")}
    for first, second in own_twins():
        assert first.text not in known
        assert second.text not in known
        assert f"# {first.title}" not in titles


# ---- rows


def test_rows_are_passage_by_passage_with_one_question_of_another() -> None:
    pairs = own_twins()[:4]
    rows = rows_of(pairs, Random(1))
    passages = [one for pair in pairs for one in pair]
    by_text = {one.text: [row for row in rows if one.text in row["prompt"]] for one in passages}
    assert sum(map(len, by_text.values())) == len(rows)
    places = [next(n for n, one in enumerate(passages) if one.text in row["prompt"]) for row in rows]
    assert sum(a != b for a, b in pairwise(places)) == len(passages) - 1  # neighbours stay so
    for one in passages:
        own = by_text[one.text]
        for question, span in one.asked:
            (row,) = (row for row in own if question in row["prompt"])
            assert row == {
                "prompt": asked_of(one.title, one.text, question),
                "completion": NONE if span is None else f" {span}",
            }
        foreign = [row for row in own if not any(question in row["prompt"] for question, _ in one.asked)]
        assert [row["completion"] for row in foreign] in ([], [NONE])
    assert rows_of(pairs, Random(1)) == rows


# ---- readers


@pytest.fixture(scope="module")
def decoder() -> tuple[Decoder, Tokenizer]:
    tokenizer = train_tokenizer("bpe", [TEXT + NONE * 50], vocab_size=600, special_tokens=("<|endoftext|>",))
    torch.manual_seed(0)
    model = build_model(model_preset("tinygpt", tokenizer.vocab_size, context=640)).eval()
    assert isinstance(model, Decoder)
    return model, tokenizer


def test_log_odds_are_those_of_not_saying_none(decoder: tuple[Decoder, Tokenizer]) -> None:
    model, tokenizer = decoder
    passages = [("The mill", "It was built in 1801."), ("", "Nobody lives there now.")]
    found = Reader(model, tokenizer, "fp32").odds("When was it built?", passages)
    none = tokenizer.encode(NONE)[0]
    for (head, text), odds in zip(passages, found, strict=True):
        ids = torch.tensor([tokenizer.encode(asked_of(head, text, "When was it built?"))])
        with torch.no_grad():
            says_none = float(model(ids)[0, -1].softmax(-1)[none])
        assert odds == pytest.approx(float(np.log((1 - says_none) / says_none)), abs=1e-3)


def test_sentences_of_one_passage_are_read_once_and_a_long_one_around_the_sentence(
    decoder: tuple[Decoder, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(*decoder)
    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(reader, "odds", lambda _, passages: [seen.append(one) or float(len(seen)) for one in passages])  # type: ignore[func-returns-value]
    short = "It was built in 1801. It burned."
    said = [Judged("Mill", one, short) for one in ("It burned.", "It was built in 1801.")]
    assert reader.gains("When?", said) == [1, 1]
    assert seen == [("Mill", short)]
    sentences = [f"Sentence number {n} says nothing of it." for n in range(60)]
    seen.clear()
    for n in (0, 30, 59):
        reader.gains("When?", [Judged("Mill", sentences[n], " ".join(sentences))])
    for n, (_, text) in zip((0, 30, 59), seen, strict=True):
        assert sentences[n] in text
        assert text in " ".join(sentences)
        assert 0.7 * MOST_PASSAGE < len(decoder[1].encode(text)) <= MOST_PASSAGE
    endless = "word " * 900
    reader.gains("When?", [Judged("", endless.strip(), endless)])
    assert reader.gains("When?", []) == []


def test_what_is_no_reader(decoder: tuple[Decoder, Tokenizer], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no reader; teach one with: scratchlm teach-reader"):
        Reader.open(tmp_path)
    with pytest.raises(UserError, match="a reader is a decoder"):
        Reader(build_model(model_preset("tinybert", decoder[1].vocab_size)), decoder[1])
    with pytest.raises(UserError, match=r"the question and a passage have .* tokens; the model reads 640"):
        Reader(*decoder).odds("When? " * 300, [("", "It burned.")])


# ---- weighing


class Words:
    """An embedder of which texts are alike that have the same words."""

    dimensions = 256

    def embed(self, texts: Iterable[str]) -> Embeddings:
        rows = np.zeros((0, 256), np.float32)
        for text in texts:
            row = np.zeros((1, 256), np.float32)
            for word in content_words(text):
                row[0, sum(stem(word).encode()) % 256] += 1
            rows = np.concatenate([rows, row / max(1e-9, float(np.linalg.norm(row)))])
        return Embeddings(rows, 0)


class Knows:
    """A reader that is right, more or less."""

    judgement, of_passages = READING, True

    def __init__(self, pairs: Any, noise: float) -> None:
        self.right = {(q, one.text) for pair in pairs for one in pair for q, span in one.asked if span is not None}
        self.noise, self.random = noise, np.random.default_rng(0)

    def gains(self, question: str, sentences: Any) -> list[float]:
        return [
            (8.0 if (question, one.passage) in self.right else -8.0) + self.noise * float(self.random.standard_normal())
            for one in sentences
        ]


def test_a_reader_that_knows_more_refuses_what_has_no_answer() -> None:
    pairs = own_twins()[::40]
    good, poor = (measure(Knows(pairs, noise), Words(), pairs) for noise in (0.5, 20.0))
    assert good["questions"] == sum(len(one.asked) for one, _ in pairs)
    assert good["area_under_curve"] > 0.9 > poor["area_under_curve"] + 0.1
    assert good["refused_unanswerable"] > 0.85 > poor["refused_unanswerable"]
    assert good["refused_answerable"] < 0.25


# ---- the recipe


@pytest.fixture(scope="module")
def base(decoder: tuple[Decoder, Tokenizer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from scratchlm.checkpoints.huggingface import save_huggingface

    small: dict[str, Any] = {
        "width": 16, "layers": 2, "heads": 2, "positions": "rotary", "norm": "rmsnorm", "activation": "swiglu",
        "norm_eps": 1e-5, "context": 1024, "dropout": 0.0, "qkv_bias": False, "out_bias": False, "ffn_bias": False,
        "ffn_width": 32, "head_bias": False,
    }  # fmt: skip
    tokenizer = decoder[1]
    model = build_model(ModelConfig(architecture="decoder", vocab_size=tokenizer.vocab_size, **small))
    folder = tmp_path_factory.mktemp("plain")
    save_huggingface(model, folder, tokenizer)
    return folder


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    class Opens:
        open = staticmethod(lambda _name: Words())

    monkeypatch.setattr(recipe, "own_twins", lambda: own_twins()[:: len(own_twins()) // 24])
    monkeypatch.setattr(recipe, "Embedder", Opens)


FAST = {"steps": 2, "max_length": 1024}


@pytest.mark.usefixtures("few")
def test_a_reader_is_taught_weighed_and_opens(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "reader"
    told = teach_reader(str(base), out, settings=FAST, reporter=Reporter(quiet=True))
    assert told == json.loads((out / READER).read_text())
    assert told["questions"] > 10
    assert 0 <= told["refused_answerable"] <= 1
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    held = {first.title for first, _ in recipe.own_twins()[::EVERY]}
    assert not any(row["prompt"].startswith(f"{title}\n") for row in rows for title in held)
    reader = judge_of(str(out))
    assert isinstance(reader, Reader)
    assert reader.judgement == READING
    assert len(reader.gains("When?", [Judged("", "It burned.", "It burned.")])) == 1
    with pytest.raises(UserError, match="already holds a reader; go on with --resume"):
        teach_reader(str(base), out, settings=FAST, reporter=Reporter(quiet=True))


@pytest.mark.usefixtures("few")
def test_a_broken_off_teaching_goes_on(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, whole = tmp_path / "reader", tmp_path / "whole"
    monkeypatch.setattr(recipe, "fastest", lambda _: "fp32")
    told = teach_reader(str(base), whole, settings=FAST, reporter=Reporter(quiet=True))

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "measure", killed)
        with pytest.raises(KeyboardInterrupt):
            teach_reader(str(base), out, settings=FAST, reporter=Reporter(quiet=True))
    assert (out / MODEL).is_dir()
    assert not (out / READER).exists()
    monkeypatch.setattr(recipe, "fastest", lambda _: "bf16")  # what is faster now does not matter
    again = teach_reader(str(base), out, settings=FAST, resume=True, reporter=Reporter(quiet=True))
    assert {name: again[name] for name in again if name != "seconds"} == pytest.approx(
        {name: told[name] for name in told if name != "seconds"}
    )


@pytest.mark.usefixtures("few")
def test_own_twins_are_learned_as_well_and_mistakes_leave_nothing(base: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "mills.txt", tmp_path / "reader"
    file.write_text(PAIR)
    teach_reader(str(base), out, file, settings=FAST, reporter=Reporter(quiet=True))
    assert (out / "rows.jsonl").read_text().count("The lower mill\\n") >= 6
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "letter.txt").write_text("Dear Ida")
    with pytest.raises(UserError, match="already holds files; choose another folder"):
        teach_reader(str(base), taken, settings=FAST)
    file.write_text("nothing of the kind")
    for data, settings in ((file, FAST), (None, {"stepz": 2}), (None, {"steps": 0})):
        with pytest.raises(UserError):
            teach_reader(str(base), tmp_path / "new", data, settings=settings)
    assert not (tmp_path / "new").exists()
