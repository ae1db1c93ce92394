"""What the tests with other libraries share: tiny models."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
import torch

from scratchlm.checkpoints import save_huggingface
from scratchlm.models import ModelConfig, build_model
from scratchlm.retrieval import Embedder
from scratchlm.tokenizers import train_tokenizer

from ..training.tuned_models import COMMON, SHAPES, save_model, sentence


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with untrained models: ``talker`` and ``other`` chat, ``reader`` gives vectors."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("talker", "other"):
        save_model(folder / name, "llama", context=512, init_std=0.3, **({} if name == "talker" else {"layers": 1}))
    letters = " ".join("abcdefghijklmnopqrstuvwxyz 0123456789")
    tokens = ("[PAD]", "[UNK]", "[MASK]", "[BOS]")
    words = train_tokenizer("wordpiece", [*map(sentence, range(40)), letters], vocab_size=160, special_tokens=tokens)
    torch.manual_seed(3)
    config = ModelConfig(words.vocab_size, **(COMMON | SHAPES["bert"]))
    save_huggingface(build_model(config), folder / "reader", words)
    return folder


@pytest.fixture(scope="session")
def index(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an index of a small file, made with ``reader``."""
    pytest.importorskip("lancedb", reason="LanceDB is not installed")
    from scratchlm.retrieval.index import Index
    from scratchlm.retrieval.index_settings import IndexSettings
    from scratchlm.retrieval.passages import Document

    store, embedder = tmp_path_factory.mktemp("index"), Embedder.open(models / "reader")
    paragraphs = [f"{sentence(n)} {sentence(n + 50)}" for n in range(12)]
    text = "\n\n".join(paragraphs)
    document = Document("sea.txt", text, "text", sha256(text.encode()).hexdigest(), len(text), 1.7e9)
    Index.create(store, embedder, IndexSettings(size=24)).update([document])
    return store
