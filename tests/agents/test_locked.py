"""The outer wall alone: CPython with C code at hand, locked in. Each attempt works where nothing is locked, which is
shown as well."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import psutil
import pytest

from scratchlm.agents import locked, sandbox
from scratchlm.agents.sandbox import Limits, run_locked
from scratchlm.errors import UserError

needs_kernel = pytest.mark.skipif(not locked.has_all_locks(), reason="this kernel or machine has not all locks")
PYTHON = str(Path(sys.executable).resolve())
LIBRARY = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), sys.base_prefix]

PROLOGUE = """
import os, sys, ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *given):
    found = libc.syscall(ctypes.c_long(number), *given)
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found
folder, parent = sys.argv[1:]
"""
ANYWHERE = {
    "read": "open(folder + '/secret').read()",
    "read a password file": "open('/etc/passwd').read()",
    "list": "os.listdir(folder)",
    "list its own root": "os.listdir('/')",
    "write": "open(folder + '/new', 'w').write('x')",
    "write where it starts": "open('new', 'w').write('x')",
    "change": "open(folder + '/secret', 'r+').write('x')",
    "truncate": "os.truncate(folder + '/secret', 0)",
    "delete": "os.unlink(folder + '/spare')",
    "rename": "os.rename(folder + '/moved', folder + '/other')",
    "make a folder": "os.mkdir(folder + '/made')",
    "make a link": "os.symlink('/', folder + '/link')",
    "make a hard link": "os.link(folder + '/secret', folder + '/hard')",
    "change rights": "os.chmod(folder + '/secret', 0o600)",
    "change a time": "os.utime(folder + '/secret', (1, 1))",
    "its environment": "open('/proc/self/environ').read()",
    "its parent's environment": "open(f'/proc/{parent}/environ').read()",
    "its parent's command": "open(f'/proc/{parent}/cmdline').read()",
    "fork": "os.fork() or os._exit(0)",
    "a shell": "assert os.system('true') == 0",
    "a program": "os.posix_spawn('/bin/true', ['true'], {})",
    "a thread": "import _thread; _thread.start_new_thread(print, ())",
    "a socket": "import socket; socket.socket().close()",
    "a datagram": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "a local socket": "import socket; socket.socketpair()",
    "a signal to its parent": "os.kill(int(parent), 0)",
    "a signal to its group": "os.killpg(os.getpgid(int(parent)), 0)",
    "much memory": "bytearray(1 << 29)",
    "a file in memory": "os.memfd_create('x')",
    "a pipe by name": "os.mkfifo(folder + '/fifo')",
    "another folder": "os.chdir(folder)",
    "another group": "os.setpgid(0, 0) if os.getpid() != os.getsid(0) else os.getpriority(0, 0)",
    "its priority": "os.nice(1)",
    "shared memory": "call(31, call(29, 0, 4096, 0o1600), 0, 0)",
    "a queue of messages": "call(71, call(68, 0, 0o1600), 0, 0)",
    "keys": "call(250, 0, -3, 0)",
    "user namespaces": "call(272, 0x10000000)",
    "an open process": "call(434, int(parent), 0)",
    "another number range": "call(0x40000000 + 41, 2, 1, 0)",
}
"""Name -> what works in an ordinary process (numbers of system calls are x86-64's)."""
PRIVILEGED = {
    "tracing": "call(101, 16, int(parent), 0, 0)",
    "another's memory": "b = ctypes.create_string_buffer(64); call(310, int(parent), b, 1, b, 1, 0)",
    "unmounting": "call(166, folder.encode(), 0)",
    "another root": "os.chroot(folder)",
    "another user": "os.setuid(12345)",
    "kernel programs": "call(321, 0, 0, 0)",
    "counters": "call(298, 0, 0, -1, -1, 0)",
    "a ring of calls": "call(425, 1, 0)",
    "faults": "call(323, 1)",
    "its own limits": "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (100, 100))",
    "another's limits": "call(302, int(parent), 4, ctypes.create_string_buffer(16), 0)",
    "the clock": "call(227, 0, 0)",
    "the machine's name": "n = os.uname().nodename.encode(); call(170, n, len(n))",
    "no more locks": "call(157, 22, 0, 0, 0, 0)",
}
"""What an ordinary process may not do either, or not on every machine."""


def program(attempts: dict[str, str]) -> str:
    """Makes all attempts and prints what came of each: ESCAPED, or the error."""
    return f"""{PROLOGUE}
import json
results = {{}}
for name, code in json.loads({json.dumps(json.dumps(attempts))}).items():
    try:
        exec(code)
        results[name] = "ESCAPED"
    except BaseException as error:
        results[name] = repr(error)
print(json.dumps(results), flush=True)
"""


def portable(attempts: dict[str, str]) -> dict[str, str]:
    """Those that this machine can try."""
    return {name: code for name, code in attempts.items() if platform.machine() == "x86_64" or "call(" not in code}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("secret", "spare", "moved"):
        (folder / name).write_text("content")
    return folder


def seen(folder: Path) -> list[tuple[str, int, str, float]]:
    found = [(one.name, one.stat(), one.read_text()) for one in sorted(folder.iterdir())]
    return [(name, stat.st_mode, text, stat.st_mtime) for name, stat, text in found]


def locked_run(code: str, tmp_path: Path, *arguments: str) -> str:
    own = tmp_path / "own"
    own.mkdir()
    command = [PYTHON, "-I", "-S", "-c", code, *arguments]
    ended = run_locked(command, own, Limits(seconds=8), readable=LIBRARY, runnable=[PYTHON, *LIBRARY])
    assert list(own.iterdir()) == []
    return ended.output + ended.errors + ended.killed


@needs_kernel
def test_no_attempt_gets_through_the_wall(outside: Path, tmp_path: Path) -> None:
    before, attempts = seen(outside), portable({**ANYWHERE, **PRIVILEGED})
    said = locked_run(program(attempts), tmp_path, str(outside), str(os.getpid()))
    results = json.loads(said)
    assert results.keys() == attempts.keys()
    assert {name: result for name, result in results.items() if "Error" not in result} == {}
    assert "content" not in said
    assert seen(outside) == before
    assert len(results) >= 40 or platform.machine() != "x86_64"


@needs_kernel
def test_the_attempts_work_where_nothing_is_locked(outside: Path) -> None:
    command = [PYTHON, "-I", "-S", "-c", program(portable(ANYWHERE)), str(outside), str(os.getpid())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=outside, check=False)
    results = json.loads(done.stdout.splitlines()[-1])
    not_everywhere = {"keys", "another number range", "a queue of messages", "user namespaces"}
    assert {name: result for name, result in results.items() if result != "ESCAPED"}.keys() <= not_everywhere


@needs_kernel
def test_an_ordinary_program_runs_behind_the_wall(tmp_path: Path) -> None:
    code = "import json, statistics, sys\nprint(json.dumps(statistics.mean([1, 2])), dict(__import__('os').environ))"
    said = locked_run(code, tmp_path)
    assert said.startswith("1.5 ")
    assert "PATH" not in said


def test_output_and_time_are_limited_whatever_the_program(tmp_path: Path) -> None:
    flood = [PYTHON, "-I", "-S", "-c", "while True: print('x' * 1000)"]
    ended = run_locked(flood, tmp_path, Limits(output=5_000), readable=LIBRARY, runnable=[PYTHON, *LIBRARY])
    assert ended.killed == "it printed more than 5,000 bytes"
    assert 5_000 < len(ended.output) <= 5_001
    sleep = [PYTHON, "-I", "-S", "-c", "import time\nprint('a', flush=True)\ntime.sleep(60)"]
    ended = run_locked(sleep, tmp_path, Limits(seconds=0.5), readable=LIBRARY, runnable=[PYTHON, *LIBRARY])
    assert (ended.killed, ended.output) == ("it ran longer than 0.5 s", "a\n")
    closed = [PYTHON, "-I", "-S", "-c", "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(60)"]
    ended = run_locked(closed, tmp_path, Limits(seconds=0.5), readable=LIBRARY, runnable=[PYTHON, *LIBRARY])
    assert ended.status == -9


def test_limits_of_the_kernel_are_what_was_asked(tmp_path: Path) -> None:
    code = "import json, resource as r\nprint(json.dumps([r.getrlimit(getattr(r, 'RLIMIT_' + n)) for n in "
    code += "('CPU', 'NPROC', 'FSIZE', 'NOFILE', 'CORE')]))"
    found = json.loads(locked_run(code, tmp_path))
    assert found == [[9, 10], [0, 0], [0, 0], [32, 32], [0, 0]]


@needs_kernel
def test_the_program_ends_with_its_parent(tmp_path: Path) -> None:
    waits = "import time\nprint(1, flush=True)\ntime.sleep(60)"
    code = f"""
import os, pathlib, threading, time
from scratchlm.agents import sandbox
threading.Thread(target=sandbox.run_locked, daemon=True, args=({[PYTHON, "-I", "-S", "-c", waits]!r},
    pathlib.Path({str(tmp_path)!r}), sandbox.Limits(seconds=60)), kwargs=dict(readable={LIBRARY!r},
    runnable={[PYTHON, *LIBRARY]!r})).start()
import psutil
while not (found := psutil.Process().children()): time.sleep(0.05)
print(found[0].pid, flush=True)
time.sleep(1)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == -9, done.stderr
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if psutil.Process(int(done.stdout)).status() == psutil.STATUS_ZOMBIE:
                break
        except psutil.NoSuchProcess:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the program outlives its parent")


def test_a_machine_that_cannot_lock_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "locked.py"
    text = Path(locked.__file__).read_text(encoding="utf-8")
    broken.write_text(text.replace("    limit(seconds, memory)", '    raise OSError(1, "no")'))
    monkeypatch.setattr(sandbox, "_LAUNCHER", broken)
    with pytest.raises(UserError, match=r"Python cannot be locked in on this machine: \[Errno 1\] no"):
        run_locked([PYTHON], tmp_path, Limits())


def test_the_numbers_of_the_calls_are_the_kernels() -> None:
    header = Path("/usr/include/asm-generic/unistd.h")
    if not header.is_file():
        pytest.skip("the kernel's headers are not installed")
    text = header.read_text()
    shared = dict(re.findall(r"#define __NR3264_(\w+) (\d+)", text))
    found = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}
    found |= {
        name: int(shared[of]) for name, of in re.findall(r"#define __NR_(\w+) __NR3264_(\w+)", text) if of in shared
    }
    arm = {name: numbers[1] for name, numbers in locked._CALLS.items() if numbers[1] is not None}
    assert arm == {name: found[name] for name in arm}
