"""llama.cpp loads what we write, tokenises as we do, computes the same logits and continues the text as we do."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scratchlm.checkpoints.gguf import GGUFFile
from scratchlm.checkpoints.gguf_write import write_gguf
from scratchlm.tokenizers import Tokenizer, gguf_entries, tokenizer_from_gguf, train_tokenizer

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
pytestmark = pytest.mark.slow


def _load(name: str, path: Path) -> object:
    """A helper module of another room's tests."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


TESTS = Path(__file__).parents[1]
models = _load("gguf_models_for_parity", TESTS / "checkpoints" / "gguf_models.py")
styles = _load("styles_for_parity", TESTS / "tokenizers" / "styles.py")
TORTURE = _load("torture_for_parity", TESTS / "tokenizers" / "torture.py").TORTURE
TEXT = "It's naïve – 漢字 and 🌾.\nthe quick brown fox jumps over the lazy dog 0123456789\n"


def open_there(path: Path, **options: object) -> object:
    return llama_cpp.Llama(str(path), verbose=False, **options)


@pytest.fixture(scope="module")
def own() -> dict[str, Tokenizer]:
    return {
        "char": train_tokenizer("char", [TEXT]),
        "bpe": train_tokenizer("bpe", [TEXT * 5], vocab_size=320, special_tokens=["[PAD]", "[EOS]"]),
    }


@pytest.mark.parametrize("kind", ["char", "bpe"])
@pytest.mark.parametrize("name", [*models.MODELS, "tinygpt", "modern", "shakespeare"])
def test_our_decoders_run_there(name: str, kind: str, own: dict[str, Tokenizer], tmp_path: Path) -> None:
    tokenizer = own[kind]
    model = models.small(name, tokenizer.vocab_size)
    write_gguf(model, tokenizer, tmp_path / "m.gguf")
    theirs = open_there(tmp_path / "m.gguf", n_ctx=64, logits_all=True, n_threads=1)
    text = TEXT[:30]
    ids = tokenizer.encode(text)
    assert theirs.tokenize(text.encode(), add_bos=True) == ids
    assert theirs.detokenize(ids).decode() == text
    theirs.eval(ids)
    found = np.array(theirs.scores[: len(ids)])[:, : tokenizer.vocab_size]
    with torch.no_grad():
        expected = model(torch.tensor([ids]))[0].numpy()
    # It keeps keys, values and activations in fp16.
    assert float(np.abs(found - expected).max()) < 0.05 * float(expected.std())
    assert float((found.argmax(1) == expected.argmax(1)).mean()) > 0.9


@pytest.mark.parametrize("precision", ["f16", "q8_0"])
@pytest.mark.parametrize("preset", ["tinygpt", "modern"])
def test_a_trained_model_is_continued_there_word_for_word(preset: str, precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = train_tokenizer("char", [TEXT])
    model = models.small(preset, tokenizer.vocab_size).train()
    ids = torch.tensor([tokenizer.encode(TEXT)[:60]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        loss = torch.nn.functional.cross_entropy(model(ids)[0, :-1], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1
    write_gguf(model.eval(), tokenizer, tmp_path / "m.gguf", kind=precision)
    theirs = open_there(tmp_path / "m.gguf", n_ctx=64, n_threads=1)
    answer = theirs.create_completion(TEXT[:10], max_tokens=45, temperature=0.0)["choices"][0]
    assert answer["text"] == TEXT[10:55]
    assert answer["finish_reason"] == "length"


@pytest.mark.parametrize("style", ["gpt2", "smollm", "llama3", "qwen2", "llama2"])
def test_published_tokenizers_tokenise_there_as_here(style: str, tmp_path: Path) -> None:
    styles.STYLES[style](tmp_path)
    tokenizer = Tokenizer.open(tmp_path)
    model = models.small("llama", tokenizer.vocab_size)
    write_gguf(model, tokenizer, tmp_path / "m.gguf", chat_template="{{ messages }}")
    theirs = open_there(tmp_path / "m.gguf", vocab_only=True)
    different = []
    for text in TORTURE:
        # llama.cpp leaves Qwen's normalisation (NFC) to its caller.
        if style == "qwen2" and any("\u0300" <= c <= "\u036f" for c in text):
            continue
        ours = tokenizer.encode(text, allow_special=True)
        if theirs.tokenize(text.encode(), add_bos=False, special=True) != ours:
            different.append(text)
    assert different == []
    assert theirs.token_eos() == tokenizer.eos_id
    assert theirs.metadata["tokenizer.chat_template"] == "{{ messages }}"
    if tokenizer.prefix_ids:
        assert theirs.tokenize(b"the", add_bos=True)[0] == tokenizer.prefix_ids[0]


def test_smollm2s_vocabulary_is_theirs_to_the_id() -> None:
    folder = os.environ.get("SCRATCHLM_TEST_MODELS")
    files = list(Path(folder).glob("**/SmolLM2*.gguf")) if folder else []
    if not files:
        pytest.skip("SCRATCHLM_TEST_MODELS names no folder with SmolLM2's GGUF file")
    ours, theirs = tokenizer_from_gguf(GGUFFile(files[0]).metadata), open_there(files[0], vocab_only=True)
    for text in TORTURE:
        for special in (False, True):
            there = theirs.tokenize(text.encode(), add_bos=False, special=special)
            assert ours.encode(text, allow_special=special) == there
    assert gguf_entries(ours, ours.vocab_size)["tokenizer.ggml.pre"] == "smollm"
