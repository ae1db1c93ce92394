"""Chapter "Encoder-only models": train TinyBERT on a life of Rumi, measure it, and let it fill gaps.

    python examples/encoder.py [STEPS]

1,000 steps, the tutorial's number, unless told otherwise. The run is written into a temporary folder.
"""

import sys
import tempfile
from pathlib import Path

import scratchlm

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000

with tempfile.TemporaryDirectory() as folder:
    model = scratchlm.train("tinybert", "rumi-life", Path(folder) / "run", steps=steps)

    # Every word of every window of 8 is hidden in turn, and guessed from the other seven.
    figures = model.evaluate()
    print(f"cross-entropy {figures['cross_entropy']:.4f} nats, accuracy {figures['accuracy']:.1%}")
    print(f"no model can do better than {figures['floor_cross_entropy']:.4f} nats on this text")

    for text in ("Rumi was [MASK] on 30 September 1207, most", "Rumi died on 17 [MASK] 1273; Muslims, Christians"):
        for word, probability in model.fill(text, top_k=3)[0]:
            print(f"{text.replace('[MASK]', f'<{word}>')}   {probability:.1%}")
