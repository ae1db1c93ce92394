"""Chapter "Decoder-only models": train TinyGPT on the tutorial's 302 characters, measure it, and let it write.

    python examples/decoder.py [STEPS]

1,000 steps, the tutorial's number, unless told otherwise. The run is written into a temporary folder.
"""

import sys
import tempfile
from pathlib import Path

import scratchlm

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000

with tempfile.TemporaryDirectory() as folder:
    run = Path(folder) / "run"
    scratchlm.train("tinygpt", "rumi", run, steps=steps)
    model = scratchlm.load(run)  # as one would later, in another program

    figures = model.evaluate()
    print(f"cross-entropy {figures['cross_entropy']:.4f} nats, {figures['bits_per_character']:.4f} bits per character")
    print(f"no model can do better than {figures['floor_cross_entropy']:.4f} nats on this text")

    (text,) = model.generate("Rumi", max_new_tokens=120, temperature=0.8, top_k=50, seed=0)
    print(text.text)

    # As it writes, token by token:
    model.generate("Jalāl", stop=".", seed=1, on_text=lambda _number, piece: print(piece, end="", flush=True))
    print()
