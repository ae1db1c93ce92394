"""Chunks: where they are cut, what they stand under, and that nothing is lost whatever the text."""

from __future__ import annotations

import os
import re
from itertools import pairwise
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.retrieval.chunk_checks import check, chunks, document, pieces, spaces_too, words

from scratchlm.errors import UserError
from scratchlm.retrieval.chunks import ChunkSettings, Count, chunk_document, settings_for, token_counter

GUIDE = """---
title: Guide
---
# Guide

Intro text here. It has two sentences.

## Install **now**

### [Linux](linux.md) `x`

Run it:

```sh
# not a heading

pip install x
```

Windows
-------

- one
- two

After.
"""


def test_headings_make_the_path() -> None:
    found = [(chunk.headings, chunk.text.split("\n")[0]) for chunk in chunks(GUIDE)]
    assert found == [
        ((), "---"),
        (("Guide",), "# Guide"),
        (("Guide", "Install now", "Linux x"), "## Install **now**"),
        (("Guide", "Windows"), "Windows"),
    ]


def test_the_same_with_other_line_ends() -> None:
    other = GUIDE.replace("\n", "\r\n")
    found = chunks(other)
    check(document(other), found, words, 32)
    assert [chunk.headings for chunk in found] == [chunk.headings for chunk in chunks(GUIDE)]
    assert [chunk.text.replace("\r\n", "\n") for chunk in found] == [chunk.text for chunk in chunks(GUIDE)]


def test_levels_close_and_open() -> None:
    text = "# A\n\na\n\n### B\n\nb\n\n## C\n\nc\n\n# D\n\nd\n"
    assert [chunk.headings for chunk in chunks(text)] == [("A",), ("A", "B"), ("A", "C"), ("D",)]


@pytest.mark.parametrize(
    "text", ["#no space\n\nx", "    # code\n\nx", "a | b\n\n---\n\nx", "- item\n---\n\nx", "text\n\n===\n"]
)
def test_what_is_no_heading(text: str) -> None:
    assert {chunk.headings for chunk in chunks(text)} == {()}


def test_neighbours_share_a_chunk_up_to_the_size() -> None:
    text = "\n\n".join(f"Paragraph {number} has six words." for number in range(10))
    found = chunks(text, size=16, kind="text")
    assert [chunk.tokens for chunk in found] == [15, 15, 15, 5]
    assert all(chunk.text.startswith("Paragraph") for chunk in found)


def test_a_paragraph_is_cut_at_sentences_only_if_it_must_be() -> None:
    short = "Short one here."
    whole = " ".join(["This sentence has five words."] * 3)
    long = " ".join(["This sentence has five words."] * 5)
    assert [chunk.text for chunk in chunks(f"{short}\n\n{whole}", 16, kind="text")] == [short, whole]
    found = chunks(long, 16, kind="text")
    assert [chunk.tokens for chunk in found] == [15, 10]
    assert all(chunk.text.endswith("words.") for chunk in found)


def test_a_heading_does_not_stand_alone() -> None:
    text = "# The title\n\n" + " ".join(["Five words make a sentence."] * 3)
    found = chunks(text, 20)
    assert found[0].text.startswith("# The title\n\nFive words")
    check(document(text), found, words, 20)


@pytest.mark.parametrize("fence", ["```", "~~~", "````"])
def test_code_blocks_are_not_torn(fence: str) -> None:
    code = f"{fence}py\n# comment\n\n{'x = 1' + chr(10)}\n\ny = 2\n{fence}"
    text = f"{'word ' * 20}\n\n{code}\n\n{'word ' * 20}"
    found = chunks(text, 24)
    assert code in [chunk.text for chunk in found]
    assert {chunk.headings for chunk in found} == {()}


def test_tables_are_not_torn() -> None:
    table = "| name | size |\n| --- | --- |\n" + "\n".join(f"| row{n} | {n} |" for n in range(3))
    found = chunks(f"{'word ' * 20}\n\n{table}\n\n{'word ' * 20}", 26)
    assert table in [chunk.text for chunk in found]


def test_rows_cut_off_from_a_table_stand_under_its_names() -> None:
    table = "| **name** | size |\n| --- | --- |\n" + "\n".join(f"| row{n} | {n} |" for n in range(30))
    found = chunks(f"# Top\n\n{table}", 40)
    assert len(found) > 3
    assert found[0].headings == ("Top",)
    assert {chunk.headings for chunk in found[1:]} == {("Top", "name | size")}
    assert all(line.startswith("| ") and line.endswith(" |") for chunk in found[1:] for line in chunk.text.split("\n"))
    check(document(f"# Top\n\n{table}"), found, words, 40)


def test_an_open_code_block_goes_on_to_the_end() -> None:
    [chunk] = chunks("```\n# a\n\n# b")
    assert chunk.headings == ()


def test_headings_longer_than_half_the_size_are_left_out_from_the_outermost() -> None:
    text = f"# {'long ' * 10}\n\n## Short\n\nWords."
    assert [chunk.headings for chunk in chunks(text, 20)][-1] == ("Short",)
    check(document(text), chunks(text, 20), words, 20)


def test_a_word_is_not_torn_to_keep_a_heading_company() -> None:
    text = f"# {'long ' * 15}\n\nword"
    assert [chunk.text.split()[-1] for chunk in chunks(text, 16)] == ["long", "word"]
    far = f"# Title{chr(10) * 2000}x"
    assert [chunk.text for chunk in chunks(far, 16)] == ["# Title", "x"]


def test_underlined_titles_of_restructuredtext() -> None:
    text = (
        "=====\nGuide\n=====\n\nIntro::\n\n  code\n  ----\n\nInstall it\n----------\n\nRun.\n\nLinux\n~~~~~\n\nx\n\n"
        "Windows\n-------\n\ny\n\nToo long for it\n----\n"
    )
    source = document(text, "text", "a.rst")
    found = chunk_document(source, words, ChunkSettings(16))
    check(source, found, words, 16)
    assert [(chunk.headings, chunk.text.split()[-1]) for chunk in found] == [
        (("Guide",), "----"),
        (("Guide", "Install it"), "Run."),
        (("Guide", "Install it", "Linux"), "x"),
        (("Guide", "Windows"), "----"),
    ]


def test_slides_do_not_inherit_headings() -> None:
    text = "# One\n\nfirst\n\nsecond slide without a title\n"
    at = text.index("second")
    found = chunk_document(document(text, "pptx", pages=(0, at)), words, ChunkSettings(16))
    assert [(chunk.headings, chunk.first_page, chunk.last_page) for chunk in found] == [(("One",), 1, 1), ((), 2, 2)]


def test_chunks_may_go_over_pages() -> None:
    text = "First page text\n\ngoes on here."
    [chunk] = chunk_document(document(text, "pdf", pages=(0, 17)), words, ChunkSettings(16))
    assert (chunk.first_page, chunk.last_page) == (1, 2)


def test_overlap_repeats_whole_sentences() -> None:
    text = " ".join(f"Sentence {number} has five words." for number in range(20))
    plain, found = chunks(text, 20, kind="text"), chunks(text, 20, 6, kind="text")
    check(document(text), found, words, 20, 6)
    assert len(found) > len(plain)
    for one, other in pairwise(found):
        shared = text[other.start : one.end]
        assert re.fullmatch(r"Sentence \d+ has five words\.", shared)


def test_overlap_ends_with_the_section() -> None:
    found = chunks("# A\n\nOne sentence here.\n\n# B\n\nAnother one there.", 16, 8)
    assert [chunk.text.split("\n")[0] for chunk in found] == ["# A", "# B"]


def test_long_words_and_lines_without_spaces() -> None:
    for text in ("x" * 5000, "=" * 3000, '{"a":[' + ",".join(map(str, range(2000))) + "]}", "é" * 999, "字" * 999):
        for kind in ("text", "json", "markdown", "code"):
            found = chunks(text, 32, kind=kind, count=spaces_too)
            check(document(text), found, spaces_too, 32)
            assert len(found) > 1


@pytest.mark.parametrize("kind", ["markdown", "text", "code", "json"])
@pytest.mark.parametrize(
    "part", [" ", "\t", ".", "[", "# ", "`", "|-", "- ", "*", "\n \n", "```\n", "a\n---\n", "e.g. "]
)
def test_endless_lines_take_no_endless_time(kind: str, part: str) -> None:
    text = "# a" + part * (20_000 // len(part)) + "x"
    started = process_time()
    found = chunks(text, 64, kind=kind, count=pieces)
    assert process_time() - started < 2  # a quadratic pattern takes ten times as long
    check(document(text), found, pieces, 64)


def test_a_tokenizer_with_one_token_for_any_word_makes_no_endless_chunks() -> None:
    found = chunks("x" * 50_000, 32, kind="text")
    check(document("x" * 50_000), found, words, 32)
    assert max(len(chunk.text) for chunk in found) <= 32 * 32


LINES = [
    *("# A", "## Deep title", "### x", "```", "~~~", "| a | b |", "| --- | --- |", "| 1 | 2 |", "---", "===", "- item"),
    *(
        "1. one",
        "> quote",
        "def f(x):",
        "class A:",
        "    return 1",
        "  }",
        "{",
        "function g() {",
        "\tpass",
        "@d",
        "// c",
    ),
    *("# c", "\r", "\t", "", "A sentence of some words. ", "Another, with more in it! ", "word " * 12, "x" * 90),
]
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(LINES),
        st.text(alphabet="ab cd.!? \r\t|#`~-=*_字。é\u2028\x0c\x1f😀\u0301", max_size=60),
        st.text(max_size=20),
    ),
    max_size=25,
).map("\n".join)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    TEXTS,
    st.sampled_from(["markdown", "text", "code", "json", "pdf"]),
    st.sampled_from(["a.py", "a.js", "a.rst"]),
    st.integers(16, 60),
    st.sampled_from([0, 4, 8]),
    st.sampled_from([words, pieces, spaces_too]),
)
def test_whatever_the_text(text: str, kind: str, path: str, size: int, overlap: int, count: Count) -> None:
    source = document(text, kind, path)
    found = chunk_document(source, count, ChunkSettings(size, overlap))
    check(source, found, count, size, overlap)
    assert found == chunk_document(source, count, ChunkSettings(size, overlap))


@pytest.mark.parametrize(("size", "overlap"), [(15, 0), (True, 0), (16.5, 0), (64, 33), (64, -1), (64, 1.5)])
def test_settings_that_cannot_be(size: int, overlap: int) -> None:
    with pytest.raises(UserError, match="give a whole number") as caught:
        ChunkSettings(size, overlap)
    assert "\n" not in str(caught.value)


def test_a_character_larger_than_a_chunk() -> None:
    with pytest.raises(UserError, match="raise the size"):
        chunk_document(document("a b"), lambda text: 20 * len(text), ChunkSettings(16))


def test_minilm_reads_every_chunk_to_its_end() -> None:
    root = os.environ.get("SCRATCHLM_TEST_MODELS")
    found = sorted(Path(root).glob("**/1_Pooling")) if root else []
    if not found:
        pytest.skip("set SCRATCHLM_TEST_MODELS to a folder that holds all-MiniLM-L6-v2")
    from scratchlm.retrieval import Embedder

    embedder = Embedder.open(found[0].parent)
    count, cut = token_counter(embedder), settings_for(embedder, overlap=32)
    assert cut.size == 254  # it reads 256, two of which are its own
    source = document("# Zürich\n\n" + "Naïve café 東京 🙂, or so; 3.14 isn't it? " * 200)
    chunked = chunk_document(source, count, cut)
    check(source, chunked, count, cut.size, cut.overlap)
    assert max(chunk.tokens for chunk in chunked) > 200
    assert embedder.embed([chunk.embedded for chunk in chunked]).truncated == 0
    with pytest.raises(UserError, match="reads 254 tokens; give 254 at most"):
        settings_for(embedder, 255)
