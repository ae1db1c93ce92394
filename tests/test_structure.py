"""The house rules: which room may import which, how long a file may be, how large the whole."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "scratchlm"

ROOMS = (
    "errors",
    "ranges",
    "pause",
    "reading",
    "importing",
    "cache",
    "tokenizers",
    "data",
    "kernels",
    "models",
    "checkpoints",
    "adapters",
    "opening",
    "exporting",
    "training",
    "generation",
    "evaluation",
    "alignment",
    "retrieval",
    "agents",
    "language_model",
    "api",
    "serving",
    "demo",
    "doctor",
    "integrations",
    "cli",
)
"""From the ground up, in the order in which data flows. A room imports from those before it, and from itself."""
ROOF = ("__init__", "__main__")
"""The package's own two files, which name what lies below."""
LONGEST_FILE, LARGEST_SOURCE = 400, 40_000
"""Lines of a file, all counted; lines of Python in all of the source, without blank lines, comments and docstrings."""
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "tools"}

PROGRAMS = sorted(SOURCE.rglob("*.py"))
CODE = [*PROGRAMS, *SOURCE.rglob("*.c"), *SOURCE.rglob("*.h")]
ALL_CODE = CODE + [path for folder in ("tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")]


def room_of(path: Path) -> str:
    """``models/block.py`` -> models, ``api.py`` -> api."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The rooms that a file imports anywhere, inside functions too, and the lines where it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                yield "a relative import", node.lineno
            elif node.module == "scratchlm":  # from scratchlm import api
                yield from ((name.name, node.lineno) for name in node.names)
            elif node.module and node.module.startswith("scratchlm."):
                yield node.module.split(".")[1], node.lineno
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("scratchlm."):
                    yield name.name.split(".")[1], node.lineno


def misplaced(path: Path, text: str) -> list[str]:
    """The imports of a file that go up instead of down, as lines for people."""
    if room_of(path) in ROOF:
        return []
    allowed = {*ROOMS[: ROOMS.index(room_of(path)) + 1], "__version__"}
    where = path.relative_to(SOURCE)
    return [f"{where}:{line} imports {name}" for name, line in imported_rooms(ast.parse(text)) if name not in allowed]


def test_every_room_is_in_the_order() -> None:
    found = {room_of(path) for path in PROGRAMS}
    assert found - {*ROOMS, *ROOF} == set()


def test_rooms_import_downwards_only() -> None:
    assert [line for path in PROGRAMS for line in misplaced(path, path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "statement",
    [
        "from scratchlm.training import fit",
        "import scratchlm.training.loop",
        "from scratchlm import api",
        "from .loop import fit",
        "def late():\n    from scratchlm.evaluation.report import to_json",
    ],
)
def test_an_import_upwards_is_noticed(statement: str) -> None:
    assert misplaced(SOURCE / "models" / "block.py", statement)


def test_an_import_downwards_is_allowed() -> None:
    assert misplaced(SOURCE / "training" / "loop.py", "from scratchlm.models import ModelConfig") == []


def test_no_file_is_long() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in ALL_CODE}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def lines_of_code(source: str) -> int:
    """Lines with code on them: docstrings explain, they are not what has to be explained."""
    tree = ast.parse(source)
    documentation = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in skipped
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(code - documentation)


def test_lines_of_code_are_those_that_do_something() -> None:
    source = '"""Says what\nit is."""\n\n# why\nx = (\n    1\n)\n\ndef f():\n    "doc"\n    return x  # here\n'
    assert lines_of_code(source) == 5


def test_the_source_can_be_read_in_a_week() -> None:
    assert sum(lines_of_code(path.read_text(encoding="utf-8")) for path in PROGRAMS) <= LARGEST_SOURCE


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [str(path) for path in ALL_CODE if path.stem.lower() in VAGUE_NAMES] == []


def test_every_verb_has_a_file_of_its_own_and_little_in_it() -> None:
    verbs = [path for path in (SOURCE / "cli").glob("*.py") if path.stem not in ("__init__", "main", "output")]
    assert len(verbs) >= 7
    assert {path.name: n for path in verbs if (n := len(path.read_text(encoding="utf-8").splitlines())) > 120} == {}
