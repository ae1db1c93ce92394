"""Speed of text vectors: 1,400 abstracts through all-MiniLM-L6-v2, beside ``transformers`` in batches of 32.

    python benchmarks/embed_speed.py [--json] [--texts N] [--model NAME]

The peer is what its users write: the tokenizer pads 32 texts, in the file's order, to their longest and cuts them at
256 tokens, the model runs, the states are averaged under the mask and normalised. Ours is ``Embedder.embed``, in
float32 and in 8 bits. Tokenising counts for all. They take turns on slices of 64 texts, so that what disturbs the
machine disturbs all of them; the ratios are of the sums. The texts are CISI's titles and abstracts, which lie in
``../shared/data/cisi``, seen from the clone.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from generate_speed import machine
from scratchlm import kernels
from scratchlm.errors import UserError
from scratchlm.opening import open_model
from scratchlm.retrieval import Embedder

ABSTRACTS = Path(__file__).resolve().parents[2] / "shared" / "data" / "cisi" / "CISI.ALL"
SLICE, BATCH, LONGEST = 64, 32, 256
Embed = Callable[[Sequence[str]], NDArray[np.float32]]


def read_abstracts(path: Path) -> list[str]:
    """Title and abstract of each document of a file in SMART's format."""
    if not path.is_file():
        raise UserError(f"{path} is missing; put the CISI collection (CISI.ALL) there")
    documents = re.split(r"^\.I \d+\s*$", path.read_text(encoding="latin-1"), flags=re.MULTILINE)[1:]
    texts = []
    for document in documents:
        marks = list(re.finditer(r"^\.([A-Z])\s*$", document, flags=re.MULTILINE))
        fields = {
            mark[1]: document[mark.end() : None if after is None else after.start()]
            for mark, after in pairwise([*marks, None])
            if mark is not None
        }
        texts.append(" ".join(f"{fields.get('T', '')} {fields.get('W', '')}".split()))
    return texts


def peer(folder: Path) -> Embed:
    """``transformers`` and four lines of PyTorch."""
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        raise UserError("the peer, transformers, is missing; run: pip install transformers") from None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        parts = []
        for first in range(0, len(texts), BATCH):
            batch = tokenizer(
                list(texts[first : first + BATCH]),
                padding=True,
                truncation=True,
                max_length=LONGEST,
                return_tensors="pt",
            )
            states = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1).float()
            mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            parts.append(torch.nn.functional.normalize(mean, dim=1))
        return torch.cat(parts).numpy()

    return embed


def ours(embedder: Embedder) -> Embed:
    return lambda texts: embedder.embed(texts).vectors


def measure(name: str, count: int) -> dict[str, Any]:
    """Texts a second of all three, the ratios, and how close the vectors are."""
    texts = read_abstracts(ABSTRACTS)[:count]
    opened = open_model(name)
    contestants = {
        "peer": peer(opened.located.path),
        "ours": ours(Embedder.open(opened, "fp32", device="cpu")),
        "int8": ours(Embedder.open(opened, "int8", device="cpu")),
    }
    for embed in contestants.values():
        embed(texts[:BATCH])
    seconds = dict.fromkeys(contestants, 0.0)
    vectors: dict[str, list[NDArray[np.float32]]] = {who: [] for who in contestants}
    for first in range(0, len(texts), SLICE):
        for who, embed in contestants.items():
            start = time.perf_counter()
            vectors[who].append(embed(texts[first : first + SLICE]))
            seconds[who] += time.perf_counter() - start
        so_far = f"{seconds['peer'] / seconds['ours']:.2f} x, int8 {seconds['peer'] / seconds['int8']:.2f} x"
        print(f"{min(first + SLICE, len(texts)):,} of {len(texts):,} texts: {so_far}", file=sys.stderr)
    found = {who: np.concatenate(parts) for who, parts in vectors.items()}
    return {
        "benchmark": "embed",
        "ratio": seconds["peer"] / seconds["ours"],
        "ratio_int8": seconds["peer"] / seconds["int8"],
        **{who: len(texts) / seconds[who] for who in contestants},
        "unit": "texts/s",
        "max_difference": float(np.abs(found["ours"] - found["peer"]).max()),
        "cosine_int8": float((found["int8"] * found["ours"]).sum(1).min()),
        "texts": len(texts),
        "kernels": kernels.status().split(" (")[0],
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--texts", type=int, default=1400, help="so many abstracts (1400)")
    parser.add_argument("--model", default="all-minilm-l6-v2")
    options = parser.parse_args()
    if options.texts < 1:
        parser.error("--texts must be at least 1")
    try:
        result = measure(options.model, options.texts)
    except UserError as error:
        sys.exit(f"error: {error}")
    if options.json:
        print(json.dumps(result))
    else:
        print(
            f"embed: {result['ours']:,.1f} texts/s, int8 {result['int8']:,.1f}, transformers {result['peer']:,.1f}: "
            f"{result['ratio']:.2f} x and {result['ratio_int8']:.2f} x; largest difference "
            f"{result['max_difference']:.1e}, smallest cosine of int8 {result['cosine_int8']:.4f}"
        )


if __name__ == "__main__":
    main()
