"""Retrieval from Python, the whole way and without the command line: a folder, its index, searches, answers, edits."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("lancedb", reason="LanceDB is not installed")
pytest.importorskip("markitdown", reason="markitdown is not installed")

from scratchlm.checkpoints.catalogue import find_pulled
from scratchlm.errors import UserError
from scratchlm.retrieval import Embedder
from scratchlm.retrieval.answers import Answer, Answerer
from scratchlm.retrieval.documents import read_documents
from scratchlm.retrieval.filters import Filter
from scratchlm.retrieval.index import Index
from scratchlm.retrieval.search import Searcher
from scratchlm.retrieval.search_settings import SearchSettings

MODEL = "all-minilm-l6-v2"
FILES = {
    "bridges/halden.md": "# The Halden bridge\n\nThe bridge at Halden was opened in 1931. Ada Lund designed it.\n\n"
    "## The toll\n\nUntil 1956 a crossing cost three crowns.\n",
    "mill.txt": "The old mill at Tolsby grinds oats and barley.\n\nIt was restored in 1988 by the brothers Vik.\n",
    "read.py": 'def read(path):\n    """Read a gauge of the river."""\n    return path.read_text()\n',
    "empty.md": "",
    "broken.pdf": "%PDF-1.7 and nothing more",
}


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    if find_pulled(MODEL) is None:
        pytest.skip(f"it needs {MODEL}; fetch it with: scratchlm models pull {MODEL}")
    return Embedder.open(MODEL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        file = tmp_path / "docs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return tmp_path / "docs"


@pytest.fixture
def index(folder: Path, embedder: Embedder, tmp_path: Path) -> Index:
    index = Index.create(tmp_path / "store", embedder)
    index.update(read_documents(folder))
    return index


def ask(index: Index, embedder: Embedder, question: str, where: Filter | None = None) -> Answer:
    return Answerer(Searcher(index, embedder), embedder).ask(question, where=where)


def test_what_can_be_read_is_indexed_and_the_rest_named(folder: Path, embedder: Embedder, tmp_path: Path) -> None:
    report = Index.create(tmp_path / "new", embedder).update(read_documents(folder))
    assert report.added == ["bridges/halden.md", "mill.txt", "read.py"]
    assert {one.path for one in report.passed_over} == {"empty.md", "broken.pdf"}
    assert all(len(one.why.splitlines()) == 1 for one in report.passed_over)


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_a_hit_is_the_very_text_of_its_file(mode: str, index: Index, embedder: Embedder, folder: Path) -> None:
    settings = SearchSettings(mode=mode)  # type: ignore[arg-type]
    best = Searcher(index, embedder, settings).search("who restored the mill", 2).hits[0]
    assert best.file == "mill.txt"
    assert (folder / best.file).read_text(encoding="utf-8")[best.start : best.end] == best.text
    assert "Vik" in best.text


def test_an_answer_cites_the_characters_that_it_comes_from(index: Index, embedder: Embedder, folder: Path) -> None:
    answer = ask(index, embedder, "When was the bridge at Halden opened?")
    assert "1931" in answer.text
    (citation, *_) = answer.sentences[0].citations
    assert citation.hit.file == "bridges/halden.md"
    assert (folder / citation.hit.file).read_text(encoding="utf-8")[citation.start : citation.end] == citation.quote
    assert answer.sentences[0].supported


def test_what_no_file_says_is_not_answered(index: Index, embedder: Embedder) -> None:
    assert ask(index, embedder, "How high is the Eiffel Tower?").refused
    assert ask(index, embedder, "When was the bridge at Halden opened?", Filter(paths=("*.txt",))).refused


def test_edits_are_followed(index: Index, embedder: Embedder, folder: Path) -> None:
    reader = Index.open(index.store.place, embedder)
    (folder / "mill.txt").write_text("The old mill at Tolsby burned down in 2003.\n", encoding="utf-8")
    (folder / "read.py").unlink()
    report = index.update(read_documents(folder))
    assert (report.changed, report.removed, report.unchanged) == (["mill.txt"], ["read.py"], ["bridges/halden.md"])
    assert "2003" in ask(index, embedder, "When did the old mill at Tolsby burn down?").text
    old = Searcher(reader, embedder).search("the mill at Tolsby", 1).hits[0]
    assert "1988" in old.text or "oats" in old.text  # an open reader keeps what it has seen
    assert reader.refresh()
    assert "2003" in Searcher(reader, embedder).search("the mill at Tolsby", 1).hits[0].text


def test_a_store_is_opened_with_its_own_model_only(index: Index, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no index in"):
        Index.open(tmp_path / "nowhere")
    assert index.record.model == MODEL
    assert {one.path for one in Index.open(index.store.place).files()} == {"bridges/halden.md", "mill.txt", "read.py"}
