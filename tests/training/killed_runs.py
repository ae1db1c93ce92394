"""Train a tiny model, kill it with SIGKILL, resume it, and hold what is left against a run that was left alone.

    python killed_runs.py FOLDER random COUNT SEED [METHOD]   kill after COUNT random times, each in a run of its own
    python killed_runs.py FOLDER disk COUNT [METHOD]          kill at COUNT disk operations, spread evenly over the run
                                                              (0 for every one); each is tried before and after it
    python killed_runs.py FOLDER interrupt STEP METHOD        Ctrl-C in a step, and then what the program says to type

A METHOD is full, lora or qlora: not a training but a tuning of a tiny model.

Prints one JSON object. Children are forked from one process that has imported everything and computed nothing, so a
run takes a fraction of a second. It must be started with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401 (torch's optimizers import it when they are made; here once for all children)
import tuned_models

import scratchlm.api  # noqa: F401 (here once for all children)
from scratchlm.checkpoints import files
from scratchlm.cli.main import run as command_line
from scratchlm.training import Question, Reporter, finetune, train
from scratchlm.training.loop import Trainer

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
TUNED: dict[str, Any] = {
    **{"epochs": 4, "batch_size": 4, "learning_rate": 1e-2, "rank": 2, "lora_dropout": 0.1, "device": "cpu"},
    **{"eval_every": 5, "save_every": 3, "log_every": 1, "eval_prompts": 2, "eval_new_tokens": 3},
}
TIMES = ("seconds", "tokens_per_second", "rows_per_second", "peak_memory_bytes")
METHOD: Any = ""
"""Of a tuning; empty for a training."""


def run_to_end(out: Path, resume: bool) -> None:
    if METHOD:
        asked = Question(*made(out.parent), None, METHOD)
        finetune(asked, out, settings=TUNED, resume=resume, reporter=Reporter(quiet=True))
    else:
        train("tinygpt", "rumi", out, settings=SETTINGS, resume=resume, reporter=Reporter(quiet=True))


def made(folder: Path) -> tuple[str, str]:
    """A model and rows to tune it on."""
    base, data = folder / "base", folder / "rows.jsonl"
    if not base.exists():
        tuned_models.save_model(base, "llama", dropout=0.1)
        tuned_models.write_rows(data, tuned_models.rows("prompt"))
    return str(base), str(data)


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
            try:
                return function(*arguments, **options)
            finally:  # also where it fails, as mkdir does where a folder is
                if fatal:
                    os.kill(os.getpid(), signal.SIGKILL)

        return counted

    def _next(self) -> bool:
        self.done += 1
        if self.count_in is not None:
            self.count_in.write_text(str(self.done))
        return self.done - 1 == self.fatal


def outcome(out: Path) -> dict[str, Any]:
    """All that must be the same, however often a run was killed."""
    found: dict[str, Any] = {"files": sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())}
    if (out / "report.json").exists():
        report = json.loads((out / "report.json").read_text())
        found["report.json"] = {key: value for key, value in report.items() if key not in (*TIMES, "name")}
    for path in sorted(out.rglob("*")):
        if path.suffix in (".safetensors", ".bin", ".yaml") or path.name in ("tokenizer.json", "scratchlm.json"):
            found[str(path.relative_to(out))] = path.read_bytes()
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found["metrics.jsonl"] = [{key: value for key, value in one.items() if key not in TIMES} for one in records]
    return found


def type_in(arguments: list[str], said: Path, interrupt: int = 0) -> int:
    """Run the program in a child whose standard error goes to a file, with Ctrl-C in a step; its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs do not feel it
    step = Trainer.step

    def interrupted(self: Trainer, *more: Any) -> tuple[float, bool]:
        if self.state.step + 1 == interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *more)

    Trainer.step = interrupted  # type: ignore[method-assign]
    os._exit(command_line(arguments))


def interrupted_runs(folder: Path, step: int) -> dict[str, Any]:
    """A tuning with Ctrl-C in a step, gone on with by what it said, against one that was left alone."""
    os.waitpid(os.fork() or (made(folder), os._exit(0)), 0)  # type: ignore[func-returns-value]
    base, data = made(folder)
    asked = ["finetune", base, "--data", data, "--method", METHOD, "--task", "chat", "--validation", "5"]
    asked += [
        "--columns",
        "completion=completion",
        *(word for key in TUNED for word in ("--set", f"{key}={TUNED[key]}")),
    ]
    alone, stopped, said = folder / "alone", folder / "stopped", folder / "said.txt"
    statuses = [type_in([*asked, "--out", str(alone)], folder / "alone.txt")]
    statuses.append(type_in([*asked, "--out", str(stopped)], said, step))
    steps = max(json.loads(line)["step"] for line in (stopped / "metrics.jsonl").read_text().splitlines())
    last = said.read_text().splitlines()[-1].strip()
    statuses.append(type_in(shlex.split(last)[1:], folder / "again.txt"))
    one, two = outcome(alone), outcome(stopped)
    differing = [name for name in sorted(one | two) if one.get(name) != two.get(name)]
    return {"statuses": statuses, "differing": differing, "said": last, "interrupted": steps}


def main() -> None:
    global METHOD
    folder, mode, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    METHOD = "".join(sys.argv[5 if mode == "random" else 4 :])
    if mode == "interrupt":
        print(json.dumps(interrupted_runs(folder, count)))
        return
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
