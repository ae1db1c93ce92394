"""Programs in the sandbox: what they may do, what comes back, and that what uses too much is stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest

from scratchlm.agents import locked
from scratchlm.agents.sandbox import Limits, python_tool, run_python
from scratchlm.agents.shipped import open_tools
from scratchlm.agents.tool import ToolError
from scratchlm.errors import UserError

needs_kernel = pytest.mark.skipif(not locked.has_all_locks(), reason="this kernel or machine has not all locks")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("print(6 * 7)", "42"),
        ("6 * 7", "42"),
        ("print('a')\n'b'", "a\nb"),
        ("x = 3", "done; nothing was printed"),
        ("None", "done; nothing was printed"),
        ("import sys\nprint('é', file=sys.stderr)\n'ü'", "é\nü"),
        ("import math, re, json, datetime\njson.dumps([math.sqrt(16), re.findall(r'\\d', 'a1')])", '[4.0, ["1"]]'),
        ("class A:\n    def __init__(self, x):\n        self.x = x\nA(3).x", "3"),
        ("sum(n * n for n in range(10))", "285"),
        ("def f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)\nf(15)", "610"),
        ("import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 5\nprint(await f())", "5"),
        ("print('1.5µs ❯ 3')", "1.5µs ❯ 3"),
    ],
)
def test_programs_run(code: str, text: str) -> None:
    outcome = python_tool().run({"code": code})
    assert (outcome.text, outcome.failed) == (text, False)


@needs_kernel
@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("print('a')\n'b'", "a\nb"),
        ("x = 3", "done; nothing was printed"),
        ("class A: pass\nclass B(A):\n    x = property(lambda self: 3)\nB().x", "3"),
        ("import statistics, heapq, enum, fractions\nstatistics.median([3, 1, 2])", "2"),
        ("def g():\n    yield from range(3)\nlist(g())", "[0, 1, 2]"),
        ("import sys\nprint('1.5µs ❯ 3', file=sys.stderr)\n'é'", "1.5µs ❯ 3\né"),
        (
            "import os\nsorted(os.listdir()), dict(os.environ) == {'LC_CTYPE': os.environ.get('LC_CTYPE')}",
            "(['main.py'], True)",
        ),
        ("def (", "SyntaxError: invalid syntax"),
        ("1/0", 'error: Traceback (most recent call last):\n  File "main.py", line 1, in <module>\n    1/0'),
        ("import sys\nprint('before')\nsys.exit(3)", "error: before\nthe program was stopped: it ended with status 3"),
        ("import ctypes\nctypes.string_at(0)", "the program was stopped: signal 11"),
        ("bytearray(1 << 30)", "MemoryError"),
        ("while True: pass", "the program was stopped: it"),
        ("while True: print('x' * 1_000)", "it printed more than 100,000 bytes"),
        ("import socket\nsocket.socket()", "Operation not permitted"),
        ("import subprocess\nsubprocess.run(['true'])", "Operation not permitted"),
        ("open('new', 'w')", "Permission denied"),
        ("import numpy", "No module named 'numpy'"),
    ],
    ids=lambda text: ascii(text)[:24],
)
def test_full_python_runs_everything_behind_the_outer_wall(code: str, text: str) -> None:
    outcome = python_tool(Limits(seconds=1), full=True).run({"code": code})
    assert text in outcome.text if outcome.failed else text == outcome.text


def test_full_python_is_refused_where_the_kernel_lacks_a_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locked, "has_all_locks", lambda: False)
    with pytest.raises(UserError, match="full Python is run only where the kernel can lock it in"):
        open_tools(["python-full"])


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("1/0", "ZeroDivisionError: division by zero"),
        ("def (", "SyntaxError"),
        ("print('before')\nraise ValueError('no')", "before\nTraceback"),
        ("missing", "NameError: name 'missing' is not defined"),
        ("import numpy", "No module named 'numpy'"),
        ("x = 'a" + "b" * 200_000 + "'", "the program has 200,007 characters"),
        ("raise SystemExit(3)", ""),
        ("\x00", ""),
        ("\ud800", ""),
    ],
    ids=lambda text: ascii(text)[:24],
)
def test_failures_go_back_as_text(code: str, says: str) -> None:
    outcome = python_tool().run({"code": code})
    assert outcome.failed
    assert says in outcome.text
    assert len(outcome.text) < 4_000


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("while True: pass", "TimeoutError: feed time limit exceeded"),
        ("x = 0\nfor i in range(10**12): x += i", "TimeoutError"),
        ("import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')", ""),
        ("sum(i for i in range(10**11))", "MemoryError"),
        ("sorted(range(10**9))", "MemoryError"),
        ("try:\n    while True: pass\nexcept BaseException:\n    while True: pass", "TimeoutError"),
        ("x = []\nwhile True: x.append('a' * 10_000)", "MemoryError"),
        ("'a' * 10**12", "MemoryError"),
        ("[0] * 10**12", "MemoryError"),
        ("9 ** 9 ** 9", "MemoryError"),
        ("x = 'a'\nwhile True: x += x", "MemoryError"),
        ("x = {}\nfor i in range(10**9): x[i] = str(i)", ""),
        ("def f(n): return f(n + 1)\nf(0)", "RecursionError"),
        ("x = []\nfor i in range(10**6): x = [x]\nprint(x)", ""),
        ("x = []\nx.append(x)\nprint(x)\nx == x", ""),
        ("(" * 50_000, ""),
        ("-" * 50_000 + "1", ""),
        ("x = " + "[" * 5_000 + "]" * 5_000, ""),
        ("while True: print('x' * 1_000)", "it printed more than 20,000 bytes"),
        ("import sys\nwhile True: print('x' * 1_000, file=sys.stderr)", "it printed more than 20,000 bytes"),
        ("'x' * 10**7", "it printed more than 20,000 bytes"),
        ("print('x' * 10**7)", "it printed more than 20,000 bytes"),
        ("import time\nwhile True: time.sleep(1)", ""),
        ("import asyncio\nawait asyncio.sleep(10**9)", ""),
        ("'%1000000000d' % 1", ""),
        ("f'{1:>1000000000}'", "MemoryError"),
        ("(10**1000000) ** 1000", ""),
        ("str(10**5000)", ""),
        ("print(*range(10**9))", ""),
        ("list(zip(*[range(10**8)] * 100))", ""),
    ],
    ids=lambda text: ascii(text)[:24],
)
def test_what_uses_too_much_is_stopped(code: str, says: str) -> None:
    before = psutil.Process().children(recursive=True)
    outcome = python_tool(Limits(seconds=0.5, memory=32 << 20, output=20_000)).run({"code": code})
    assert says in outcome.text
    assert outcome.failed or not says
    assert len(outcome.text) < 4_100
    assert psutil.Process().children(recursive=True) == before


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_python("1") == "1"
    with pytest.raises(ToolError):
        run_python("while True: print('x' * 1_000)", Limits(output=1_000))
    assert list(tmp_path.iterdir()) == []


def test_the_output_of_one_program_is_not_seen_by_the_next() -> None:
    assert run_python("kept = 3") == "done; nothing was printed"
    with pytest.raises(ToolError, match="NameError"):
        run_python("kept")


def test_a_missing_interpreter_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(UserError, match=r"pydantic-monty, which is missing; run: pip install 'scratchlm\[agents\]'"):
        run_python("1")


@pytest.mark.parametrize("settings", [{"seconds": 0}, {"memory": 10}, {"output": 1}, {"seconds": 10_000}], ids=str)
def test_limits_are_checked(settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match="give a"):
        Limits(**settings)
