# %% [markdown]
# # Preferences
#
# Beside the chapter [Alignment](../alignment.md): a judge learns from ratings what people like.

# %%
import json
import tempfile
from pathlib import Path

from scratchlm import align

folder = Path(tempfile.mkdtemp())
liked, disliked = ("lovely", "bright", "warm", "fine"), ("dull", "cold", "sour", "weak")
rows = [
    {"text": f"the {thing} is {a} and {b} .", "rating": float((a in liked) + (b in liked))}
    for thing in ("film", "song", "book")
    for a in (*liked, *disliked)
    for b in (*liked, *disliked)
]
(folder / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

# %%
settings = {"method": "full", "steps": 40, "layers": 1, "width": 64, "learning_rate": 2e-3, "quiet": True}
judge = align("reward", "tinybert", folder / "rated.jsonl", folder / "judge", **settings)
report = json.loads((folder / "judge" / "report.json").read_text(encoding="utf-8"))
print(f"it prefers what people do in {report['after']['accuracy']:.0%} of held-out pairs")

# %% [markdown]
# DPO needs no judge. Its loss, of how much likelier than before the better and the worse answer have become:

# %%
import torch

for better, worse in ((0.0, 0.0), (1.0, -1.0), (-1.0, 1.0)):
    print(better, worse, round(-torch.nn.functional.logsigmoid(torch.tensor(better - worse)).item(), 3))
