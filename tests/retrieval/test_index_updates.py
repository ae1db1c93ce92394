"""Updates of the index: what is read and embedded again, what a kill or a full disk leaves, writers and readers."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scratchlm.errors import UserError
from scratchlm.retrieval.passages import Document

pytest.importorskip("lancedb", reason="lancedb is not installed")

from tests.retrieval.index_parts import Words, contents, document, paragraphs, vectors_are_right

from scratchlm.retrieval import store as stores
from scratchlm.retrieval import updating
from scratchlm.retrieval.folders import Folder
from scratchlm.retrieval.index import Index

ROOT = Path(__file__).parents[2]
OLD = 1_600_000_000.0


@dataclass
class Files:
    """A source that counts what is read of it."""

    texts: dict[str, str]
    modified: dict[str, float] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)

    def found(self) -> Iterator[Any]:
        for path, text in self.texts.items():
            yield document(path, text, self.modified.get(path, OLD))

    def read(self, found: Document) -> Document | updating.LeftOut:
        self.reads.append(found.path)
        return updating.LeftOut(found.path, "is broken") if found.text == "broken" else found


@pytest.fixture
def embedder() -> Words:
    return Words()


@pytest.fixture
def index(tmp_path: Path, embedder: Words) -> Index:
    return Index.create(tmp_path / "store", embedder)


def test_only_what_changed_is_read_and_embedded_again(index: Index, embedder: Words) -> None:
    files = Files({"a.txt": "one\n\ntwo", "b.txt": "three\n\none", "c.txt": "four", "d.txt": "five\n\nsix\n\nseven"})
    first = index.update(files, cut=paragraphs)
    assert (first.added, first.chunks, first.read) == (["a.txt", "b.txt", "c.txt", "d.txt"], 8, 4)
    assert (first.embedded, first.reused) == (7, 1)  # "one" is there twice
    embedder.texts.clear()
    files.reads.clear()
    again = index.update(files, cut=paragraphs)
    assert (again.unchanged, again.read, again.embedded) == (list(files.texts), 0, 0)
    assert files.reads == []

    files.texts |= {"a.txt": "one\n\ntwo and a half", "e.txt": "three\n\neight"}
    files.texts["renamed.txt"] = files.texts.pop("d.txt")
    del files.texts["c.txt"]
    files.modified |= {"a.txt": OLD + 1, "b.txt": OLD + 5}  # b.txt is only touched
    third = index.update(files, cut=paragraphs)
    assert (third.added, third.changed, third.unchanged) == (["e.txt", "renamed.txt"], ["a.txt"], ["b.txt"])
    assert third.removed == ["c.txt", "d.txt"]
    assert sorted(embedder.texts) == ["eight", "two and a half"]
    assert contents(index) == {path: text.split("\n\n") for path, text in sorted(files.texts.items())}
    vectors_are_right(index, embedder)
    files.reads.clear()
    assert index.update(files, cut=paragraphs).read == 0
    assert {one.path: one.modified for one in index.files()}["b.txt"] == OLD + 5


def test_a_folder_is_read_where_it_has_changed(index: Index, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    for name, text in {"a.md": "# One\n\nfirst", "sub/b.txt": "second", "bad.pdf": "no pdf"}.items():
        (folder / name).write_text(text)
        os.utime(folder / name, (OLD, OLD))
    first = index.update(Folder(folder), cut=paragraphs)
    assert (first.added, [one.path for one in first.passed_over]) == (["a.md", "sub/b.txt"], ["bad.pdf"])
    assert contents(index) == {"a.md": ["first"], "sub/b.txt": ["second"]}
    (folder / "sub" / "b.txt").write_text("third")
    second = index.update(Folder(folder), cut=paragraphs)
    assert (second.unchanged, second.changed, second.read) == (["a.md"], ["sub/b.txt"], 1)
    (folder / "a.md").unlink()
    assert index.update(Folder(folder), cut=paragraphs).removed == ["a.md"]
    assert contents(index) == {"sub/b.txt": ["third"]}


def test_full_text_covers_new_rows_and_forgets_old_ones(index: Index, tmp_path: Path, embedder: Words) -> None:
    texts = {f"{n}.txt": f"apple pear number{n}\n\nplum" for n in range(9)}
    index.update(Files(texts), cut=paragraphs)
    texts = {f"{n}.txt": f"apple cherry number{n}\n\nplum tart" for n in range(3, 12)}
    index.update(Files(texts), cut=paragraphs)
    assert index.full_text("pear", 99) == index.full_text("number0", 99) == []
    assert [hit.file for hit in index.full_text("number11", 9)] == ["11.txt"]
    fresh = Index.create(tmp_path / "fresh", embedder)
    fresh.update(Files(texts), cut=paragraphs)
    for query in ("plum", "apple tart", "cherries number5"):
        assert [(hit.file, hit.start, round(hit.score, 5)) for hit in index.full_text(query, 30)] == [
            (hit.file, hit.start, round(hit.score, 5)) for hit in fresh.full_text(query, 30)
        ]


def test_the_approximate_index_stays_one(index: Index, embedder: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps its parts through updates, finds what was changed, and does not grow without end."""
    monkeypatch.setattr(stores, "APPROXIMATE_FROM", 2000)
    monkeypatch.setattr(stores, "PARTITION", 100)
    monkeypatch.setattr(stores, "MOST_SEGMENTS", 3)
    monkeypatch.setattr("scratchlm.retrieval.index.PARTITION", 100)
    texts = [f"alpha{n % 50} beta{n % 41} gamma{n}" for n in range(3000)]
    documents = [document(f"{n}.txt", "\n\n".join(texts[n : n + 100])) for n in range(0, 3000, 100)]
    index.update(documents, cut=paragraphs)
    assert index.statistics()["approximate"]
    for edit in range(6):
        documents[edit] = document(f"{100 * edit}.txt", f"{documents[edit].text}\n\nedited number{edit}")
        index.update(documents, cut=paragraphs)
        assert index._table.index_stats("vector_idx").num_indices <= 4
        assert index.dense(embedder.vector(f"edited number{edit}"), 1)[0].text == f"edited number{edit}"

    def recall(share: float) -> float:
        monkeypatch.setattr("scratchlm.retrieval.index.PROBES", share)
        found = [{hit.text for hit in index.dense(embedder.vector(text), 10)} for text in texts[::60]]
        return float(np.mean([len(one & two) / 10 for one, two in zip(found, exact, strict=True)]))

    vectors = np.array([embedder.vector(text) for text in texts])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    exact = [{texts[row] for row in np.argsort(-(vectors @ vectors[at]))[:10]} for at in range(0, 3000, 60)]
    assert recall(1.0) > 0.9
    assert recall(0.0) < 0.8  # one part alone: were there only one, it would hold all


def test_what_is_passed_over_is_named_and_leaves(index: Index) -> None:
    texts = {"a.txt": "one", "b.txt": "two", "c.txt": "three"}
    index.update(Files(texts), cut=paragraphs)
    report = index.update(Files(texts | {"b.txt": "broken", "c.txt": " \n", "x.txt": "broken"}), cut=paragraphs)
    assert [str(one) for one in report.passed_over] == [
        "b.txt is broken",
        "c.txt holds no text; fill it or leave it out",
        "x.txt is broken",
    ]
    assert (report.unchanged, report.changed, report.added) == (["a.txt"], [], [])
    assert report.removed == ["b.txt", "c.txt"]
    assert contents(index) == {"a.txt": ["one"]}
    assert report.as_json()["passed_over"][0] == {"path": "b.txt", "why": "is broken"}


def test_the_same_file_twice_counts_once(index: Index) -> None:
    report = index.update([document("a.txt", "one"), document("a.txt", "two")], cut=paragraphs)
    assert [str(one) for one in report.passed_over] == ["a.txt was given twice; the first one counts"]
    assert contents(index) == {"a.txt": ["one"]}


def test_a_part_of_the_documents_can_be_brought_up(index: Index) -> None:
    index.update([document("a.txt", "one"), document("b.txt", "two")], cut=paragraphs)
    report = index.update([document("b.txt", "three")], partial=True, cut=paragraphs)
    assert (report.changed, report.removed) == (["b.txt"], [])
    assert contents(index) == {"a.txt": ["one"], "b.txt": ["three"]}


def test_a_file_changed_while_it_was_read_is_read_again(index: Index) -> None:
    files = Files({"a.txt": "one"}, {"a.txt": time.time()})
    index.update(files, cut=paragraphs)
    files.texts["a.txt"] = "two"  # the same size and, in the clock's precision, time
    assert index.update(files, cut=paragraphs).changed == ["a.txt"]
    assert contents(index) == {"a.txt": ["two"]}


def test_readers_see_a_finished_state_only(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updating, "BATCH", 2)
    before = [document(f"{n}.txt", f"old {n}\n\nold") for n in range(6)]
    index.update(before, cut=paragraphs)
    reader = Index.open(index.store.place)
    states: list[Any] = []

    def look(_done: int) -> None:
        late = Index.open(index.store.place)
        states.append((contents(reader), contents(late), late.statistics()["unfinished"]))
        assert len(late.full_text("old", 99)) == 12
        assert late.full_text("new", 99) == []

    after = [document(f"{n}.txt", f"new {n}\n\nold") for n in range(3, 9)]
    index.update(after, look, cut=paragraphs)
    old = {one.path: one.text.split("\n\n") for one in before}
    assert len(states) == 6
    assert all(state == (old, old, True) for state in states)
    assert contents(reader) == old
    assert reader.refresh()
    assert not reader.refresh()
    assert contents(reader) == contents(index) == {one.path: one.text.split("\n\n") for one in after}
    assert not reader.statistics()["unfinished"]


def test_many_readers_while_one_writes(index: Index, embedder: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updating, "BATCH", 4)
    problems: list[BaseException] = []
    looks: list[set[str]] = []
    ended = threading.Event()

    def read() -> None:
        try:
            while not ended.is_set():
                reader = Index.open(index.store.place)
                dense = {hit.text for hit in reader.dense(embedder.vector("state"), 99)}
                words = {hit.text for hit in reader.full_text("state", 99)}
                assert dense == words
                assert len({text.split()[1] for text in dense}) <= 1  # never two states at once
                looks.append(dense)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for one in threads:
        one.start()
    for state in range(4):
        index.update([document(f"{n}.txt", f"state {state} of {n}") for n in range(12)], cut=paragraphs)
    ended.set()
    for one in threads:
        one.join()
    assert problems == []
    assert len({text.split()[1] for look in looks for text in look}) >= 2


def test_a_second_writer_is_refused(index: Index, embedder: Words) -> None:
    line = "is being indexed by another process; wait"
    other = Index.open(index.store.place, embedder)

    def meanwhile(_done: int) -> None:
        with pytest.raises(UserError, match=line):
            other.update([document("b.txt", "two")], cut=paragraphs)

    assert index.update([document("a.txt", "one")], meanwhile, cut=paragraphs).added == ["a.txt"]
    assert other.update([document("b.txt", "two")], cut=paragraphs, partial=True).added == ["b.txt"]
    assert sorted(contents(other)) == ["a.txt", "b.txt"]


def test_an_address_instead_of_a_folder(tmp_path: Path, embedder: Words) -> None:
    """As on object storage: by its address, without a lock."""
    place = f"file://{tmp_path}/store"
    assert not Index.exists(place)
    index = Index.create(place, embedder)
    index.update([document("a.txt", "one"), document("b.txt", "two")], cut=paragraphs)
    index.update([document("b.txt", "three")], cut=paragraphs)
    reader = Index.open(place)
    assert contents(reader) == {"b.txt": ["three"]}
    assert [hit.text for hit in reader.full_text("three", 3)] == ["three"]
    assert not (tmp_path / "store" / stores.LOCK).exists()
    with pytest.raises(UserError, match=r"there is no index in file://.*; make one with"):
        Index.open(f"{place}-not")


class Full:
    """A table on a disk that fills up after some writes."""

    def __init__(self, table: Any, writes: int, error: BaseException) -> None:
        self.table, self.writes, self.error = table, writes, error

    def __getattr__(self, name: str) -> Any:
        if name in ("add", "merge_insert", "delete", "create_index", "optimize"):
            if self.writes == 0:
                raise self.error
            self.writes -= 1
        return getattr(self.table, name)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free some space"),
        (RuntimeError("lance error: IO: No space left on device (os error 28), x.rs\nmore"), "the disk is full; free"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        (RuntimeError("Commit conflict for version 9"), "another writer has changed it; run it again"),
    ],
)
@pytest.mark.parametrize("writes", [0, 1, 3, 4])
def test_a_disk_that_refuses_leaves_the_last_state(
    writes: int, error: Exception, said: str, index: Index, embedder: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updating, "BATCH", 2)
    index.update([document("a.txt", "first")], cut=paragraphs)
    opened = stores.Store.open
    monkeypatch.setattr(stores.Store, "open", lambda store: (Full(opened(store)[0], writes, error), opened(store)[1]))
    documents = [document(f"{n}.txt", f"text {n}\n\nmore {n}") for n in range(3)]
    with pytest.raises(UserError) as caught:
        index.update(documents, cut=paragraphs)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    index.refresh()
    assert contents(index) == {"a.txt": ["first"]}
    monkeypatch.setattr(stores.Store, "open", opened)
    embedder.texts.clear()
    report = index.update(documents, cut=paragraphs)
    assert report.embedded == len(embedder.texts) == 6 - 2 * min(writes, 3)
    assert contents(index) == {one.path: one.text.split("\n\n") for one in documents}
