"""Small runs of all three architectures, trained once for all tests of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scratchlm.cli.main import run
from scratchlm.data import date_pairs

from .library import DOCUMENTS, write_documents, write_encoder

SMALL = ["--set", "layers=1", "--set", "width=16", "--set", "heads=2", "--set", "batch_size=4", "--set", "steps=6"]


@dataclass
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object that --json prints; NaN and Infinity, which are no JSON, are refused."""
        (line,) = self.out.splitlines()
        found = json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} in JSON"))
        assert isinstance(found, dict)
        return found


Command = Callable[..., Outcome]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the program in this process."""
    monkeypatch.delenv("SCRATCHLM_DEBUG", raising=False)

    def call(*arguments: str) -> Outcome:
        capfd.readouterr()
        status = run(arguments)
        return Outcome(status, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs gpt, bert and dates. Tests that change one copy it first."""
    folder = tmp_path_factory.mktemp("runs")
    pairs = tmp_path_factory.mktemp("pairs") / "pairs.txt"  # the corpus "dates" is too large to be measured here
    pairs.write_text("".join(f"{written}\t{iso}\n" for written, iso in date_pairs("train", 60)), encoding="utf-8")
    for preset, name, data in (
        ("tinygpt", "gpt", "rumi"),
        ("tinybert", "bert", "rumi-life"),
        ("transformer", "dates", str(pairs)),
    ):
        assert run(["train", preset, "--data", data, "--out", str(folder / name), *SMALL]) == 0
    return folder


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with documents (docs), the encoder that they are indexed with (encoder), and their index (store).
    Tests that change one copy it first."""
    pytest.importorskip("lancedb", reason="lancedb is not installed")
    folder = tmp_path_factory.mktemp("library")
    write_documents(folder / "docs")
    write_encoder(folder / "encoder", DOCUMENTS.values())
    typed = ["index", "docs", "--store", "store", "--model", "encoder", "--size", "40"]
    assert run([str(folder / one) if one in ("docs", "store", "encoder") else one for one in typed]) == 0
    return folder
