"""Diagrams of a model, drawn from its config: the whole architecture, and the inside of one attention head.

Everything reads from bottom to top, as in the figures of Vaswani et al. 2017, and each box, shape and number comes from
the :class:`~scratchlm.models.config.ModelConfig`, so a diagram cannot disagree with the model that it shows.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from scratchlm.evaluation.sheet import Sheet
from scratchlm.models.build import build_model
from scratchlm.models.config import ModelConfig

BOX, GAP, TURN = 2.7, 0.3, 0.22
"""In inches: the width of a box, the wire between two boxes, and the height of a fork under an attention box."""

_ACTIVATIONS = {"relu": "ReLU", "gelu": "GELU", "gelu_tanh": "GELU (tanh)", "relu2": "ReLU²", "swiglu": "SwiGLU"}
_NORMS = {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}


def draw_architecture(config: ModelConfig, path: str | Path) -> Path:
    """Draw the model that ``config`` describes as a PNG (or, by the path's suffix, SVG or PDF) and return the path.

    A decoder and an encoder are one column; an encoder-decoder is two, joined by cross-attention.
    """
    sheet = Sheet()
    if config.architecture == "seq2seq":
        encoder = _Column(sheet, config, x=0.0, side=-1, length="S")
        encoder.inputs("source tokens")
        encoder.blocks("encoder", causal=False)
        decoder = _Column(sheet, config, x=5.2, side=1, length="T")
        decoder.inputs("target so far, shifted right")
        crossing = decoder.blocks("decoder", causal=True, cross=True)
        middle = 2.0
        up, first = encoder.y + 0.45, decoder.x - 0.75
        sheet.arrow(
            [(0, encoder.y), (0, up), (middle, up), (middle, crossing), (first, crossing), (first, crossing + TURN)]
        )
        sheet.arrow([(first - 0.1, crossing), (decoder.x, crossing), (decoder.x, crossing + TURN)])
        sheet.text(middle - 0.12, up + 0.11, f"memory  B × S × {config.width}", size=8.5, align="right", muted=True)
        decoder.outputs("the next target token")
        name, centre, top = "Encoder-decoder", 2.6, decoder.y
    else:
        causal = config.architecture == "decoder"
        column = _Column(sheet, config, x=0.0, side=-1, length="T")
        column.inputs("tokens" if causal else "tokens, some hidden by [MASK]")
        column.blocks(config.architecture, causal=causal)
        column.outputs("the next token" if causal else "the hidden token, at its own place")
        name, centre, top = ("Decoder-only" if causal else "Encoder-only"), 0.0, column.y
    depth = f"{config.layers} + {config.layers}" if config.architecture == "seq2seq" else str(config.layers)
    sheet.text(centre, top + 0.75, f"{name} transformer", size=15, bold=True)
    facts = (f"{depth} layers", f"{config.heads} heads", f"width {config.width}", f"context {config.context}")
    sheet.text(centre, top + 0.45, " · ".join((*facts, f"{parameter_count(config):,} parameters")), size=9, muted=True)
    return sheet.save(path)


def parameter_count(config: ModelConfig) -> int:
    """Parameters of the model, shared ones counted once; nothing is allocated."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(config).parameters())


class _Column:
    """One stack of blocks, drawn upwards. ``side`` (-1 left, 1 right) is where positions and residual wires go."""

    def __init__(self, sheet: Sheet, config: ModelConfig, *, x: float, side: int, length: str) -> None:
        self.sheet, self.config, self.x, self.side, self.length = sheet, config, x, side, length
        self.y = 0.0
        """Height at which the wire leaves the last thing drawn."""

    def inputs(self, what: str) -> None:
        """The tokens, their embedding, and the positions that are added to it."""
        config = self.config
        self.sheet.text(self.x, self.y, f"{what}  B × {self.length}", size=10)
        self.y += 0.14
        scale = "" if config.embedding_scale == 1.0 else f", × {config.embedding_scale:.3g}"
        self.put("Token embedding", f"{config.vocab_size} → {config.width}{scale}", "embedding")
        if config.positions in ("learned", "sinusoidal"):
            kind = "learned" if config.positions == "learned" else "sines and cosines, fixed"
            self.y = self.sheet.wire(self.x, self.y, self.y + GAP + 0.06)
            self.y = self.sheet.plus(self.x, self.y)
            beside = self.x + self.side * 2.75
            self.sheet.box(beside, self.y - 0.41, 2.0, f"Positions\n{kind}", "embedding")
            edge = beside - self.side * 1.0
            self.sheet.arrow([(edge, self.y - 0.14), (self.x + self.side * 0.14, self.y - 0.14)])
        if config.token_types:
            self.put("Segment embedding", f"added, {config.token_types} kinds", "embedding")
        if config.embedding_norm:
            self.put(_NORMS[config.norm], "", "norm")
        self.shape(str(config.width))

    def blocks(self, name: str, *, causal: bool, cross: bool = False) -> float:
        """One block in a frame that says how often it is repeated. Returns the height of the cross-attention's fork."""
        config, start = self.config, self.y + 0.34
        self.y = self.sheet.wire(self.x, self.y, start, head=False)
        heads = f"{config.heads} heads of {config.head_size}"
        if config.key_value_heads != config.heads:
            heads += f", {config.key_value_heads} of keys and values"
        if config.positions == "rotary":
            heads += "\nrotary positions turn Q and K"
        seen = "each token sees itself and those before" if causal else "each token sees all tokens"
        self._sublayer("Causal self-attention" if causal else "Self-attention", f"{heads}\n{seen}", "attention", "self")
        crossing = 0.0
        if cross:
            crossing = self._sublayer(
                "Cross-attention",
                f"{config.heads} heads of {config.head_size}\neach token sees the whole source",
                "cross",
                "cross",
            )
        hidden = f"2 × {config.ffn_size}" if config.activation == "swiglu" else str(config.ffn_size)
        note = f"{config.width} → {hidden} → {config.width}, {_ACTIVATIONS[config.activation]}"
        self._sublayer("Feed-forward", note, "ffn", "")
        self.y = self.sheet.wire(self.x, self.y, self.y + 0.18, head=False)
        inner, outer = self.x - self.side * (BOX / 2 + 0.2), self.x + self.side * (BOX / 2 + 0.55)
        self.sheet.frame(min(inner, outer), start, max(inner, outer), self.y)
        repeated = f"× {config.layers}"
        if config.architecture == "seq2seq":
            self.sheet.text(outer + self.side * 0.4, (start + self.y) / 2, repeated, size=15, bold=True)
            self.sheet.text(outer + self.side * 0.4, (start + self.y) / 2 - 0.26, name, size=9, muted=True)
        else:
            self.sheet.text(inner + 0.4, (start + self.y) / 2, repeated, size=15, bold=True)
            self.sheet.text(inner + 0.4, (start + self.y) / 2 - 0.26, "layers", size=9, muted=True)
        if config.final_norm:
            self.put(f"Final {_NORMS[config.norm]}", "", "norm")
        return crossing

    def outputs(self, of_what: str) -> None:
        config = self.config
        self.shape(str(config.width))
        shared = ", the embedding's matrix" if config.tied_embeddings else ""
        self.put("Linear", f"{config.width} → {config.vocab_size}{shared}", "head")
        self.put("Softmax", "", "softmax")
        self.shape(str(config.vocab_size))
        self.y = self.sheet.wire(self.x, self.y, self.y + GAP)
        self.y += 0.12
        self.sheet.text(self.x, self.y, f"probabilities of {of_what}", size=10)

    def put(self, title: str, note: str, kind: str) -> None:
        """A wire up, then a box."""
        bottom = self.sheet.wire(self.x, self.y, self.y + GAP)
        self.y = self.sheet.box(self.x, bottom, BOX, f"{title}\n{note}" if note else title, kind)

    def shape(self, last: str) -> None:
        """The tensor's shape beside the wire that comes next."""
        self.sheet.text(self.x + 0.1, self.y + 0.14, f"B × {self.length} × {last}", size=8, align="left", muted=True)

    def _sublayer(self, title: str, note: str, kind: str, fork: str) -> float:
        """Norm, sub-layer and residual connection in the config's order. Returns the height of the attention's fork."""
        branch = self.y + 0.1
        self.y = self.sheet.wire(self.x, self.y, branch, head=False)
        self.sheet.dot(self.x, branch)
        if self.config.norm_placement == "pre":
            self.put(_NORMS[self.config.norm], "", "norm")
        crossing = self._fork(fork) if fork else self.sheet.wire(self.x, self.y, self.y + GAP)
        self.y = self.sheet.box(self.x, self.y if fork else crossing, BOX, f"{title}\n{note}", kind)
        self.y = self.sheet.wire(self.x, self.y, self.y + GAP)
        self.y = self.sheet.plus(self.x, self.y)
        middle, outside = self.y - 0.14, self.x + self.side * (BOX / 2 + 0.3)
        self.sheet.arrow(
            [(self.x, branch), (outside, branch), (outside, middle), (self.x + self.side * 0.14, middle)], residual=True
        )
        if self.config.norm_placement == "post":
            self.put(_NORMS[self.config.norm], "", "norm")
        return crossing

    def _fork(self, kind: str) -> float:
        """The three arrows into an attention box: values, keys, queries. Returns the height where they part."""
        x, sheet = self.x, self.sheet
        if kind == "self":
            level = sheet.wire(x, self.y, self.y + 0.14, head=False)
            for offset in (-0.75, 0.0, 0.75):
                sheet.arrow([(x, level), (x + offset, level), (x + offset, level + TURN)])
            self.y = level + TURN
        else:  # queries come from below; keys and values, drawn by the caller, from the encoder
            level = self.y + 0.3
            sheet.arrow([(x, self.y), (x, self.y + 0.13), (x + 0.75, self.y + 0.13), (x + 0.75, level + TURN)])
            self.y = level + TURN
        for offset, letter in ((-0.75, "V"), (0.0, "K"), (0.75, "Q")):
            sheet.text(x + offset + 0.11, level + 0.1, letter, size=8, muted=True)
        return level


def draw_attention_head(config: ModelConfig, path: str | Path) -> Path:
    """Draw one attention head of ``config`` step by step, with its matrices for five words, and return the path.

    The numbers are a real head's: random weights (seeded) of the config's sizes, so that a query's fit to a key has a
    variance of the head's size before the scaling and of one after it. Norms and rotations of Q and K are drawn, but
    left out of the numbers. The head is the decoder's, with the causal mask, unless the config is an encoder.
    """
    causal = config.architecture != "encoder"
    words = ("Rumi", "was", "a", "Persian", "poet")
    scores, scaled, masked, shares = _example(len(words), config, causal)
    sheet, head = Sheet(), config.head_size
    q, k, v, centre = 0.0, 1.9, 3.8, 0.95
    sheet.text(k, 0.0, f"x: the T tokens' states  T × {config.width}", size=10)
    for x in (q, k, v):
        sheet.arrow([(k, 0.14), (k, 0.36), (x, 0.36), (x, 0.6)])
    shared = config.heads // config.key_value_heads
    for x, letter in ((q, "Q"), (k, "K"), (v, "V")):
        note = f"{config.width} → {head}" + (f", for {shared} heads" if shared > 1 and x != q else "")
        y = sheet.box(x, 0.6, 1.6, f"Linear $W_{letter}$\n{note}", "embedding")
    sheet.badge(q - 0.8, (0.6 + y) / 2, 1)
    for title in ["RMSNorm"] * config.qk_norm + ["Rotate"] * (config.positions == "rotary"):
        for x in (q, k):
            sheet.wire(x, y, y + GAP)
            top = sheet.box(x, y + GAP, 1.6, title, "norm")
        y = top
    side = 0.31 * len(words)
    left = v + 1.75
    rows: list[tuple[str, str, str, Tensor, str]] = [
        ("MatMul", "every query with every key", "attention", scores, r"scores $QK^{\top}$"),
        ("Scale", f"÷ √{head} = {math.sqrt(head):.3g}", "norm", scaled, r"$QK^{\top} / \sqrt{d_k}$"),
    ]
    if causal:
        rows.append(("Causal mask", "what comes later: −∞", "cross", masked, "after the mask"))
    note = "each row sums to 1" + ("; dropout in training" if config.attention_dropout_rate else "")
    rows.append(("Softmax", note, "softmax", shares, "attention weights"))
    for letter, x in (("Q", q), ("K", k)):
        sheet.text(x + 0.1, y + 0.14, f"{letter}  T × {head}", size=8.5, align="left", muted=True)
    sheet.text(v + 0.1, y + 0.14, f"V  T × {head}", size=8.5, align="left", muted=True)
    values_from, first = (0.6 + 0.56 if y > 1.2 else y), True
    bottom = y + 0.75
    for step, (title, note, kind, matrix, caption) in enumerate(rows, start=2):
        middle = bottom + side / 2
        box = middle - 0.28
        if first:
            for x in (q, k):
                into = centre + (-0.4 if x == q else 0.4)
                sheet.arrow([(x, y), (x, box - 0.3), (into, box - 0.3), (into, box)])
            first = False
        else:
            sheet.wire(centre, y, box)
        y = sheet.box(centre, box, BOX, f"{title}\n{note}", kind)
        sheet.badge(centre - BOX / 2, middle, step)
        sheet.link((centre + BOX / 2 + 0.05, middle), (left - 0.75, middle))
        shown = words if step == len(rows) + 1 else ()
        sheet.matrix(left, bottom, side, matrix, words, columns=shown, shares=title == "Softmax")
        sheet.text(left + side + 0.15, middle + 0.1, caption, size=10, align="left")
        sheet.text(
            left + side + 0.15, middle - 0.14, "a row per query, a column per key", size=8.5, align="left", muted=True
        )
        bottom += side + 0.4
    bottom += 0.2
    for start, x in ((y, centre - 0.0), (values_from, v)):
        into = centre - 0.4 if x == centre else centre + 0.4
        turn = bottom - 0.3
        sheet.arrow([(x, start), (x, turn), (into, turn), (into, bottom)])
    y = sheet.box(centre, bottom, BOX, "MatMul\nmix the values by the weights", "attention")
    sheet.badge(centre - BOX / 2, (bottom + y) / 2, len(rows) + 2)
    sheet.text(centre + 0.1, y + 0.17, f"T × {head}", size=8.5, align="left", muted=True)
    bottom = sheet.wire(centre, y, y + 0.36)
    others = f"this head and the other {config.heads - 1} side by side" if config.heads > 1 else "the only head"
    y = sheet.box(centre, bottom, BOX + 0.5, f"Concatenate, then Linear $W_O$\n{others}: T × {config.width}", "head")
    name = "One causal attention head" if causal else "One attention head"
    sheet.text((q + left + side) / 2, y + 0.75, name, size=15, bold=True)
    about = f"{config.heads} heads share a width of {config.width}; random weights, five words as the example"
    sheet.text((q + left + side) / 2, y + 0.45, about, size=9, muted=True)
    return sheet.save(path)


def _example(tokens: int, config: ModelConfig, causal: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, scaled scores, masked scores and attention weights, each (T, T), of a random head."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(tokens, config.width, generator=generator)
    query, key = (
        torch.randn(config.width, config.head_size, generator=generator) / math.sqrt(config.width) for _ in range(2)
    )
    scores = (x @ query) @ (x @ key).T
    scaled = scores / math.sqrt(config.head_size)
    hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1) if causal else torch.zeros(1, dtype=torch.bool)
    masked = scaled.masked_fill(hidden, float("-inf"))
    return scores, scaled, masked, masked.softmax(dim=-1)
