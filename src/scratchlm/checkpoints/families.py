"""Which of our tensors is which of Hugging Face's: one declarative table for each family, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from scratchlm.models import ModelConfig
from scratchlm.models.config import WHOLE


@dataclass(frozen=True)
class Entry:
    """One of our modules (or single tensors) and theirs. ``{}`` stands for the block's number.

    ``ours`` names a module, whose ``weight`` and ``bias`` follow, or one tensor by its full name.
    """

    ours: str
    theirs: tuple[str, ...]
    """Their modules or tensors. Several make ours one under the other: query, key and value rows; gate and up rows."""
    transpose: bool = False
    """Their matrix is (inputs, outputs), as GPT-2's ``Conv1D`` has it; ours is (outputs, inputs)."""
    bias: bool = False
    """Theirs always has a bias. Where our module has none, zeros stand for it."""


@dataclass(frozen=True)
class Source:
    """Where one of our tensors comes from: their full names, and how they are put together."""

    names: tuple[str, ...]
    transpose: bool


@dataclass(frozen=True)
class Table:
    """All the entries of a family.

    ``ignored`` are patterns of tensors that old versions wrote and that say nothing (``{}`` as above); ``copies`` are
    theirs -> ours pairs: names under which a tensor may be stored a second time.
    """

    entries: tuple[Entry, ...]
    prefix: str = ""
    """What stands before the names of the model's body when it has a head, and is missing when it has none."""
    ignored: tuple[str, ...] = ()
    copies: tuple[tuple[str, str], ...] = ()

    @cached_property
    def _by_name(self) -> dict[str, Entry]:
        return {entry.ours: entry for entry in self.entries}

    def source(self, ours: str) -> Source:
        """Where our tensor ``ours`` ("blocks.3.norm1.weight") is found.

        Raises:
            KeyError: the family has no such tensor.
        """
        pattern, layer = split_layer(ours)
        entry = self._by_name.get(pattern)
        suffix = ""
        if entry is None:
            module, _, kind = pattern.rpartition(".")
            entry, suffix = self._by_name[module], f".{kind}"
        names = tuple(name.replace("{}", layer) + suffix for name in entry.theirs)
        return Source(names, entry.transpose and suffix == ".weight")

    def always_biased(self, layers: int) -> Iterator[tuple[str, Source]]:
        """Our names of the biases that theirs always has, and where they are found."""
        for entry in self.entries:
            if entry.bias:
                for layer in range(layers) if "{}" in entry.ours else (0,):
                    name = entry.ours.replace("{}", str(layer)) + ".bias"
                    yield name, self.source(name)

    def is_ignored(self, theirs: str) -> bool:
        """Whether a tensor of theirs is one of those that say nothing."""
        return split_layer(theirs)[0] in self.ignored

    def without_prefix(self) -> Table:
        """The table of a model that was saved without a head."""

        def strip(name: str) -> str:
            return name.removeprefix(self.prefix)

        return Table(
            tuple(replace(entry, theirs=tuple(strip(name) for name in entry.theirs)) for entry in self.entries),
            "",
            tuple(strip(name) for name in self.ignored),
            tuple((strip(theirs), ours) for theirs, ours in self.copies),
        )

    def with_labels(self, places: Mapping[str, str]) -> Table:
        """The table of a model with labels, whose ``head`` (and ``pooler``) are where ``places`` says. A pooler that it
        does not use may be there."""
        kept = tuple(one for one in self.entries if one.ours not in places and not one.ours.startswith("head"))
        poolers = [self._by_name["pooler"].theirs[0]] if "pooler" in self._by_name else []
        unused = tuple(f"{name}.{kind}" for name in poolers for kind in ("weight", "bias"))
        entries = tuple(Entry(ours, (theirs,)) for ours, theirs in places.items())
        return Table((*kept, *entries), self.prefix, (*self.ignored, *unused))


def split_layer(name: str) -> tuple[str, str]:
    """``blocks.3.norm1.weight`` -> (``blocks.{}.norm1.weight``, ``3``)."""
    found = re.search(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", name)
    return (name, "") if found is None else (f"{name[: found.start()]}{{}}{name[found.end() :]}", found.group())


def row_counts(config: ModelConfig, pieces: int) -> list[int]:
    """How many rows of ours each of their pieces makes: 3 are query, key and value; 2 are gate and up."""
    if pieces == 3:
        return [config.heads * config.head_size, *[config.key_value_heads * config.head_size] * 2]
    return [config.ffn_size] * pieces


def join(pieces: list[Tensor], source: Source) -> Tensor:
    """Our tensor from theirs. No copy is made where there is nothing to do."""
    if source.transpose:
        pieces = [piece.T.contiguous() for piece in pieces]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def split(tensor: Tensor, source: Source, config: ModelConfig) -> dict[str, Tensor]:
    """Theirs from our tensor: what :func:`join` undoes."""
    count = len(source.names)
    pieces = [tensor] if count == 1 else list(torch.split(tensor, row_counts(config, count)))
    if source.transpose:
        pieces = [piece.T.contiguous() for piece in pieces]
    return dict(zip(source.names, pieces, strict=True))


_LAYER = "model.layers.{}."
_LLAMA = Table(
    entries=(
        Entry("embed.tokens", ("model.embed_tokens",)),
        Entry("blocks.{}.norm1", (_LAYER + "input_layernorm",)),
        Entry("blocks.{}.attention.qkv", tuple(f"{_LAYER}self_attn.{part}_proj" for part in "qkv")),
        Entry("blocks.{}.attention.q_norm", (_LAYER + "self_attn.q_norm",)),
        Entry("blocks.{}.attention.k_norm", (_LAYER + "self_attn.k_norm",)),
        Entry("blocks.{}.attention.out", (_LAYER + "self_attn.o_proj",)),
        Entry("blocks.{}.norm2", (_LAYER + "post_attention_layernorm",)),
        Entry("blocks.{}.mlp.up", (_LAYER + "mlp.gate_proj", _LAYER + "mlp.up_proj")),
        Entry("blocks.{}.mlp.down", (_LAYER + "mlp.down_proj",)),
        Entry("norm", ("model.norm",)),
        Entry("head", ("lm_head",)),
    ),
    prefix="model.",
    ignored=(_LAYER + "self_attn.rotary_emb.inv_freq",),
    copies=(("lm_head.weight", "embed.tokens.weight"),),
)

_LAYER = "transformer.h.{}."
_GPT2 = Table(
    entries=(
        Entry("embed.tokens", ("transformer.wte",)),
        Entry("embed.positions", ("transformer.wpe",)),
        Entry("blocks.{}.norm1", (_LAYER + "ln_1",), bias=True),
        Entry("blocks.{}.attention.qkv", (_LAYER + "attn.c_attn",), transpose=True, bias=True),
        Entry("blocks.{}.attention.out", (_LAYER + "attn.c_proj",), transpose=True, bias=True),
        Entry("blocks.{}.norm2", (_LAYER + "ln_2",), bias=True),
        Entry("blocks.{}.mlp.up", (_LAYER + "mlp.c_fc",), transpose=True, bias=True),
        Entry("blocks.{}.mlp.down", (_LAYER + "mlp.c_proj",), transpose=True, bias=True),
        Entry("norm", ("transformer.ln_f",), bias=True),
        Entry("head", ("lm_head",)),
    ),
    prefix="transformer.",
    ignored=(_LAYER + "attn.bias", _LAYER + "attn.masked_bias"),  # the causal mask, once stored with the weights
    copies=(("lm_head.weight", "embed.tokens.weight"),),
)


def _bert(body: str, head: tuple[Entry, ...], extra: tuple[str, ...], copies: tuple[tuple[str, str], ...]) -> Table:
    layer = body + "encoder.layer.{}."
    return Table(
        entries=(
            Entry("embed.tokens", (body + "embeddings.word_embeddings",)),
            Entry("embed.positions", (body + "embeddings.position_embeddings",)),
            Entry("embed.types", (body + "embeddings.token_type_embeddings",)),
            Entry("embed.norm", (body + "embeddings.LayerNorm",), bias=True),
            Entry(
                "blocks.{}.attention.qkv",
                tuple(f"{layer}attention.self.{part}" for part in ("query", "key", "value")),
                bias=True,
            ),
            Entry("blocks.{}.attention.out", (layer + "attention.output.dense",), bias=True),
            Entry("blocks.{}.norm1", (layer + "attention.output.LayerNorm",), bias=True),
            Entry("blocks.{}.mlp.up", (layer + "intermediate.dense",), bias=True),
            Entry("blocks.{}.mlp.down", (layer + "output.dense",), bias=True),
            Entry("blocks.{}.norm2", (layer + "output.LayerNorm",), bias=True),
            Entry("pooler", (body + "pooler.dense",)),
            *head,
        ),
        prefix=body,
        ignored=(body + "embeddings.position_ids", *extra),
        copies=copies,
    )


_PREDICTIONS = "cls.predictions."
_BERT = _bert(
    "bert.",
    (
        Entry("head_transform.dense", (_PREDICTIONS + "transform.dense",)),
        Entry("head_transform.norm", (_PREDICTIONS + "transform.LayerNorm",)),
        Entry("head.weight", (_PREDICTIONS + "decoder.weight",)),
        Entry("head.bias", (_PREDICTIONS + "bias",)),
    ),
    ("cls.seq_relationship.weight", "cls.seq_relationship.bias"),  # the next-sentence task's head, used by nothing here
    ((_PREDICTIONS + "decoder.weight", "embed.tokens.weight"), (_PREDICTIONS + "decoder.bias", "head.bias")),
)
_ROBERTA = _bert(
    "roberta.",
    (
        Entry("head_transform.dense", ("lm_head.dense",)),
        Entry("head_transform.norm", ("lm_head.layer_norm",)),
        Entry("head.weight", ("lm_head.decoder.weight",)),
        Entry("head.bias", ("lm_head.bias",)),
    ),
    (),
    (("lm_head.decoder.weight", "embed.tokens.weight"), ("lm_head.decoder.bias", "head.bias")),
)

FAMILIES: dict[str, Table] = {
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "bert": _BERT,
    "roberta": _ROBERTA,
}
"""A config's ``model_type`` -> the table of its model of words."""
_SCORED = {"classify": {"head": "score"}, "tag": {"head": "score"}}
"""Where a head for labels is; that for a reward is where a class's is."""
_LABELS: dict[str, dict[str, dict[str, str]]] = {
    "gpt2": {"classify": {"head": "score"}, "tag": {"head": "classifier"}},
    "llama": _SCORED,
    "mistral": _SCORED,
    "qwen2": _SCORED,
    "qwen3": _SCORED,
    "bert": {"classify": {"head": "classifier", "pooler": "bert.pooler.dense"}, "tag": {"head": "classifier"}},
    "roberta": {
        "classify": {"head": "classifier.out_proj", "pooler": "classifier.dense"},
        "tag": {"head": "classifier"},
    },
}


def family_table(family: str, head: str) -> Table:
    """The table of a family's model with one of our heads."""
    table, places = FAMILIES[family], _LABELS[family].get("classify" if head in WHOLE else head)
    if places is not None:
        return table.with_labels(places)
    return table.without_prefix() if head == "none" else table
