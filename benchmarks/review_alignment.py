"""PPO and GRPO on film reviews, from nothing: a decoder, a reward model, a judge that knows neither, and policies.

    python benchmarks/review_alignment.py FOLDER [--json] [--seeds 1,2,3] [--goals ppo,grpo]

1. ``base``: a decoder of 5 M parameters learns sentences of half of the IMDB reviews.
2. ``rm``: a reward model (MiniLM) learns which of two rated film snippets people like better.
3. ``judge``: a classifier (MiniLM) learns to tell the ends of the other half of the reviews. It has seen nothing that
   the reward model has, so that what pleases both is no trick that fools one.
4. ``ppo-1``, ``grpo-1``, ...: the decoder learns to continue beginnings of sentences so that the reward model likes it.

Printed are, of 400 held-out beginnings continued at temperature 1 before and after: the share that the judge calls
positive, the share of different pairs of words (distinct-2) and of tokens, the mean reward and the nats a completion
that the policy has left the decoder by. Each part is kept in FOLDER and not done again. About an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path
from typing import Any

import scratchlm
from generate_speed import machine
from scratchlm.alignment.reward_model import RewardModel
from scratchlm.alignment.rollouts import sample_rollouts
from scratchlm.alignment.watching import distinct_2
from scratchlm.checkpoints.datasets import data_file
from scratchlm.data import read_records
from scratchlm.errors import UserError
from scratchlm.evaluation.tuned import read_report
from scratchlm.opening import open_model

ENCODER, BEGINNING, NEW_TOKENS = "all-minilm-l6-v2", 3, 32
HELD_OUT, SENTENCES, PROMPTS, ENDS = 400, 70_000, 3_000, 9_000
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {"learning_rate": 3e-4, "kl_coefficient": 0.2, "updates": 2, "minibatches": 2, "steps": 320},
    "grpo": {"learning_rate": 4e-4, "beta": 0.1, "steps": 130},
}
"""Of each goal. The price of leaving the decoder is what keeps the texts varied: at half of it PPO's distinct-2 falls
below 0.6 of the start, at twice as much the judge is pleased with 0.81."""


def write_rows(folder: Path) -> None:
    """Sentences and beginnings from every other review, and the ends of the others with their labels."""
    source = data_file("imdb")
    if source is None:
        raise UserError("the reviews are not on this machine; fetch them with: scratchlm models pull imdb")
    rows = read_records(source, task="classify").rows
    reviews = [(_sentences(row.text), row.labels[0]) for row in rows]
    generator = random.Random(0)
    sentences = [one for whole, _ in reviews[::2] for one in whole if _plain(one)]
    generator.shuffle(sentences)
    held_out, rest = sentences[:HELD_OUT], sentences[HELD_OUT:]
    ends = [{"text": _end(whole), "label": label} for whole, label in reviews[1::2]]
    generator.shuffle(ends)
    files: dict[str, list[dict[str, str]]] = {
        "sentences-held": [{"text": one} for one in held_out],
        "sentences": [{"text": one} for one in rest[:SENTENCES]],
        "prompts-held": [{"prompt": _beginning(one)} for one in held_out],
        "prompts": [{"prompt": _beginning(one)} for one in rest[SENTENCES : SENTENCES + PROMPTS]],
        "judge": ends[:ENDS],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, some in files.items():
        text = "".join(json.dumps(row) + "\n" for row in some)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def _beginning(sentence: str) -> str:
    return " ".join(sentence.split()[:BEGINNING])


def _sentences(text: str) -> list[str]:
    plain = " ".join(re.sub(r"<br ?/?>", " ", text).split())
    return re.split(r"(?<=[.!?]) +", plain)


def _plain(one: str) -> bool:
    """Whether a sentence is of middling length, and whole."""
    whole = 8 <= len(one.split()) <= 28 and one[0].isupper() and one[-1] in ".!?"
    return whole and one.isascii() and '"' not in one and "(" not in one


def _end(sentences: list[str]) -> str:
    """The last words of a review, where it says what it thinks: whole sentences, about 40 words of them."""
    chosen: list[str] = []
    for one in reversed(sentences):
        if chosen and len(" ".join([one, *chosen]).split()) > 40:
            break
        chosen.insert(0, one)
    return " ".join(" ".join(chosen).split()[:60])


def prepare(folder: Path) -> None:
    """What the policies start from and are judged by."""
    if not (folder / "judge.jsonl").exists():
        write_rows(folder)
    shape = {"depth": 4, "max_length": 64, "tokenizer_vocab_size": 4096, "optimizer": "muon", "learning_rate": 2e-3}
    if _missing(folder / "base"):
        scratchlm.finetune(
            *("modern", folder / "sentences.jsonl", folder / "base"),
            **{"task": "lm", "method": "full", "validation": folder / "sentences-held.jsonl"},
            **{"batch_size": 64, "epochs": 1, "eval_every": 400, **shape},
            resume=_begun(folder / "base"),
        )
    if _missing(folder / "rm"):
        scratchlm.align(
            *("reward", ENCODER, "movie-snippets", folder / "rm"),
            **{"method": "full", "steps": 220, "learning_rate": 1e-4, "batch_size": 32, "max_length": 96},
            eval_every=100_000,
            resume=_begun(folder / "rm"),
        )
    if _missing(folder / "judge"):
        scratchlm.finetune(
            *(ENCODER, folder / "judge.jsonl", folder / "judge"),
            **{"task": "classify", "method": "full", "validation": 600, "epochs": 1, "learning_rate": 1e-4},
            **{"max_length": 72, "batch_size": 32, "eval_every": 100},
            resume=_begun(folder / "judge"),
        )


def _missing(run: Path) -> bool:
    """Whether a run has not come to its end, when its report says what it is like after."""
    return not (run / "report.json").exists() or "after" not in read_report(run)


def _begun(run: Path) -> bool:
    return (run / "scratchlm.json").exists()


def learn(goal: str, seed: int, folder: Path) -> Path:
    """One policy."""
    run = folder / f"{goal}-{seed}"
    if _missing(run):
        scratchlm.align(
            *(goal, str(folder / "base"), folder / "prompts.jsonl", run),
            **{"method": "full", "validation": folder / "prompts-held.jsonl", "rewards": [str(folder / "rm")]},
            **{"batch_size": 128, "new_tokens": NEW_TOKENS, "max_length": 32, "eval_prompts": HELD_OUT, "seed": seed},
            **{"save_every": 100, "resume": _begun(run), **SETTINGS[goal]},
        )
    return run


def judged(run: Path, folder: Path, judge: Any, reward: RewardModel) -> dict[str, float]:
    """What a run says to the held-out beginnings."""
    opened = open_model(run)
    rows = read_records(folder / "prompts-held.jsonl", task="rollout").rows
    prompts = [row.prompt for row in rows]
    found = sample_rollouts(
        *(opened.model.eval(), opened.tokenizer, [opened.tokenizer.encode(prompt) for prompt in prompts]),
        **{"max_new_tokens": NEW_TOKENS, "seed": 1},
    )
    texts = [one.text for one in found]
    labels = [one.label for one in judge.predict([a + b for a, b in zip(prompts, texts, strict=True)])]
    return {
        "positive": labels.count("positive") / len(labels),
        "distinct_2": distinct_2([text.split() for text in texts]),
        "distinct_2_tokens": distinct_2([one.completion for one in found]),
        "reward": sum(reward(prompts, texts)) / len(texts),
        "tokens": sum(len(one.completion) for one in found) / len(found),
    }


def measure(folder: Path, goals: list[str], seeds: list[int]) -> dict[str, Any]:
    prepare(folder)
    runs = {f"{goal}-{seed}": learn(goal, seed, folder) for goal in goals for seed in seeds}
    judge, reward = scratchlm.load(folder / "judge"), RewardModel.load(folder / "rm")
    start = judged(folder / "base", folder, judge, reward)
    found: dict[str, Any] = {"name": "reviews", "start": start}
    for name, run in runs.items():
        report = read_report(run)
        after = judged(run, folder, judge, reward)
        ratios = {f"{name}_ratio": after[name] / start[name] for name in ("distinct_2", "distinct_2_tokens")}
        found[name] = {**after, **ratios, "kl": report["after"]["kl"], "seconds": report["seconds"]}
    found["reward_model_accuracy"] = read_report(folder / "rm")["after"]["accuracy"]
    found["judge_accuracy"] = read_report(folder / "judge")["after"]["accuracy"]
    return {**found, "machine": machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--goals", default="ppo,grpo")
    given = parser.parse_args()
    try:
        found = measure(given.folder, given.goals.split(","), [int(seed) for seed in given.seeds.split(",")])
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        told = (
            "  ".join(f"{key} {one:,.3f}" for key, one in value.items())
            if isinstance(value, dict) and name != "machine"
            else value
        )
        print(f"{name:24} {told}")


if __name__ == "__main__":
    main()
