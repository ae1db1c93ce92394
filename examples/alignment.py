"""Chapter "Alignment": a judge of small texts from ratings, and a writer that learns by GRPO to be judged well.

    python examples/alignment.py [STEPS]

40 steps of each, unless told otherwise. The runs are written into a temporary folder.
"""

import json
import random
import sys
import tempfile
from pathlib import Path

import scratchlm
from scratchlm import align

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 40
liked, disliked = ("lovely", "bright", "warm", "fine"), ("dull", "cold", "sour", "weak")
things = ("film", "song", "book", "play", "cake", "garden")


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    words = [*liked, *disliked]
    texts = [(f"the {thing} is {a} and {b} .", a, b) for thing in things for a in words for b in words]
    rated = [{"text": text, "rating": float((a in liked) + (b in liked))} for text, a, b in texts]
    data = write_rows(folder / "rated.jsonl", rated)
    small = {"layers": 1, "width": 64, "learning_rate": 2e-3}
    align("reward", "tinybert", data, folder / "judge", method="full", quiet=True, steps=2 * steps, **small)
    report = json.loads((folder / "judge" / "report.json").read_text(encoding="utf-8"))
    print(f"the judge prefers what people do in {report['after']['accuracy']:.0%} of held-out pairs")

    lines = [text for text, _, _ in texts]
    random.Random(0).shuffle(lines)
    (folder / "texts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    scratchlm.train("tinygpt", folder / "texts.txt", folder / "writer", tokenizer="word", steps=4 * steps, quiet=True)
    prompts = write_rows(
        folder / "prompts.jsonl", [{"prompt": f"the {thing} is {w}"} for thing in things for w in words]
    )
    given = {"steps": steps, "batch_size": 32, "new_tokens": 3, "learning_rate": 1e-3}
    judge = [str(folder / "judge")]
    learned = align(
        "grpo", str(folder / "writer"), prompts, folder / "happy", rewards=judge, method="full", quiet=True, **given
    )
    report = json.loads((folder / "happy" / "report.json").read_text(encoding="utf-8"))
    print(f"the judge's mean reward: {report['before']['reward']:.1f}, after GRPO {report['after']['reward']:.1f}")
    print(learned.generate("the film is", max_new_tokens=4, greedy=True)[0].text)
