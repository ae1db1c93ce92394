"""Fine-tuning SmolLM2-135M on short movie snippets, beside the tutorial's recipe with ``transformers`` and ``peft``.

    python benchmarks/finetune_speed.py full|lora|qlora [--json] [--rows N] [--held-out N] [--epochs N] [--same-rate]

Same rows, same held-out rows, same effective batch (8 x 8 rows), same epochs and schedule, float32; the learning rate
is the tutorial's, but for our adapters, which take our default (``--same-rate`` for the tutorial's in both). The recipe
(``Trainer``, rows padded to 128 tokens) and ours each run in a process of their own, one after the other, so
that each one's peak memory is its own. Rows a second are of the training steps alone: neither loading nor evaluation
counts. Both tuned models are then measured by the same code on the same held-out rows. The recipe masks padding, which
is the end-of-text token, so it never learns to stop: that token is left out of the perplexity that is compared, and
``perplexity_with_end_*`` say what it costs. ``qlora`` has the recipe's LoRA as its peer, whose library runs 4 bits on
GPUs alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from generate_speed import machine
from scratchlm.adapters import load_adapter, merge
from scratchlm.checkpoints.datasets import data_file
from scratchlm.data import IGNORE, encode_records, read_records, split_records
from scratchlm.errors import UserError
from scratchlm.evaluation.continuations import score_examples
from scratchlm.evaluation.tuned import peak_memory
from scratchlm.exporting import export_model
from scratchlm.opening import open_model

MODEL, DATA = "smollm2-135m-instruct", "movie-snippets"
BATCH, ACCUMULATION, LENGTH = 8, 8, 128
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")
"""What the tutorial's ``c_attn`` and ``c_proj`` match in GPT-2: the attention's matrices, and the last of the MLP."""
RATES = {"full": 2e-4, "lora": 1e-4, "qlora": 1e-4}
"""The tutorial's learning rates."""
OUR_RATES = {"full": 3e-4, "lora": 5e-4, "qlora": 5e-4}
"""Ours, unless ``--same-rate``: our default for adapters, a little more than theirs where rows have an end to learn."""
SEED = 0


def write_rows(folder: Path, rows: int, held_out: int) -> tuple[Path, Path]:
    """Rows to train on and rows to judge by, the same for both."""
    source = data_file(DATA)
    assert source is not None
    records = split_records(read_records(source, task="lm"), held_out, seed=SEED)
    assert records.validation is not None
    paths = folder / "train.jsonl", folder / "held_out.jsonl"
    for path, part in zip(paths, (records.train.rows[:rows], records.validation.rows), strict=True):
        path.write_text("".join(json.dumps({"text": row.text}) + "\n" for row in part), encoding="utf-8")
    return paths


def recipe(method: str, base: Path, data: Path, out: Path, epochs: int) -> dict[str, Any]:
    """The tutorial's chapters 5 and 6, as its readers run them."""
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if method != "full":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=list(TARGETS)))
    texts = [json.loads(line)["text"] for line in data.read_text(encoding="utf-8").splitlines()]
    encoded = tokenizer(texts, truncation=True, padding="max_length", max_length=LENGTH)
    rows = [{"input_ids": i, "attention_mask": m} for i, m in zip(encoded["input_ids"], encoded["attention_mask"])]  # noqa: B905
    arguments = TrainingArguments(
        output_dir=str(out / "trainer"),
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=ACCUMULATION,
        num_train_epochs=epochs,
        learning_rate=RATES[method],
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        seed=SEED,
        use_cpu=True,
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator)
    seconds = trainer.train().metrics["train_runtime"]
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {"rows_per_second": epochs * len(rows) / seconds, "memory": peak_memory(torch.device("cpu"))}


def ours(method: str, data: Path, held_out: Path, out: Path, epochs: int, rate: float) -> dict[str, Any]:
    """One command."""
    settings = {
        "epochs": epochs,
        "batch_size": BATCH,
        "accumulation": ACCUMULATION,
        "learning_rate": rate,
        "warmup_steps": 0,
        "max_length": LENGTH,
        "eval_prompts": 0,
        "targets": ",".join(TARGETS),
        "lora_dropout": 0.05,
    }
    pairs = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "scratchlm", "finetune", MODEL, "--data", str(data), "--method", method]
    done = subprocess.run(
        [*command, "--validation", str(held_out), "--out", str(out), *pairs, "--json"],
        check=False,
        stdout=subprocess.PIPE,
    )
    if done.returncode:
        raise UserError("our part of the benchmark failed; what it says above tells why")
    (report,) = json.loads(done.stdout)["runs"]
    return {"rows_per_second": report["rows_per_second"], "memory": report["peak_memory_bytes"]}


def perplexities(tuned: Path, held_out: Path, base: Path) -> dict[str, float]:
    """Of held-out rows, by the same code for both: of their words, and with the token that ends them."""
    if (tuned / "adapter_config.json").exists() and not (tuned / "scratchlm.json").exists():
        opened = open_model(base)
        load_adapter(opened.model, tuned)
        merge(opened.model)
    else:
        opened = open_model(tuned)
    tokenizer = open_model(MODEL, weights=False).tokenizer
    examples = encode_records(read_records(held_out, task="lm"), tokenizer, max_length=LENGTH)
    words = examples.targets.copy()
    words[examples.targets == tokenizer.eos_id] = IGNORE
    return {
        "words": score_examples(opened.model, replace(examples, targets=words))["perplexity"],
        "with_end": score_examples(opened.model, examples)["perplexity"],
    }


def measure(method: str, rows: int, held_out: int, epochs: int, same_rate: bool) -> dict[str, Any]:
    rate = (RATES if same_rate else OUR_RATES)[method]
    with tempfile.TemporaryDirectory(prefix="scratchlm-bench-") as name:
        folder = Path(name)
        train, held = write_rows(folder, rows, held_out)
        base = export_model(MODEL, "huggingface", folder / "base")
        own = ours(method, train, held, folder / "ours", epochs, rate)
        asked = [method, "--role", "peer", "--folder", str(folder), "--epochs", str(epochs)]
        done = subprocess.run([sys.executable, __file__, *asked], check=False, stdout=subprocess.PIPE)
        if done.returncode:
            raise UserError("the recipe failed; it needs: pip install transformers peft accelerate")
        peer = json.loads(done.stdout.splitlines()[-1])
        ours_, theirs = (perplexities(folder / who, held, base) for who in ("ours", "peer"))
        untuned = perplexities(base, held, base)
    return {
        "name": f"finetune-{method}",
        "unit": "rows/s",
        "ours": own["rows_per_second"],
        "peer": peer["rows_per_second"],
        "ratio": own["rows_per_second"] / peer["rows_per_second"],
        "perplexity_untuned": untuned["words"],
        "perplexity_ours": ours_["words"],
        "perplexity_peer": theirs["words"],
        "perplexity_with_end_ours": ours_["with_end"],
        "perplexity_with_end_peer": theirs["with_end"],
        "memory_ours_bytes": own["memory"],
        "memory_peer_bytes": peer["memory"],
        "memory_ratio": own["memory"] / peer["memory"],
        "rows": rows,
        "held_out": held_out,
        "epochs": epochs,
        "learning_rate_ours": rate,
        "learning_rate_peer": RATES[method],
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=sorted(RATES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--same-rate", action="store_true")
    parser.add_argument("--role", choices=("all", "peer"), default="all", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role == "peer":
        folder: Path = given.folder
        print(json.dumps(recipe(given.method, folder / "base", folder / "train.jsonl", folder / "peer", given.epochs)))
        return
    try:
        result = measure(given.method, given.rows, given.held_out, given.epochs, given.same_rate)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    if given.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:26} {value:,.3f}" if isinstance(value, float) else f"{key:26} {value}")


if __name__ == "__main__":
    main()
