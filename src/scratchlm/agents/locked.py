"""A program of its own: it locks itself in and then becomes another program. It imports nothing of scratchlm.

``python -I -S locked.py STARTING SECONDS MEMORY READABLE RUNNABLE COMMAND...``: an open pipe, which is closed when the
program begins, seconds of the processor, bytes of memory, and paths, a line each, that it may read, and also run. What
is set here cannot be undone by the program:

- limits of the kernel (setrlimit): processor time, memory, no new processes, no byte in any file, few open files;
- on Linux, Landlock (5.13 and later): nothing is read or run but the paths given, nothing written, no TCP, no signals;
- on Linux, seccomp with a list of the system calls that an interpreter needs to read, compute and print; all others,
  such as those for sockets, processes, tracing and mounting, fail;
- it is killed when the process that started it ends.

The list is of names that have a number on x86-64 and on arm64; on another machine the other locks stand alone.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Sequence
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SIGKILL = 1, 22, 38, 9
_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""Landlock's system calls, on every machine."""
_RUN, _READ, _LIST = 1, 4, 8
"""Landlock's rights to run and read a file and to list a folder."""
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_CALLS: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62), "mmap": (9, 222),
    "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "pread64": (17, 67), "readv": (19, 65), "writev": (20, 66),
    "sched_yield": (24, 124), "mremap": (25, 216), "madvise": (28, 233), "dup": (32, 23), "nanosleep": (35, 101),
    "getpid": (39, 172), "exit": (60, 93), "uname": (63, 160), "fcntl": (72, 25), "getcwd": (79, 17),
    "gettimeofday": (96, 169), "getrusage": (98, 165), "getuid": (102, 174), "getgid": (104, 176),
    "geteuid": (107, 175), "getegid": (108, 177), "sigaltstack": (131, 132), "gettid": (186, 178), "futex": (202, 98),
    "sched_getaffinity": (204, 123), "getdents64": (217, 61), "set_tid_address": (218, 96),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "exit_group": (231, 94),
    "openat": (257, 56), "newfstatat": (262, 79), "readlinkat": (267, 78), "pselect6": (270, 72), "ppoll": (271, 73),
    "set_robust_list": (273, 99), "getrandom": (318, 278), "statx": (332, 291), "rseq": (334, 293),
    "faccessat": (269, 48), "faccessat2": (439, 439), "membarrier": (324, 283), "execve": (59, 221),
    "open": (2, None), "stat": (4, None), "lstat": (6, None), "poll": (7, None), "access": (21, None),
    "readlink": (89, None), "arch_prctl": (158, None), "time": (201, None),
}  # fmt: skip
_PRLIMIT = (302, 261)
"""Allowed where it only asks."""


def limit(seconds: int, memory: int) -> None:
    """The kernel's limits. Those that macOS does not know are left."""
    for name, soft, hard in (
        ("CPU", seconds, seconds + 1),
        ("AS", memory, memory),
        ("NPROC", 0, 0),
        ("FSIZE", 0, 0),
        ("NOFILE", 32, 32),
        ("CORE", 0, 0),
    ):
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (soft, hard))
        except (ValueError, OSError):
            if sys.platform == "linux":
                raise


def landlock_version() -> int:
    """Of the running kernel; 0 where it has no Landlock."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_libc().syscall(_CREATE, None, 0, 1)))


def has_all_locks() -> bool:
    """Whether this machine has Landlock, and seccomp with numbers that are known here."""
    return landlock_version() > 0 and os.uname().machine in _ARCHITECTURES


def landlock(readable: Sequence[str], runnable: Sequence[str]) -> bool:
    """Close all files but these, and the network for TCP. False where the kernel has no Landlock.

    Raises:
        OSError: it refuses.
    """
    version = landlock_version()
    if not version:
        return False
    files = (1 << (13 + (version >= 2) + (version >= 3))) - 1 | (1 << 15 if version >= 5 else 0)
    rules = struct.pack("=QQQ", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    ruleset = _checked(_libc().syscall(_CREATE, rules, 8 if version < 4 else 16 if version < 6 else 24, 0))
    for rights, paths in ((_READ, readable), (_READ | _RUN, runnable)):
        for path in paths:
            try:
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue  # such as /lib64, which some systems do without
            own = rights | (_LIST if os.path.isdir(path) else 0)  # noqa: PTH112
            _checked(_libc().syscall(_ADD, ruleset, 1, struct.pack("=Qi", own, place), 0))
            os.close(place)
    _checked(_libc().syscall(_RESTRICT, ruleset, 0))
    os.close(ruleset)
    return True


def seccomp() -> bool:
    """Leave only the system calls of the list. False on machines whose numbers are not in it.

    Raises:
        OSError: the kernel refuses.
    """
    if os.uname().machine not in _ARCHITECTURES:
        return False
    audit, column = _ARCHITECTURES[os.uname().machine]
    load, equal, answer = 0x20, 0x15, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | 1, 0x80000000
    program = [(load, 0, 0, 4), (equal, 1, 0, audit), (answer, 0, 0, kill), (load, 0, 0, 0)]
    for numbers in _CALLS.values():
        if (number := numbers[column]) is not None:
            program += [(equal, 0, 1, number), (answer, 0, 0, allow)]
    program += [(equal, 0, 5, _PRLIMIT[column])]  # with a third argument, of 64 bits, that is 0
    program += [(load, 0, 0, 32), (equal, 0, 3, 0), (load, 0, 0, 36), (equal, 0, 1, 0), (answer, 0, 0, allow)]
    program += [(answer, 0, 0, refuse)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
    whole = struct.pack("@HP", len(program), ctypes.addressof(code))
    _checked(_libc().prctl(_PR_SET_SECCOMP, 2, whole, 0, 0))
    return True


def lock(seconds: int, memory: int, readable: Sequence[str], runnable: Sequence[str]) -> None:
    """All locks of this machine, in the order in which each still can be set.

    Raises:
        OSError: one of them is refused.
    """
    limit(seconds, memory)
    if sys.platform == "linux":
        _checked(_libc().prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0))
        _checked(_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        landlock(readable, runnable)
        seccomp()


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


if __name__ == "__main__":
    starting, seconds, memory, readable, runnable = sys.argv[1:6]
    os.set_inheritable(int(starting), False)
    try:
        lock(int(seconds), int(memory), readable.split("\n"), runnable.split("\n"))
    except OSError as error:
        sys.exit(f"locked: {error}")
    os.execve(sys.argv[6], sys.argv[6:], {})
