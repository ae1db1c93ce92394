"""Compiling, caching and doing without: each in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import torch
from scratchlm import kernels
print(kernels.available())
print(kernels.status())
torch.manual_seed(0)
print(float(kernels.gelu(torch.linspace(-1, 1, 11)).sum()))
"""
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(
    COMPILER is None or sys.platform != "linux", reason="no C compiler on this machine, or not Linux"
)


def start(cache: Path, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "SCRATCHLM_CACHE": str(cache), "SCRATCHLM_KERNELS": ""}
    variables |= environment
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[bool, str, float]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert not err
    lines = out.splitlines()
    return lines[0] == "True", lines[1], float(lines[2])


@needs_compiler
def test_two_processes_at_once_compile_one_library_and_leave_nothing_else(tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    processes = [start(cache), start(cache)]
    results = [finish(process) for process in processes]
    assert [result[0] for result in results] == [True, True]
    (library,) = cache.iterdir()
    assert str(library) in results[0][1]
    written = library.stat().st_mtime_ns
    assert finish(start(cache))[0]
    assert library.stat().st_mtime_ns == written, "the third process should have found the library"


@needs_compiler
def test_an_unusable_cache_is_replaced_by_a_temporary_folder(tmp_path: Path) -> None:
    blocked = tmp_path / "a-file"
    blocked.write_text("not a folder")
    available, status, _ = finish(start(blocked, TMPDIR=str(tmp_path)))
    assert available
    assert str(tmp_path / "scratchlm-kernels-") in status
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"], "the temporary folder should be gone"


@needs_compiler
def test_a_damaged_library_is_no_harm(tmp_path: Path) -> None:
    assert finish(start(tmp_path))[0]
    (library,) = tmp_path.iterdir()
    library.write_bytes(b"rubbish")
    available, _, value = finish(start(tmp_path))
    assert available
    assert value == pytest.approx(finish(start(tmp_path, SCRATCHLM_KERNELS="off"))[2], abs=1e-6)


def test_switching_off_is_said_in_words(tmp_path: Path) -> None:
    available, status, _ = finish(start(tmp_path, SCRATCHLM_KERNELS="off"))
    assert not available
    assert status == "kernels: plain PyTorch (SCRATCHLM_KERNELS is off)"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems never look for a compiler")
def test_a_missing_compiler_is_said_in_words(tmp_path: Path) -> None:
    available, status, value = finish(start(tmp_path, PATH=str(tmp_path)))
    assert not available
    assert status == "kernels: plain PyTorch (no C compiler (cc, gcc or clang) was found)"
    assert value == pytest.approx(finish(start(tmp_path, SCRATCHLM_KERNELS="off"))[2])
    _, status, _ = finish(start(tmp_path, CC="no-such-compiler"))
    assert "CC=no-such-compiler" in status


@pytest.mark.skipif(sys.platform != "linux", reason="other systems never look for a compiler")
def test_a_compiler_that_fails_is_said_in_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho 'native.c:1: error: cannot do this' >&2\nexit 1\n")
    broken.chmod(0o755)
    available, status, _ = finish(start(tmp_path / "cache", CC=str(broken)))
    assert not available
    assert "cannot do this" in status
