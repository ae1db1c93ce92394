"""Train a tiny model, kill it with SIGKILL, resume it, and hold what is left against a run that was left alone.

    python killed_runs.py FOLDER random COUNT SEED    kill after COUNT random times, each in a run of its own
    python killed_runs.py FOLDER disk COUNT           kill at COUNT disk operations, spread evenly over the run
                                                      (0 for every one); each is tried before and after it takes place

Prints one JSON object. Children are forked from one process that has imported everything and computed nothing, so a
run takes a fraction of a second. It must be started with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401 (torch's optimizers import it when they are made; here once for all children)

from scratchlm.checkpoints import files
from scratchlm.training import Reporter, train

SETTINGS: dict[str, Any] = {
    "width": 16,
    "layers": 1,
    "heads": 2,
    "context": 8,
    "dropout": 0.2,
    "steps": 24,
    "warmup_steps": 2,
    "batch_size": 4,
    "optimizer": "muon",
    "validation_fraction": 0.2,
    "unknown": "token",
    "eval_every": 5,
    "save_every": 3,
    "log_every": 1,
}
TIMES = ("seconds", "tokens_per_second")


def run_to_end(out: Path, resume: bool) -> None:
    train("tinygpt", "rumi", out, settings=SETTINGS, resume=resume, reporter=Reporter(quiet=True))


def attempt(
    out: Path, *, resume: bool, prepare: Callable[[], None] | None = None, seconds: float | None = None
) -> bool:
    """Train in a child, killed after ``seconds`` or by what ``prepare`` has set up; whether it came to the end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if prepare:
                prepare()
            run_to_end(out, resume)
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise SystemExit(f"a training in {out} failed with status {status}")
    return status == 0


class DiskOperations:
    """Counts what a run does to the disk, and kills the process at the operation numbered ``fatal``."""

    def __init__(self, fatal: int = -1, *, after: bool = False, count_in: Path | None = None) -> None:
        self.fatal, self.after, self.count_in, self.done = fatal, after, count_in, 0

    def install(self) -> None:
        for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir"):
            setattr(os, name, self._counted(getattr(os, name)))
        write = files._fill

        def fill(path: Path, *more: Any) -> None:
            if self._next():  # half a file
                write(path, *more)
                os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            write(path, *more)

        files._fill = fill

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            fatal = self._next()
            if fatal and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options)
            if fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted

    def _next(self) -> bool:
        self.done += 1
        if self.count_in is not None:
            self.count_in.write_text(str(self.done))
        return self.done - 1 == self.fatal


def outcome(out: Path) -> dict[str, Any]:
    """All that must be the same, however often a run was killed."""
    found: dict[str, Any] = {"files": sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())}
    for path in sorted(out.rglob("*")):
        if path.suffix in (".safetensors", ".bin", ".yaml") or path.name in ("tokenizer.json", "scratchlm.json"):
            found[str(path.relative_to(out))] = path.read_bytes()
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found["metrics.jsonl"] = [{key: value for key, value in one.items() if key not in TIMES} for one in records]
    return found


def main() -> None:
    folder, mode, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    counter = folder / "operations"
    attempt(folder / "warm", resume=False)
    began = time.perf_counter()
    attempt(folder / "alone", resume=False)
    whole = time.perf_counter() - began
    attempt(folder / "counted", resume=False, prepare=DiskOperations(count_in=counter).install)
    reference = outcome(folder / "alone")
    moments: list[dict[str, Any]] = []
    if mode == "random":
        generator = random.Random(int(sys.argv[4]))
        # Some come too late, since no two runs take the same time; they are made up for.
        moments = [{"seconds": generator.uniform(0, whole)} for _ in range(4 * count)]
    else:
        operations = int(counter.read_text())
        count = count or operations
        chosen = sorted({round(i * (operations - 1) / (count - 1)) for i in range(count)})
        moments = [{"prepare": DiskOperations(n, after=after).install} for n in chosen for after in (False, True)]
    killed, differing = 0, []
    for number, moment in enumerate(moments):
        if mode == "random" and killed == count:
            break
        out = folder / f"run-{number}"
        finished = attempt(out, resume=False, **moment)
        killed += not finished
        attempt(out, resume=True)
        result = outcome(out)
        names = sorted(reference | result)
        differing += [f"moment {number}: {name}" for name in names if reference.get(name) != result.get(name)]
        shutil.rmtree(out)
    steps = [record["step"] for record in reference["metrics.jsonl"]]
    print(
        json.dumps(
            {
                "moments": count if mode == "random" else len(moments),
                "killed": killed,
                "differing": differing,
                "steps": steps,
            }
        )
    )


if __name__ == "__main__":
    main()
