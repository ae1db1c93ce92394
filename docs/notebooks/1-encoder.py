# %% [markdown]
# # TinyBERT fills gaps
#
# Beside the chapter [Encoder-only models](../encoder.md). Few steps, so that it ends in seconds;
# the chapter takes more.

# %%
import tempfile
from pathlib import Path

import scratchlm

folder = Path(tempfile.mkdtemp())
model = scratchlm.train("tinybert", "rumi-life", folder / "bert", steps=60, batch_size=8, quiet=True)

# %% [markdown]
# Every word of every window is hidden in turn and guessed from the others.

# %%
scores = model.evaluate()
print(f"{scores['cross_entropy']:.2f} nats; no model can do better than {scores['floor_cross_entropy']:.2f}")

# %%
for word, probability in model.fill("Rumi was [MASK] on 30 September 1207, most", top_k=3)[0]:
    print(f"{word:12} {probability:.0%}")
