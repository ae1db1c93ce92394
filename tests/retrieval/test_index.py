"""The index: what is found, what a filter leaves, what an update changes, and what is refused."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest

from scratchlm.errors import UserError
from scratchlm.retrieval.passages import Document

pytest.importorskip("lancedb", reason="lancedb is not installed")

from tests.retrieval.index_parts import Words, document, paragraphs

from scratchlm.retrieval.filters import Filter
from scratchlm.retrieval.index import Index
from scratchlm.retrieval.index_settings import IndexSettings

DAY = 86_400.0
DOCUMENTS = [
    document("guide.md", "# Boats\n\nThe ferry sails at noon.\n\nTickets are sold on board.", kind="markdown"),
    document(
        "it's/a 'b'.txt", "Trains are running late.\n\nÀ la gare, the café opens.", modified=1_700_000_000 + 9 * DAY
    ),
    document("src/deep/mod.py", "def boat():\n    return 'ferry'", kind="code", metadata={"author": "O'Neil = x"}),
    document("slides.pdf", "first page\n\nsecond page of ferries", kind="pdf", pages=(0, 12)),
]


@pytest.fixture
def embedder() -> Words:
    return Words()


@pytest.fixture
def index(tmp_path: Path, embedder: Words) -> Index:
    index = Index.create(tmp_path / "store", embedder)
    index.update(DOCUMENTS, cut=paragraphs)
    return index


def files(hits: list) -> set[str]:
    return {hit.file for hit in hits}


def test_dense_search_is_exact_and_hits_are_whole(index: Index, embedder: Words) -> None:
    hits = index.dense(embedder.vector("ferry sails at noon"), 20)
    assert len(hits) == len(index) == 7
    assert hits == sorted(hits, key=lambda hit: -hit.score)
    texts = {one.path: one.text for one in DOCUMENTS}
    query = embedder.vector("ferry sails at noon")
    for hit in hits:
        assert hit.text == texts[hit.file][hit.start : hit.end]
        vector = embedder.vector(hit.embedded)
        cosine = vector @ query / np.linalg.norm(vector) / np.linalg.norm(query)
        assert hit.score == hit.scores["dense"] == pytest.approx(cosine, abs=1e-5)
    best = hits[0]
    assert (best.file, best.headings, best.kind, best.first_line) == ("guide.md", ("Boats",), "markdown", 3)
    assert best.place() == "guide.md, line 3"
    assert [hit.first_page for hit in index.dense(embedder.vector("second page of ferries"), 1)] == [2]


def test_full_text_stems_and_reads_headings(index: Index) -> None:
    assert {hit.text for hit in index.full_text("run", 9)} == {"Trains are running late."}
    assert files(index.full_text("ferries", 9)) == {"guide.md", "src/deep/mod.py", "slides.pdf"}
    assert len(index.full_text("boats", 9)) == 3  # under the heading, and the function's name
    assert files(index.full_text("CAFE", 9)) == {"it's/a 'b'.txt"}
    assert index.full_text("ferry", 1)[0].scores.keys() == {"bm25"}


@pytest.mark.parametrize(
    "query",
    [
        '"',
        "'; DROP TABLE chunks --",
        "AND",
        "((",
        "a:b",
        "*",
        "ferry~2^",
        "\x00",
        "\udc80",
        "the",
        "",
        " \n",
        "zz" * 9999,
    ],
)
def test_no_query_is_syntax(index: Index, query: str) -> None:
    assert index.full_text(query, 5) == [] or "ferry" in query
    found = index.full_text(f"{query[:99]} noon", 5)
    assert [hit.text for hit in found if "noon" in hit.text]


@pytest.mark.parametrize(
    ("where", "left"),
    [
        (Filter(), {"guide.md", "it's/a 'b'.txt", "src/deep/mod.py", "slides.pdf"}),
        (Filter(paths=("*.md",)), {"guide.md"}),
        (Filter(paths=("mod.py", "guide.*")), {"guide.md", "src/deep/mod.py"}),
        (Filter(paths=("src/",)), {"src/deep/mod.py"}),
        (Filter(paths=("src/*.py",)), set()),
        (Filter(paths=("src/**/*.py",)), {"src/deep/mod.py"}),
        (Filter(paths=("**/mod.??",)), {"src/deep/mod.py"}),
        (Filter(paths=("it's",)), {"it's/a 'b'.txt"}),
        (Filter(paths=("a 'b'.txt",)), {"it's/a 'b'.txt"}),
        (Filter(paths=("' OR 1=1 --",)), set()),
        (Filter(paths=("[a-z]+.md", ".*", "\ud800\\")), set()),
        (Filter(kinds=("pdf", "code")), {"slides.pdf", "src/deep/mod.py"}),
        (Filter(kinds=("') OR true OR kind IN ('",)), set()),
        (Filter(after=date(2023, 11, 20)), {"it's/a 'b'.txt"}),
        (Filter(before=datetime(2023, 11, 20, tzinfo=UTC), kinds=("pdf",)), {"slides.pdf"}),
        (Filter(metadata={"author": "O'Neil = x"}), {"src/deep/mod.py"}),
        (Filter(metadata={"author": "O"}), set()),
        (Filter(metadata={"author": "O'Neil = x"}, kinds=("pdf",)), set()),
    ],
)
def test_filters(index: Index, embedder: Words, where: Filter, left: set[str]) -> None:
    assert files(index.dense(embedder.vector("ferry"), 20, where)) == left
    words = files(index.full_text("ferry running cafe page boat tickets", 20, where))
    assert words == left


def test_looking_up(index: Index, embedder: Words) -> None:
    best = index.dense(embedder.vector("Tickets are sold on board."), 1)[0]
    around = index.neighbours(best, 5, 5)
    assert [hit.text for hit in around] == ["The ferry sails at noon.", "Tickets are sold on board."]
    assert around[1] is best
    assert index.neighbours(best, 0, 0) == [best]
    ids = [hit.id for part in index.all_chunks(2) for hit in part]
    assert len(set(ids)) == len(ids) == 7
    assert [hit.id for hit in index.hits(ids[::-1])] == ids[::-1]
    vectors = index.vectors([best.id, ids[0]])
    expected = embedder.vector(best.embedded)
    np.testing.assert_allclose(vectors[0], expected / np.linalg.norm(expected), atol=1e-6)
    assert index.vectors([]).shape == (0, 16)
    assert [(one.path, one.chunks) for one in index.files()] == [
        ("guide.md", 2), ("it's/a 'b'.txt", 2), ("slides.pdf", 2), ("src/deep/mod.py", 1)
    ]  # fmt: skip
    said = index.statistics()
    assert (said["files"], said["chunks"], said["unfinished"], said["approximate"]) == (4, 7, False, False)
    assert said["kinds"] == {"code": 1, "markdown": 1, "pdf": 1, "text": 1}


def test_an_empty_index_finds_nothing(tmp_path: Path, embedder: Words) -> None:
    index = Index.create(tmp_path / "store", embedder)
    for _ in range(2):
        assert index.dense(embedder.vector("a"), 3) == index.full_text("a", 3) == index.files() == []
        assert list(index.all_chunks()) == []
        assert index.statistics()["chunks"] == len(index) == 0
        assert index.update([], cut=paragraphs).chunks == 0


@pytest.mark.parametrize(
    ("ask", "line"),
    [
        (lambda index: index.dense(np.zeros(3), 5), "vectors of 16 numbers made by words"),
        (lambda index: index.dense(np.full(16, np.nan), 5), "no finite numbers"),
        (lambda index: index.dense(np.ones(16), 0), "asks for 0 chunks"),
        (lambda index: index.full_text("a", True), "asks for True chunks"),
        (lambda index: index.hits(["9-none' OR '1'='1"]), "has no chunk \"9-none' OR '1'='1\""),
        (lambda index: index.neighbours(index.full_text("noon", 1)[0], -1, 0), "numbers from 0 on"),
        (lambda index: list(index.all_chunks(0)), "whole number from 1"),
        (lambda index: index.update(DOCUMENTS[0]), "give a list of them"),
        (lambda index: Index.open(index.store.place).update([]), "opened without its model, words"),
        (lambda index: Index.open(index.store.place, Words(dimensions=8)), "words makes 8"),
        (lambda index: Index.open(index.store.place, Words("other", fingerprint="2")), "this is other"),
        (lambda index: Index.open(index.store.place, Words(fingerprint="2")), "another version of it"),
        (lambda index: Index.open(index.store.place, Words(precision="int8")).update([]), "made in fp32, not int8"),
        (lambda index: Index.open(index.store.place, settings=IndexSettings(overlap=9)), "with overlap 0, not 9"),
        (lambda index: Index.create(index.store.place, Words()), "holds an index already"),
        (lambda index: Index.open(index.store.place + "-not"), "make one with: scratchlm index"),
        (lambda _: Index.open(""), "has no name"),
        (lambda _: Index.create(__file__, Words()), "is a file"),
        (lambda _: IndexSettings(language="Klingon"), "choose one of Arabic"),
        (lambda _: IndexSettings(size=2.5), "size is 2.5"),  # type: ignore[arg-type]
        (lambda _: IndexSettings(stem=1), "True or False"),  # type: ignore[arg-type]
        (lambda _: Filter(paths="*.md"), "give a list"),  # type: ignore[arg-type]
        (lambda _: Filter(kinds=("",)), "none of them empty"),
        (lambda _: Filter(after="2020"), "give a date"),  # type: ignore[arg-type]
        (lambda _: Filter(after=date(2021, 1, 1), before=date(2020, 1, 1)), "no file can be both"),
        (lambda _: Filter(metadata={"a": 1}), "texts by their names"),  # type: ignore[dict-item]
    ],
)
def test_mistakes_get_one_line(index: Index, ask: object, line: str) -> None:
    with pytest.raises(UserError) as caught:
        ask(index)  # type: ignore[operator]
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("index")
def test_what_is_no_index_is_told(tmp_path: Path) -> None:
    import lancedb

    lancedb.connect(tmp_path / "other").create_table("chunks", [{"a": 1}])
    with pytest.raises(UserError, match="no index of scratchlm"):
        Index.open(tmp_path / "other")
    manifests = list((tmp_path / "store").rglob("*.manifest"))
    assert manifests
    for one in manifests:
        one.write_bytes(b"broken")
    with pytest.raises(UserError, match=r"cannot be read .*delete it and index again"):
        Index.open(tmp_path / "store")


def test_a_later_versions_store_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scratchlm.retrieval.index_settings.FORMAT", 99)
    from scratchlm.retrieval.index_settings import Record
    from scratchlm.retrieval.store import Store

    Store(tmp_path / "store").create(Record(IndexSettings(), "m", "f", 4, "fp32", 99))
    monkeypatch.setattr("scratchlm.retrieval.index_settings.FORMAT", 1)
    with pytest.raises(UserError, match="later version of scratchlm"):
        Index.open(tmp_path / "store")


def test_documents_of_odd_characters(tmp_path: Path, embedder: Words) -> None:
    odd: list[Document] = [document("\udcff.txt", "half \ud800 pair\n\n日本語 🙂"), document("a\nb", "x\x00y")]
    index = Index.create(tmp_path / "store", embedder)
    report = index.update(odd, cut=paragraphs)
    assert report.added == ["?.txt", "a\nb"]
    assert len(index.dense(embedder.vector("half"), 9)) == 3
    assert index.update(odd, cut=paragraphs).unchanged == ["?.txt", "a\nb"]
