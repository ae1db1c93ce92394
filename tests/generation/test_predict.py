"""Predictions: the same numbers as one text at a time, whatever the batch; places that give the text back; windows."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from scratchlm.data import encode_records, read_records
from scratchlm.data.tags import word_places
from scratchlm.errors import UserError
from scratchlm.generation import predict as module
from scratchlm.generation.build import build_engine
from scratchlm.generation.predict import (
    ClassPrediction,
    Predictor,
    RewardPrediction,
    TagPrediction,
    predict_texts,
)
from scratchlm.models import build_model, model_preset, with_head
from scratchlm.tokenizers import Tokenizer, train_tokenizer

SENTENCE = "alice met bob in paris and the cat sat on a mat while it rained all day long"
WORDS = SENTENCE.split()
CLASSES = ("bad", "fair", "good")
TAGS = ("O", "B-person", "I-person", "B-place")
TEXTS = ["Alice met Bob.", "the cat", "it rained, all day long, in Paris and on the mat", "cat", "a mat " * 3]


def tokenizer(kind: Any = "bpe", **options: Any) -> Tokenizer:
    text = " ".join(WORDS) + " Alice Bob Paris . , ! ( ) "
    return train_tokenizer(kind, [text] * 3, **({"vocab_size": 300 if kind == "bpe" else 90} | options))


def model(preset: str, head: Any, known: Tokenizer, labels: tuple[str, ...] = (), context: int = 40) -> Any:
    torch.manual_seed(0)
    base = build_model(model_preset(preset, known.vocab_size, context=context, init_std=0.1))
    built: Any = with_head(base, head, labels or (CLASSES if head == "classify" else TAGS), seed=1)
    return built.eval()


def by_hand(built: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return built(torch.tensor([ids]))[0].softmax(-1)


@pytest.mark.parametrize("path", ["native", "pytorch"])
@pytest.mark.parametrize("preset", ["tinygpt", "tinybert"])
def test_classes_are_those_of_one_text_at_a_time_encoded_as_in_training(preset: str, path: str, tmp_path: Path) -> None:
    known = tokenizer()
    built = model(preset, "classify", known)
    if path == "pytorch":
        built.blocks[0].register_forward_hook(lambda *_: None)  # leaves the pass to PyTorch
    found = predict_texts(built, known, TEXTS)
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": t, "label": CLASSES[n % 3]}) for n, t in enumerate(TEXTS)))
    examples = encode_records(read_records(file), known, max_length=40, causal=preset == "tinygpt")
    for one, text, (ids, targets) in zip(found, TEXTS, examples, strict=True):
        assert isinstance(one, ClassPrediction)
        expected = by_hand(built, ids.tolist())[int((targets >= 0).argmax())]
        assert one.text == text
        assert tuple(one.probabilities) == CLASSES
        torch.testing.assert_close(torch.tensor(list(one.probabilities.values())), expected, atol=1e-5, rtol=0)
        assert one.label == CLASSES[int(expected.argmax())]
        assert one.probability == max(one.probabilities.values())
        assert not one.truncated


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
@pytest.mark.parametrize("preset", ["tinygpt", "tinybert"])
def test_tags_are_those_of_one_sentence_at_a_time_and_places_give_the_text(preset: str, kind: str) -> None:
    known = tokenizer(kind)
    built = model(preset, "tag", known)
    texts = [*TEXTS, "  Alice\n\tmet  Bob! "]
    for one, text in zip(predict_texts(built, known, texts), texts, strict=True):
        assert isinstance(one, TagPrediction)
        places = word_places(text)
        assert [(word.start, word.end) for word in one.words] == places
        assert all(text[word.start : word.end] == word.text for word in (*one.words, *one.entities))
        spaced = kind == "bpe"
        forms = [f" {text[a:b]}" if spaced and n else text[a:b] for n, (a, b) in enumerate(places)]
        parts = [known.encode(form) for form in forms]
        before = [known.bos_id] if preset == "tinybert" and known.bos_id is not None else []
        shares = by_hand(built, [*before, *(i for part in parts for i in part)])
        at = len(before)
        for word, part in zip(one.words, parts, strict=True):
            assert word.label == TAGS[int(shares[at].argmax())]
            assert word.probability == pytest.approx(float(shares[at].max()), abs=1e-5)
            at += len(part)


def fixed(monkeypatch: pytest.MonkeyPatch, tags: dict[str, str], known: Tokenizer) -> None:
    """Let each word have its tag with certainty, whatever the model."""
    ids = {known.encode(form)[0]: tag for word, tag in tags.items() for form in (word, f" {word}")}

    def told(_model: Any, _reader: Any, parts: Any) -> Any:
        answers = []
        for row, targets in parts:
            mine = [ids.get(i, "O") for i, target in zip(row, targets, strict=True) if target >= 0]
            answers.append(torch.eye(len(TAGS))[[TAGS.index(tag) for tag in mine]].numpy() * 0.9)
        return answers

    monkeypatch.setattr(module, "label_probabilities", told)


def test_entities_have_their_places_in_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    known = tokenizer("wordpiece")
    fixed(monkeypatch, {"Alice": "B-person", "Bob": "I-person", "Paris": "B-place"}, known)
    text = "in  (Alice   Bob), met Paris."
    (one,) = predict_texts(model("tinybert", "tag", known), known, [text])
    assert isinstance(one, TagPrediction)
    assert [(e.label, e.start, e.end, e.text) for e in one.entities] == [
        ("person", 5, 16, "Alice   Bob"),
        ("place", 23, 28, "Paris"),
    ]
    assert one.entities[0].probability == pytest.approx(0.9)
    assert json.loads(json.dumps(one.to_dict()))["entities"][1]["text"] == "Paris"


def test_tags_without_prefixes_make_no_entities() -> None:
    known = tokenizer()
    predictor = Predictor(model("tinybert", "tag", known, ("NOUN", "VERB")), known)
    (one,) = predictor.stream(["Alice met Bob."])
    assert isinstance(one, TagPrediction)
    assert not predictor.spans
    assert (len(one.words), one.entities) == (4, ())


def test_words_are_parted_as_those_of_the_training_were() -> None:
    known = tokenizer()
    (one,) = predict_texts(model("tinybert", "tag", known), known, ["Alice met Bob."], words="spaces")
    assert isinstance(one, TagPrediction)
    assert [word.text for word in one.words] == ["Alice", "met", "Bob."]


@pytest.mark.parametrize("preset", ["tinygpt", "tinybert"])
def test_a_long_text_loses_no_word_and_each_sees_what_is_around_it(preset: str) -> None:
    """With windows as long as the text the tags are the same; else a word has at least a share of a window around it,
    which a model that looks at the neighbours alone shows."""
    known = tokenizer()
    built = model(preset, "tag", known, context=24)
    text = " ".join(WORDS * 9)
    (one,) = predict_texts(built, known, [text])
    assert isinstance(one, TagPrediction)
    assert [word.text for word in one.words] == WORDS * 9
    predictor = Predictor(built, known)
    lengths = [len(known.encode(f" {word}")) for word in WORDS * 9]
    alone = [len(known.encode(word)) for word in WORDS * 9]
    windows = predictor._windows(lengths, alone)
    room = predictor.max_length - predictor._encoder([]).around
    assert windows[0][0] == 0
    assert windows[-1][1] == len(lengths)
    for (a, b), (c, d) in pairwise(windows):
        assert a < c <= b < d
        assert 0 < sum(lengths[c:b]) <= room // 4
    assert all(alone[a] + sum(lengths[a + 1 : b]) <= room for a, b in windows)
    start, end = windows[1]
    inside = [
        *known.encode((WORDS * 9)[start]),
        *(i for w in (WORDS * 9)[start + 1 : end] for i in known.encode(f" {w}")),
    ]
    before = [known.bos_id] if preset == "tinybert" and known.bos_id is not None else []
    shares = by_hand(built, [*before, *inside])
    middle = (windows[0][1] + windows[2][0]) // 2  # in the second window alone
    at = len(before) + alone[start] + sum(lengths[start + 1 : middle])
    assert one.words[middle].probability == pytest.approx(float(shares[at].max()), abs=1e-5)


def test_a_word_longer_than_a_window_has_a_tag() -> None:
    known = tokenizer("char")
    built = model("tinybert", "tag", known, context=8)
    (one,) = predict_texts(built, known, ["cat " + "alice" * 9 + " mat"])
    assert isinstance(one, TagPrediction)
    assert [word.text for word in one.words] == ["cat", "alice" * 9, "mat"]


def test_a_class_of_a_long_text_is_told_from_its_beginning_and_that_is_said() -> None:
    known = tokenizer()
    built = model("tinybert", "classify", known, context=16)
    long = " ".join(WORDS * 5)
    short, cut, exact = predict_texts(built, known, ["the cat", long, known.decode(known.encode(long)[:15])])
    assert isinstance(short, ClassPrediction)
    assert isinstance(cut, ClassPrediction)
    assert isinstance(exact, ClassPrediction)
    assert (short.truncated, cut.truncated, exact.truncated) == (False, True, False)
    (less,) = predict_texts(built, known, [long], max_length=8)
    assert isinstance(less, ClassPrediction)
    assert less.truncated
    assert less.probabilities != cut.probabilities


@pytest.mark.parametrize("preset", ["tinygpt", "tinybert"])
def test_a_text_without_a_token_has_no_label_and_the_others_theirs(preset: str) -> None:
    known = tokenizer()
    built = model(preset, "classify", known)
    empty, cat, blank = predict_texts(built, known, ["", "cat", ""])
    assert isinstance(empty, ClassPrediction)
    assert isinstance(cat, ClassPrediction)
    assert (empty.label, empty.probability, empty.probabilities) == (None, None, {})
    assert empty.to_dict() == blank.to_dict()
    assert cat == predict_texts(built, known, ["cat"])[0]
    assert predict_texts(built, known, []) == []
    tagger = model(preset, "tag", known)
    assert [one.to_dict() for one in predict_texts(tagger, known, ["", " \n"])] == [
        {"text": "", "words": (), "entities": ()},
        {"text": " \n", "words": (), "entities": ()},
    ]


def test_a_stream_keeps_the_order_and_reads_no_further_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    known = tokenizer()
    built = model("tinybert", "classify", known)
    texts = [" ".join(WORDS[: 1 + n % 7]) for n in range(40)]
    whole = predict_texts(built, known, texts)
    assert [one.text for one in whole] == texts
    monkeypatch.setattr(module, "LOOK_AHEAD", 7)
    taken = []
    told: list[int] = []

    def given() -> Any:
        for text in texts:
            taken.append(text)
            yield text

    stream = Predictor(built, known).stream(given(), told.append)
    first = next(stream)
    assert len(taken) == 7
    rest = list(stream)
    assert told == [7, 14, 21, 28, 35, 40]
    for a, b in zip([first, *rest], whole, strict=True):
        assert isinstance(a, ClassPrediction)
        assert isinstance(b, ClassPrediction)
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)


@pytest.mark.parametrize("path", ["native", "pytorch"])
@pytest.mark.parametrize("preset", ["tinygpt", "tinybert"])
def test_rewards_are_those_of_one_text_at_a_time(preset: str, path: str) -> None:
    """A decoder's at the last token of the text, before the end that a training puts there; an encoder's at [CLS]."""
    known = tokenizer()
    torch.manual_seed(0)
    base = build_model(model_preset(preset, known.vocab_size, context=40, init_std=0.1))
    built: Any = with_head(base, "reward", seed=1).eval()
    if path == "pytorch":
        built.blocks[0].register_forward_hook(lambda *_: None)  # leaves the pass to PyTorch
    found = predict_texts(built, known, [*TEXTS, ""])
    for one, text in zip(found[:-1], TEXTS, strict=True):
        assert isinstance(one, RewardPrediction)
        ids = [*known.prefix_ids, *known.encode(text), *known.suffix_ids]
        with torch.no_grad():
            expected = built(torch.tensor([ids]))[0, 0 if preset == "tinybert" else -1, 0]
        assert (one.text, one.truncated) == (text, False)
        assert one.reward == pytest.approx(float(expected), abs=1e-5)
    assert found[-1] == RewardPrediction("", None, False)
    assert found[-1].silent


def test_what_cannot_be_told_is_refused_in_one_line() -> None:
    known = tokenizer("char", unknown="error")
    built = model("tinybert", "classify", known)
    with pytest.raises(UserError, match=r"text 2: .*'Q'"):
        predict_texts(built, known, ["cat", "Q"])
    with pytest.raises(UserError, match=r"text 2 is not UTF-8 \(character 3\)"):
        predict_texts(built, known, ["cat", "ca\udcff"])
    with pytest.raises(UserError, match="max_length is 99; news can read from 2 to 40 tokens"):
        predict_texts(built, known, ["cat"], max_length=99, name="news")
    with pytest.raises(UserError, match="max_length is 1; "):
        predict_texts(built, known, ["cat"], max_length=1)
    with pytest.raises(ValueError, match="not one"):
        predict_texts(built, known, "cat")
    for preset in ("tinygpt", "tinybert", "transformer"):
        words = build_model(model_preset(preset, known.vocab_size))
        with pytest.raises(UserError, match=r"mine has no classes or tags to tell; .*scratchlm finetune mine"):
            predict_texts(words, known, ["cat"], name="mine")
    with pytest.raises(ValueError, match="head is 'classify' does not continue text"):
        build_engine(model("tinygpt", "classify", known), rows=1)
