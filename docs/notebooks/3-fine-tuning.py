# %% [markdown]
# # Fine-tuning a classifier
#
# Beside the chapter [Fine-tuning](../fine-tuning.md): what praise is, learned from rows with a label.

# %%
import json
import tempfile
from pathlib import Path

import scratchlm

folder = Path(tempfile.mkdtemp())
praise, blame = ("lovely", "bright", "warm"), ("dull", "cold", "sour")
rows = [
    {"text": f"a {word} {thing} , {other}", "label": label}
    for label, words in (("good", praise), ("bad", blame))
    for word in words
    for other in words
    for thing in ("film", "song", "book", "play")
]
(folder / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

# %%
settings = {"method": "full", "steps": 60, "layers": 1, "learning_rate": 0.002, "quiet": True}
model = scratchlm.finetune("tinybert", folder / "reviews.jsonl", folder / "tuned", **settings)
for found in model.predict(["a warm play , bright", "a sour song"]):
    print(f"{found.text}: {found.label}, {found.probability:.0%}")
