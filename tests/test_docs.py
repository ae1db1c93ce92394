"""The book is a test: its command and program blocks run, in order, and print what the page says they print.

A page may steer this with an HTML comment right before a block:

    <!-- run: slow -->            the block (and its output) is run by `make test-all` only
    <!-- run: no, REASON -->      the block is not run
    <!-- run: needs MODEL -->     it is run where that model of the catalogue has been fetched (also: slow, needs MODEL;
                                  needs MODEL and DATASET)
    <!-- numbers: 20 % -->        before an output block: its numbers may differ by so much (timings, other machines)
    <!-- numbers: any -->         only the words around the numbers must agree
    <!-- numbers: example -->     the page shows one run's output; another machine's may differ in its words, too

A ```text block that follows a command or a program is its output. A line `...` there stands for any lines. After a
change of the library, `python tests/test_docs.py docs/PAGE.md` runs a page and writes the true outputs into it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from scratchlm.checkpoints.catalogue import find_pulled
from scratchlm.checkpoints.datasets import data_file, data_sets
from scratchlm.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "howto").glob("*.md")])
RUNNABLE = ("bash", "python")
NUMBER = re.compile(r"(?<![\w.])[-−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_BLOCK = re.compile(
    r"(?:^<!-- (?P<rule>run|numbers): (?P<value>[^\n]*?) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass
class Block:
    language: str
    body: str
    line: int
    rules: dict[str, str] = field(default_factory=dict)
    output: Block | None = None
    span: tuple[int, int] = (0, 0)
    """Where the body stands in the page."""

    @property
    def slow(self) -> bool:
        return self.rules.get("run", "").startswith("slow")

    @property
    def runs(self) -> bool:
        return not self.rules.get("run", "").startswith("no")

    @property
    def model(self) -> str | None:
        """The model without which it cannot run."""
        return self.rules.get("run", "").rpartition("needs ")[2] if "needs " in self.rules.get("run", "") else None


def blocks(page: str) -> list[Block]:
    """The runnable blocks of a page, each with the output that the page claims, if it does."""
    found: list[Block] = []
    for match in _BLOCK.finditer(page):
        rules = {match["rule"]: match["value"]} if match["rule"] else {}
        line = page.count("\n", 0, match.start("body"))
        block = Block(match["language"], match["body"], line, rules, span=match.span("body"))
        if block.language in RUNNABLE:
            found.append(block)
        elif block.language == "text" and found and page[_end(found[-1], page) : match.start()].strip() == "":
            found[-1].output = block
    return found


def _end(block: Block, page: str) -> int:
    return page.index("```", block.span[1]) + 3


def run_page(page: str, folder: Path, *, slow: bool) -> Iterator[tuple[Block, str]]:
    """Run the blocks in order in one folder, the programs in one namespace; gives each block and what it printed."""
    names: dict[str, Any] = {"__name__": "__book__"}
    for block in blocks(page):
        if block.runs and (slow or not block.slow) and (block.model is None or _is_here(block.model)):
            yield block, (_run_program(block, names, folder) if block.language == "python" else _run(block, folder))


def _is_here(names: str) -> bool:
    """Whether all that a block needs has been fetched: models and data sets, with `and` between."""
    return all(_fetched(name) for name in names.split(" and "))


@cache
def _fetched(model: str) -> bool:
    """The pages were written with the package's files; the hub's have other numbers, and come first where both are."""
    if model in data_sets():
        try:
            return data_file(model) is not None
        except UserError:
            return False
    found = find_pulled(model)
    return found is not None and found == find_pulled(model, "package")


def _run(block: Block, folder: Path) -> str:
    bin_folder = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": bin_folder + os.pathsep + os.environ["PATH"], "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.body],
        cwd=ROOT if block.body.startswith("make ") else folder,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (
        f"line {block.line}: exit status {done.returncode}\n{block.body}\n{done.stderr[-3000:]}"
    )
    return done.stdout


def _run_program(block: Block, names: dict[str, Any], folder: Path) -> str:
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec(compile(block.body, f"line {block.line} of the page", "exec"), names)
    return printed.getvalue()


def differences(claimed: Block, printed: str) -> list[str]:
    """What the page says and the run does not, as lines for a human; empty where they agree."""
    allowed = claimed.rules.get("numbers", "")
    said, got = _lines(claimed.body), _lines(printed)
    if allowed == "example" and len(said) == len(got):
        return []
    if "..." not in said:
        if len(said) != len(got):
            return [f"the page shows {len(said)} lines, the run printed {len(got)}:", *got]
        pairs = list(zip(said, got, strict=True))
    else:
        pairs, rest = [], iter(got)
        for line in said:
            if line != "...":
                pairs.append((line, next((other for other in rest if _agree(line, other, allowed)), "<no such line>")))
    return [f"page: {a}\n run: {b}" for a, b in pairs if not _agree(a, b, allowed)]


def _lines(text: str) -> list[str]:
    return "\n".join(re.sub(r"\s+", " ", line).strip() for line in text.splitlines()).strip("\n").splitlines()


def _agree(said: str, got: str, allowed: str) -> bool:
    if re.sub(r"[─━-]{3,}", "---", NUMBER.sub("#", said)) != re.sub(r"[─━-]{3,}", "---", NUMBER.sub("#", got)):
        return False
    if allowed == "any":
        return True
    share = float(allowed.rstrip("% ")) / 100 if allowed else 0.0
    for a, b in zip(NUMBER.findall(said), NUMBER.findall(got), strict=True):
        x, y = (float(number.replace(",", "").replace("−", "-")) for number in (a, b))
        decimals = len(a.partition(".")[2]) if "." in a and "e" not in a else 0
        rounding = 1.01 * 10.0**-decimals if decimals else 0.0  # a last digit may round the other way elsewhere
        if abs(x - y) > max(rounding, share * max(abs(x), abs(y))):
            return False
    return True


def _check(path: Path, folder: Path, *, slow: bool) -> None:
    page, wrong = path.read_text(encoding="utf-8"), []
    for block, printed in run_page(page, folder, slow=slow):
        if block.output is not None:
            wrong += [f"{path.name}, line {block.output.line}:\n{text}" for text in differences(block.output, printed)]
    assert not wrong, "\n".join(wrong)
    models = {block.model for block in blocks(page) if block.model is not None and (slow or not block.slow)}
    missing = sorted(model for model in models if not _is_here(model))
    if missing:
        pytest.skip(f"some blocks need {' and '.join(missing)}; fetch with: scratchlm models pull NAME")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_quick_blocks_of_a_page_print_what_it_shows(path: Path, tmp_path: Path) -> None:
    _check(path, tmp_path, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [path for path in PAGES if any(block.slow for block in blocks(path.read_text("utf-8")))],
    ids=lambda p: p.stem,
)
def test_all_blocks_of_a_page_print_what_it_shows(path: Path, tmp_path: Path) -> None:
    _check(path, tmp_path, slow=True)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_and_figures_of_a_page_exist(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (path.parent / t).exists()]
    assert not missing, f"{path.name} points to {missing}"


def test_every_figure_is_shown_somewhere_and_small() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    figures = sorted((ROOT / "docs" / "figures").glob("*"))
    assert [f.name for f in figures if f"figures/{f.name}" not in text] == []
    assert [f.name for f in figures if f.stat().st_size > 120_000] == []
    assert sum(f.stat().st_size for f in figures) < 1_500_000


def test_the_contents_list_every_page() -> None:
    contents = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [str(path) for path in PAGES if path.relative_to(ROOT / "docs").as_posix() not in contents] == []


def test_the_page_on_speed_shows_the_latest_measurements() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/report.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_output_that_differs_is_noticed() -> None:
    page = "```python\nprint(1.25, 'nats')\n```\n\n```text\n1.25 nats\n```\n"
    (block, printed) = next(run_page(page, Path.cwd(), slow=False))
    assert block.output is not None
    assert differences(block.output, printed) == []
    assert differences(block.output, "1.37 nats\n")
    assert differences(block.output, "1.25 bits\n")
    assert differences(block.output, "1.25 nats\nmore\n")


def test_the_allowed_difference_is_as_wide_as_the_page_says() -> None:
    page = "```python\nprint(1)\n```\n\n<!-- numbers: 20 % -->\n```text\n100 steps a second\n```\n"
    claimed = blocks(page)[0].output
    assert claimed is not None
    assert differences(claimed, "119 steps a second") == []
    assert differences(claimed, "140 steps a second")


def test_a_block_that_needs_a_model_which_is_not_here_is_left_out() -> None:
    page = "<!-- run: slow, needs no-such-model -->\n```python\nraise SystemExit\n```\n"
    assert blocks(page)[0].model == "no-such-model"
    assert list(run_page(page, Path.cwd(), slow=True)) == []


def update(path: Path, *, slow: bool) -> None:
    """Run a page and write what its blocks print into their output blocks."""
    page = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        done = list(run_page(page, Path(folder), slow=slow))
    for block, printed in reversed(done):
        if block.output is not None and "..." not in block.output.body.split("\n"):
            start, end = block.output.span
            shown = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines())
            page = page[:start] + shown + "\n" + page[end:]
    path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        if not argument.startswith("--"):
            update(Path(argument), slow="--quick" not in sys.argv)
