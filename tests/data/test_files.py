from __future__ import annotations

import errno
import io
from pathlib import Path

import pytest

from scratchlm.data import chunks, corpus_text, iter_texts, learn_tokenizer, prepare_stream, resolve_source
from scratchlm.errors import UserError


def read(source) -> str:
    return "".join(iter_texts(source))


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_corpus_a_file_and_a_folder_are_all_read_exactly(tmp_path):
    assert read(resolve_source("rumi")) == corpus_text("rumi")
    file = write(tmp_path / "a.log", "Ein Wort\r\nnoch ein Wört 🌾")
    assert read(resolve_source(file)) == "Ein Wort\r\nnoch ein Wört 🌾"
    assert read(resolve_source(str(file))) == "Ein Wort\r\nnoch ein Wört 🌾"


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    source = resolve_source(write(tmp_path / "a.txt", b"\xef\xbb\xbfabc"))
    assert read(source) == "abc"
    assert source.characters == 3


def test_a_character_that_lies_across_two_chunks_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 3)
    text = "ā🌾 ḥ ūab" * 5
    assert read(resolve_source(write(tmp_path / "a.txt", text))) == text


def test_a_folder_is_read_in_sorted_order_without_hidden_and_other_files_and_says_so(tmp_path):
    write(tmp_path / "b.txt", "second\n")
    write(tmp_path / "a" / "z.md", "first")
    write(tmp_path / "c.rst", "third")
    write(tmp_path / ".hidden.txt", "no")
    write(tmp_path / ".git" / "x.txt", "no")
    write(tmp_path / "picture.png", b"\x89PNG")
    write(tmp_path / "d.txt", "Wört".encode("latin-1"))
    write(tmp_path / "e.txt", "")
    source = resolve_source(tmp_path)
    assert read(source) == "first\nsecond\nthird"
    assert len(source.notes) == 3
    assert "picture.png" in source.notes[0]
    assert "d.txt" in source.notes[1]
    assert "e.txt is empty" in source.notes[2]
    assert not any("hidden" in note for note in source.notes)


def utf16(text: str) -> bytes:
    return text.encode("utf-16-le")


BAD = {
    "an empty file": (b"", r"a\.txt is empty"),
    "a byte order mark alone": (b"\xef\xbb\xbf", "nothing but white space"),
    "white space alone": (b" \n\t\n", "nothing but white space"),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" * 9, r"binary file.*give a file of plain UTF-8 text"),
    "compressed data": (bytes(range(1, 256)) * 4, "binary file"),
    "zeros after much text": (b"text " * 300_000 + b"\0" * 10, r"binary file \(byte 1,500,000"),
    "UTF-16 with a mark": (b"\xff\xfe" + utf16("Hello there"), r"UTF-16 text, not UTF-8; convert it: iconv -f UTF-16 "),
    "UTF-16 without a mark": (utf16("Hello there"), r"iconv -f UTF-16LE "),
    "UTF-16 big-endian": ("Hello there".encode("utf-16-be"), r"iconv -f UTF-16BE "),
    "UTF-32": ("Hello".encode("utf-32"), r"iconv -f UTF-32 "),
    "Latin-1": ("Ein schönes Wort".encode("latin-1"), r"byte 7 .*Latin-1.*iconv -f ISO-8859-1 -t UTF-8"),
    "a wrong byte after a byte order mark": (b"\xef\xbb\xbfab\xffcd", r"byte 5 "),
    "a character cut off at the end": ("schön".encode()[:4], r"byte 3 "),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_no_utf8_text_is_answered_with_one_line_and_the_cure(case, tmp_path):
    content, message = BAD[case]
    path = write(tmp_path / "a.txt", content)
    with pytest.raises(UserError, match=message) as caught:
        _ = resolve_source(path).documents
    assert "\n" not in str(caught.value)
    assert "a.txt" in str(caught.value)


def test_a_wrong_byte_in_a_later_chunk_is_cited_with_its_place_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4)
    path = write(tmp_path / "a.txt", "äöü abc".encode() + b"\xff" + b" more")
    with pytest.raises(UserError, match="byte 10 "):
        _ = resolve_source(path).documents


def test_a_path_that_does_not_exist_gets_the_nearest_name(tmp_path, monkeypatch):
    write(tmp_path / "shakespeare.txt", "x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"did you mean 'shakespeare\.txt'"):
        resolve_source("shakespear.txt")
    with pytest.raises(UserError, match="did you mean 'rumi-life'"):
        resolve_source("rumi_life")
    with pytest.raises(UserError, match=r"did you mean '.*shakespeare\.txt'"):
        resolve_source(str(tmp_path / "shakespeare.tx"))
    with pytest.raises(UserError, match="the folder nowhere/at does not exist"):
        resolve_source("nowhere/at/all.txt")
    with pytest.raises(UserError, match="give a path, or one of: rumi"):
        resolve_source("qqqq")


def test_a_file_named_like_a_corpus_is_reached_by_its_path(tmp_path, monkeypatch):
    write(tmp_path / "rumi", "my own text")
    monkeypatch.chdir(tmp_path)
    assert read(resolve_source("./rumi")) == "my own text"
    assert read(resolve_source("rumi")) == corpus_text("rumi")


def test_a_folder_without_text_says_what_it_looked_for(tmp_path):
    with pytest.raises(UserError, match=r"holds no text file \(\.markdown \.md"):
        resolve_source(tmp_path)
    write(tmp_path / "a.png", b"\x89PNG")
    with pytest.raises(UserError, match="holds no text file"):
        resolve_source(tmp_path)


def test_a_folder_in_which_nothing_decodes_is_an_error(tmp_path):
    write(tmp_path / "a.txt", b"\x00\x01\x02")
    with pytest.raises(UserError, match=r"no file that can be read as text.*a\.txt is a binary file"):
        _ = resolve_source(tmp_path).documents


def test_a_file_that_may_not_be_read_is_said_to_be_so(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", "text")

    def denied(self: Path, *_: object) -> io.BytesIO:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(UserError, match=r"a\.txt may not be read \(permission denied\)"):
        _ = resolve_source(path).documents


def test_a_folder_that_may_not_be_listed_is_said_to_be_so(tmp_path, monkeypatch):
    write(tmp_path / "sub" / "a.txt", "text")

    def denied(path: object) -> object:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", denied)
    with pytest.raises(UserError, match=r"cannot be listed \(Permission denied\)"):
        resolve_source(tmp_path)


def test_what_is_neither_file_nor_folder_is_refused():
    with pytest.raises(UserError, match="neither a file nor a folder"):
        resolve_source("/dev/null")


def test_a_text_shorter_than_one_window_says_how_many_tokens_it_has(tmp_path):
    source = resolve_source(write(tmp_path / "a.txt", "a few words"))
    tokenizer = learn_tokenizer(source, "word", validation_fraction=0)
    with pytest.raises(UserError, match=r"3 tokens to train on, one window needs 9.*--set context=2"):
        prepare_stream(source, tokenizer, tmp_path / "ids", validation_fraction=0, context=8)
    assert prepare_stream(source, tokenizer, tmp_path / "ids", validation_fraction=0, context=2).train.size == 3


def test_a_validation_part_shorter_than_one_window_says_what_to_do(tmp_path):
    source = resolve_source("rumi")
    tokenizer = learn_tokenizer(source, "char", validation_fraction=0.1, unknown="token")
    with pytest.raises(UserError, match=r"leaves 3\d tokens for validation, one window needs 65; .*fraction=0"):
        prepare_stream(source, tokenizer, tmp_path, validation_fraction=0.1, context=64)


def test_text_without_white_space_is_refused_rather_than_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "LONGEST_RUN", 1 << 20)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 18)
    source = resolve_source(write(tmp_path / "dna.txt", "ACGT" * 400_000))
    with pytest.raises(UserError, match=r"without white space.*tokenizer=char"):
        learn_tokenizer(source, "bpe", validation_fraction=0)
    tokenizer = learn_tokenizer(source, "char", validation_fraction=0)
    stream = prepare_stream(source, tokenizer, tmp_path / "ids", validation_fraction=0, context=8)
    assert stream.train.size == 1_600_000
