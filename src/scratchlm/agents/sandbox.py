"""Running Python that a model wrote: in an interpreter without a way out, in a process that is locked in, with limits.

Two walls, each of which would do. Inside, `Monty <https://github.com/pydantic/monty>`_ is an interpreter that has no
files, no network, no processes and no C code to reach; outside, the process that runs it is closed by the kernel
(:mod:`~scratchlm.agents.locked`). It starts in a folder of its own with nothing but the program in it, with an empty
environment, and is killed with all of its group when its time or its output is used up.

Monty knows a part of Python only. CPython runs everything and has C code to reach, so that one wall is left: it is run
where the kernel has all locks, and refused elsewhere.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from scratchlm.agents import locked
from scratchlm.agents.tool import Tool, ToolError, tool
from scratchlm.errors import UserError, missing_package
from scratchlm.ranges import check_number, check_whole

_LAUNCHER = Path(__file__).with_name("locked.py")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_OWN_MEMORY, _START, _GRACE, _LONGEST, _TOLD = 256 << 20, 60.0, 1.0, 100_000, 1_500
"""Bytes that the interpreter itself may map; seconds for the process to start, and for the program to stop by itself;
characters of a program, and of what is told of a failure."""
_ZONES = "/usr/share/zoneinfo"
_DRIVER = """
import ast, sys, traceback
try:
    with open("main.py", encoding="utf-8") as file:
        body = ast.parse(file.read(), "main.py").body
    last = ast.Expression(body.pop().value) if body and isinstance(body[-1], ast.Expr) else None
    names = {"__name__": "__main__"}
    exec(compile(ast.Module(body, []), "main.py", "exec"), names)
    value = None if last is None else eval(compile(last, "main.py", "eval"), names)
    if value is not None:
        print(value)
except Exception as error:
    frames = error.__traceback__
    error.__traceback__ = None if isinstance(error, SyntaxError) else frames and frames.tb_next
    traceback.print_exception(error)
    sys.exit(1)
"""
"""What runs main.py in CPython: its last expression's value is printed, as Monty does."""
_VALUE = re.compile(r"^\d[\d.]*[a-zµμ]* ❯ ", re.MULTILINE)
"""Before the last expression's value, or an error: how long it took."""


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Args:
        seconds: by the clock, and of the processor.
        memory: bytes of its own values.
        output: bytes that it may print.
    """

    seconds: float = 5.0
    memory: int = 128 << 20
    output: int = 100_000

    def __post_init__(self) -> None:
        check_number("seconds", self.seconds, above=0, most=600)
        check_whole("memory", self.memory, 1 << 20)
        check_whole("output", self.output, 100)


@dataclass(frozen=True)
class Ended:
    """How a locked process ended: its exit status (below 0: the signal), what it printed, and why it was killed."""

    status: int
    output: str
    errors: str
    killed: str = ""


def run_locked(
    command: Sequence[str], folder: Path, limits: Limits, *, readable: Sequence[str] = (), runnable: Sequence[str] = ()
) -> Ended:
    """Run a program in a process that is locked in.

    Args:
        folder: where it starts; it may read what is there, and write nothing.
        readable: files and folders that it may read, beyond the system's libraries.
        runnable: those that it may also run.

    Raises:
        UserError: this machine cannot lock it in.
    """
    if os.name != "posix":
        raise UserError("Python is run for a model on Linux and macOS only; use the calculator instead")
    started, starting = os.pipe()
    seconds, memory = int(limits.seconds) + 1, limits.memory + _OWN_MEMORY
    paths = [str(folder), "/etc/ld.so.cache", *readable], [*_LIBRARIES, *runnable]
    settings = [starting, seconds, memory, *("\n".join(some) for some in paths)]
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_LAUNCHER), *map(str, settings), *command],
            cwd=folder,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=[starting],
        )
    except OSError as error:
        os.close(started)
        raise UserError(f"no process can be started for Python: {error.strerror}") from error
    finally:
        os.close(starting)
    assert process.stdout is not None
    assert process.stderr is not None
    with open(started, "rb", buffering=0) as start, process.stdout, process.stderr:  # noqa: PTH123
        try:
            output, errors, killed = _read(start, process.stdout, process.stderr, limits)
        finally:
            # Not waited for before: its number, and so its group's, is not another's yet. One that has ended by itself
            # keeps its status.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
    if errors.startswith("locked: "):
        raise UserError(f"Python cannot be locked in on this machine: {errors.removeprefix('locked: ').strip()}")
    return Ended(status, output, errors, killed)


def _read(start: IO[bytes], output: IO[bytes], errors: IO[bytes], limits: Limits) -> tuple[str, str, str]:
    """Both streams to their ends, or until a limit; and which one. Time counts from when ``start`` ends: the program
    itself begins."""
    until = time.monotonic() + _START
    parts: dict[IO[bytes], list[bytes]] = {output: [], errors: []}
    left, killed = limits.output, ""
    with selectors.DefaultSelector() as waiting:
        for stream in (start, *parts):
            waiting.register(stream, selectors.EVENT_READ, stream)
        while waiting.get_map() and not killed:
            for key, _ in waiting.select(max(0.0, until - time.monotonic())):
                if not (part := os.read(key.fd, min(left, 65_536) + 1)):
                    waiting.unregister(key.fileobj)
                if key.data is start:
                    until = time.monotonic() + limits.seconds + _GRACE
                    continue
                parts[key.data].append(part)
                left -= len(part)
                if left < 0:
                    killed = f"it printed more than {limits.output:,} bytes"
                    break
            if not killed and time.monotonic() >= until:
                killed = f"it ran longer than {limits.seconds:g} s"
    texts = [b"".join(parts[stream]).decode("utf-8", "replace") for stream in (output, errors)]
    return texts[0], texts[1], killed


def run_python(code: str, limits: Limits | None = None, *, full: bool = False) -> str:
    """Run a program; what it printed, and the value of its last expression on a line of its own.

    Args:
        full: by CPython instead of Monty.

    Raises:
        ToolError: the program is wrong, raises, or used up a limit; the text has what it printed before, and the
            traceback.
        UserError: Monty is missing, or this machine cannot lock a process in.
    """
    limits = limits or Limits()
    if len(code) > _LONGEST:
        raise ToolError(f"the program has {len(code):,} characters; at most {_LONGEST:,} are run")
    command, runnable = _cpython() if full else _monty(limits)
    with tempfile.TemporaryDirectory(prefix="scratchlm-") as folder:
        Path(folder, "main.py").write_text(code, encoding="utf-8", errors="replace", newline="\n")
        ended = run_locked(command, Path(folder), limits, readable=[_ZONES], runnable=runnable)
    printed, value, failure = _whole(ended) if full else _parted(ended)
    if ended.killed:
        failure = f"the program was stopped: {ended.killed}"
    elif ended.status < 0 or ended.status > 1:
        failure = f"the program was stopped: {_why(ended.status)}"
    if failure:
        before = printed.rstrip("\n")
        before = before if len(before) <= _TOLD else f"{before[:_TOLD]} ..."
        failure = failure if len(failure) <= _TOLD else f"... {failure[-_TOLD:]}"
        raise ToolError("\n".join(part for part in (before, failure) if part))
    return "\n".join(part for part in (printed.rstrip("\n"), value) if part) or "done; nothing was printed"


def _monty(limits: Limits) -> tuple[list[str], list[str]]:
    """The command that runs main.py by Monty's own program, and what it has to be able to run."""
    found = shutil.which("monty", path=sysconfig.get_path("scripts")) or shutil.which("monty")
    if found is None:
        raise missing_package("Python is run by", "pydantic-monty", "agents")
    seconds, binary = str(limits.seconds), str(Path(found).resolve())
    options = ["--max-feed-duration", seconds, "--max-sleep", seconds, "--max-total-sleep", seconds]
    return [binary, *options, "--max-memory", str(limits.memory), "main.py"], [binary]


def _cpython() -> tuple[list[str], list[str]]:
    """The same by the interpreter that runs this, without the packages that are installed."""
    if not locked.has_all_locks():
        raise UserError(
            "full Python is run only where the kernel can lock it in: Linux 5.13 or later with Landlock, on x86-64 or "
            "arm64; use the tool python"
        )
    binary = str(Path(sys.executable).resolve())
    library = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), sysconfig.get_config_var("LIBDIR")}
    return [binary, "-I", "-S", "-X", "utf8", "-c", _DRIVER], [binary, *sorted(filter(None, library))]


def _parted(ended: Ended) -> tuple[str, str, str]:
    """What the program printed, its last expression's value, and its failure."""
    marks = list(_VALUE.finditer(ended.errors))
    if not marks:
        return ended.output, "", ended.errors.removeprefix("error:").strip() if ended.status else ""
    printed = ended.output + ended.errors[: marks[-1].start()]
    said = ended.errors[marks[-1].end() :].rstrip("\n")
    if ended.status:
        return printed, "", said.removeprefix("error:").strip()
    return printed, "" if said == "None" else said, ""


def _whole(ended: Ended) -> tuple[str, str, str]:
    """The same of CPython, whose last value is printed."""
    if ended.status:
        return ended.output, "", ended.errors.strip()
    return ended.errors + ended.output, "", ""


def _why(status: int) -> str:
    if status == -signal.SIGXCPU:
        return "it used up its time"
    return f"signal {-status}" if status < 0 else f"it ended with status {status}"


def python_tool(limits: Limits | None = None, *, full: bool = False) -> Tool:
    """The tool ``python``; ``full`` as in :func:`run_python`.

    Raises:
        UserError: the machine cannot lock CPython in.
    """
    limits = limits or Limits()
    if full:
        _cpython()

    @tool(name="python", timeout=limits.seconds + _START + 10)
    def python(code: str) -> str:
        """Run Python code; what it prints and its last expression come back. No files, no network."""
        return run_python(code, limits, full=full)

    return python
