"""Searching an index as a tool: what is found is shown with its place, and gives no orders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.retrieval.index_parts import Words, document, paragraphs

from scratchlm.agents.document_tool import document_tool
from scratchlm.agents.shipped import open_tools
from scratchlm.agents.tool import Tool
from scratchlm.errors import UserError
from scratchlm.retrieval.embeddings import Embedder
from scratchlm.retrieval.index import Index
from scratchlm.retrieval.memory_index import MemoryIndex
from scratchlm.retrieval.passages import Hit
from scratchlm.retrieval.search import Searcher
from scratchlm.retrieval.search_settings import SearchSettings

INJECTIONS = Path(__file__).parents[1] / "retrieval" / "injections"
CASES = json.loads((INJECTIONS / "cases.json").read_text(encoding="utf-8"))


def searching(*texts: str) -> Tool:
    hits = [
        Hit(str(n), f"{n}.md", text, 0, len(text), 3, 9, None, None, ("Head",), "markdown", 1.0)
        for n, text in enumerate(texts, 1)
    ]
    index = MemoryIndex(hits, np.ones((len(hits), 4), np.float32))
    return document_tool(searcher=Searcher(index, settings=SearchSettings(mode="bm25")))


def test_passages_are_shown_with_their_places() -> None:
    tool = searching("Cats sleep.", "Dogs bark.", "Cats purr.", "Cats hunt.", "A cat is a cat.")
    assert tool.run({"query": "bark"}).text == "[1] 2.md, lines 3-9\nHead\nDogs bark."
    assert tool.run({"query": "cats"}).text.count("\nHead\n") == 3
    assert tool.run({"query": "cats", "count": 99}).text.count("\nHead\n") == 4
    assert tool.run({"query": "cats", "count": -1}).text.count("\nHead\n") == 1
    assert tool.run({"query": "horses"}).text == "nothing found"
    assert tool.run({"query": " "}).text == "error: the query is empty; ask for something"
    assert tool.run({"query": 3}).failed


def test_long_passages_are_cut() -> None:
    assert len(searching("cat " * 5_000).run({"query": "cat"}).text) < 1_000


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"])
def test_what_a_document_tells_the_model_to_say_does_not_reach_it(case: dict[str, str]) -> None:
    text = (INJECTIONS / case["file"]).read_text(encoding="utf-8").partition("\n\n")[2]
    said = searching(text).run({"query": text}).text
    assert case["gold"] in said
    assert case["wants"].casefold() not in said.casefold()
    assert "<|im_" not in said


@pytest.mark.slow
def test_an_index_is_opened_with_its_own_model(tmp_path: Path) -> None:
    try:
        embedder = Embedder.open("all-minilm-l6-v2")
    except UserError as error:
        pytest.skip(str(error))
    index = Index.create(tmp_path / "store", embedder)
    index.update([document("a.md", "Cats sleep all day.")])
    (tool,) = open_tools([f"documents:{tmp_path / 'store'}"])
    assert tool.run({"query": "Which animal rests?"}).text == "[1] a.md, line 1\nCats sleep all day."


def test_what_is_no_index_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        open_tools([f"documents:{tmp_path / 'missing'}"])
    Index.create(tmp_path / "store", Words()).update([document("a.md", "Cats sleep.")], cut=paragraphs)
    with pytest.raises(UserError, match="the embedding model of"):
        open_tools([f"documents:{tmp_path / 'store'}"])
    with pytest.raises(ValueError, match="a store or a searcher"):
        document_tool()
