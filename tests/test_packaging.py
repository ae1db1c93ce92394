"""What is handed out: the wheel, the source archive, the container's recipe; and what only some systems have."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from scratchlm.cli.main import run
from scratchlm.serving.access import _OPEN

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "scratchlm"
POSIX_ONLY = {"fcntl", "resource", "termios", "pty", "tty", "grp", "pwd", "posix", "syslog", "readline"}
POSIX_CALLS = {"fork", "forkpty", "killpg", "getuid", "geteuid", "setsid", "sched_getaffinity", "mkfifo", "getpgid"}
GUARDED = {
    "agents/locked.py imports resource": "a program of its own, started by agents/sandbox.py on POSIX systems only",
    "agents/sandbox.py calls killpg": "the line before Popen refuses other systems",
    "evaluation/tuned.py imports resource": "after /proc and Windows' own figure",
    "tokenizers/parallel.py calls sched_getaffinity": "behind hasattr",
    "doctor.py calls sched_getaffinity": "behind hasattr",
}
"""Each use of what Windows (and partly macOS) lacks, and why it is not reached there."""


def uses(path: Path) -> set[str]:
    """The uses of what only POSIX systems have in a file."""
    where, found = path.relative_to(SOURCE).as_posix(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {f"{where} imports {one.name}" for one in node.names if one.name in POSIX_ONLY}
        elif isinstance(node, ast.ImportFrom) and node.module in POSIX_ONLY:
            found.add(f"{where} imports {node.module}")
        elif isinstance(node, ast.Attribute) and node.attr in POSIX_CALLS and ast.unparse(node.value) == "os":
            found.add(f"{where} calls {node.attr}")
    return found


def test_what_only_posix_has_is_guarded() -> None:
    assert set().union(*(uses(path) for path in SOURCE.rglob("*.py"))) == set(GUARDED)


def test_no_path_is_built_by_hand() -> None:
    """Separators are pathlib's affair: no ``folder + "/" + name`` on what is a path of this machine."""
    joined = re.compile(r"""str\(\w*(path|folder)\w*\) \+ ["']/""")
    assert [str(path) for path in SOURCE.rglob("*.py") if joined.search(path.read_text(encoding="utf-8"))] == []


def package_files() -> set[str]:
    """What belongs into the wheel, by its names there."""
    files = (path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {f"scratchlm/{path.relative_to(SOURCE).as_posix()}" for path in files}


def build(folder: Path, what: str) -> Path:
    """The wheel or the source archive, made without the network by the build system that is installed."""
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    command = [sys.executable, "-m", "hatchling", "build", "--target", what, "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"), "wheel")


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == package_files()
    assert {"scratchlm/py.typed", "scratchlm/checkpoints/catalogue.yaml"} <= names
    assert any(name.startswith("scratchlm/kernels/native/") and name.endswith(".c") for name in names)


def test_the_source_archive_can_be_built_and_tested_from(tmp_path: Path) -> None:
    with tarfile.open(build(tmp_path, "sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in package_files()} <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "tests/test_packaging.py", "docs/index.md", "Makefile"} <= names
    assert [name for name in names if "__pycache__" in name or name.startswith(".venv")] == []


@pytest.mark.slow
def test_the_wheel_runs_without_a_compiler(wheel: Path, tmp_path: Path) -> None:
    """Unpacked as pip does it, in an isolated interpreter that sees no source tree, with no program on its path."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import scratchlm; from scratchlm.cli.main import run; "
        "assert scratchlm.__file__.startswith(sys.path[0]), scratchlm.__file__; sys.exit(run(sys.argv[1:]))"
    )
    env = {"PATH": str(tmp_path / "nothing"), "SCRATCHLM_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def call(*words: str) -> str:
        command = [sys.executable, "-I", "-c", program, str(tmp_path / "site"), *words]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert call("--version").startswith("scratchlm ")
    small = ["--set", "layers=1", "--set", "width=16", "--set", "heads=2", "--set", "batch_size=4", "--set", "steps=2"]
    call("train", "tinygpt", "--data", "rumi", "--out", "run", *small)
    told = json.loads(call("generate", "run", "--prompt", "Rumi", "--max-new-tokens", "5", "--json"))
    assert told["samples"][0]["tokens"] == 5


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's, with continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Containerfile").read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def test_the_container_copies_what_is_there_and_runs_as_nobody_special() -> None:
    given = instructions()
    sources = [word for name, rest in given if name == "COPY" for word in shlex.split(rest)[:-1]]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    order = [name for name, _ in given]
    assert order[0] == "FROM"
    assert order.index("USER") > max(place for place, name in enumerate(order) if name == "RUN")
    assert dict(given)["USER"] == "scratchlm"
    assert {"VOLUME", "EXPOSE", "HEALTHCHECK"} <= set(order)


def test_the_container_starts_the_server_for_those_with_a_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = dict(instructions())
    assert json.loads(given["ENTRYPOINT"]) == ["scratchlm"]
    assert any(path in given["HEALTHCHECK"] for path in _OPEN)
    assert "ENV" in given
    assert "SCRATCHLM_API_KEYS" not in given["ENV"]
    monkeypatch.delenv("SCRATCHLM_API_KEYS", raising=False)
    assert run(json.loads(given["CMD"])) == 2
    assert "SCRATCHLM_API_KEYS" in capsys.readouterr().err
