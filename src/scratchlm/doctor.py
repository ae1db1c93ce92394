"""What this machine has for us: versions, devices, caches, how fast it is, and what is wrong with it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch

from scratchlm import __version__, kernels
from scratchlm.cache import cache_folder
from scratchlm.checkpoints.catalogue import overview
from scratchlm.training.precision import bf16_arithmetic

_INSIDE = ("dev", "bench", "docs")
"""Extras that are not for users."""
_MODULES = {
    "fastapi": "fastapi", "huggingface_hub": "huggingface_hub", "langchain-core": "langchain_core",
    "opentelemetry-sdk": "opentelemetry.sdk", "prometheus-client": "prometheus_client",
    "pydantic-monty": "pydantic_monty", "rouge-score": "rouge_score", "charset-normalizer": "charset_normalizer",
}  # fmt: skip
"""Packages whose module has another name."""
_GIB, _LEAST_DISK, _LEAST_MEMORY = 1 << 30, 2.0, 2.0
_SIDE, _BYTES, _ROUNDS, _TOKENS = 1024, 256 << 20, 5, 32
"""Of the measurements: a matrix's side, what is copied, how often each is done, tokens that a model writes."""


def examine(*, speed: bool = True) -> dict[str, Any]:
    """Everything, ready for JSON. ``problems`` has a line for each thing that is wrong, with what to do; ``broken``
    says whether one of them keeps scratchlm from working.

    Args:
        speed: whether to measure, which takes some seconds.
    """
    found: dict[str, Any] = {"versions": versions(), "extras": extras(), "devices": devices(), "caches": caches()}
    found["kernels"] = kernels.status().removeprefix("kernels: ")
    if speed:
        found["speed"] = speeds(found["caches"]["models"])
    serious, others = problems(found)
    return {**found, "problems": [*serious, *others], "broken": bool(serious)}


def versions() -> dict[str, str]:
    """Of what everything rests on."""
    return {
        "scratchlm": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def extras() -> dict[str, list[str]]:
    """For each extra the packages of it that are missing; none where it is installed."""
    missing: dict[str, list[str]] = {}
    for line in metadata.requires("scratchlm") or ():
        needs, _, marker = line.partition(";")
        extra = re.search(r"""extra == ['"]([\w-]+)['"]""", marker)
        name = re.match(r"[\w.-]+", needs)
        if extra is None or name is None or extra[1] in _INSIDE or name[0] == "scratchlm":
            continue
        absent = missing.setdefault(extra[1], [])
        if not _is_here(name[0]):
            absent.append(name[0])
    return missing


def _is_here(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        module = _MODULES.get(package, package.replace("-", "_"))
        return find_spec(module.partition(".")[0]) is not None
    return True


def devices() -> dict[str, Any]:
    """Processors and memory (GiB)."""
    memory = psutil.virtual_memory()
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "cpu": processor(),
        "cores": _usable_cores(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16": bf16_arithmetic(torch.device("cpu")),
        "memory": round(memory.total / _GIB, 1),
        "memory_free": round(memory.available / _GIB, 1),
        "gpus": [
            {
                "name": torch.cuda.get_device_name(number),
                "memory": round(torch.cuda.get_device_properties(number).total_memory / _GIB, 1),
                "bf16": bf16_arithmetic(torch.device("cuda", number)),
            }
            for number in cuda
        ],
    }


def processor() -> str:
    """The processor's name."""
    told = Path("/proc/cpuinfo")
    if told.exists():
        for line in told.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    """Those that this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def caches() -> dict[str, Any]:
    """Where things are kept that can be fetched or made again (sizes in GiB)."""
    folder = cache_folder()
    if folder is None:
        return {"folder": None, "writable": False, "size": 0.0, "disk_free": 0.0, "models": [], "damaged": []}
    here = folder
    while not here.exists():
        here = here.parent
    rows = overview()
    held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.exists() else 0
    return {
        "folder": str(folder),
        "writable": _takes_files(here),
        "size": round(held / _GIB, 2),
        "disk_free": round(shutil.disk_usage(here).free / _GIB, 1),
        "models": [row["name"] for row in rows if row["here"] not in (None, "damaged")],
        "damaged": [row["name"] for row in rows if row["here"] == "damaged"],
    }


def _takes_files(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def speeds(models: Sequence[str]) -> dict[str, Any]:
    """Products of matrices (GFLOP/s), copies (GB/s), and what a fetched chat model writes (tokens/s), if it is among
    ``models``. Of several tries the fastest counts: other programs can only slow them."""
    found: dict[str, Any] = {}
    kinds = [torch.float32, *([torch.bfloat16] if bf16_arithmetic(torch.device("cpu")) else [])]
    for kind in kinds:
        x = torch.ones(_SIDE, _SIDE, dtype=kind)
        seconds = min(_seconds(lambda x=x: x @ x) for _ in range(_ROUNDS))
        found[f"products_{'fp32' if kind == torch.float32 else 'bf16'}"] = round(2 * _SIDE**3 / seconds / 1e9)
    source = torch.ones(_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    copying = min(_seconds(lambda: target.copy_(source)) for _ in range(_ROUNDS))
    found["copies"] = round(2 * _BYTES / copying / 1e9, 1)
    if (name := "smollm2-135m-instruct") in models:
        from scratchlm import api

        model = api.load(name)
        model.generate("Once upon a time", max_new_tokens=4, greedy=True)
        spent = _seconds(lambda: model.generate("Once upon a time", max_new_tokens=_TOKENS, greedy=True))
        found[name] = round(_TOKENS / spent)
    return found


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def problems(found: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What keeps it from working, and what only makes it slow or odd; each line says what to do."""
    serious, others = [], []
    device, cache = found["devices"], found["caches"]
    if cache["folder"] is None:
        serious.append("there is no home folder to keep models in; set SCRATCHLM_CACHE to a folder")
    elif not cache["writable"]:
        serious.append(f"{cache['folder']} cannot be written to; change its permissions, or set SCRATCHLM_CACHE")
    elif cache["disk_free"] < _LEAST_DISK:
        others.append(f"{cache['disk_free']} GiB of disk are free; models take up to some GiB each: free some")
    if not _takes_files(Path(tempfile.gettempdir())):
        serious.append(f"{tempfile.gettempdir()} cannot be written to; set TMPDIR to a folder that can")
    others += [
        f"the model {name} is damaged; fetch it again with: scratchlm models pull {name}" for name in cache["damaged"]
    ]
    if device["memory_free"] < _LEAST_MEMORY:
        others.append(f"{device['memory_free']} GiB of memory are free; close other programs before you train")
    if device["threads"] > device["cores"]:
        others.append(
            f"PyTorch uses {device['threads']} threads on {device['cores']} cores, which is slow; set "
            f"OMP_NUM_THREADS={device['cores']}"
        )
    if device["threads"] < device["cores"] and os.environ.get("OMP_NUM_THREADS"):
        others.append(
            f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} leaves cores of {device['cores']} unused; unset it"
        )
    if torch.version.cuda and not torch.cuda.is_available():
        others.append(
            f"PyTorch is built for CUDA {torch.version.cuda} and sees no GPU; look at nvidia-smi, or install the "
            "smaller build for CPUs"
        )
    if platform.system() == "Linux" and not kernels.available():
        others.append(f"the fast operations are off: {found['kernels']}; install a C compiler, such as gcc")
    if (sys.stdout.encoding or "").lower().replace("-", "") != "utf8":
        others.append(f"the terminal's encoding is {sys.stdout.encoding}; set PYTHONUTF8=1 to see all letters")
    return serious, others
