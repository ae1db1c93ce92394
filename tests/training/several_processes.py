"""One process of trainings in a row; the environment says which, as it does under torchrun, or that it is alone.

python several_processes.py '[{"out": FOLDER, "method": "full|lora|qlora", "sharding": "none|full", "settings": {...},
    "resume": false, "interrupt": STEP, "copies": [FOLDER, ...], "trouble": "kill|disk"}, ...]'

Each leaves final-RANK.safetensors and ended-RANK.json in its folder, and copies of the folder where asked for.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from scratchlm.adapters import LoraSettings, add_lora, quantise_base
from scratchlm.adapters.run import AdapterRun
from scratchlm.checkpoints import RunFolder, model_tensors, shards
from scratchlm.data import IGNORE, Examples, Plan
from scratchlm.data.records import Skipped
from scratchlm.errors import UserError
from scratchlm.models import ModelConfig, build_model
from scratchlm.training import TrainConfig, fit
from scratchlm.training.distributed import World, world
from scratchlm.training.tasks import FineTune

SETTINGS: dict[str, Any] = {
    **{"steps": 4, "batch_size": 2, "accumulation": 2, "learning_rate": 1e-2, "epsilon": 1e-4, "weight_decay": 0.1},
    **{"eval_every": 2, "save_every": 2, "log_every": 1, "device": "cpu"},
}
SHAPE: dict[str, Any] = {
    **{"vocab_size": 23, "context": 16, "width": 16, "layers": 2, "heads": 2, "kv_heads": 1, "dropout": 0.0},
    **{"positions": "rotary", "norm": "rmsnorm", "activation": "swiglu", "tied_embeddings": True, "head_bias": False},
    "init_std": 0.1,
}


def plan(lengths: list[int], rows: int) -> Plan:
    """Rows of these lengths, two thirds of them learned from; a pass takes 16 tokens."""
    generator = np.random.default_rng(0)
    offsets = np.cumsum([0, *lengths])
    ids = generator.integers(1, 23, offsets[-1]).astype(np.uint32)
    targets = np.append(ids[1:], 0).astype(np.int32)
    targets[generator.random(len(ids)) < 1 / 3] = IGNORE
    targets[offsets[1:] - 1] = IGNORE
    return Plan(Examples("lm", ids, targets, offsets, np.arange(len(lengths)), (), 16, 0, Skipped()), rows, 16)


# Nine rows, four a step: of every third step one process has a row and the other none; the others' passes differ too.
TRAIN, HELD_OUT = plan([16, 3, 9, 14, 5, 12, 4, 15, 7], 4), plan([6, 11, 16, 4, 9], 2)


class Tuning(FineTune):
    """With a Ctrl-C in one step, felt by the last process alone."""

    interrupt: int | None = None

    def work(self, step: int, rows: int, passes: int, place: World, generator: torch.Generator) -> Any:
        if step + 1 == self.interrupt and place.rank == place.size - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return super().work(step, rows, passes, place, generator)


def train(job: dict[str, Any], place: World) -> None:
    out, method, resume = Path(job["out"]), job["method"], job.get("resume", False)
    torch.manual_seed(place.rank)  # the processes differ, and the main one's weights count
    model = build_model(ModelConfig(**SHAPE))
    if method == "qlora":
        torch.manual_seed(0)
        model = build_model(ModelConfig(**SHAPE))
        quantise_base(model, "nf4")
    if method != "full":
        add_lora(model, LoraSettings(rank=1, dora=method == "lora"))
    run = RunFolder(out) if method == "full" else AdapterRun(out, "a base")
    task = Tuning(TRAIN, HELD_OUT)
    task.interrupt = job.get("interrupt")
    config = TrainConfig(**SETTINGS | {"sharding": job.get("sharding", "none")} | job.get("settings", {}))
    if place.main:
        run.start(resume=resume)
    place.barrier()
    try:
        result = fit(model, task, config, run, place=place, resume=resume)
        ended = {"steps": result.steps, "stopped": result.stopped, "best": result.best_loss}
        tensors = {name: tensor.detach().contiguous() for name, tensor in model_tensors(model).items()}
        save_file(tensors, out / f"final-{place.rank}.safetensors")
    except UserError as error:
        ended = {"error": str(error)}
    (out / f"ended-{place.rank}.json").write_text(json.dumps(ended))
    place.barrier()
    run.close()
    for copy in job.get("copies", []) if place.main else []:
        shutil.copytree(out, copy)
    place.barrier()


def make_trouble(kind: str, rank: int) -> None:
    """At the second checkpoint the main process is killed before it is named, or the other one finds the disk full."""
    write, before, calls = shards.write_shards, shards.HuggingFaceStorageWriter.write_data, 0

    def writing(folder: Path, tensors: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2 and kind == "disk" and rank == 1:
            shards.HuggingFaceStorageWriter.write_data = refuse  # type: ignore[method-assign]
        write(folder, tensors)
        if calls == 2 and kind == "kill" and rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def refuse(*_arguments: Any) -> Any:
        shards.write_shards, shards.HuggingFaceStorageWriter.write_data = write, before  # type: ignore[method-assign]
        raise OSError(errno.ENOSPC, "No space left on device")

    shards.write_shards = writing


def main(jobs: list[dict[str, Any]]) -> None:
    with world("cpu") as place:
        for job in jobs:
            if "trouble" in job:
                make_trouble(job["trouble"], place.rank)
            train(job, place)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
