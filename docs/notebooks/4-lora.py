# %% [markdown]
# # LoRA
#
# Beside the chapter [Adapters](../adapters.md): a few numbers learn a second text, and the base stays as it was.

# %%
import hashlib
import json
import tempfile
from pathlib import Path

import scratchlm
from scratchlm.data.corpora import corpus_text

folder = Path(tempfile.mkdtemp())
scratchlm.train("tinygpt", "rumi-life", folder / "base", steps=60, batch_size=8, quiet=True)
words = corpus_text("rumi-life").split()
rows = [{"text": " ".join(reversed(words[n : n + 6]))} for n in range(len(words) - 6)]
(folder / "reversed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

# %%
weights = folder / "base" / "model.safetensors"
before = hashlib.sha256(weights.read_bytes()).hexdigest()
settings = {"steps": 40, "rank": 8, "eval_prompts": 0, "quiet": True}
scratchlm.finetune(str(folder / "base"), folder / "reversed.jsonl", folder / "tuned", **settings)
assert hashlib.sha256(weights.read_bytes()).hexdigest() == before

# %%
report = json.loads((folder / "tuned" / "report.json").read_text(encoding="utf-8"))
print(f"perplexity {report['before']['perplexity']:.1f}, tuned {report['after']['perplexity']:.1f}")
sizes = {name: (folder / name).stat().st_size for name in ("base/model.safetensors", "tuned/adapter_model.safetensors")}
print(sizes)
