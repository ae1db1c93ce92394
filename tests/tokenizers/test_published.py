"""Tokenizers of published models: ids, texts and settings equal to what ``transformers`` makes of the same files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratchlm.errors import UserError
from scratchlm.tokenizers import Tokenizer

from .styles import STYLES
from .torture import TORTURE

transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")

CHARACTERS = "aAbe 's1٣\t\n\r\x0b\x1c\x85\xa0\u2003\u3000\u200b\u0301é漢字🧑\u200d🌾.,'!-[]<>|_½²İß\x00"
SPECIALS = ["<|endoftext|>", "<s>", "</s>", "<mask>", "[MASK]", "[CLS]", "<|im_end|>", "<tool_call>"]
ANY_TEXT = st.lists(
    st.sampled_from([*CHARACTERS, *SPECIALS]) | st.characters(exclude_categories=["Cs"]), max_size=40
).map("".join)


@pytest.fixture(scope="module")
def pairs(folders: dict[str, Path]) -> dict[str, tuple[Tokenizer, object]]:
    return {
        name: (Tokenizer.open(path), transformers.AutoTokenizer.from_pretrained(path)) for name, path in folders.items()
    }


def check(ours: Tokenizer, theirs: object, text: str) -> None:
    plain = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert ours.encode(text) == plain
    special = theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.encode(text, allow_special=True) == special
    around = theirs(text)["input_ids"]
    assert ours.encode(text, allow_special=True, add_special=True) == around
    decoded = theirs.decode(special, clean_up_tokenization_spaces=False)
    assert ours.decode(special) == decoded
    for skip in (False, True):
        stream = ours.stream(skip_special=skip)
        assert "".join(map(stream.push, special)) + stream.finish() == ours.decode(special, skip_special=skip)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("number", range(len(TORTURE)))
def test_the_torture_set(pairs, style: str, number: int) -> None:
    check(*pairs[style], TORTURE[number])


@pytest.mark.parametrize("style", STYLES)
@given(text=ANY_TEXT)
@settings(max_examples=60, deadline=None)
def test_any_text(pairs, style: str, text: str) -> None:
    check(*pairs[style], text)


@pytest.mark.parametrize("style", STYLES)
def test_special_tokens_and_settings(pairs, style: str) -> None:
    ours, theirs = pairs[style]
    assert ours.special_ids == set(theirs.all_special_ids) | {
        i for i, token in theirs.added_tokens_decoder.items() if token.special
    }
    for role in ("bos", "eos", "pad", "mask"):
        expected = getattr(theirs, f"{role}_token_id")
        # For BERT, transformers knows no start or end of text, and we neither.
        assert getattr(ours, f"{role}_id") == expected
    assert ours.vocab_size == len(theirs)
    assert ours.prefix_ids + ours.suffix_ids == tuple(theirs("")["input_ids"])
    assert ours.max_length == (theirs.model_max_length if theirs.model_max_length < 10**9 else None)
    if ours.eos_id is not None:
        assert ours.eos_id in ours.eos_ids


@pytest.mark.parametrize("style", STYLES)
def test_saved_and_opened_again_it_is_the_same_for_us_and_for_transformers(pairs, style: str, tmp_path: Path) -> None:
    ours, _ = pairs[style]
    ours.save(tmp_path)
    again, theirs = Tokenizer.open(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again.fingerprint == ours.fingerprint
    assert (again.eos_ids, again.special_ids, again.roles) == (ours.eos_ids, ours.special_ids, ours.roles)
    assert (again.prefix_ids, again.suffix_ids, again.max_length) == (ours.prefix_ids, ours.suffix_ids, ours.max_length)
    for text in TORTURE:
        assert again.encode(text, allow_special=True, add_special=True) == theirs(text)["input_ids"]


def test_a_stream_never_shows_half_a_character(pairs) -> None:
    for style in ("gpt2", "qwen2", "llama2"):
        ours, _ = pairs[style]
        text = "🧑\u200d🌾 漢 é 👍🏽"
        stream, shown = ours.stream(), ""
        for token in ours.encode(text):
            shown += stream.push(token)
            assert "\ufffd" not in shown
            assert text.startswith(shown)
        assert shown + stream.finish() == text


def test_the_ids_that_only_the_model_has_are_no_text(pairs) -> None:
    for ours, _ in pairs.values():
        ids = [*ours.encode("the fox"), ours.vocab_size, ours.vocab_size + 40]
        stream = ours.stream()
        assert ours.decode(ids) == ours.decode(ids[:-2]) == "".join(map(stream.push, ids)) + stream.finish()
        with pytest.raises(ValueError, match="ids go from 0"):
            ours.decode([-1])


def test_tokenizers_that_know_bytes_give_every_text_back(pairs) -> None:
    for style in ("gpt2", "smollm", "llama3", "llama2"):
        ours, _ = pairs[style]
        for text in TORTURE:
            # SentencePiece writes spaces as this sign, so the sign itself comes back as a space.
            expected = text.replace("▁", " ") if style == "llama2" else text
            assert ours.decode(ours.encode(text)) == expected


def test_where_cuts_are_safe_the_parts_add_up_to_the_whole(pairs) -> None:
    tried = 0
    for ours, _ in pairs.values():
        for text in TORTURE:
            cut = ours.safe_cut(text)
            if cut is not None:
                tried += 1
                assert ours.encode(text[:cut]) + ours.encode(text[cut:]) == ours.encode(text)
    assert tried > 50
    # Llama 3 and Qwen join line breaks to a sign before them, so there no cut is offered.
    assert pairs["llama3"][0].safe_cut("so! \n and") is None


def test_the_ends_of_a_text_come_from_the_settings_too(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["llama3"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2, 5]}))
    assert Tokenizer.open(tmp_path).eos_ids == {1, 2, 5}
    assert Tokenizer.open(folders["llama3"]).eos_ids == {1, 2}, "an end of turn is known by its name"


def test_a_chat_template_comes_from_its_file_or_the_settings(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["gpt2"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for value, found in (
        ("settings", "settings"),
        ([{"name": "rag", "template": "x"}, {"name": "default", "template": "one"}], "one"),
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": value}))
        assert Tokenizer.open(tmp_path).chat_template == found
    (tmp_path / "chat_template.jinja").write_text("file")
    assert Tokenizer.open(tmp_path).chat_template == "file"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer.json", "{", "tokenizer.json is damaged"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}', "is damaged"),
        ("tokenizer.json", '{"model": {"type": "Nope"}}', "is damaged"),
        ("tokenizer_config.json", "[1]", "holds no JSON object"),
        ("tokenizer_config.json", "{", "cannot be read"),
        ("special_tokens_map.json", "\x00", "cannot be read"),
    ],
)
def test_a_damaged_file_is_one_line(
    folders: dict[str, Path], tmp_path: Path, name: str, content: str, says: str
) -> None:
    for file in folders["gpt2"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=says) as caught:
        Tokenizer.open(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no tokenizer: neither"):
        Tokenizer.open(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(UserError, match=r"tokenizer\.model alone"):
        Tokenizer.open(tmp_path)


def test_all_minilm_encodes_as_transformers_does(real_models: Path) -> None:
    folders = list(real_models.glob("**/tokenizer.json"))
    if not folders:
        pytest.skip("no published tokenizer.json here")
    for file in folders:
        ours = Tokenizer.open(file.parent)
        theirs = transformers.AutoTokenizer.from_pretrained(file.parent)
        for text in TORTURE:
            check(ours, theirs, text)


def test_all_minilms_vocab_txt_gives_the_same_ids_as_its_tokenizer_json(real_models: Path, tmp_path: Path) -> None:
    files = list(real_models.glob("**/vocab.txt"))
    if not files:
        pytest.skip("no published vocab.txt here")
    for name in ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).write_bytes(files[0].with_name(name).read_bytes())
    ours, whole = Tokenizer.open(tmp_path), Tokenizer.open(files[0].parent)
    for text in TORTURE:
        assert ours.encode(text, add_special=True) == whole.encode(text, add_special=True)
