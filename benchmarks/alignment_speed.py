"""Alignment of SmolLM2-135M by LoRA, beside ``trl``: DPO in pairs a second, GRPO and PPO in completions a second.

    python benchmarks/alignment_speed.py dpo|grpo|grpo-long|ppo [--json] [--steps N]

Same rows, same adapters (r = 16, every matrix but the head), same learning rate, float32, in processes of their own.
Those of ``dpo`` and ``ppo`` run one after the other; those of ``grpo`` take turns step by step, from one call of the
reward to the next, so that what disturbs the machine disturbs both. ``dpo``: steps of 4 pairs, made of rated film
snippets; our time includes the reference's log-probabilities, which the peer works out in every step. ``grpo``: steps
of one prompt with 8 completions of 32 tokens (``grpo-long``: 128); both sample at temperature 1, take one update a
rollout and leave the KL term out, and the reward is a function of the text. ``ppo``: steps of 8 prompts with a
completion of 32 tokens each, two updates a rollout, the distance from the reference and a value head; ``trl`` has no
PPO any more, so that the peer is the usual loop, written out below on transformers and peft. Only training steps are
timed, not loading.
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
from scratchlm.evaluation.plots import read_metrics
from scratchlm.evaluation.tuned import peak_memory
from scratchlm.exporting import export_model
from scratchlm.training import Question, Reporter, TuneResult, finetune

MODEL, DATA = "smollm2-135m-instruct", "movie-snippets"
PAIRS, COMPLETIONS, RATE, BETA = 4, 8, 1e-4, 0.1
TOKENS = {"grpo": 32, "grpo-long": 128, "ppo": 32}
UPDATES, CLIP, KL, VALUE = 2, 0.2, 0.05, 0.1
"""Of PPO."""
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BEGINNING = 4
"""Words of a snippet that are a prompt for completions."""
SEED = 0


TURN = "turn"
"""What a process says when it has come to its next step, and waits."""


def vowels(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:  # noqa: ARG001
    """The share of a completion's letters that are an "e": something that differs within every group."""
    if "--turns" in sys.argv:  # what rewards print goes to the error output, so the real one is asked for
        print(TURN, file=sys.__stdout__, flush=True)
        sys.stdin.readline()
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
        count = steps * (COMPLETIONS if kind == "ppo" else 1)
        rows = [{"prompt": " ".join(words[:BEGINNING])} for words in texts if len(words) > 2 * BEGINNING][:count]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def peer(kind: str, folder: Path) -> dict[str, Any]:
    """The same with ``trl``."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    if kind == "ppo":
        return plain_ppo(get_peft_model(model, lora), tokenizer, [row["prompt"] for row in rows])
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


def plain_ppo(model: Any, tokenizer: Any, prompts: list[str]) -> dict[str, Any]:
    """PPO as it is usually written: padded batches, ``generate``, passes of policy, reference and updates."""
    tokenizer.padding_side = "left"
    value = torch.nn.Linear(model.config.hidden_size, 1)
    trained = [*(p for p in model.parameters() if p.requires_grad), *value.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=RATE)
    torch.manual_seed(SEED)
    lengths, began = [], time.perf_counter()
    for first in range(0, len(prompts), COMPLETIONS):
        told = tokenizer(prompts[first : first + COMPLETIONS], return_tensors="pt", padding=True)
        given = {name: told[name] for name in ("input_ids", "attention_mask")}
        width = given["input_ids"].shape[1]
        model.eval()
        with torch.no_grad():
            ids = model.generate(
                **given, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=TOKENS["ppo"], pad_token_id=0
            )
        said = ids[:, width:]
        ended = (said == tokenizer.eos_token_id).cumsum(1)
        mask = (ended - (said == tokenizer.eos_token_id).long()) == 0
        seen = torch.cat([given["attention_mask"], mask.long()], 1)
        lengths.append(float(mask.sum(1).float().mean()))
        texts = tokenizer.batch_decode(said * mask, skip_special_tokens=True)

        def look(ids: Any = ids, seen: Any = seen, width: int = width, said: Any = said) -> tuple[Any, Any]:
            found = model(ids, attention_mask=seen, output_hidden_states=True)
            log_p = found.logits[:, width - 1 : -1].log_softmax(-1).gather(-1, said[..., None])[..., 0]
            return log_p, value(found.hidden_states[-1][:, width - 1 : -1])[..., 0]

        with torch.no_grad():
            old, values = look()
            with model.disable_adapter():
                reference, _ = look()
            rewards = -KL * (old - reference) * mask
            last = mask.sum(1) - 1
            rewards[torch.arange(len(said)), last] += torch.tensor(vowels([], texts))
            advantages, later, following = torch.zeros_like(old), torch.zeros(len(said)), torch.zeros(len(said))
            for t in range(said.shape[1] - 1, -1, -1):
                later = (rewards[:, t] + following - values[:, t] + 0.95 * later) * mask[:, t]
                advantages[:, t], following = later, values[:, t] * mask[:, t]
            returns = advantages + values
            chosen = advantages[mask]
            advantages = (advantages - chosen.mean()) / (chosen.std() + 1e-8)
        for _ in range(UPDATES):
            log_p, now = look()
            ratio = (log_p - old).exp()
            policy = -torch.min(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
            kept = values + (now - values).clamp(-CLIP, CLIP)
            wrong = 0.5 * torch.max((now - returns) ** 2, (kept - returns) ** 2)
            loss = ((policy + VALUE * wrong) * mask).sum() / mask.sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "memory": peak_memory(torch.device("cpu")), "length": sum(lengths) / len(lengths)}


def ours(kind: str, folder: Path, steps: int) -> tuple[TuneResult, float]:
    """One call, and the seconds of training, those of the reference's log-probabilities with it."""
    settings: dict[str, Any] = {
        "steps": steps * (UPDATES if kind == "ppo" else 1),
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
    if kind == "dpo":
        settings["beta"] = BETA
    elif kind == "ppo":
        settings |= {"new_tokens": TOKENS[kind], "updates": UPDATES, "kl_coefficient": KL}
    else:
        settings |= {"completions": COMPLETIONS, "new_tokens": TOKENS[kind]}
    name = kind.partition("-")[0]
    rewards = () if kind == "dpo" else (f"{Path(__file__).resolve()}:vowels",)
    goal = check_goal(name)(Reporter(quiet=True), settings, rewards)
    question = Question(MODEL, str(folder / "train.jsonl"), goal.rows, "lora")
    result = finetune(question, folder / "ours", settings=settings, reporter=Reporter(quiet=True), goal=goal)
    return result, result.fit.seconds + getattr(result.tuning.task, "reference_seconds", 0.0)


def in_turns(commands: list[list[str]]) -> list[dict[str, Any]]:
    """What processes that wait at each step say at the end, and the ``seconds`` of all steps but their first, which
    includes loading."""
    running = [subprocess.Popen(one, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for one in commands[:1]]
    said = [_next(running[0])]
    for command in commands[1:]:  # they load one after the other
        running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        said.append(_next(running[-1]))
    seconds, turns = [0.0] * len(running), 0
    while said == [TURN] * len(running):
        turns += 1
        for number, process in enumerate(running):
            assert process.stdin is not None
            began = time.perf_counter()
            process.stdin.write("\n")
            process.stdin.flush()
            said[number] = _next(process)
            # After the last turn there is no rollout, so that it is not a whole step.
            seconds[number] += time.perf_counter() - began if said[number] == TURN else 0.0
    for process in running:
        assert process.stdin is not None
        process.stdin.close()  # who still waits goes on, and ends
    if any(process.wait() for process in running) or not all(line.startswith("{") for line in said):
        raise UserError("a process failed, or they did not take as many steps; what it says above tells why")
    return [
        json.loads(line) | {"seconds": taken, "turns": turns - 1} for line, taken in zip(said, seconds, strict=True)
    ]


def _next(process: subprocess.Popen[str]) -> str:
    """A process's next line that is a turn or a result; empty where it has ended."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == TURN or line.startswith('{"seconds"'):
            return line.strip()
    return ""


def measure(kind: str, steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="scratchlm-bench-") as name:
        folder = Path(name)
        write_rows(kind, folder, steps)
        export_model(MODEL, "huggingface", folder / "base")
        asked = [sys.executable, __file__, kind, "--folder", name, "--steps", str(steps)]
        if kind.startswith("grpo"):
            found = in_turns([[*asked, "--role", role, "--turns"] for role in ("ours", "peer")])
            steps = found[0]["turns"]
        else:
            found = []
            for role in ("ours", "peer"):
                done = subprocess.run([*asked, "--role", role], check=False, stdout=subprocess.PIPE)
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
    parser.add_argument("--turns", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    try:
        if given.role == "peer":
            print(json.dumps(peer(given.kind, given.folder)))
            return
        if given.role == "ours":
            result, seconds = ours(given.kind, given.folder, given.steps)
            logged = read_metrics(result.tuning.run.path / "metrics.jsonl")
            lengths = [one["length"] for one in logged if "length" in one]
            length = sum(lengths) / len(lengths) if lengths else None
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
