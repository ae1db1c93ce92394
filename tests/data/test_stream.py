from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from scratchlm.data import TokenStream, chunks, corpus_text, iter_texts, learn_tokenizer, prepare_stream, resolve_source
from scratchlm.data import stream as stream_module
from scratchlm.data.split import passages
from scratchlm.errors import UserError
from scratchlm.tokenizers import KINDS, Tokenizer, train_tokenizer
from scratchlm.tokenizers.parallel import EncoderPool

LINES = "".join(
    f"{n} lines of text,  with ḥ and 🌾\n" + ("\n \n\t" if n % 7 == 0 else "") + ("\r\n" if n % 5 == 0 else "")
    for n in range(400)
)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(LINES.encode())
    return path


def prepare(path: Path, folder: Path, kind="char", fraction=0.1, **options) -> tuple[TokenStream, Tokenizer]:
    source = resolve_source(path)
    size = 400 if kind in ("bpe", "wordpiece") else None
    tokenizer = learn_tokenizer(source, kind, validation_fraction=fraction, vocab_size=size, unknown="token", **options)
    return prepare_stream(source, tokenizer, folder, validation_fraction=fraction, context=8), tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_ids_written_in_chunks_are_those_of_the_whole_text(kind, file, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 61)
    stream, tokenizer = prepare(file, tmp_path / "ids", kind, fraction=0.2)
    held = stream.validation
    assert held is not None
    train, validation = LINES[: stream.train_characters], LINES[stream.train_characters :]
    assert len(validation) == stream.validation_characters
    assert stream.train.tolist() == tokenizer._backend.encode(train, add_special_tokens=False).ids
    assert held.tolist() == tokenizer._backend.encode(validation, add_special_tokens=False).ids
    assert isinstance(stream.train, np.memmap)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.37])
def test_the_validation_part_is_the_tail_from_a_line_or_word_on(fraction, file):
    source = resolve_source(file)
    train = "".join(iter_texts(source, validation_fraction=fraction))
    wanted = round(len(LINES) * fraction)
    assert LINES.startswith(train)
    assert train.endswith("\n")
    assert wanted <= len(LINES) - len(train) <= wanted * 1.25


def test_a_cut_without_a_space_in_reach_keeps_marks_with_their_letters(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("xe\u0301" * 200)
    for tenths in range(1, 10):
        train, held = passages(resolve_source(path), tenths / 10)
        assert (train.end, held.start) == (held.start, train.end)
        assert ("xe\u0301" * 200)[held.start] != "\u0301"


def test_the_vocabulary_knows_nothing_of_the_validation_part(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abc abc\n" * 50 + "xyz\n" * 20)
    source = resolve_source(path)
    tokenizer = learn_tokenizer(source, "char", validation_fraction=0.2)
    assert tokenizer.id_of("x") is None
    with pytest.raises(UserError, match=r"a\.txt, line 51: the character 'x' .*training part alone"):
        prepare_stream(source, tokenizer, tmp_path / "ids", validation_fraction=0.2, context=8)
    assert not (tmp_path / "ids" / "stream.json").exists()


def test_without_validation_all_text_is_for_training(tmp_path):
    stream, tokenizer = prepare("rumi", tmp_path, fraction=0.0)
    assert stream.validation is None
    assert (stream.train_characters, stream.validation_characters) == (302, 0)
    assert tokenizer.decode(stream.train) == corpus_text("rumi")
    assert stream.train.dtype == np.uint8


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_fraction_outside_its_bounds_is_refused(fraction):
    with pytest.raises(UserError, match="validation_fraction is"):
        passages(resolve_source("rumi"), fraction)


def folder_of(tmp_path: Path, *texts: str) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    for n, text in enumerate(texts):
        (folder / f"{n}.txt").write_text(text)
    return folder


def test_documents_are_joined_with_a_newline_where_there_is_no_end_of_text_token(tmp_path):
    stream, tokenizer = prepare(folder_of(tmp_path, "one\n", "two", "three"), tmp_path / "ids", fraction=0.0)
    assert tokenizer.decode(stream.train) == "one\ntwo\nthree"
    assert stream.train_characters == len("one\ntwo\nthree")


def test_documents_are_joined_with_the_end_of_text_token_where_there_is_one(tmp_path):
    folder = folder_of(tmp_path, "one two one", "two one", "three one two three")
    stream, tokenizer = prepare(folder, tmp_path / "ids", "bpe", fraction=0.0, special_tokens=["<|endoftext|>"])
    assert tokenizer.decode(stream.train) == "one two one<|endoftext|>two one<|endoftext|>three one two three"
    assert stream.train.tolist().count(tokenizer.eos_id) == 2
    assert stream.train_characters == 11 + 7 + 19


def test_a_special_token_spelled_in_a_text_is_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("see <|endoftext|> here")
    stream, tokenizer = prepare(path, tmp_path / "ids", "bpe", fraction=0.0, special_tokens=["<|endoftext|>"])
    assert tokenizer.eos_id not in stream.train
    assert tokenizer.decode(stream.train) == "see <|endoftext|> here"


def test_validation_of_a_folder_is_its_last_documents(tmp_path):
    folder = folder_of(tmp_path, "a" * 100 + "\n", "b" * 100 + "\n", "c" * 100 + "\n")
    stream, tokenizer = prepare(folder, tmp_path / "ids", fraction=1 / 3)
    assert tokenizer.decode(stream.train) == "a" * 100 + "\n" + "b" * 100 + "\n"
    assert tokenizer.unk_id in stream.validation
    assert stream.validation_characters == 101


def test_finished_work_is_used_again(file, tmp_path):
    first, _ = prepare(file, tmp_path / "ids")
    again, _ = prepare(file, tmp_path / "ids")
    assert not first.reused
    assert again.reused
    assert again.fingerprint == first.fingerprint
    assert again.train.tolist() == first.train.tolist()
    assert (again.train_characters, again.validation_characters) == (
        first.train_characters,
        first.validation_characters,
    )


def test_a_copied_or_touched_file_with_the_same_content_counts_as_the_same(file, tmp_path):
    prepare(file, tmp_path / "ids")
    os.utime(file, ns=(1, 1))
    assert prepare(file, tmp_path / "ids")[0].reused


def test_a_changed_file_tokenizer_or_split_is_tokenised_anew(file, tmp_path):
    first, _ = prepare(file, tmp_path / "ids")
    assert not prepare(file, tmp_path / "ids", "word")[0].reused
    assert not prepare(file, tmp_path / "ids", "word", fraction=0.2)[0].reused
    prepare(file, tmp_path / "ids")
    file.write_bytes(LINES.replace("399 lines", "998 lines").encode())  # the same size, in the middle of the tail
    os.utime(file, ns=(5, 5))
    changed, tokenizer = prepare(file, tmp_path / "ids")
    assert not changed.reused
    assert changed.fingerprint != first.fingerprint
    assert "998 lines" in tokenizer.decode(changed.validation)


def test_a_file_of_a_folder_that_was_added_is_noticed(tmp_path):
    folder = folder_of(tmp_path, "one one one\n", "two two two\n")
    prepare(folder, tmp_path / "ids", fraction=0.0)
    assert prepare(folder, tmp_path / "ids", fraction=0.0)[0].reused
    (folder / "2.txt").write_text("one\n")
    assert not prepare(folder, tmp_path / "ids", fraction=0.0)[0].reused


def test_a_file_of_a_folder_that_was_mended_is_noticed(tmp_path):
    folder = folder_of(tmp_path, "one one one\n", "")
    prepare(folder, tmp_path / "ids", fraction=0.0)
    assert prepare(folder, tmp_path / "ids", fraction=0.0)[0].reused
    (folder / "1.txt").write_text("one\n")
    assert not prepare(folder, tmp_path / "ids", fraction=0.0)[0].reused


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
def test_damaged_work_is_done_again(damage, file, tmp_path):
    ids = tmp_path / "ids"
    first, _ = prepare(file, ids)
    expected = first.train.tolist()
    del first
    if damage == "truncate":
        os.truncate(ids / "ids.train.bin", 10)
    elif damage == "remove":
        (ids / "ids.validation.bin").unlink()
    else:
        (ids / "stream.json").write_text('{"format": 1, "tok')
    again, _ = prepare(file, ids)
    assert not again.reused
    assert again.train.tolist() == expected


def test_a_file_that_changes_while_it_is_read_is_refused(file, tmp_path):
    source = resolve_source(file)
    tokenizer = learn_tokenizer(source, "char", validation_fraction=0.1)
    os.utime(file, ns=(7, 7))
    with pytest.raises(UserError, match="changed while it was read"):
        prepare_stream(source, tokenizer, tmp_path / "ids", validation_fraction=0.1, context=8)
    assert not (tmp_path / "ids" / "stream.json").exists()


def test_progress_ends_at_the_size_of_the_text(file, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 999)
    source = resolve_source(file)
    tokenizer = learn_tokenizer(source, "char", validation_fraction=0.1)
    calls: list[tuple[int, int]] = []
    prepare_stream(
        source,
        tokenizer,
        tmp_path / "ids",
        validation_fraction=0.1,
        context=8,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert len(calls) > 10
    assert calls == sorted(calls)
    assert calls[-1] == (file.stat().st_size, file.stat().st_size)


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "choose a writable folder")]
)
def test_a_disk_that_is_full_or_unwritable_leaves_nothing_that_looks_finished(
    number, message, file, tmp_path, monkeypatch
):
    def fail(_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(stream_module, "_sync", fail)
    with pytest.raises(UserError, match=message):
        prepare(file, tmp_path / "ids")
    assert list((tmp_path / "ids").iterdir()) == []


KILLED = """
import sys, time
from pathlib import Path
from scratchlm.data import chunks, learn_tokenizer, prepare_stream, resolve_source, stream
chunks.CHUNK_BYTES = 256
stream.PARALLEL_BYTES = 0
stream.available_cores = lambda: 2
source = resolve_source(sys.argv[1])
tokenizer = learn_tokenizer(source, "bpe", validation_fraction=0.1, vocab_size=400)
print("ready", flush=True)
prepare_stream(source, tokenizer, Path(sys.argv[2]), validation_fraction=0.1, context=8,
               progress=lambda done, total: time.sleep(0.01))
"""


def children(process: int) -> list[int]:
    """Ids of a process's children; empty where there is no /proc."""
    listed = Path(f"/proc/{process}/task/{process}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_call_that_was_killed_is_done_again_from_the_start(file, tmp_path):
    expected, _ = prepare(file, tmp_path / "whole", "bpe")
    ids = tmp_path / "ids"
    prepare(file, ids, "char")  # work that is finished but for another tokenizer must not be taken for ours
    process = subprocess.Popen([sys.executable, "-c", KILLED, file, ids], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    while not (ids / "ids.train.bin.partial").exists() and process.poll() is None:
        time.sleep(0.002)
    time.sleep(0.1)
    workers = children(process.pid)
    assert len(workers) == (2 if Path("/proc/self/task").exists() else 0)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    deadline = time.monotonic() + 20
    while any(map(runs, workers)):
        assert time.monotonic() < deadline, "a worker outlived its caller"
        time.sleep(0.01)
    assert not (ids / "stream.json").exists()
    stream, _ = prepare(file, ids, "bpe")
    assert not stream.reused
    assert stream.train.tolist() == expected.train.tolist()
    assert sorted(path.name for path in ids.iterdir()) == ["ids.train.bin", "ids.validation.bin", "stream.json"]


@pytest.mark.parametrize("kind", ["word", "bpe", "wordpiece"])
def test_ids_written_on_several_cores_are_those_written_on_one(kind, tmp_path, monkeypatch):
    folder = folder_of(tmp_path, LINES, "one last\n", LINES[:500])
    options = {"special_tokens": ["<|endoftext|>"], "fraction": 0.3}
    alone, _ = prepare(folder, tmp_path / "alone", kind, **options)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 700)
    monkeypatch.setattr(stream_module, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(stream_module, "available_cores", lambda: 3)
    calls: list[int] = []
    encode = Tokenizer.encode_array
    monkeypatch.setattr(Tokenizer, "encode_array", lambda self, text: calls.append(1) or encode(self, text))
    together, _ = prepare(folder, tmp_path / "together", kind, **options)
    assert not calls  # all of it was done elsewhere
    assert together.train.tolist() == alone.train.tolist()
    assert together.validation.tolist() == alone.validation.tolist()
    assert together.train_characters == alone.train_characters


def test_unknown_text_is_reported_the_same_from_several_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(stream_module, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(stream_module, "available_cores", lambda: 2)
    path = tmp_path / "a.txt"
    path.write_text("abc abc\n" * 50 + "xyz\n" * 20)
    source = resolve_source(path)
    tokenizer = learn_tokenizer(source, "word", validation_fraction=0.2)
    with pytest.raises(UserError, match=r"a\.txt, line 51: the word 'xyz' .*training part alone"):
        prepare_stream(source, tokenizer, tmp_path / "ids", validation_fraction=0.2, context=8)


def test_a_tokenising_process_that_is_killed_is_reported():
    with EncoderPool(train_tokenizer("word", ["a b"]), 2) as pool:
        results = pool.map(iter(["a"] * 10), str)
        assert next(results)[0] == "a"
        for worker in pool._workers:
            worker.kill()
            worker.wait()
        with pytest.raises(UserError, match="ended from outside"):
            list(results)


def test_a_trained_vocabulary_comes_from_a_bounded_evenly_spread_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("scratchlm.data.vocabulary._PIECE", 1000)
    path = tmp_path / "a.txt"
    path.write_text("".join(f"word{n // 100:03} " * 100 for n in range(0, 2000, 100)))
    seen: list[str] = []

    def spy(kind: str, texts: list[str], **options: object) -> Tokenizer:
        seen.extend(texts)
        return train_tokenizer(kind, seen, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("scratchlm.data.vocabulary.train_tokenizer", spy)
    notes: list[str] = []
    learn_tokenizer(
        resolve_source(path), "bpe", validation_fraction=0, vocab_size=300, sample_characters=6000, note=notes.append
    )
    assert 4000 <= sum(map(len, seen)) <= 6000
    places = [int(word.removeprefix("word")) for text in seen for word in text.split()]
    assert min(places) <= 4
    assert max(places) >= 16
    assert any(8 <= place <= 11 for place in places)
    assert len(notes) == 1
    assert "spread evenly" in notes[0]


def test_the_manifest_is_plain_json_that_names_its_files(file, tmp_path):
    prepare(file, tmp_path / "ids")
    manifest = json.loads((tmp_path / "ids" / "stream.json").read_text())
    assert manifest["documents"][0]["name"] == str(file)
    assert manifest["tokens"]["train"] + manifest["tokens"]["validation"] == len(LINES)
