# %% [markdown]
# # TinyGPT writes
#
# Beside the chapter [Decoder-only models](../decoder.md).

# %%
import tempfile
from pathlib import Path

import torch

import scratchlm
from scratchlm.data.corpora import corpus_text
from scratchlm.models import build_model, model_preset
from scratchlm.tokenizers.training import train_tokenizer

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# The causal mask first: of a model that has learned nothing yet, who looks at whom.

# %%
characters = train_tokenizer("char", [corpus_text("rumi")])
untrained = build_model(model_preset("tinygpt", characters.vocab_size)).eval()
weights = untrained.attention_maps(torch.tensor([characters.encode("Sufi")]))[0][0, 0]
print(weights.round(decimals=2))
assert torch.equal(weights.triu(1), torch.zeros_like(weights)), "nobody looks ahead"

# %% [markdown]
# Then training, and what it writes.

# %%
model = scratchlm.train("tinygpt", "rumi", folder / "gpt", steps=60, batch_size=8, quiet=True)
print(f"{model.evaluate()['cross_entropy']:.2f} nats a character")
print(model.generate("Rumi", max_new_tokens=80, temperature=0.8, seed=1)[0].text)
