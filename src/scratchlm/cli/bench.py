"""``scratchlm bench``."""

from __future__ import annotations

import difflib
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from scratchlm.cli.output import Json
from scratchlm.errors import UserError

BENCHMARKS: dict[str, tuple[str, ...]] = {
    "train-tinygpt": ("train_speed.py", "train-tinygpt"),
    "train-tinybert": ("train_speed.py", "train-tinybert"),
    "generate-tinygpt": ("generate_speed.py",),
    "time-to-loss": ("time_to_loss.py",),
    "decode": ("inference_speed.py", "decode"),
    "prefill": ("inference_speed.py", "prefill"),
    "batch-decode": ("inference_speed.py", "batch-decode"),
    "prefix-reuse": ("inference_speed.py", "prefix-reuse"),
    "constrain": ("constrain_speed.py",),
    "embed": ("embed_speed.py",),
    "finetune-full": ("finetune_speed.py", "full"),
    "finetune-lora": ("finetune_speed.py", "lora"),
    "finetune-qlora": ("finetune_speed.py", "qlora"),
    "classify": ("classify_speed.py", "sentiment"),
    "entities": ("classify_speed.py", "entities"),
    "dpo": ("alignment_speed.py", "dpo"),
    "grpo": ("alignment_speed.py", "grpo"),
    "grpo-long": ("alignment_speed.py", "grpo-long"),
    "ppo": ("alignment_speed.py", "ppo"),
    "index": ("retrieval_speed.py", "index"),
    "search": ("retrieval_speed.py", "search"),
    "edit": ("retrieval_speed.py", "edit"),
    "search-quality": ("retrieval_quality.py",),
    "answers": ("answer_quality.py",),
    "agent-tasks": ("agent_tasks.py",),
    "agent-overhead": ("agent_overhead.py",),
    "serve": ("serving_speed.py",),
    "serve-soak": ("serving_soak.py",),
}
"""Each name's program in the clone's benchmarks folder, and what to call it with."""


def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help=", ".join(BENCHMARKS) + ".", show_default=False)],
    json: Json = False,
) -> None:
    """Measure our speed beside its peers', in one process, turn by turn."""
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(BENCHMARKS)}"
        raise UserError(f"there is no benchmark {name!r}; {hint}")
    program, *arguments = BENCHMARKS[name]
    script = _folder() / program
    command = [sys.executable, str(script), *arguments, *(["--json"] if json else [])]
    status = subprocess.run(command, check=False).returncode
    if status:
        raise UserError(f"{script.name} ended with status {status}; what it says above tells why")


def _folder() -> Path:
    """The clone's benchmarks: of the clone that this package is run from, or the one that we stand in."""
    here = Path.cwd()
    for clone in (Path(__file__).resolve().parents[3], here, *here.parents):
        if (clone / "benchmarks" / "textbook.py").is_file():
            return clone / "benchmarks"
    raise UserError("the benchmarks are not installed with the package; run this inside a clone of the project")
