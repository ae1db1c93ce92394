"""Index runs that are killed: readers keep what they had, and the next run goes on from what was written."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("lancedb", reason="lancedb is not installed")

from tests.retrieval import index_writer
from tests.retrieval.index_parts import Words, contents, paragraphs, vectors_are_right

from scratchlm.retrieval.index import Index

ROOT = Path(__file__).parents[2]


def kill(store: Path, count: int, seconds: float, after: float) -> bool:
    """Start a writer and kill it so many seconds after it began. -> whether it was killed before its end."""
    command = [sys.executable, "-m", "tests.retrieval.index_writer", str(store), str(count), str(seconds)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    said = process.stdout.read()
    process.wait()
    return "done" not in said


def kills(store: Path, moments: list[float], count: int, seconds: float) -> None:
    embedder = Words()
    done = []
    for after in moments:
        ended = not kill(store, count, seconds, after)
        index = Index.open(store, embedder)
        seen = contents(index)
        documents = index_writer.documents(count)
        everything = {one.path: [chunk.text for chunk in paragraphs(one)] for one in documents}
        assert seen in ({}, everything)  # what was good before, or all
        assert seen or not ended
        # What the writer has left above it holds whole files only, none twice.
        table, _ = index.store.open()
        rows = table.search().select(["file", "number", "embedded"]).to_list()
        assert len({(row["file"], row["number"]) for row in rows}) == len(rows)
        held: dict[str, list[str]] = {}
        for row in sorted(rows, key=lambda row: row["number"]):
            held.setdefault(row["file"], []).append(row["embedded"])
        assert all(everything[path] == texts for path, texts in held.items())
        done.append(len(held))
    assert done == sorted(done)  # each run goes on from the last one
    report = index.update(documents, cut=paragraphs)
    assert len(report.unchanged) >= done[-1]
    assert contents(index) == dict(sorted(everything.items()))
    assert len(index.full_text("part", 9999)) == sum(len(texts) - 1 for texts in everything.values())
    vectors_are_right(index, embedder)


def test_killed_twice(tmp_path: Path) -> None:
    store = tmp_path / "store"
    kills(store, [0.25, 0.5], 60, 0.005)


@pytest.mark.slow
def test_killed_at_ten_random_moments(tmp_path: Path) -> None:
    chance = random.Random(7)
    moments = [chance.uniform(0.0, 2.0) for _ in range(10)]
    store = tmp_path / "store"
    kills(store, moments, 600, 0.01)


@pytest.mark.slow
def test_killed_while_it_changes_an_index(tmp_path: Path) -> None:
    """The same above a state with other texts, which readers keep until a run ends."""
    embedder = Words()
    index = Index.create(tmp_path / "store", embedder)
    new = index_writer.documents(200)
    old = [replace(one, text=f"{one.text}\n\nold", digest="0" * 64) for one in new[:150]]
    index.update(old, cut=paragraphs)
    before = contents(index)
    after = dict(sorted((one.path, [chunk.text for chunk in paragraphs(one)]) for one in new))
    chance = random.Random(8)
    for _ in range(10):
        kill(tmp_path / "store", 200, 0.01, chance.uniform(0.0, 1.0))
        seen = Index.open(tmp_path / "store")
        assert contents(seen) in (before, after)
    index.update(new, cut=paragraphs)
    assert contents(index) == after
    vectors_are_right(index, embedder)
