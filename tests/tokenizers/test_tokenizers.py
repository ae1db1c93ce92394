from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scratchlm.errors import UserError
from scratchlm.tokenizers import KINDS, Tokenizer, train_tokenizer
from scratchlm.tokenizers.segments import SegmentEncoder

RUMI = "Jalāl al-Dīn Muḥammad Rūmī, or simply Rumi, was a 13th-century poet.\nHe wrote in Persian, his mother tongue.\n"
SPECIALS = ("[PAD]", "[UNK]", "[MASK]")
# Words that repeat, white space of every sort, marks, emoji with joiners, scripts without spaces, contractions.
TRICKY = st.text(
    st.sampled_from("aAbe 's1٣\t\n\r\x0b\x1c\x85\xa0\u2003\u3000\u200b\u0301\u0304éǅ漢字🧑\u200d🌾.,'-[]_½²")
    | st.characters(exclude_categories=["Cs"]),
    max_size=40,
)


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    text = RUMI * 3 + "It's they'll 漢字 a b e 1 ' . , - it isn't\n"
    return {
        kind: train_tokenizer(
            kind, [text], vocab_size=None if kind in ("char", "word") else 400, unknown="token", special_tokens=SPECIALS
        )
        for kind in KINDS
    }


def test_a_character_vocabulary_is_the_sorted_characters_and_nothing_else():
    tokenizer = train_tokenizer("char", ["hello ", "world"])
    assert [tokenizer.token(i) for i in range(tokenizer.vocab_size)] == sorted(set("hello world"))
    assert tokenizer.special_ids == frozenset()
    assert tokenizer.pad_id is tokenizer.unk_id is tokenizer.mask_id is tokenizer.bos_id is tokenizer.eos_id is None


def test_a_word_vocabulary_is_the_special_tokens_and_then_the_sorted_words():
    tokenizer = train_tokenizer("word", ["b a\nc", "a\t d"], special_tokens=SPECIALS)
    assert [tokenizer.token(i) for i in range(tokenizer.vocab_size)] == [*SPECIALS, "a", "b", "c", "d"]
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.mask_id) == (0, 1, 2)


def test_words_decode_with_single_spaces():
    tokenizer = train_tokenizer("word", [RUMI])
    assert tokenizer.decode(tokenizer.encode("  Rumi,\n\twas  a ")) == "Rumi, was a"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_text_on_rumi_survives_composed_and_decomposed(kind, form):
    text = unicodedata.normalize(form, RUMI)
    tokenizer = train_tokenizer(kind, [text])
    decoded = tokenizer.decode(tokenizer.encode(text))
    if kind in ("char", "bpe"):
        assert decoded == text
    elif kind == "word":
        assert decoded == " ".join(text.split())
    else:
        assert "".join(decoded.split()) == "".join(text.split())


@given(TRICKY)
@settings(max_examples=200, deadline=None)
def test_bpe_decodes_every_text_exactly_whole_and_token_by_token(tokenizers, text):
    tokenizer = tokenizers["bpe"]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    stream = tokenizer.stream()
    parts = [stream.push(i) for i in ids]
    assert "".join(parts) == text
    assert stream.finish() == ""


@given(TRICKY)
@settings(max_examples=100, deadline=None)
def test_characters_decode_every_text_of_known_characters_exactly(text):
    tokenizer = train_tokenizer("char", [text + "x"])
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
@given(text=TRICKY)
@settings(max_examples=150, deadline=None)
def test_our_fast_path_gives_the_ids_of_the_library_underneath(tokenizers, kind, text):
    # The library takes a word that is spelled like a special token for the token; here it is an unknown word.
    assume(kind != "word" or not set(text.split()) & set(SPECIALS))
    tokenizer = tokenizers[kind]
    assert tokenizer.encode(text) == tokenizer._backend.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
@given(text=TRICKY, rest=TRICKY)
@settings(max_examples=150, deadline=None)
def test_a_text_cut_where_it_may_be_cut_encodes_as_the_whole(tokenizers, kind, text, rest):
    assume(kind != "word" or not set((text + rest).split()) & set(SPECIALS))
    tokenizer = tokenizers[kind]
    cut = tokenizer.safe_cut(text)
    if cut is None:
        return
    whole = tokenizer._backend.encode(text + rest, add_special_tokens=False).ids
    assert tokenizer.encode(text[:cut]) + tokenizer.encode(text[cut:] + rest) == whole


def test_a_cut_is_made_at_a_line_end_before_the_white_space_around_it(tokenizers):
    assert tokenizers["bpe"].safe_cut("one two \n three four") == len("one two")
    assert tokenizers["bpe"].safe_cut("one two") == len("one")
    assert tokenizers["bpe"].safe_cut("  \none") is None


@given(ids=st.lists(st.integers(0, 399), max_size=30))
@settings(max_examples=100, deadline=None)
def test_streaming_any_tokens_gives_what_decoding_them_at_once_gives(tokenizers, ids):
    for tokenizer in tokenizers.values():
        known = [i for i in ids if i < tokenizer.vocab_size]
        for skip in (False, True):
            stream = tokenizer.stream(skip_special=skip)
            assert "".join(map(stream.push, known)) + stream.finish() == tokenizer.decode(known, skip_special=skip)
            assert tokenizer.decode(known, skip) == tokenizer._backend.decode(known, skip_special_tokens=skip)


def test_a_stream_holds_a_character_back_until_it_is_whole():
    tokenizer = train_tokenizer("bpe", ["abc"], vocab_size=300)
    ids = tokenizer.encode("🌾")
    assert len(ids) == 4
    stream = tokenizer.stream()
    assert [stream.push(i) for i in ids] == ["", "", "", "🌾"]
    assert [stream.push(i) for i in ids[:2]] == ["", ""]
    assert stream.finish() == "\ufffd"


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_opens_here_and_in_transformers_with_the_same_ids(tokenizers, kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = tokenizers[kind]
    tokenizer.save(tmp_path)
    ours = Tokenizer.load(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    same = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    text = "Rumi, was a poet. [MASK] He wrote in\nPersian"
    ids = tokenizer.encode(text, allow_special=True)
    assert tokenizer.mask_id in ids
    assert ours.encode(text, allow_special=True) == ids
    assert theirs(text, add_special_tokens=False)["input_ids"] == ids
    assert same.encode(text, add_special_tokens=False) == ids
    assert theirs.decode(ids) == ours.decode(ids) == tokenizer.decode(ids)
    assert (theirs.mask_token_id, theirs.pad_token_id) == (tokenizer.mask_id, tokenizer.pad_id)
    assert (ours.kind, ours.unknown, ours.special_ids) == (kind, "token", tokenizer.special_ids)
    assert ours.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_text_are_special_only_where_that_is_asked_for(tokenizers, kind):
    tokenizer = tokenizers[kind]
    plain = tokenizer.encode("a [MASK] b")
    assert tokenizer.mask_id not in plain
    special = tokenizer.encode("a [MASK] b", allow_special=True)
    assert special.count(tokenizer.mask_id) == 1
    if kind == "word":
        assert special == [tokenizer.id_of("a"), tokenizer.mask_id, tokenizer.id_of("b")]


def test_ids_are_the_same_in_every_process_and_under_every_hash_seed():
    script = (
        "from scratchlm.tokenizers import *\n"
        f"text = {RUMI!r} * 2 + 'one two three, ones twos threes; tow eno eerht'\n"
        "print(*[train_tokenizer(k, [text], vocab_size=350 if k in ('bpe', 'wordpiece') else None,\n"
        "        special_tokens=['[MASK]', '[UNK]']).fingerprint for k in KINDS])\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": value},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for value in ("0", "1", "2")
    }
    assert len(outputs) == 1


def test_an_unknown_character_is_named_with_its_place_and_the_cure():
    tokenizer = train_tokenizer("char", ["plain text\n"])
    with pytest.raises(UserError, match=r"'z' \(U\+007A\) at line 2, column 3 .character 14.*unknown=token"):
        tokenizer.encode("plain text\ntez")


def test_a_decomposed_character_unknown_to_a_composed_vocabulary_is_cured_by_normalising():
    composed = train_tokenizer("char", [unicodedata.normalize("NFC", RUMI)])
    with pytest.raises(UserError, match=r"U\+0304.*normalise the text to NFC"):
        composed.encode("Ru\u0304mi")
    decomposed = train_tokenizer("char", [unicodedata.normalize("NFD", RUMI)])
    with pytest.raises(UserError, match=r"U\+016B.*normalise the text to NFD"):
        decomposed.encode("R\u016bmi")


def test_an_unknown_word_is_named_with_its_place():
    tokenizer = train_tokenizer("word", ["a b c"])
    with pytest.raises(UserError, match=r"the word 'zebra' at line 2, column 3 "):
        tokenizer.encode("a\nb zebra")
    with pytest.raises(UserError, match=r"the word 'zebra' at line 1, column 10 "):
        train_tokenizer("word", ["a b"], special_tokens=SPECIALS).encode("a [MASK] zebra", allow_special=True)


def test_wordpiece_names_the_character_that_it_does_not_know():
    tokenizer = train_tokenizer("wordpiece", ["a bit of text, a bit of text"], vocab_size=60)
    with pytest.raises(UserError, match=r"'ö' \(U\+00F6\) at line 1, column 6 "):
        tokenizer.encode("bit tö text")
    assert tokenizer.decode(tokenizer.encode("tfb xet")) == "tfb xet"  # new words of known characters


def test_half_a_surrogate_pair_is_an_unknown_character_for_every_kind():
    for kind in KINDS:
        tokenizer = train_tokenizer(kind, ["abc abc"], vocab_size=300)
        with pytest.raises(UserError, match=r"U\+DCFF|word"):
            tokenizer.encode("abc \udcff")


@pytest.mark.parametrize("kind", ["char", "word", "wordpiece"])
def test_unknown_text_becomes_the_unknown_token_by_choice(tokenizers, kind):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode("a Ж b")
    assert ids.count(tokenizer.unk_id) == 1
    assert "[UNK]" in tokenizer.decode(ids)


def test_with_the_unknown_token_a_vocabulary_keeps_the_most_frequent():
    tokenizer = train_tokenizer("word", ["a a a b b c d"], vocab_size=3, unknown="token")
    assert [tokenizer.token(i) for i in range(3)] == ["[UNK]", "a", "b"]
    with pytest.raises(UserError, match="4 distinct words"):
        train_tokenizer("word", ["a b c d"], vocab_size=3)


@pytest.mark.parametrize(
    ("kind", "texts", "size", "message"),
    [
        ("sentencepiece", ["a"], None, "choose one of: char, word, bpe, wordpiece"),
        ("char", [], None, "no text"),
        ("word", [" \n"], None, "no text"),
        ("bpe", [], None, "no text"),
        ("wordpiece", [""], None, "no text"),
        ("bpe", ["abc"], 100, "at least 256"),
        ("wordpiece", ["abcdefgh"], 10, "at least 17"),
    ],
)
def test_a_vocabulary_that_cannot_be_made_says_why(kind, texts, size, message):
    with pytest.raises(UserError, match=message):
        train_tokenizer(kind, texts, vocab_size=size)


def test_an_unknown_policy_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="choose error or token"):
        train_tokenizer("char", ["a"], unknown="skip")  # type: ignore[arg-type]


def test_a_folder_without_a_tokenizer_and_damaged_files_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="is missing"):
        Tokenizer.load(tmp_path)
    train_tokenizer("char", ["abc"]).save(tmp_path)
    good = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(good[: len(good) // 2])
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="not written by scratchlm"):
        Tokenizer.load(tmp_path)


def test_ids_are_stored_in_the_smallest_dtype():
    few = "".join(map(chr, range(0x4E00, 0x4E00 + 256)))
    assert train_tokenizer("char", [few]).encode_array("一").dtype == np.uint8
    assert train_tokenizer("char", [few + "x"]).encode_array("一").dtype == np.uint16


def test_ids_outside_the_vocabulary_are_refused_when_decoding():
    tokenizer = train_tokenizer("char", ["abc"])
    for ids in ([3], [-1]):
        with pytest.raises(ValueError, match="from 0 to 2"):
            tokenizer.decode(ids)
    with pytest.raises(ValueError, match="no token 3"):
        tokenizer.token(3)
    assert tokenizer.id_of("z") is None


def test_what_the_piece_memory_forgets_is_learnt_again(monkeypatch):
    calls: list[list[str]] = []

    def encode(pieces: list[str]) -> list[list[int]]:
        calls.append(pieces)
        return [[len(piece)] * 2 for piece in pieces]

    monkeypatch.setattr("scratchlm.tokenizers.segments._MAX_PIECES", 2)
    encoder = SegmentEncoder(encode, np.dtype(np.uint8))
    assert encoder("a bb ccc a").tolist() == [1, 1, 3, 3, 4, 4, 2, 2]
    assert encoder("a bb").tolist() == [1, 1, 3, 3]
    assert encoder("").tolist() == []
    assert calls == [["a", " bb", " ccc", " a"], ["a", " bb"]]


def test_the_tokenizers_room_needs_no_torch():
    script = "import sys, scratchlm.tokenizers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_threads_share_a_tokenizer() -> None:
    """What one thread has seen and not yet learned, another must not look up."""
    words = train_tokenizer("bpe", ["a text to begin with"], vocab_size=270)
    texts = [f"say {number} words, so {'long' * (number % 7)}" for number in range(400)]
    alone = list(map(train_tokenizer("bpe", ["a text to begin with"], vocab_size=270).encode, texts))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(words.encode, texts)) == alone
    finally:
        sys.setswitchinterval(before)
