"""Align a tiny model, kill it with SIGKILL, resume it, and hold what is left against a run that was left alone.

    python killed_alignments.py FOLDER random COUNT SEED GOAL
    python killed_alignments.py FOLDER disk COUNT GOAL
    python killed_alignments.py FOLDER interrupt STEP GOAL

As ``killed_runs.py``, whose moments these are. A GOAL is reward, dpo, kto, grpo or ppo.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

import killed_runs
import tuned_models

import scratchlm.alignment.goals  # noqa: F401 - what takes long to import is not to be killed
from scratchlm import api

COMMON: dict[str, Any] = {
    **{"batch_size": 4, "steps": 12, "learning_rate": 1e-2, "rank": 2, "lora_dropout": 0.1, "device": "cpu"},
    **{"eval_every": 5, "save_every": 3, "log_every": 1},
}
SAMPLED: dict[str, Any] = {"batch_size": 8, "new_tokens": 4, "samples_every": 1, "updates": 2, "minibatches": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "reward": {},
    "dpo": {"plain_text": "none"},
    "kto": {"plain_text": "none", "loss": "kto"},
    "grpo": SAMPLED | {"completions": 2, "beta": 0.1},
    "ppo": SAMPLED | {"kl_target": 0.01, "kl_horizon": 50, "target_kl": 0.02},
}


def row_of(goal: str, number: int) -> dict[str, Any]:
    prompt, good, bad = (tuned_models.sentence(number + n, 1 + (number + n) % 4) for n in (0, 30, 60))
    if goal in ("reward", "dpo"):
        return {"prompt": prompt, "chosen": f" {good}", "rejected": f" {bad}"}
    if goal == "kto":
        return {"prompt": prompt, "completion": f" {good}", "label": number % 3 > 0}
    return {"prompt": prompt, "answer": good}


def files(folder: Path, goal: str) -> tuple[str, str, str]:
    """A model, rows and a reward."""
    base, data, reward = folder / "base", folder / "rows.jsonl", folder / "rewards.py"
    if not base.exists():
        tuned_models.save_model(base, "llama", dropout=0.1)
        tuned_models.write_rows(data, [row_of(goal, number) for number in range(20)])
        reward.write_text("def letters(prompts, completions): return [len(set(text)) for text in completions]\n")
    return str(base), str(data), f"{reward}:letters"


def run_to_end(out: Path, resume: bool) -> None:
    goal = killed_runs.METHOD
    base, data, reward = files(out.parent, goal)
    rewards = [reward] if goal in ("grpo", "ppo") else []
    settings = COMMON | SETTINGS[goal]
    verb = "dpo" if goal == "kto" else goal
    api.align(verb, base, data, out, rewards=rewards, resume=resume, quiet=True, **settings)


def interrupted(folder: Path, step: int, goal: str) -> dict[str, Any]:
    """An alignment with Ctrl-C in a step, gone on with by what it said, against one that was left alone."""
    base, data, reward = files(folder, goal)
    asked = ["align", "dpo" if goal == "kto" else goal, base, "--data", data, "--validation", "5"]
    asked += ["--reward", reward] if goal in ("grpo", "ppo") else []
    asked += [word for name, value in (COMMON | SETTINGS[goal]).items() for word in ("--set", f"{name}={value}")]
    alone, stopped, said = folder / "alone", folder / "stopped", folder / "said.txt"
    statuses = [killed_runs.type_in([*asked, "--out", str(alone)], folder / "alone.txt")]
    statuses.append(killed_runs.type_in([*asked, "--out", str(stopped)], said, step))
    steps = max(json.loads(line)["step"] for line in (stopped / "metrics.jsonl").read_text().splitlines())
    last = said.read_text().splitlines()[-1].strip()
    statuses.append(killed_runs.type_in(shlex.split(last)[1:], folder / "again.txt"))
    one, two = outcome(alone), outcome(stopped)
    differing = [name for name in sorted(one | two) if one.get(name) != two.get(name)]
    return {"statuses": statuses, "differing": differing, "said": last, "interrupted": steps}


def outcome(out: Path) -> dict[str, Any]:
    """What was sampled, too."""
    samples = out / "samples.jsonl"
    return found(out) | ({"samples.jsonl": samples.read_text(encoding="utf-8")} if samples.exists() else {})


if __name__ == "__main__":
    found = killed_runs.outcome
    killed_runs.run_to_end, killed_runs.outcome = run_to_end, outcome
    if sys.argv[2] == "interrupt":
        print(json.dumps(interrupted(Path(sys.argv[1]), int(sys.argv[3]), sys.argv[4])))
    else:
        killed_runs.main()
