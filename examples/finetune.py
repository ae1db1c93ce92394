"""Chapters "Fine-tuning" and "Adapters": teach TinyGPT a second text by LoRA, and TinyBERT what praise is.

    python examples/finetune.py [STEPS]

60 steps of each tuning, unless told otherwise. The runs are written into a temporary folder.
"""

import json
import sys
import tempfile
from pathlib import Path

import scratchlm
from scratchlm.data.corpora import corpus_text

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 60


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)

    # A small base, and rows that it has never seen: six words of its text each, in reverse.
    scratchlm.train("tinygpt", "rumi-life", folder / "base", steps=2 * steps, quiet=True)
    words = corpus_text("rumi-life").split()
    rows = [{"text": " ".join(reversed(words[n : n + 6]))} for n in range(len(words) - 6)]
    data = write_rows(folder / "reversed.jsonl", rows)
    scratchlm.finetune(str(folder / "base"), data, folder / "tuned", steps=steps, rank=8, eval_prompts=0, quiet=True)
    report = json.loads((folder / "tuned" / "report.json").read_text(encoding="utf-8"))
    print(
        f"perplexity of held-out rows: {report['before']['perplexity']:.1f}, tuned {report['after']['perplexity']:.1f}"
    )
    print(sorted(path.name for path in (folder / "tuned").iterdir() if path.name.startswith("adapter")))

    # A preset has learned nothing yet: it is made anew, tokenizer and all, and every weight is trained.
    praise, blame = ("lovely", "bright", "warm"), ("dull", "cold", "sour")
    rows = [
        {"text": f"a {word} {thing} , {other}", "label": label}
        for label, words in (("good", praise), ("bad", blame))
        for word in words
        for other in words
        for thing in ("film", "song", "book", "play")
    ]
    data = write_rows(folder / "reviews.jsonl", rows)
    model = scratchlm.finetune(
        "tinybert", data, folder / "reviews", method="full", steps=steps, layers=1, learning_rate=0.002, quiet=True
    )
    for found in model.predict(["a warm play , bright", "a sour song"]):
        print(f"{found.text}: {found.label}, {found.probability:.0%}")
