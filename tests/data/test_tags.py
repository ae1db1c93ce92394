"""Words of a text, and the entities that tags tell of."""

from __future__ import annotations

import random

import pytest

from scratchlm.data.tags import bioes, entities, has_entities, word_places, word_style

SCHEMES = {
    "bio": ["O", "B-a", "I-a", "B-b", "I-b"],
    "iob1": ["O", "I-a", "I-b", "B-a"],
    "bioes": ["O", "B-a", "I-a", "E-a", "S-a", "S-b", "E-b"],
}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Alice met Bob.", ["Alice", "met", "Bob", "."]),
        ("It's London's, isn't it?", ["It", "'s", "London", "'s", ",", "isn't", "it", "?"]),
        ("U.S. e-mail and/or 3,500.25 O'Neil", ["U.S.", "e-mail", "and/or", "3,500.25", "O'Neil"]),
        ("@ann #fun www.x.org/a?b ... !!", ["@ann", "#fun", "www.x.org/a?b", "...", "!!"]),
        ("  (été)\t中文。\n", ["(", "été", ")", "中文", "。"]),
        ("", []),
        (" \n\t ", []),
    ],
)
def test_a_text_is_taken_apart_as_corpora_with_tags_are(text: str, words: list[str]) -> None:
    places = word_places(text)
    assert [text[a:b] for a, b in places] == words
    rest = list(text)
    for a, b in places:
        rest[a:b] = " " * (b - a)
    assert "".join(rest).strip() == ""  # nothing but white space is left out


def test_spaces_alone_part_words_where_that_is_the_style() -> None:
    text = "Alice's cat,  Bob."
    assert [text[a:b] for a, b in word_places(text, "spaces")] == ["Alice's", "cat,", "Bob."]


def test_the_style_is_seen_from_tagged_sentences() -> None:
    assert word_style([["Alice", "'s", "cat", ",", "and", "Bob", "."], ["No", "!"]]) == "parts"
    assert word_style([["Alice's", "cat,", "and", "Bob."], ["No!"]]) == "spaces"
    assert word_style([["etc.", *["word"] * 50]]) == "parts"  # a corpus has some such anyhow
    assert word_style([]) == "parts"


def test_tags_tell_entities_only_with_prefixes() -> None:
    assert all(has_entities(labels) for labels in SCHEMES.values())
    assert has_entities(["O", "B-geo-loc", "L-geo-loc", "U-x"])
    for labels in (["O"], [], ["NOUN", "VERB"], ["O", "person"], ["O", "B-a", "b"], ["B-", "I-"]):
        assert not has_entities(labels)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_entities_are_seqevals_whatever_the_tags(scheme: str) -> None:
    labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    draw = random.Random(scheme)
    for _ in range(3000):
        tags = [draw.choice(SCHEMES[scheme]) for _ in range(draw.randint(0, 8))]
        assert [(kind, a, b - 1) for kind, a, b in entities(tags)] == labeling.get_entities(tags), tags


def test_bilous_tags_are_bioes_by_other_names() -> None:
    tags = ["B-a", "L-a", "O", "U-b", "U-b"]
    assert bioes(tags) == ["B-a", "E-a", "O", "S-b", "S-b"]
    assert entities(tags) == entities(bioes(tags)) == [("a", 0, 2), ("b", 3, 4), ("b", 4, 5)]
