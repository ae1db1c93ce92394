"""A few documents, and an encoder that is small enough to be written by the tests: it finds texts that share words.

The encoder is a BERT in the layout of sentence-transformers. Its attention and feed-forward weights are 0, so that a
text's vector is the mean of its words' random vectors.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WIDTH, CONTEXT, INNER = 32, 128, 16
DOCUMENTS = {
    "guide/bees.md": """---
author: Frisch
---
# Bees

## Dances

The waggle dance was decoded by Karl von Frisch in 1927. It tells other bees where flowers stand.

## Honey

Honey is kept in cells of wax. A cell has six sides.
""",
    "guide/tea.md": """# Tea

Tea was brought to Lisbon by Catherine in 1661. Green tea is steamed, black tea is rolled and dried.

Water for green tea should have eighty degrees.
""",
    "code/tower.py": '''def height(storeys):
    """The height of a tower in metres, by its storeys."""
    return 3 * storeys


def weight(storeys):
    """The weight of a tower in tonnes."""
    return 400 * storeys
''',
    "notes.txt": "The lighthouse of Arkona was built in 1827 by Karl Schinkel. The lighthouse is nineteen "
    "metres high.\n",
}
OLD = datetime(2020, 6, 1)
"""When notes.txt was changed."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_documents(folder: Path) -> None:
    for name, text in DOCUMENTS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        os.utime(path, (1_700_000_000, 1_700_000_000))
    os.utime(folder / "notes.txt", (OLD.timestamp(), OLD.timestamp()))


def write_encoder(folder: Path, texts: Iterable[str], seed: int = 0) -> None:
    """A BERT whose vocabulary is the words of the texts, and single letters for others."""
    words = {word for text in texts for word in re.findall(r"[a-z0-9]+|[^\w\s]", text.lower())}
    letters = {letter for word in words for letter in word} | set("abcdefghijklmnopqrstuvwxyz0123456789")
    vocabulary = [*SPECIAL, *sorted(words | letters), *sorted(f"##{letter}" for letter in letters if letter.isalnum())]
    ids = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    ends = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    (folder / "1_Pooling").mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    parts = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    kind = "sentence_transformers.models."
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": kind + name} for n, (name, path) in enumerate(parts.items())
    ]
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": len(ids), "hidden_size": WIDTH,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": INNER, "hidden_act": "gelu",
        "max_position_embeddings": CONTEXT, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
        "position_embedding_type": "absolute",
    }  # fmt: skip
    for name, content in {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": {"max_seq_length": CONTEXT, "do_lower_case": False},
        "config.json": config,
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True},
    }.items():
        (folder / name).write_text(json.dumps(content))
    save_file(_weights(len(ids), seed), str(folder / "model.safetensors"), {"format": "pt"})


def _weights(words: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, layer = "embeddings.", "encoder.layer.0."
    weights = {
        f"{first}word_embeddings.weight": torch.randn(words, WIDTH, generator=generator),
        f"{first}position_embeddings.weight": torch.zeros(CONTEXT, WIDTH),
        f"{first}token_type_embeddings.weight": torch.zeros(2, WIDTH),
    }
    for name, out, read in (
        ("attention.self.query", WIDTH, WIDTH),
        ("attention.self.key", WIDTH, WIDTH),
        ("attention.self.value", WIDTH, WIDTH),
        ("attention.output.dense", WIDTH, WIDTH),
        ("intermediate.dense", INNER, WIDTH),
        ("output.dense", WIDTH, INNER),
    ):
        weights |= {f"{layer}{name}.weight": torch.zeros(out, read), f"{layer}{name}.bias": torch.zeros(out)}
    for name in (f"{first}LayerNorm", f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"):
        weights |= {f"{name}.weight": torch.ones(WIDTH), f"{name}.bias": torch.zeros(WIDTH)}
    return weights
