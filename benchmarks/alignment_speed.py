"""Alignment of SmolLM2-135M by LoRA, beside ``trl``: DPO in pairs a second, GRPO in completions a second.

    python benchmarks/alignment_speed.py dpo|grpo|grpo-long [--json] [--steps N]

Same rows, same adapters (r = 16, every matrix but the head), same learning rate, float32, in processes of their own,
one after the other. ``dpo``: steps of 4 pairs, made of rated film snippets; our time includes the reference's
log-probabilities, which the peer works out in every step. ``grpo``: steps of one prompt with 8 completions of 32
tokens (``grpo-long``: 128); both sample at temperature 1, take one update a rollout and leave the KL term out, and the
reward is a function of the text. Only training steps are timed, not loading.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from generate_speed import machine
from scratchlm.alignment.goals import check_goal
from scratchlm.checkpoints.datasets import data_file
from scratchlm.data import read_records
from scratchlm.data.rated_pairs import Pairing
from scratchlm.errors import UserError
from scratchlm.evaluation.tuned import peak_memory
from scratchlm.exporting import export_model
from scratchlm.training import Question, Reporter, TuneResult, finetune

MODEL, DATA = "smollm2-135m-instruct", "movie-snippets"
PAIRS, COMPLETIONS, RATE, BETA = 4, 8, 1e-4, 0.1
TOKENS = {"grpo": 32, "grpo-long": 128}
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BEGINNING = 4
"""Words of a snippet that are a prompt for completions."""
SEED = 0


def vowels(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:  # noqa: ARG001
    """The share of a completion's letters that are an "e": something that differs within every group."""
    return [text.count("e") / max(1, len(text)) for text in completions]


def write_rows(kind: str, folder: Path, steps: int) -> None:
    """The rows that both learn from, as many as the steps take."""
    source = data_file(DATA)
    assert source is not None
    if kind == "dpo":
        records = read_records(source, task="preference")
        pairs = Pairing().pair(records.rows, SEED)
        rows = [{"prompt": "", "chosen": row.texts[0], "rejected": row.texts[1]} for row in pairs]
        rows = rows[:: len(rows) // (steps * PAIRS)][: steps * PAIRS]
    else:
        texts = [row.text.split() for row in read_records(source, task="lm").rows]
        rows = [{"prompt": " ".join(words[:BEGINNING])} for words in texts if len(words) > 2 * BEGINNING][:steps]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def peer(kind: str, folder: Path) -> dict[str, Any]:
    """The same with ``trl``."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    common: dict[str, Any] = {
        "output_dir": str(folder / "peer"),
        "num_train_epochs": 1,
        "learning_rate": RATE,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "seed": SEED,
    }
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
            times.append(time.perf_counter())

    if kind == "dpo":
        from trl import DPOConfig, DPOTrainer

        trainer = DPOTrainer(
            model=model,
            args=DPOConfig(per_device_train_batch_size=PAIRS, beta=BETA, max_length=128, **common),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[Clock()],
        )
    else:
        from trl import GRPOConfig, GRPOTrainer

        trainer = GRPOTrainer(
            model=model,
            reward_funcs=vowels,
            args=GRPOConfig(
                per_device_train_batch_size=COMPLETIONS,
                num_generations=COMPLETIONS,
                max_completion_length=TOKENS[kind],
                temperature=1.0,
                beta=0.0,
                **common,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[Clock()],
        )
    began = time.perf_counter()
    trainer.train()
    lengths = [one["completions/mean_length"] for one in trainer.state.log_history if "completions/mean_length" in one]
    return {
        "seconds": times[-1] - began,
        "first": times[0] - began,
        "memory": peak_memory(torch.device("cpu")),
        "length": sum(lengths) / len(lengths) if lengths else None,
    }


def ours(kind: str, folder: Path, steps: int) -> tuple[TuneResult, float]:
    """One call, and the seconds of training, those of the reference's log-probabilities with it."""
    settings: dict[str, Any] = {
        "steps": steps,
        "batch_size": PAIRS if kind == "dpo" else COMPLETIONS,
        "learning_rate": RATE,
        "validation_fraction": 0.0,
        "schedule": "linear",
        "warmup_steps": 0,
        "save_every": 100_000,
        "log_every": 1,
        "eval_prompts": 0,
        "max_length": 128,
    }
    settings |= {"beta": BETA} if kind == "dpo" else {"completions": COMPLETIONS, "new_tokens": TOKENS[kind]}
    name = "dpo" if kind == "dpo" else "grpo"
    rewards = () if kind == "dpo" else (f"{Path(__file__).resolve()}:vowels",)
    goal = check_goal(name)(Reporter(quiet=True), settings, rewards)
    question = Question(MODEL, str(folder / "train.jsonl"), goal.rows, "lora")
    result = finetune(question, folder / "ours", settings=settings, reporter=Reporter(quiet=True), goal=goal)
    return result, result.fit.seconds + getattr(result.tuning.task, "reference_seconds", 0.0)


def measure(kind: str, steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="scratchlm-bench-") as name:
        folder = Path(name)
        write_rows(kind, folder, steps)
        export_model(MODEL, "huggingface", folder / "base")
        found = []
        for role in ("ours", "peer"):
            asked = [sys.executable, __file__, kind, "--role", role, "--folder", name, "--steps", str(steps)]
            done = subprocess.run(asked, check=False, stdout=subprocess.PIPE)
            if done.returncode:
                raise UserError(f"{role} ended with status {done.returncode}; what it says above tells why")
            found.append(json.loads(done.stdout.splitlines()[-1]))
    own, other = found
    count = steps * (PAIRS if kind == "dpo" else COMPLETIONS)
    return {
        "name": kind,
        "unit": "pairs/s" if kind == "dpo" else "completions/s",
        "ours": count / own["seconds"],
        "peer": count / other["seconds"],
        "ratio": other["seconds"] / own["seconds"],
        "length_ours": own["length"],
        "length_peer": other["length"],
        "memory_ours_bytes": own["memory"],
        "memory_peer_bytes": other["memory"],
        "memory_ratio": own["memory"] / other["memory"],
        "steps": steps,
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("dpo", *TOKENS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--role", choices=("all", "ours", "peer"), default="all", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    try:
        if given.role == "peer":
            print(json.dumps(peer(given.kind, given.folder)))
            return
        if given.role == "ours":
            result, seconds = ours(given.kind, given.folder, given.steps)
            length = result.tuning.task.metrics().get("length")
            print(json.dumps({"seconds": seconds, "memory": peak_memory(torch.device("cpu")), "length": length}))
            return
        found = measure(given.kind, given.steps)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    if given.json:
        print(json.dumps(found))
        return
    for key, value in found.items():
        print(f"{key:26} {value:,.3f}" if isinstance(value, float) else f"{key:26} {value}")


if __name__ == "__main__":
    main()
