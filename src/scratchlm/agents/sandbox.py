"""Running Python that a model wrote: Monty's interpreter, in a process that is locked in, with limits.

Two walls, each of which would do. Inside, `Monty <https://github.com/pydantic/monty>`_ is an interpreter that has no
files, no network, no processes and no C code to reach; outside, the process that runs it is closed by the kernel
(:mod:`~scratchlm.agents.locked`). It starts in a folder of its own with nothing but the program in it, with an empty
environment, and is killed with all of its group when its time or its output is used up.
"""

from __future__ import annotations

import json
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

from scratchlm.agents.tool import Tool, ToolError, tool
from scratchlm.errors import UserError
from scratchlm.ranges import check_number, check_whole

_LAUNCHER = Path(__file__).with_name("locked.py")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_OWN_MEMORY, _GRACE, _LONGEST, _TOLD = 256 << 20, 1.0, 100_000, 1_500
"""Bytes that the interpreter itself may map; seconds for it to stop by itself; characters of a program, and of what is
told of a failure."""
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
        readable, runnable: files and folders that it may read, and also run, beyond the system's libraries.

    Raises:
        UserError: this machine cannot lock it in.
    """
    settings = {
        "seconds": int(limits.seconds + _GRACE) + 1,
        "memory": limits.memory + _OWN_MEMORY,
        "readable": [str(folder), "/etc/ld.so.cache", *readable],
        "runnable": [*_LIBRARIES, *runnable],
    }
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_LAUNCHER), json.dumps(settings), *command],
            cwd=folder,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise UserError(f"no process can be started for Python: {error.strerror}") from error
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        output, errors, killed = _read(process.stdout, process.stderr, limits)
        if not killed:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        process.stdout.close()
        process.stderr.close()
    if errors.startswith("locked: "):
        raise UserError(f"Python cannot be locked in on this machine: {errors.removeprefix('locked: ').strip()}")
    return Ended(status, output, errors, killed)


def _read(output: IO[bytes], errors: IO[bytes], limits: Limits) -> tuple[str, str, str]:
    """Both streams to their ends, or until a limit; and which one."""
    until = time.monotonic() + limits.seconds + _GRACE
    parts: dict[IO[bytes], list[bytes]] = {output: [], errors: []}
    left, killed = limits.output, ""
    with selectors.DefaultSelector() as waiting:
        for stream in parts:
            waiting.register(stream, selectors.EVENT_READ, stream)
        while waiting.get_map() and not killed:
            ready = waiting.select(max(0.0, until - time.monotonic()))
            if not ready:
                killed = f"it ran longer than {limits.seconds:g} s"
            for key, _ in ready:
                if not (part := os.read(key.fd, min(left, 65_536) + 1)):
                    waiting.unregister(key.fileobj)
                parts[key.data].append(part)
                left -= len(part)
                if left < 0:
                    killed = f"it printed more than {limits.output:,} bytes"
                    break
    texts = [b"".join(parts[stream]).decode("utf-8", "replace") for stream in (output, errors)]
    return texts[0], texts[1], killed


def run_python(code: str, limits: Limits | None = None) -> str:
    """Run a program; what it printed, and the value of its last expression on a line of its own.

    Raises:
        ToolError: the program is wrong, raises, or used up a limit; the text has what it printed before, and the
            traceback.
        UserError: Monty is missing, or this machine cannot lock a process in.
    """
    limits = limits or Limits()
    if len(code) > _LONGEST:
        raise ToolError(f"the program has {len(code):,} characters; at most {_LONGEST:,} are run")
    binary = _monty()
    options = ["--max-feed-duration", str(limits.seconds), "--max-memory", str(limits.memory)]
    options += ["--max-sleep", str(limits.seconds), "--max-total-sleep", str(limits.seconds)]
    with tempfile.TemporaryDirectory(prefix="scratchlm-") as folder:
        Path(folder, "main.py").write_text(code, encoding="utf-8", errors="replace", newline="\n")
        ended = run_locked([binary, *options, "main.py"], Path(folder), limits, runnable=[binary])
    printed, value, failure = _parted(ended)
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


def _monty() -> str:
    """Monty's own program."""
    found = shutil.which("monty", path=sysconfig.get_path("scripts")) or shutil.which("monty")
    if found is None:
        raise UserError("Python is run by pydantic-monty, which is missing; run: pip install 'scratchlm[agents]'")
    return str(Path(found).resolve())


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


def _why(status: int) -> str:
    if status == -signal.SIGXCPU:
        return "it used up its time"
    return f"signal {-status}" if status < 0 else f"the interpreter failed ({status})"


def python_tool(limits: Limits | None = None) -> Tool:
    """The tool ``python``."""
    limits = limits or Limits()

    @tool(name="python", timeout=limits.seconds + 10)
    def python(code: str) -> str:
        """Run Python code; what it prints and its last expression come back. No files, no network."""
        return run_python(code, limits)

    return python
