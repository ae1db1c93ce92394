"""Vocabularies in GGUF files: written and read again they give the same ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scratchlm.checkpoints.gguf import GGUFFile
from scratchlm.errors import UserError
from scratchlm.tokenizers import Tokenizer, gguf_entries, tokenizer_from_gguf, train_tokenizer, with_end

from .torture import TORTURE

P = "tokenizer.ggml."


def read_back(entries: dict) -> Tokenizer:
    """As a file gives them: arrays of numbers are numpy's."""
    numbers = {key: np.array(value) for key, value in entries.items() if isinstance(value, list) and key[-4:] != "kens"}
    return tokenizer_from_gguf(entries | {k: v for k, v in numbers.items() if v.dtype.kind in "if"})


@pytest.mark.parametrize("style", ["gpt2", "smollm", "llama3", "qwen2", "llama2"])
def test_a_published_tokenizer_survives(folders: dict[str, Path], style: str) -> None:
    before = Tokenizer.open(folders[style])
    after = read_back(gguf_entries(before, before.vocab_size + 5, chat_template="{{ messages }}"))
    for text in TORTURE:
        assert after.encode(text) == before.encode(text)
        special = before.encode(text, allow_special=True, add_special=True)
        assert after.encode(text, allow_special=True, add_special=True) == special
        assert after.decode(special) == before.decode(special)
    assert after.special_ids == before.special_ids
    assert after.eos_ids == before.eos_ids
    assert after.eos_id == before.eos_id
    assert after.chat_template == "{{ messages }}"
    assert after.vocab_size == before.vocab_size + 5, "filled up to as many as the model has"


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_a_tokenizer_made_here_survives_whole(kind: str) -> None:
    text = "It's naïve – 漢字 and 🌾.\n"
    size = {"vocab_size": 300} if kind == "bpe" else {}
    before = train_tokenizer(kind, [text * 3], special_tokens=["[PAD]", "[EOS]"], unknown="error", **size)
    after = tokenizer_from_gguf(gguf_entries(before, before.vocab_size))
    assert (after.kind, after.fingerprint, after.roles) == (before.kind, before.fingerprint, before.roles)
    assert after.encode(text) == before.encode(text)
    if kind == "char":
        with pytest.raises(UserError, match="is not in the vocabulary"):
            after.encode("é")


def test_characters_are_byte_level_tokens_for_others() -> None:
    text = "aé漢🌾 \n"
    tokenizer = with_end(train_tokenizer("char", [text]))
    entries = gguf_entries(tokenizer, tokenizer.vocab_size)
    assert len(entries[f"{P}merges"]) == 1 + 2 + 3, "the bytes of a character are put together, and nothing else"
    assert entries[f"{P}tokens"][tokenizer.id_of(" ")] == "Ġ"
    assert entries[f"{P}eos_token_id"] == tokenizer.vocab_size - 1


def test_where_no_token_ends_a_text_one_is_added_and_otherwise_none() -> None:
    without = train_tokenizer("char", ["abc"])
    ended = with_end(without)
    assert ended.vocab_size == without.vocab_size + 1
    assert ended.eos_id == without.vocab_size
    assert ended.encode("abc") == without.encode("abc")
    assert with_end(ended) is ended


@pytest.mark.parametrize("kind", ["word", "wordpiece"])
def test_what_llama_cpp_cannot_tokenise_is_refused_with_the_reason(kind: str) -> None:
    tokenizer = train_tokenizer(kind, ["a b c"], special_tokens=["[EOS]"])
    with pytest.raises(UserError, match=f"a {kind} tokenizer .* llama.cpp cannot"):
        gguf_entries(tokenizer, tokenizer.vocab_size)


def test_a_pre_tokenizer_without_a_name_is_refused(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.open(folders["gpt2"])
    from tokenizers import pre_tokenizers

    tokenizer.backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with pytest.raises(UserError, match="has no name for"):
        gguf_entries(tokenizer, tokenizer.vocab_size)


def test_the_scores_of_sentencepiece_decide_which_neighbours_join_first() -> None:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "c", "ab", "bc", "▁a"]
    scores = np.array([0.0] * 259 + [0.0] * 4 + [-2.0, -1.0, -3.0])
    types = np.array([2, 3, 3] + [6] * 256 + [1] * 7)
    metadata = {
        f"{P}model": "llama",
        f"{P}tokens": tokens,
        f"{P}scores": scores,
        f"{P}token_type": types,
        f"{P}bos_token_id": 1,
        f"{P}eos_token_id": 2,
        f"{P}unknown_token_id": 0,
    }
    tokenizer = tokenizer_from_gguf(metadata)
    spell = [tokenizer.token(i) for i in tokenizer.encode("abc é")]
    assert spell == ["▁a", "bc", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.encode("a", add_special=True)[0] == 1, "llama.cpp puts <s> first where nothing is said"
    assert tokenizer_from_gguf(metadata | {f"{P}add_bos_token": False}).prefix_ids == ()
    assert tokenizer.decode(tokenizer.encode("abc é")) == "abc é"
    plain = tokenizer_from_gguf(metadata | {f"{P}add_space_prefix": False})
    assert [plain.token(i) for i in plain.encode("ab")] == ["ab"]


def test_berts_vocabulary_is_respelled() -> None:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁play", "ing", "▁,"]
    metadata = {
        f"{P}model": "bert",
        f"{P}tokens": tokens,
        f"{P}token_type": np.array([3, 3, 3, 3, 1, 1, 1]),
        f"{P}unknown_token_id": 1,
        f"{P}cls_token_id": 2,
        f"{P}seperator_token_id": 3,
    }
    tokenizer = tokenizer_from_gguf(metadata)
    assert tokenizer.encode("Playing, pläy", add_special=True) == [2, 4, 5, 6, 4, 3]
    assert tokenizer.decode([4, 5, 6, 4]) == "playing, play"


def test_smollm2s_vocabulary_is_that_of_transformers(real_models: Path) -> None:
    transformers = pytest.importorskip("transformers")
    files = list(real_models.glob("**/SmolLM2*.gguf"))
    if not files:
        pytest.skip("SmolLM2's GGUF file is not here")
    ours = tokenizer_from_gguf(GGUFFile(files[0]).metadata)
    reader = transformers.AutoTokenizer.from_pretrained(files[0].parent, gguf_file=files[0].name)
    # Its reader knows nothing of pre-tokenizers' names; SmolLM's splits digits off first.
    from tokenizers import pre_tokenizers

    reader.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    reader.backend_tokenizer.normalizer = None
    # Nor that the vocabulary lacks some bytes (U+0004, ...), which SmolLM2's own file and llama.cpp leave out.
    reader.backend_tokenizer.model.unk_token = None
    for text in TORTURE:
        assert ours.encode(text, allow_special=True) == reader(text, add_special_tokens=False)["input_ids"]
        if not set(text) & set("\x1d\U0010fffd"):
            assert ours.decode(ours.encode(text)) == text
    assert ours.eos_ids == {0, 2}
    assert "<|im_start|>" in (ours.chat_template or "")
