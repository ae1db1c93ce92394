"""The README is a test: its commands run, in order, and what they name exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from scratchlm.cli.main import run
from scratchlm.data import corpus_text
from scratchlm.models import PRESETS

from .test_docs import Block, blocks, run_page

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK = ["--set", "steps=4", "--set", "width=64", "--set", "batch_size=4"]


def _commands(block: Block) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in block.body.splitlines() if line.startswith("scratchlm ")]


def _book(folder: Path) -> None:
    """What the reader calls his own text."""
    (folder / "book.txt").write_text(
        "".join(f"The king and the queen of chapter {n}. {corpus_text('rumi-life')}\n" for n in range(20)),
        encoding="utf-8",
    )


def test_the_commands_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _book(tmp_path)
    (tmp_path / "dates.txt").write_text("".join(corpus_text("dates").splitlines(keepends=True)[:600]), encoding="utf-8")
    for block in filter(lambda block: block.runs and block.model is None, blocks(README)):
        for words in _commands(block):
            few = QUICK if words[0] == "train" else []
            other = ["--data", "dates.txt"] if "dates" in words else []
            assert run([*words, *few, *other]) == 0, (words, capsys.readouterr().err)


@pytest.mark.slow
def test_all_blocks_run_as_they_stand(tmp_path: Path) -> None:
    _book(tmp_path)
    assert len(list(run_page(README, tmp_path, slow=True))) >= 3


def test_it_names_every_preset_and_every_folder() -> None:
    folders = {path.name for path in (ROOT / "src" / "scratchlm").iterdir() if (path / "__init__.py").exists()}
    assert [name for name in PRESETS if f"`{name}`" not in README] == []
    assert [name for name in folders if f"`{name}/`" not in README] == []


def test_its_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", README)
    assert [target for target in targets if "://" not in target and not (ROOT / target).exists()] == []
