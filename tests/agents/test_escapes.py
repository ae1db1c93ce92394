"""At least forty ways for a program to do more than it may, none of which works behind both walls, nor behind one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from scratchlm.agents import locked, sandbox
from scratchlm.agents.sandbox import Limits, python_tool

SECRET, HIDDEN = "secret-7f3a9c", "hidden-52c1"
"""In a file and the environment; a file's name."""


needs_kernel = pytest.mark.skipif(not locked.has_all_locks(), reason="this kernel or machine has not all locks")


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


@pytest.mark.parametrize(
    "walls",
    [
        "both",
        pytest.param("inner", marks=pytest.mark.slow),
        pytest.param("outer", marks=[pytest.mark.slow, needs_kernel]),
    ],
)
@pytest.mark.parametrize("number", range(len(ATTEMPTS)))
def test_no_attempt_reads_writes_or_calls_anything(
    number: int, walls: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Monty locked in, Monty with its limits alone, and CPython locked in."""
    if walls == "inner":
        opened = tmp_path / "opened.py"
        opened.write_text("import os, sys\nos.execve(sys.argv[6], sys.argv[6:], {})\n")
        monkeypatch.setattr(sandbox, "_LAUNCHER", opened)
    before = psutil.Process().children(recursive=True)
    code = ATTEMPTS[number].format(folder=world.folder, port=world.port, pid=os.getpid())
    text = python_tool(Limits(seconds=2), full=walls == "outer").run({"code": code}).text
    for leak in (SECRET, HIDDEN, "root:", "PATH="):
        assert leak not in text
    assert world.unchanged()
    assert not world.called()
    assert psutil.Process().children(recursive=True) == before
