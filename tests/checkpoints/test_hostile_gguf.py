"""Hostile GGUF files and chat templates: each one line, no code run, no memory taken."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scratchlm.checkpoints.gguf import GGUFFile
from scratchlm.checkpoints.inspect import inspect
from scratchlm.errors import UserError
from scratchlm.opening import open_model
from scratchlm.tokenizers import tokenizer_from_gguf
from scratchlm.tokenizers.chat import render_chat

from .hostile_files import ARRAY, STRING, Value, gguf, gguf_shapes, gguf_string, little_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits its own memory by Linux's means")

HONEST = gguf()
EMBEDDING, QUERY = "token_embd.weight", "blk.0.attn_q.weight"


def refusal(call: Callable[[], object]) -> str:
    """The one line, given in little memory."""
    with pytest.raises(UserError) as caught, little_memory():
        call()
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 600, told
    return told


def with_key(name: str, value: Value) -> bytes:
    return gguf({name: value})


def with_info(shape: tuple[int, ...] = (8, 8), kind: int = 0, offset: int | None = None) -> bytes:
    """A file whose header describes the queries' tensor otherwise."""
    return gguf(described={QUERY: (shape, kind, offset)})


def array(count: int, element: int = STRING, content: bytes = b"") -> bytes:
    return struct.pack("<IIQ", ARRAY, element, count) + content


FILES: list[tuple[str, bytes, str]] = [
    # what is wrong, the file, words that the line must have, split at |
    ("empty", b"", "GGUF"),
    ("four letters", b"GGUF", "damaged"),
    ("another format", b"\x80\x04\x95" + bytes(100), "not a GGUF file"),
    ("a later version", gguf(version=99), "version 99"),
    ("big-endian", gguf(version=0x03000000), "big-endian"),
    ("cut in the header", HONEST[:1000], "damaged"),
    ("cut in the weights", HONEST[:-64], "damaged"),
    ("2^63 tensors", gguf(counts=(1 << 63, None)), "tensors"),
    ("2^63 keys", gguf(counts=(None, 1 << 63)), "metadata entries"),
    ("more tensors than there are", gguf(counts=(30, None)), "damaged"),
    ("a string of 2^62 bytes", with_key("general.name", struct.pack("<IQ", STRING, 1 << 62)), "bytes"),
    ("an array of 2^60 strings", with_key("a", array(1 << 60)), "strings"),
    ("an array of 2^60 numbers", with_key("a", array(1 << 60, 4)), "elements"),
    ("arrays in arrays", with_key("a", array(1, ARRAY, array(1, ARRAY, array(0)))), "array of arrays"),
    ("an unknown kind of value", with_key("a", struct.pack("<I", 77)), "unknown type 77"),
    ("text that is no UTF-8", with_key("a", struct.pack("<IQ", STRING, 2) + b"\xff\xfe"), "UTF-8"),
    ("a shape beyond all memory", with_info((1 << 40, 1 << 20)), QUERY),
    ("a shape that overflows", with_info((1 << 32, 1 << 32)), QUERY),
    ("a shape of 0", with_info((0, 8)), QUERY),
    ("another shape", with_info((4, 8)), "blk.0.attn_q.weight [4, 8]"),
    ("seven dimensions", with_info((1, 1, 1, 1, 1, 8, 8)), "7 dimensions"),
    ("an unknown type", with_info(kind=99), "unknown type 99"),
    ("a type not read here", with_info(kind=16), "IQ2_XXS"),
    ("rows that do not fill blocks", with_info(kind=8), "multiple"),
    ("an offset beyond the file", with_info(offset=1 << 40), "ends at byte"),
    ("an offset that overflows", with_info(offset=(1 << 64) - 32), "ends at byte"),
    ("an offset off the grid", with_info(offset=33), "multiple"),
    ("tensors that overlap", with_info(offset=0), "overlap"),
    ("an alignment of 0", with_key("general.alignment", 0), "general.alignment"),
    ("an alignment of 3", with_key("general.alignment", 3), "general.alignment"),
    ("an alignment of 2^31", with_key("general.alignment", 1 << 31), "general.alignment"),
    ("no architecture", gguf(without="general.architecture"), "general.architecture"),
    ("an unknown architecture", with_key("general.architecture", "mamba"), "mamba"),
    ("no heads", with_key("llama.attention.head_count", 0), "head_count"),
    ("heads that do not divide", with_key("llama.attention.head_count", 3), "."),
    ("2^31 blocks", with_key("llama.block_count", (1 << 31) - 1), "block_count"),
    ("2^32 - 1 blocks", with_key("llama.block_count", (1 << 32) - 1), "block_count"),
    ("a context of 2^31 - 1", with_key("llama.context_length", (1 << 31) - 1), "context_length"),
    ("a size that is text", with_key("llama.context_length", "sixteen"), "context_length"),
    ("NaN for the norm's epsilon", with_key("llama.attention.layer_norm_rms_epsilon", float("nan")), "epsilon"),
    ("an infinite base", with_key("llama.rope.freq_base", float("inf")), "freq_base"),
    ("another width than the tensors", with_key("llama.embedding_length", 16), "embedding_length"),
    ("experts", with_key("llama.expert_count", 8), "expert_count"),
    ("a tensor missing", gguf(tensors={k: v for k, v in gguf_shapes().items() if k != QUERY}), QUERY),
    ("a tensor too many", gguf(tensors={**gguf_shapes(), "extra.weight": (8, 8)}), "extra.weight"),
    ("a block too many", gguf(tensors={**gguf_shapes(), "blk.7.attn_norm.weight": (8,)}), "block_count"),
    ("no embedding", gguf(tensors={k: v for k, v in gguf_shapes().items() if k != EMBEDDING}), EMBEDDING),
]
NO_KEY = "tokenizer.ggml.tokens"
TOKENIZERS: list[tuple[str, bytes]] = [
    ("no tokenizer", gguf(without="tokenizer.ggml.model")),
    ("an unknown kind", with_key("tokenizer.ggml.model", "rwkv")),
    ("no tokens", gguf(without=NO_KEY)),
    ("tokens that are numbers", with_key(NO_KEY, array(3, 4, struct.pack("<3I", 1, 2, 3)))),
    ("too many tokens for the model", with_key(NO_KEY, [f"t{n}" for n in range(300)])),
    ("fewer types than tokens", with_key("tokenizer.ggml.token_type", array(3, 5, struct.pack("<3i", 1, 1, 1)))),
    ("merges of what is no token", with_key("tokenizer.ggml.merges", ["xx yy"])),
    ("merges without a space", with_key("tokenizer.ggml.merges", ["th"])),
    ("merges that are numbers", with_key("tokenizer.ggml.merges", 7)),
    ("an end token that there is not", with_key("tokenizer.ggml.eos_token_id", 9_999_999)),
    ("an end token that is text", with_key("tokenizer.ggml.eos_token_id", "the end")),
    ("an unknown way of cutting", with_key("tokenizer.ggml.pre", "surprise")),
]


@pytest.mark.parametrize(("content", "words"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_a_hostile_file_is_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    told = refusal(lambda: open_model(path))
    assert str(path) in told
    assert [word for word in words.split("|") if word not in told] == [], told
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [case[1] for case in TOKENIZERS], ids=[case[0] for case in TOKENIZERS])
def test_a_hostile_vocabulary_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert str(path) in refusal(lambda: open_model(path))


def test_the_file_that_the_cases_spoil_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(HONEST)
    with little_memory():
        opened = open_model(path)
        assert inspect(path)["parameters"] == sum(p.numel() for p in opened.model.parameters())
    assert opened.tokenizer.decode(opened.tokenizer.encode("the cat")) == "the cat"


@pytest.mark.parametrize("names", [("llama.embedding_length", "llama.context_length"), (QUERY, "blk.0.attn_k.weight")])
def test_a_key_or_a_tensor_twice_is_noticed(names: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    first, second = map(gguf_string, names)
    path.write_bytes(HONEST.replace(second, first))
    assert f"{names[0]!r} occurs twice" in refusal(lambda: open_model(path))


@pytest.mark.parametrize("target", ["/dev/zero", "model.gguf", "pipe"])
def test_what_is_no_ordinary_file_is_one_line(target: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    if target == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(target)
    refusal(lambda: open_model(path))
    refusal(lambda: GGUFFile(path))


def test_any_bit_flipped_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    end = HONEST.index(gguf_string("output_norm.weight")) + 64
    told = []
    with little_memory():
        for place in range(0, 8 * end, 37):
            spoiled = bytearray(HONEST)
            spoiled[place // 8] ^= 1 << place % 8
            path.write_bytes(spoiled)
            try:
                open_model(path)
            except UserError as error:
                told.append(str(error))
    assert len(told) > 100
    assert [line for line in told if "\n" in line] == []


# -- chat templates ---------------------------------------------------------------------------------------------------

TEMPLATES = {
    "a loop without end": "{% for a in range(10**9) %}{% for b in range(10**9) %}x{% endfor %}{% endfor %}",
    "a text without end": "{% for a in range(999) %}{{ 'x' * 10**9 }}{% endfor %}",
    "a number without end": "{{ 9 ** 9 ** 9 }}",
    "a template that includes itself": "{% include 'chat' %}",
    "a template that imports": "{% from 'os' import system %}{{ system('id') }}",
    "a macro that calls itself": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "a text that doubles": "{% set ns = namespace(t='xxxxxxxx') %}{% for a in range(99) %}{% set ns.t = ns.t + ns.t %}"
    "{% endfor %}{{ ns.t }}",
    "a way out by classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a way out by functions": "{{ messages.append.__self__.__class__.__init__.__globals__['os'].system('id') }}",
    "a way out by format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "a way out by attr": "{{ (messages | attr('__class__')).__base__.__subclasses__() }}",
    "no template": "{% for %}",
    "an error of its own": "{{ raise_exception('line one\nline two') }}",
    "deep nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_a_hostile_template_is_one_line(template: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf({"tokenizer.chat_template": template}))
    tokenizer = tokenizer_from_gguf(GGUFFile(path).metadata)
    assert tokenizer.chat_template == template
    refusal(lambda: render_chat(tokenizer, [{"role": "user", "content": "hello"}]))


def test_a_template_cannot_change_the_messages(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf({"tokenizer.chat_template": "{{ messages.append(1) }}{{ messages[0].clear() }}"}))
    tokenizer = tokenizer_from_gguf(GGUFFile(path).metadata)
    messages = [{"role": "user", "content": "hello"}]
    refusal(lambda: render_chat(tokenizer, messages))
    assert messages == [{"role": "user", "content": "hello"}]
