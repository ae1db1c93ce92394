"""Training speed of TinyGPT and TinyBERT beside the tutorial's code and a model of nanoGPT's shape.

    python benchmarks/train_speed.py train-tinygpt|train-tinybert [--json] [--rounds N] [--threads N]

All three models have the tutorial's shape (4 layers, 4 heads, width 128, dropout 0.1), the same weights at the start
and the same batches of 32 x 64 tokens; a step is forward, loss, backward and AdamW. They take turns in one process, so
that whatever else the machine does falls on all of them; the figures are medians. Before any timing all three are shown
to give the same logits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generate_speed import copy_weights, machine
from nanogpt_shape import NanoShape
from scratchlm import kernels
from scratchlm.data import IGNORE, Batch
from scratchlm.models import Decoder, Encoder, build_model, cross_entropy_sum, model_preset
from scratchlm.training.optimizers import build_optimizers
from scratchlm.training.recipes import RECIPES
from textbook import TextbookModel

ROWS, CONTEXT = 32, 64
VOCABULARY = {"tinygpt": 48, "tinybert": 160}
"""The tutorial's 48 characters; about as many words as our text for TinyBERT has."""


def batches(preset: str, count: int) -> list[Batch]:
    """Random tokens: next-token labels for TinyGPT, every seventh token to be recovered for TinyBERT."""
    made = []
    for _ in range(count):
        ids = torch.randint(VOCABULARY[preset], (ROWS, CONTEXT + 1))
        labels = (
            ids[:, 1:] if preset == "tinygpt" else ids[:, :-1].masked_fill(torch.rand(ROWS, CONTEXT) > 0.15, IGNORE)
        )
        made.append(Batch(ids=ids[:, :-1].contiguous(), labels=labels.contiguous()))
    return made


def copy_to_nano(ours: Decoder | Encoder, theirs: NanoShape) -> None:
    """Give the model of nanoGPT's shape our weights."""
    names = {"embed.tokens.": "tokens.", "embed.positions.": "positions.", "attention.out.": "attention.proj."}
    state = {}
    for name, value in ours.state_dict().items():
        for old, new in (*names.items(), ("mlp.", "feed_forward.")):
            name = name.replace(old, new)
        state[name] = value
    theirs.load_state_dict(state)


def our_step(model: Decoder | Encoder, preset: str) -> Callable[[Batch], None]:
    """A step as the training loop takes it."""
    optimizers = build_optimizers(model, RECIPES[preset].train)

    def step(batch: Batch) -> None:
        loss, count = cross_entropy_sum(model.forward_batch(batch), batch.labels)
        (loss / count).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def peer_step(model: nn.Module, preset: str) -> Callable[[Batch], None]:
    """A step as the tutorial writes it, with the same AdamW."""
    recipe = RECIPES[preset].train
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, (recipe.beta1, recipe.beta2), weight_decay=recipe.weight_decay
    )

    def step(batch: Batch) -> None:
        _, loss = model(batch.ids, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def same_logits(ours: nn.Module, peers: list[nn.Module], ids: Tensor, labels: Tensor) -> None:
    """Stop unless all models compute the same logits, and the same gradient of the embedding."""
    results = []
    for model in (ours, *peers):
        model.eval()
        logits = model(ids) if model is ours else model(ids)[0]
        F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE).backward()
        tokens = ours.embed.tokens if model is ours else model.tokens
        results.append((logits.detach(), tokens.weight.grad.clone()))
        model.zero_grad()
        model.train()
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=1e-4, rtol=1e-3)


def measure(name: str, rounds: int, steps: int = 4) -> dict[str, Any]:
    """Median steps a second of the three, and our ratios to the other two."""
    torch.manual_seed(0)
    preset = name.removeprefix("train-")
    vocab_size, causal = VOCABULARY[preset], preset == "tinygpt"
    ours = build_model(model_preset(preset, vocab_size, context=CONTEXT))
    assert isinstance(ours, Decoder | Encoder)
    textbook = TextbookModel(vocab_size, CONTEXT, causal=causal)
    nano = NanoShape(vocab_size, CONTEXT, causal=causal)
    with torch.no_grad():
        copy_weights(ours, textbook)
        copy_to_nano(ours, nano)
    data = batches(preset, steps)
    same_logits(ours, [textbook, nano], data[0].ids, data[0].labels)

    takes = {
        "ours": our_step(ours, preset),
        "peer": peer_step(textbook, preset),
        "nanogpt": peer_step(nano, preset),
    }
    seconds: dict[str, list[float]] = {model: [] for model in takes}
    for number in range(-1, rounds):  # the round before the first only warms up
        for model, step in takes.items():
            start = time.perf_counter()
            for batch in data:
                step(batch)
            if number >= 0:
                seconds[model].append((time.perf_counter() - start) / steps)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return {
        "benchmark": name,
        # Medians of the rounds' ratios: what disturbs a round disturbs all three.
        "ratio": statistics.median(t / o for t, o in zip(seconds["peer"], seconds["ours"], strict=True)),
        "ratio_nanogpt": statistics.median(t / o for t, o in zip(seconds["nanogpt"], seconds["ours"], strict=True)),
        **{model: 1 / statistics.median(taken) for model, taken in seconds.items()},
        "unit": "steps/s",
        "batch": [ROWS, CONTEXT],
        "rounds": rounds,
        "kernels": kernels.status().split(" (")[0],
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["train-tinygpt", "train-tinybert"])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=0, help="0 for PyTorch's own choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    result = measure(options.name, options.rounds)
    if options.json:
        print(json.dumps(result))
    else:
        ours, peers = f"{options.name}: {result['ours']:.1f} steps/s", []
        for peer, ratio, words in (("peer", "ratio", "textbook"), ("nanogpt", "ratio_nanogpt", "nanoGPT's shape")):
            peers.append(f"{words} {result[peer]:.1f} ({result[ratio]:.2f} x)")
        print("; ".join([ours, *peers]))


if __name__ == "__main__":
    main()
