"""Sentences, the kinds of answers, follow-up questions, and whether a source says what a sentence says."""

from __future__ import annotations

import pytest

from scratchlm.retrieval.calibration import JUDGEMENT, THRESHOLD, WEIGHTS
from scratchlm.retrieval.evidence import Judgement, Signals, Weights
from scratchlm.retrieval.expected import answer_places, expected_answer, names_in
from scratchlm.retrieval.followup import Turn, standalone, topic_of
from scratchlm.retrieval.support import check_support
from scratchlm.retrieval.wording import content_words, sentence_spans, stem


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Lind met Mr. Wu at 9.15 a.m. He left.", ["Dr. Lind met Mr. Wu at 9.15 a.m.", "He left."]),
        ("Mrs. Wu is from St. Gallen. He left.", ["Mrs. Wu is from St. Gallen.", "He left."]),
        ("# Title\n\nText here.\nGoes on. End", ["Text here.", "Goes on.", "End"]),
        ("# Title\n## Part\nText here. End.\n\n## Next\nMore.", ["Text here.", "End.", "More."]),
        ("- one\n- two\n1. three", ["- one", "- two", "1. three"]),
        ("| a | b |\n| 1 | 2 |", ["| a | b |", "| 1 | 2 |"]),
        ("He said \"Go.\" She went.", ["He said \"Go.\"", "She went."]),
        ("Er kam. Она ушла. 他来了。她走了。", ["Er kam.", "Она ушла.", "他来了。", "她走了。"]),
        ("J. S. Bach wrote it. It lasts.", ["J. S. Bach wrote it.", "It lasts."]),
        ("", []),
        (" \n\n ", []),
    ],
)  # fmt: skip
def test_sentences_are_slices_of_the_text(text: str, sentences: list[str]) -> None:
    assert [text[start:end] for start, end in sentence_spans(text)] == sentences


@pytest.mark.parametrize(
    ("one", "other"),
    [("opened", "opens"), ("designing", "designed"), ("bridges", "bridge"), ("stopped", "stop"), ("cities", "city")],
)
def test_stems_join_forms_of_a_word(one: str, other: str) -> None:
    assert stem(one) == stem(other)


def test_content_words_leave_out_what_says_nothing() -> None:
    assert content_words("When was the Halden bridge's arch, the arch, opened?") == [
        "halden",
        "bridge",
        "arch",
        "opened",
    ]


@pytest.mark.parametrize(
    ("question", "kind", "has", "lacks"),
    [
        ("When was it opened?", "date", "It was opened in 1931.", "It is green."),
        ("Who designed it?", "person", "Karl Osterberg drew it.", "of green glass"),
        ("How many arches has it?", "number", "It has nineteen arches.", "It is green."),
        ("What did it cost?", "money", "It cost 212 million crowns.", "It has 212 arches."),
        ("How tall are the pylons?", "length", "They rise 148 metres.", "They have 148 lamps."),
        ("How deep is the lake?", "length", "It measures 97 metres.", "It has 97 fish."),
        ("At what temperature is it baked?", "temperature", "Bake at 180 degrees.", "Bake 45 minutes."),
        ("Which option leaves files out?", "code", "`--exclude` does.", "Files are left out."),
        ("What does the seal weigh?", "weight", "It weighs 14 kilograms.", "It lives 14 years."),
        ("How often is it done?", "frequency", "every 31 years", "in 31 ways"),
    ],
)
def test_the_kind_of_an_answer(question: str, kind: str, has: str, lacks: str) -> None:
    expected = expected_answer(question)
    assert expected.name == kind
    assert answer_places(expected, question, has)
    assert not answer_places(expected, question, lacks)


def test_what_the_question_says_itself_is_no_answer() -> None:
    question = "Who scored in the final of 1967?"
    assert not answer_places(expected_answer("When was the final of 1967 played?"), question, "the final of 1967")


def test_a_question_that_no_rule_fits_expects_anything() -> None:
    assert expected_answer("Tell of the heron.").name == "anything"
    assert answer_places(expected_answer("Tell of the heron."), "", "1931") == []


def test_the_probability_is_a_logistic_function_of_the_signals() -> None:
    signals = Signals(0.5, *(0.0,) * 12)
    assert Weights((0.0,) * 13, 0.0).probability(signals) == 0.5
    assert Weights((2.0, *(0.0,) * 12), -1.0).probability(signals) == pytest.approx(0.5)
    assert Weights((200.0, *(0.0,) * 12), 1000.0).probability(signals) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="2 coefficients"):
        Weights((1.0, 2.0), 0.0)


def test_what_was_calibrated_has_the_signs_that_it_should() -> None:
    by_name = dict(zip(Signals.__dataclass_fields__, WEIGHTS.coefficients, strict=True))
    assert by_name["headed"] > 0
    assert by_name["words_headed"] > 0
    assert by_name["names_missing"] < 0
    assert by_name["kind_missing"] < 0
    assert by_name["thing_far"] < 0
    assert JUDGEMENT.odds > 0
    assert JUDGEMENT.gain > 0
    assert 0 < THRESHOLD < 1


def test_names_of_a_sentence_are_not_its_first_word_nor_those_of_the_question() -> None:
    assert names_in("Salt was cut by Lene Krag in Ulm.", "Who cut salt at Ulm?") == ["Lene Krag"]
    assert names_in("Lene Krag cut it.", "Who cut it?") == ["Lene Krag"]
    assert names_in("Their almanac sold well in Kosice.", "Who drew the almanac of Kosice?") == []
    assert names_in("", "Who?") == []


def test_a_judgement_weighs_odds_and_gain() -> None:
    assert Judgement(1.0, 0.0, 0.0).probability(0.3, 5.0) == pytest.approx(0.3)
    assert Judgement(1.0, 2.0, -1.0).probability(0.5, 0.5) == pytest.approx(0.5)
    assert Judgement(1.0, 2.0, 0.0).probability(0.5, 1.0) > Judgement(1.0, 2.0, 0.0).probability(0.5, 0.5)
    assert Judgement(1.0, 1.0, 0.0).probability(0.0, 1.0) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("sentence", "supported"),
    [
        ("The Halden bridge was opened on 3 May 1931.", True),
        ("The bridge has three piers.", True),
        ("The bridge has 3 piers.", True),
        ("The Halden bridge was opened on 4 May 1931.", False),
        ("Otto Berg opened the Halden bridge on 3 May 1931.", False),
        ("The Halden bridge was not opened on 3 May 1931.", False),
        ("Cats like fish.", False),
        ("", False),
    ],
)
def test_support_goes_by_words_names_numbers_and_denials(sentence: str, supported: bool) -> None:
    source = "The Halden bridge, which has three piers, was opened on 3 May 1931 by the mayor, Greta Lind."
    assert check_support(sentence, source, cosine=0.9).supported is supported


def test_support_needs_nearness() -> None:
    source = "The bridge was opened in May."
    assert check_support(source, source, cosine=0.9).score == pytest.approx(0.95)
    assert not check_support(source, source, cosine=0.1).supported


def test_support_tells_what_is_missing() -> None:
    found = check_support("It was built by Otto Berg in 1899.", "It was built by Karl Lind in 1901.", 0.9)
    assert set(found.missing) == {"1899", "otto", "berg"}
    assert found.score == 0


LAST = Turn("When was the Halden bridge opened?", "It was opened by the mayor, Greta Lind. [1]")


@pytest.mark.parametrize(
    ("question", "alone"),
    [
        ("Who designed it?", "Who designed the Halden bridge?"),
        ("And who designed it?", "Who designed the Halden bridge?"),
        ("What is its length?", "What is the Halden bridge's length?"),
        ("How old was she?", "How old was Greta Lind?"),
        ("What was her office?", "What was Greta Lind's office?"),
        ("What about the Sund bridge?", "When was the Sund bridge opened?"),
        ("And the Sund bridge?", "When was the Sund bridge opened?"),
        ("Why?", "Why (the Halden bridge)?"),
        ("When was the Sund bridge opened?", "When was the Sund bridge opened?"),
    ],
)
def test_a_follow_up_question_is_made_one_that_stands_alone(question: str, alone: str) -> None:
    assert standalone(question, [LAST]) == alone


def test_a_follow_up_of_a_follow_up() -> None:
    assert standalone("Where was it?", [LAST, Turn("Who designed it?", "Karl Osterberg did.")]) == (
        "Where was the Halden bridge?"
    )


def test_without_a_history_a_question_stays() -> None:
    assert standalone("And who designed it?", []) == "And who designed it?"


@pytest.mark.parametrize(
    ("question", "topic"),
    [
        ("When was the Halden bridge opened?", "the Halden bridge"),
        ("Who was Elena Marchetti?", "Elena Marchetti"),
        ("What did the strike cause?", "the strike"),
        ("Why?", None),
    ],
)
def test_what_a_question_is_about(question: str, topic: str | None) -> None:
    assert topic_of(question) == topic
