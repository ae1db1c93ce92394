"""Gaps in texts, filled by published masked models: the candidates and probabilities of ``transformers``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

import scratchlm

WORDS = ["the", "cat", "sat", "on", "mat", "a", "dog", "##s", "ran", "."]


@pytest.fixture(params=["bert", "roberta"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A random tiny model with its tokenizer, as ``transformers`` saves them."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 24,
        "initializer_range": 0.5,  # so that candidates differ
    }
    if request.param == "bert":
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
        (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
        tokenizer = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"))
        config = transformers.BertConfig(vocab_size=len(vocabulary), **shape)
        model: torch.nn.Module = transformers.BertForMaskedLM(config)
    else:
        letters = sorted({"Ġ", *"".join(WORDS).replace("#", "")})
        tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters]
        (tmp_path / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
        (tmp_path / "merges.txt").write_text("#version: 0.2\n")
        tokenizer = transformers.RobertaTokenizerFast(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
        config = transformers.RobertaConfig(vocab_size=len(tokens), pad_token_id=1, **shape)
        model = transformers.RobertaForMaskedLM(config)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("text", ["the [MASK] sat on the mat.", "[MASK]", "a dog [MASK] on a [MASK]."])
def test_the_likeliest_words_are_those_of_transformers(folder: Path, text: str) -> None:
    ours = scratchlm.load(folder, device="cpu").fill(text, top_k=3)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    ids = tokenizer(text.replace("[MASK]", tokenizer.mask_token), return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(ids).logits[0][ids[0] == tokenizer.mask_token_id]
    logits[:, tokenizer.all_special_ids] = -torch.inf
    best = logits.softmax(dim=-1).topk(3, dim=-1)
    assert len(ours) == len(logits) == text.count("[MASK]")
    for gap, ids_of_gap, probabilities in zip(ours, best.indices, best.values, strict=True):
        assert [word.strip() for word, _ in gap] == [tokenizer.decode([i]).strip() for i in ids_of_gap]
        assert [p for _, p in gap] == pytest.approx(probabilities.tolist(), abs=1e-5)
