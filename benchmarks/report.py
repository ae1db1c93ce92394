"""Write the measurements in ``benchmarks/results`` into the book's page on speed.

    python benchmarks/report.py            rewrite the table in docs/speed.md
    python benchmarks/report.py --check    exit with 1 where the page is out of date

Each file there is what ``scratchlm bench NAME --json`` printed, named NAME.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "speed.md"
PEERS = {
    "train-tinygpt": "textbook",
    "train-tinybert": "textbook",
    "generate-tinygpt": "the tutorial's loop",
    "time-to-loss": "nanoGPT's recipe",
    "decode": "llama.cpp",
    "prefill": "transformers",
    "batch-decode": "one stream",
    "prefix-reuse": "the first question",
    "finetune-full": "the tutorial's Trainer",
    "finetune-lora": "Trainer and PEFT",
    "finetune-qlora": "Trainer and PEFT, not in 4 bits",
    "classify": "transformers' Trainer",
    "entities": "transformers' Trainer",
    "dpo": "trl",
    "grpo": "trl",
    "grpo-long": "trl",
    "ppo": "a plain loop on transformers and PEFT",
    "index": "LangChain, transformers and FAISS",
    "constrain": "the same model, free",
    "serve": "one client",
    "embed": "transformers, padded batches of 32",
    "tokenize-stream": "tokenizers' batches",
}
OTHERS = {
    "ratio_nanogpt": "{} × nanoGPT's shape",
    "ratio_llama_cpp": "{} × llama.cpp",
    "ratio_transformers": "{} × transformers",
    "ratio_work": "{} × the bare passes",
    "ratio_passes": "{} × in passes",
    "ratio_int8": "{} × in 8 bits",
    "memory_ratio": "{} × the peer's memory",
    "first_token_ratio": "the first token (p95) after {} × the time",
}
"""What a result may hold beside ``ratio``, which is the peer's."""
BEGIN = "<!-- benchmarks: begin (written by benchmarks/report.py) -->"
END = "<!-- benchmarks: end -->"


def render(results: dict[str, dict[str, Any]]) -> str:
    """The table of all results and, below it, the machines they were taken on."""
    if not results:
        return "No measurements are kept here yet; `make bench` takes them."
    lines = ["| benchmark | ours | the peer | ratio | other ratios |", "| --- | --- | --- | --- | --- |"]
    machines: dict[str, list[str]] = {}
    for name, result in sorted(results.items()):
        unit = result.get("unit", "")
        others = {key: value for key in OTHERS if (value := result.get(key)) not in (None, result["ratio"])}
        lines.append(
            f"| `{name}` | {_number(result['ours'])} {unit} "
            f"| {PEERS.get(name, 'peer')}: {_number(result['peer'])} {unit} "
            f"| **{_number(result['ratio'])} ×** "
            f"| {'; '.join(OTHERS[key].format(_number(value)) for key, value in others.items()) or '–'} |"
        )
        machines.setdefault(_machine(result.get("machine", {})), []).append(f"`{name}`")
    lines.append("")
    lines += [f"Measured on {machine}: {', '.join(names)}." for machine, names in machines.items()]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    """Three figures, with commas where they are thousands; a dash where the peer was not installed."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _machine(machine: dict[str, Any] | str) -> str:
    if isinstance(machine, str):
        return machine
    return ", ".join(f"{key} {value}" if key != "cpu" else str(value) for key, value in sorted(machine.items()))


def updated(page: str, results: dict[str, dict[str, Any]]) -> str:
    """The page with its table as the results have it."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{render(results)}\n{END}{after}"


def read_results(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Those that compare speeds; others, such as shares of right answers, are told where the book speaks of them."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    return {name: result for name, result in found.items() if "ratio" in result}


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    new = updated(page, read_results())
    if "--check" not in sys.argv:
        PAGE.write_text(new, encoding="utf-8")
    elif new != page:
        sys.exit("docs/speed.md is out of date: run `python benchmarks/report.py`")
