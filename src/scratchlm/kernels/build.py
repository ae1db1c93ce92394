"""Compile the C part with the machine's own compiler at first use, keep it in the user's cache, and load it.

Nothing here is needed for correctness: without a C compiler (or with ``SCRATCHLM_KERNELS=off``) every operation of
this room runs on plain PyTorch, and :func:`status` says why.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from scratchlm.cache import cache_folder

SOURCE = Path(__file__).parent / "native"
COMPILE_FLAGS = (
    *("-std=gnu11", "-O3", "-march=native", "-fPIC", "-fopenmp"),
    # Both only free the compiler to use vector instructions. Results stay those of IEEE arithmetic, and nothing is
    # linked in that would change how the process treats denormal numbers.
    *("-fno-math-errno", "-fno-trapping-math"),
)


class _UnavailableError(Exception):
    """Why the native code cannot be used, in words."""


class _Native:
    """The loaded library, or the reason for its absence; filled at first use."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.library: ctypes.CDLL | None = None
        self.reason: str | None = None
        self.place = ""

    def load(self) -> ctypes.CDLL | None:
        if self.library is None and self.reason is None:
            with self.lock:
                if self.library is None and self.reason is None:
                    try:
                        self.library = _build_and_load()
                        self.place = self.library._name
                    except _UnavailableError as reason:
                        self.reason = str(reason)
        return self.library


_native = _Native()
_switch = threading.local()
_memory = threading.local()


def available() -> bool:
    """Whether the native operations can be used here (compiles them at the first call, a few seconds once)."""
    return not getattr(_switch, "off", False) and _native.load() is not None


def library() -> ctypes.CDLL:
    """The loaded library, for callers that keep their own argument types (a call a token must cost nothing).

    Raises:
        RuntimeError: there is none; ask :func:`available` first.
    """
    loaded = _native.load()
    if loaded is None:
        raise RuntimeError(f"no native code: {_native.reason}")
    return loaded


def status() -> str:
    """One line for humans: which operations run, and why not the native ones."""
    if getattr(_switch, "off", False):
        return "kernels: plain PyTorch (switched off by disabled())"
    if _native.load() is None:
        return f"kernels: plain PyTorch ({_native.reason})"
    return f"kernels: native ({_native.place})"


@contextmanager
def disabled() -> Iterator[None]:
    """Within this block every operation of this thread runs on plain PyTorch."""
    before = getattr(_switch, "off", False)
    _switch.off = True
    try:
        yield
    finally:
        _switch.off = before


def suits(*tensors: Tensor | None) -> bool:
    """Whether the native operations take these tensors: plain float32 on the CPU, outside autocast and tracing."""
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or tensor.numel() == 0:
            return False
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            return False
    return available() and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")


def draw_seed(probability: float) -> int:
    """A seed for one dropout call from PyTorch's generator, which ``torch.manual_seed`` controls; 0 where unused."""
    return int(torch.empty((), dtype=torch.int64).random_()) if probability > 0 else 0


@lru_cache(maxsize=1024)
def size(name: str, *shape: int) -> int:
    """What one of the native code's functions of shapes says (``kept_floats``, ``linear_work`` and so on)."""
    return call(name, *shape)


def workspace(size: int) -> Tensor:
    """``size`` floats of memory for the length of one call; this thread's next call may get the same.

    Kept from call to call up to 64 MB, because memory that is given back to the system and taken anew is cleared page
    by page.
    """
    kept: Tensor | None = getattr(_memory, "space", None)
    if kept is None or kept.numel() < size:
        kept = torch.empty(size, dtype=torch.float32)
        if size <= 2**24:
            _memory.space = kept
    return kept


def call(name: str, *arguments: Tensor | int | float | None) -> int:
    """Call a native function; tensors pass as pointers, whole numbers as int64, fractions as float.

    The number of threads, PyTorch's own, is added as the last argument. The caller answers for shapes, type and
    contiguity.
    """
    library = _native.library
    if library is None:
        raise RuntimeError("the native code is not loaded; ask available() first")
    converted: list[ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float] = []
    for value in arguments:
        if isinstance(value, Tensor):
            converted.append(ctypes.c_void_p(value.data_ptr()))
        elif isinstance(value, int):
            converted.append(ctypes.c_int64(value))
        elif value is None:
            converted.append(ctypes.c_void_p(None))
        else:
            converted.append(ctypes.c_float(value))
    function = getattr(library, name)
    function.restype = ctypes.c_int64  # nothing is read where the function returns nothing
    return int(function(*converted, ctypes.c_int64(torch.get_num_threads())))


def _build_and_load() -> ctypes.CDLL:
    if os.environ.get("SCRATCHLM_KERNELS", "").lower() in ("off", "0", "no", "false"):
        raise _UnavailableError("SCRATCHLM_KERNELS is off")
    if sys.platform != "linux":
        raise _UnavailableError(f"the native code supports Linux only, not {platform.system()}")
    compiler = _compiler()
    sources = sorted(SOURCE.iterdir())
    recipe = [*compiler, *COMPILE_FLAGS, _processor(), *(path.read_text(encoding="utf-8") for path in sources)]
    digest = hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:16]
    problems = []
    for folder in _cache_folders():
        target = folder / f"kernels-{digest}.so"
        try:
            if not target.exists():
                folder.mkdir(parents=True, exist_ok=True)
                _compile(compiler, target)
            _share_openmp()
            return ctypes.CDLL(str(target))
        except OSError as error:  # an unwritable folder, one mounted noexec, a damaged file
            problems.append(f"{folder}: {error}")
    raise _UnavailableError("; ".join(problems))


def _compiler() -> list[str]:
    asked = os.environ.get("CC")
    for candidate in [asked] if asked else ["cc", "gcc", "clang"]:
        words = shlex.split(candidate)
        if words and shutil.which(words[0]):
            return words
    raise _UnavailableError(
        f"the C compiler CC={asked} was not found" if asked else "no C compiler (cc, gcc or clang) was found"
    )


def _processor() -> str:
    """What -march=native depends on, so that a home folder shared by different machines stays safe."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    wanted = ("model name", "flags", "Features", "CPU part")
    return platform.machine() + "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _cache_folders() -> Iterator[Path]:
    """Where the library may live: the user's cache, else a folder of this process's own that goes with it."""
    folder = cache_folder()
    if folder is not None:
        yield folder
    own = tempfile.mkdtemp(prefix="scratchlm-kernels-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    yield Path(own)


def _compile(compiler: list[str], target: Path) -> None:
    """Compile into a folder of our own beside ``target`` and rename, so that others see a whole file or none."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as folder:
        linked, objects, commands = Path(folder) / "native.so", [], []
        for source in sorted(SOURCE.glob("*.c")):
            objects.append(str(Path(folder) / f"{source.stem}.o"))
            commands.append([*compiler, *COMPILE_FLAGS, "-c", str(source), "-o", objects[-1]])
        # Linked without -fopenmp: the OpenMP functions are then found in the runtime that PyTorch has loaded, and both
        # share one set of threads.
        for command in [*commands, [*compiler, "-shared", *objects, "-o", str(linked)]]:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
                raise _UnavailableError(f"{compiler[0]} failed: {reason[:200]}")
        linked.replace(target)


def _share_openmp() -> None:
    """Make the OpenMP runtime already in this process (PyTorch's) visible to the library about to be loaded."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    paths = {
        line.split(maxsplit=5)[5] for line in maps if line.count("/") and ("libgomp" in line or "libiomp5" in line)
    }
    for path in sorted(paths) or ["libgomp.so.1"]:
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
