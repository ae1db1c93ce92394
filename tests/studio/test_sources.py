"""A document as its index has it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from scratchlm.retrieval.passages import Document, Hit
from scratchlm.serving.studio.sources import source_lines

TEXT = "# Bees\n\nA waggle\ndance tells 🙂\r\nwhere flowers stand.\n\n\n## Wax\nSix sides."


def hits(spans: Sequence[tuple[int, int]], text: str = TEXT) -> list[Hit]:
    document = Document("bees.md", text, "markdown", "", 0, 0.0)
    return [
        Hit(
            *(str(start), "bees.md", text[start:end], start, end, document.line(start), document.line(end - 1)),
            *(None, None, (), "markdown", 0.0),
        )
        for start, end in spans
    ]


def shown(found: dict[str, object], *, cited: bool = False) -> dict[int, str]:
    lines: list[dict[str, object]] = found["lines"]  # type: ignore[assignment]
    return {
        one["line"]: "".join(text for text, mark in one["parts"] if mark or not cited)  # type: ignore[attr-defined,misc]
        for one in lines
    }


SPANS = {
    "whole": [(0, len(TEXT))],
    "with gaps": [(8, 55), (58, len(TEXT))],
    "overlapping": [(0, 30), (20, 55), (40, 58), (58, len(TEXT))],
    "within another": [(0, 55), (10, 20), (58, len(TEXT))],
}


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
def test_lines_have_the_text_and_the_numbers_of_the_file(spans: list[tuple[int, int]]) -> None:
    found = source_lines(hits(spans))
    lines = TEXT.split("\n")
    covered = {at for start, end in spans for at in range(start, end)}
    for number, text in shown(found).items():
        begin = sum(len(line) + 1 for line in lines[: number - 1])
        kept = "".join(c for at, c in enumerate(lines[number - 1], begin) if at in covered)
        assert text == kept.rstrip("\r")
    first = TEXT[: spans[0][0]].count("\n") + 1
    assert list(shown(found)) == list(range(first, len(lines) + 1))
    assert (found["first"], found["last"]) == (first, len(lines))


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
@pytest.mark.parametrize("quote", ["waggle\ndance", "🙂\r\nwhere", "stand.", "Six sides."])
def test_what_is_cited_is_marked_and_nothing_else(spans: list[tuple[int, int]], quote: str) -> None:
    start = TEXT.index(quote)
    found = source_lines(hits(spans), start, start + len(quote))
    marked = {number: text for number, text in shown(found, cited=True).items() if text}
    first = TEXT[:start].count("\n") + 1
    assert marked == dict(enumerate(quote.replace("\r", "").split("\n"), first))


def test_of_a_long_document_the_lines_around_are_shown() -> None:
    text = "".join(f"line {n}\n" for n in range(1, 1001))
    passages = hits([(0, len(text))], text)
    start = text.index("line 500")
    assert list(shown(source_lines(passages, start, start + 8))) == list(range(350, 651))
    assert next(iter(shown(source_lines(passages, line=990)))) == 840
    found = source_lines(passages)
    assert list(shown(found)) == list(range(1, 152))
    assert found["last"] == 1001
