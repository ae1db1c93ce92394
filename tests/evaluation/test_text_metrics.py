"""BLEU, ROUGE, exact matches and distinct-n: against values worked out by hand, and against the libraries' own."""

from __future__ import annotations

import math
import sys

import pytest
import sacrebleu
from rouge_score import rouge_scorer

from scratchlm.errors import UserError
from scratchlm.evaluation.text_metrics import TextOptions, compare_texts

CAT, MAT = "the cat sat on the mat", "the cat sat on a mat"


def test_a_pair_worked_out_by_hand() -> None:
    figures = compare_texts([CAT], [MAT])
    # Of 6 words 5 are in the reference ("the" once, since it is there once); 3 of 5 pairs; 2 of 4 triples; 1 of 3.
    assert [figures[f"bleu_{n}"] for n in (1, 2, 3, 4)] == pytest.approx([5 / 6, 3 / 5, 2 / 4, 1 / 3])
    assert figures["bleu"] == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert figures["brevity_penalty"] == figures["length_ratio"] == 1.0
    assert figures["rouge_1"] == pytest.approx(5 / 6)
    assert figures["rouge_2"] == pytest.approx(3 / 5)
    assert figures["rouge_l"] == figures["rouge_lsum"] == pytest.approx(5 / 6)
    assert figures["exact_match"] == 0.0
    assert figures["distinct_1"] == pytest.approx(5 / 6)
    assert figures["distinct_2"] == 1.0
    assert figures["texts"] == 1


def test_what_is_equal_has_ones_all_over() -> None:
    figures = compare_texts([f" {MAT}\n"], [MAT])
    assert all(figures[key] == pytest.approx(1.0) for key in figures if key.startswith(("bleu_1", "rouge", "exact")))
    assert figures["bleu"] == pytest.approx(1.0)


def test_brevity_is_punished_by_the_papers_formula() -> None:
    figures = compare_texts(["the cat sat on"], [MAT])
    assert figures["brevity_penalty"] == pytest.approx(math.exp(1 - 6 / 4))
    assert figures["length_ratio"] == pytest.approx(4 / 6)
    assert figures["bleu"] == pytest.approx(math.exp(1 - 6 / 4))  # all its n-grams are right
    assert figures["bleu_4"] == 1.0


def test_precisions_are_as_they_are_where_sacrebleu_smooths_the_whole() -> None:
    figures = compare_texts(["the dog sat in the house"], [MAT])
    assert (figures["bleu_2"], figures["bleu_3"], figures["bleu_4"]) == (0.0, 0.0, 0.0)
    # sacrebleu's "exp": zeros become 1/2, 1/4, ... of one n-gram
    smoothed = 2 / 6 * (1 / 2 / 5) * (1 / 4 / 4) * (1 / 8 / 3)
    assert figures["bleu"] == pytest.approx(smoothed**0.25)


def test_bleu_is_of_the_corpus_and_rouge_the_mean_of_rows() -> None:
    figures = compare_texts([CAT, "a b"], [MAT, "a c"])
    assert figures["bleu_1"] == pytest.approx((5 + 1) / (6 + 2))
    assert figures["rouge_1"] == pytest.approx((5 / 6 + 1 / 2) / 2)


def test_lsum_goes_by_lines() -> None:
    figures = compare_texts(["c d\na b"], ["a b\nc d"])
    assert figures["rouge_l"] == pytest.approx(2 / 4)
    assert figures["rouge_lsum"] == 1.0


OUTPUTS = [
    "The film, as a whole, doesn't work.",
    "A gem - moving and realistic!",
    "",
    "It's the best thing I've seen in 2,000 years\nReally.",
]
REFERENCES = [
    "The movie doesn't work as a whole.",
    "This is a gem: moving, realistic.",
    "Nothing was said",
    "It is the best I've seen\nin 2,000 years. Really",
]


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("tokenizer", ["13a", "intl", "char", "zh", "none"])
def test_bleu_is_sacrebleus(tokenizer: str, lowercase: bool) -> None:
    ours = compare_texts(OUTPUTS, REFERENCES, TextOptions(bleu_tokenizer=tokenizer, lowercase=lowercase))  # type: ignore[arg-type]
    theirs = sacrebleu.corpus_bleu(OUTPUTS, [REFERENCES], tokenize=tokenizer, lowercase=lowercase)
    assert ours["bleu"] == pytest.approx(theirs.score / 100)
    assert ours["brevity_penalty"] == pytest.approx(theirs.bp)
    plain = sacrebleu.corpus_bleu(OUTPUTS, [REFERENCES], tokenize=tokenizer, lowercase=lowercase, smooth_method="none")
    assert [ours[f"bleu_{n}"] for n in (1, 2, 3, 4)] == pytest.approx([p / 100 for p in plain.precisions])
    assert f"tok:{tokenizer}" in ours["bleu_signature"]


@pytest.mark.parametrize("stemmer", [False, True])
def test_rouge_is_rouge_scores(stemmer: bool) -> None:
    ours = compare_texts(OUTPUTS, REFERENCES, TextOptions(stemmer=stemmer))
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = rouge_scorer.RougeScorer(names, use_stemmer=stemmer)
    rows = [scorer.score(reference, output) for reference, output in zip(REFERENCES, OUTPUTS, strict=True)]
    theirs = [sum(row[name].fmeasure for row in rows) / len(rows) for name in names]
    assert [ours[key] for key in ("rouge_1", "rouge_2", "rouge_l", "rouge_lsum")] == pytest.approx(theirs)


def test_letters_beyond_english_need_a_tokenizer_that_knows_them() -> None:
    rumi = ["بشنو این نی چون شکایت می‌کند"]
    assert compare_texts(rumi, rumi)["rouge_1"] == 0.0
    assert compare_texts(rumi, rumi, TextOptions(rouge_tokenizer="spaces"))["rouge_1"] == 1.0
    assert compare_texts(["机器学习"], ["机器翻译"], TextOptions(rouge_tokenizer="characters"))["rouge_1"] == 0.5


def test_nothing_said_is_worth_nothing() -> None:
    figures = compare_texts(["", ""], ["a b", "c"])
    assert {value for key, value in figures.items() if key not in ("texts", "bleu_signature")} == {0.0}


def test_repetition_shows_in_distinct() -> None:
    figures = compare_texts(["no no no no", "a b c d", "one"], ["x"] * 3)
    assert figures["distinct_1"] == pytest.approx((1 / 4 + 1 + 1) / 3)
    assert figures["distinct_2"] == pytest.approx((1 / 3 + 1) / 2)  # the last has no pair


@pytest.mark.parametrize("missing", ["sacrebleu", "rouge_score"])
def test_a_missing_package_is_told_with_the_cure(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"{missing} is not installed; run: pip install 'scratchlm\[finetune\]'"):
        compare_texts(["a"], ["a"])


@pytest.mark.parametrize("options", [{"bleu_tokenizer": "moses"}, {"rouge_tokenizer": "words"}])
def test_an_unknown_tokenizer_is_told(options: dict[str, str]) -> None:
    with pytest.raises(UserError, match="choose one of"):
        TextOptions(**options)  # type: ignore[arg-type]


def test_outputs_need_their_references() -> None:
    for outputs, references in (([], []), (["a"], ["a", "b"])):
        with pytest.raises(ValueError, match="references"):
            compare_texts(outputs, references)
