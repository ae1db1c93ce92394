"""The demo trains both models, measures them, uses them and draws them."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from scratchlm import api
from scratchlm.cli.main import run
from scratchlm.demo import run_demo, show_demo
from scratchlm.errors import UserError


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of a moment."""
    quick = functools.partial(api.train, steps=3, layers=1, width=16, heads=2, quiet=True)
    monkeypatch.setattr("scratchlm.demo.api.train", quick)


@pytest.mark.usefixtures("short")
def test_the_demo_shows_both_tables_the_texts_and_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = run_demo(tmp_path / "demo")
    show_demo(demo)
    shown = capsys.readouterr().out
    for words in ("0.2245", "0.0399", "0.113", "floor", "Jalāl", "[MASK]", "figures", "seconds", "scratchlm generate"):
        assert words in shown
    assert len(demo.figures) == 8
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in demo.figures)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take longer than all else here."""
    monkeypatch.setattr("scratchlm.demo.api.plot", lambda *_, **__: [])


@pytest.mark.usefixtures("short", "undrawn")
def test_the_demo_prints_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--out", str(tmp_path / "demo"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seconds"] > 0
    assert {"cross_entropy", "perplexity", "accuracy", "fills"} <= found["tinybert"].keys()
    wanted = {"cross_entropy", "perplexity", "accuracy", "bits_per_character", "distinct_1", "distinct_2", "sample"}
    assert wanted <= found["tinygpt"].keys()


@pytest.mark.usefixtures("short", "undrawn")
def test_the_demo_can_be_run_again_and_replaces_only_its_own_runs(tmp_path: Path) -> None:
    run_demo(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    run_demo(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (tmp_path / "tinygpt" / "scratchlm.json").unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="--out"):
        run_demo(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_the_demo_reaches_the_tutorials_figures(tmp_path: Path) -> None:
    demo = run_demo(tmp_path)
    bert, gpt = demo.results["tinybert"], demo.results["tinygpt"]
    assert bert["cross_entropy"] <= 0.2245
    assert bert["perplexity"] <= 1.25
    assert bert["accuracy"] == 1.0
    assert bert["windows"] == gpt["windows"] == "every"
    assert gpt["cross_entropy"] <= 0.0375
    assert gpt["perplexity"] <= 1.04
    assert gpt["accuracy"] >= 0.9848
    assert gpt["bits_per_character"] <= 0.055
    assert gpt["cross_entropy"] >= gpt["floor_cross_entropy"]
