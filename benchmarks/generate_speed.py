"""Generation speed of TinyGPT, one stream, beside the tutorial's loop.

    python benchmarks/generate_speed.py [--json] [--rounds N]

Both models have the tutorial's shape (4 layers, width 128, context 64, 48 characters) and the same weights, and both
draw 400 tokens at temperature 0.8 and top-k 50 from the tutorial's prompt; ours with the public ``generate``, text and
all. The tutorial's loop is written as its section 4.4.1 prints it. Rounds alternate in one process; the figures are
medians. Before any timing both are shown to give the same logits.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from typing import Any

import torch
from torch.nn import functional as F

from scratchlm import kernels
from scratchlm.data.corpora import corpus_text
from scratchlm.doctor import processor
from scratchlm.generation.generate import generate
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.models import Decoder, build_model, model_preset
from scratchlm.tokenizers import Tokenizer, train_tokenizer
from textbook import TextbookModel

PROMPT, TOKENS = "Jalāl ", 400


def tutorial_generate(model: TextbookModel, tokenizer: Tokenizer, block_size: int) -> str:
    """The tutorial's loop: the last ``block_size`` tokens through the whole model for every new one."""
    ids = torch.tensor(tokenizer.encode(PROMPT)).unsqueeze(0)
    with torch.no_grad():
        for _ in range(TOKENS):
            logits, _ = model(ids[:, -block_size:])
            logits = logits[:, -1, :] / 0.8
            best, _ = torch.topk(logits, min(50, logits.size(-1)))
            logits[logits < best[:, [-1]]] = float("-inf")
            chosen = torch.multinomial(F.softmax(logits, dim=-1), num_samples=1)
            ids = torch.cat([ids, chosen], dim=1)
    return tokenizer.decode(ids[0].tolist())


def copy_weights(ours: Decoder, theirs: TextbookModel) -> None:
    """Give the textbook model our weights, head by head."""
    state = {
        "tokens.weight": ours.embed.tokens.weight,
        "positions.weight": ours.embed.positions.weight,
        "norm.weight": ours.norm.weight,
        "norm.bias": ours.norm.bias,
        "head.weight": ours.head.weight,
        "head.bias": ours.head.bias,
    }
    for i, block in enumerate(ours.blocks):
        into = f"blocks.{i}"
        rows = block.attention.qkv.weight.split(ours.config.head_size)
        for name, first in (("query", 0), ("key", ours.config.heads), ("value", 2 * ours.config.heads)):
            for head in range(ours.config.heads):
                state[f"{into}.attention.heads.{head}.{name}.weight"] = rows[first + head]
        parts = {
            "attention.proj": block.attention.out,
            "feed_forward.net.0": block.mlp.up,
            "feed_forward.net.2": block.mlp.down,
            "norm1": block.norm1,
            "norm2": block.norm2,
        }
        for name, module in parts.items():
            state |= {f"{into}.{name}.weight": module.weight, f"{into}.{name}.bias": module.bias}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    if unexpected or any("tril" not in name for name in missing):
        raise RuntimeError(f"the models do not match: {missing} {unexpected}")


def measure(rounds: int) -> dict[str, Any]:
    """Median tokens a second of both, and their ratio."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer("char", [corpus_text("rumi")])
    ours = build_model(model_preset("tinygpt", tokenizer.vocab_size)).eval()
    theirs = TextbookModel(tokenizer.vocab_size, ours.config.context, causal=True).eval()
    assert isinstance(ours, Decoder)
    copy_weights(ours, theirs)
    ids = torch.tensor([tokenizer.encode(corpus_text("rumi"))[:64]])
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids)[0], atol=1e-4, rtol=0)

    sampling = SamplingConfig(temperature=0.8, top_k=50, seed=0)
    runs = {
        "ours": lambda: generate(ours, tokenizer, PROMPT, max_new_tokens=TOKENS, sampling=sampling),
        "peer": lambda: tutorial_generate(theirs, tokenizer, ours.config.context),
    }
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    speed = {name: TOKENS / statistics.median(taken) for name, taken in seconds.items()}
    # The ratio is the median of the rounds' ratios: what disturbs a round disturbs both of its runs.
    ratio = statistics.median(theirs / ours for ours, theirs in zip(seconds["ours"], seconds["peer"], strict=True))
    return {
        "benchmark": "generate-tinygpt",
        "ratio": ratio,
        **speed,
        "unit": "tokens/s",
        "tokens": TOKENS,
        "rounds": rounds,
        "kernels": kernels.status().split(" (")[0],
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    result = measure(options.rounds)
    if options.json:
        print(json.dumps(result))
    else:
        print(
            f"generate-tinygpt: {result['ours']:,.0f} tokens/s, the tutorial's loop {result['peer']:,.0f}: "
            f"{result['ratio']:.1f} x"
        )


if __name__ == "__main__":
    main()
