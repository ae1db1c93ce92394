"""Programs in the sandbox: what they may do, and at least forty ways to do more, none of which works."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from scratchlm.agents.sandbox import Limits, python_tool, run_python
from scratchlm.agents.tool import ToolError
from scratchlm.errors import UserError

SECRET, HIDDEN = "secret-7f3a9c", "hidden-52c1"
"""In a file and the environment; a file's name."""


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


@dataclass
class World:
    """What a program could leak or change."""

    folder: Path
    port: int
    listening: socket.socket

    def unchanged(self) -> bool:
        names = sorted(path.name for path in self.folder.iterdir())
        return names == [HIDDEN, "secret.txt"] and (self.folder / "secret.txt").read_text() == SECRET

    def called(self) -> bool:
        self.listening.setblocking(False)
        try:
            self.listening.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text(SECRET)
    (folder / HIDDEN).touch()
    monkeypatch.setenv("SCRATCHLM_KEY", SECRET)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield World(folder, listening.getsockname()[1], listening)


READS = """
import os, pathlib
print(open("{folder}/secret.txt").read())
---
import pathlib
print(pathlib.Path("{folder}/secret.txt").read_text())
---
import os
print(os.listdir("{folder}"))
---
import pathlib
print([p.name for p in pathlib.Path("{folder}").iterdir()])
---
print(open("../" * 20 + "{folder}/secret.txt").read())
---
print(open("/etc/passwd").read())
---
print(open("main.py").read() + open("/proc/self/cwd/main.py").read())
---
print(open("/proc/self/environ").read())
---
print(open("/proc/{pid}/environ").read())
---
print(open("/proc/{pid}/root{folder}/secret.txt").read())
---
print(open("/dev/fd/0").read(), open(0).read())
---
for n in range(64):
    print(open(n).read())
---
import os
print(os.environ, os.environ.get("SCRATCHLM_KEY"), os.getenv("SCRATCHLM_KEY"))
---
import os
print(os.popen("env").read())
---
import tomllib
print(tomllib.load(open("{folder}/secret.txt", "rb")))
---
import csv
print(list(csv.reader(open("{folder}/secret.txt"))))
---
print(().__class__.__mro__[1].__subclasses__())
---
print([c for c in ().__class__.__base__.__subclasses__() if c.__name__ == "Popen"][0]("env"))
---
print((lambda: 0).__globals__["__builtins__"].open("{folder}/secret.txt").read())
---
def f(): pass
print(f.__code__.co_consts, f.__closure__, f.__globals__)
---
try:
    1/0
except Exception as e:
    print(e.__traceback__.tb_frame.f_back.f_globals)
---
def g():
    yield 1
print(g().gi_frame.f_back.f_builtins["open"]("{folder}/secret.txt").read())
---
print("{{0.__class__.__init__.__globals__}}".format(print))
---
print(__builtins__.__import__("os").environ)
---
print(__import__("os").environ["SCRATCHLM_KEY"])
---
import sys
print(sys.modules["os"].environ, sys._getframe().f_back)
---
import importlib
print(importlib.import_module("subprocess").check_output(["env"]))
---
exec("import os; print(os.environ['SCRATCHLM_KEY'])")
---
print(eval("open('{folder}/secret.txt').read()"))
---
print(compile("1", "x", "eval"))
---
import json
print(json.loads.__globals__["codecs"].open("{folder}/secret.txt").read())
---
import re
print(re.sys.modules["os"].environ)
---
import datetime
print(datetime.sys.modules)
---
import pickle
pickle.loads(b"cos\\nsystem\\n(S'env'\\ntR.")
---
import ctypes
ctypes.CDLL(None).system(b"env")
---
import gc
print(gc.get_objects())
---
print(input())
---
print(help)
help("modules")
---
import random
print(random.SystemRandom, random._os.environ)
---
import os
print(os.readlink("/proc/self/exe"), os.stat("{folder}/secret.txt"))
"""

WRITES = """
open("{folder}/new", "w").write("x")
---
open("{folder}/secret.txt", "w").write("x")
---
open("{folder}/secret.txt", "a").write("x")
---
import pathlib
pathlib.Path("{folder}/new").write_text("x")
---
import pathlib
pathlib.Path("{folder}/secret.txt").unlink()
---
import pathlib
pathlib.Path("{folder}/new").mkdir()
---
import os
os.remove("{folder}/secret.txt")
---
import os
os.rename("{folder}/secret.txt", "{folder}/new")
---
import os
os.mkdir("{folder}/new")
---
import os
os.symlink("{folder}/secret.txt", "{folder}/new")
---
import os
os.chmod("{folder}/secret.txt", 0)
---
import shutil
shutil.rmtree("{folder}")
---
import os
os.system("touch {folder}/new")
---
import subprocess
subprocess.run(["touch", "{folder}/new"])
---
import sys
sys.stdout = open("{folder}/new", "w")
print("x")
---
import sys
sys.stdout.buffer.raw._fd = 3
"""

CALLS = """
import socket
socket.create_connection(("127.0.0.1", {port})).send(b"x")
---
import urllib.request
urllib.request.urlopen("http://127.0.0.1:{port}/")
---
import http.client
http.client.HTTPConnection("127.0.0.1", {port}).request("GET", "/")
---
import asyncio
await asyncio.open_connection("127.0.0.1", {port})
---
open("/dev/tcp/127.0.0.1/{port}", "w").write("x")
---
import os
os.kill({pid}, 9)
---
import os
while True:
    os.fork()
---
import signal
signal.raise_signal(9)
---
import os
os.kill(os.getppid(), 9)
---
import threading
threading.Thread(target=print).start()
---
import multiprocessing
multiprocessing.Process(target=print).start()
---
from concurrent.futures import ProcessPoolExecutor
ProcessPoolExecutor().submit(print)
---
import os
os.execv("/bin/sh", ["sh", "-c", "kill {pid}"])
---
import pty
pty.spawn("/bin/sh")
---
import resource
resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))
"""


def attempts(text: str) -> list[str]:
    return [one.strip("\n") for one in text.split("\n---\n")]


ATTEMPTS = [*attempts(READS), *attempts(WRITES), *attempts(CALLS)]


def test_there_are_enough_attempts() -> None:
    assert len(set(ATTEMPTS)) >= 40


@pytest.mark.parametrize("number", range(len(ATTEMPTS)))
def test_no_attempt_reads_writes_or_calls_anything(number: int, world: World) -> None:
    before = psutil.Process().children(recursive=True)
    code = ATTEMPTS[number].format(folder=world.folder, port=world.port, pid=os.getpid())
    text = python_tool(Limits(seconds=2)).run({"code": code}).text
    for leak in (SECRET, HIDDEN, "root:", "PATH="):
        assert leak not in text
    assert world.unchanged()
    assert not world.called()
    assert psutil.Process().children(recursive=True) == before


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
    start = time.monotonic()
    outcome = python_tool(Limits(seconds=0.5, memory=32 << 20, output=20_000)).run({"code": code})
    assert time.monotonic() - start < 8  # several times its 0.5 s, its grace and its start
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
