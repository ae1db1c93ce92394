"""scratchlm embed: files and lines in, vectors out, and nothing half-written."""

from __future__ import annotations

import io
import json
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from scratchlm.cli import embed as verb
from scratchlm.retrieval import Embedder, texts, vector_files

from .conftest import Command, Outcome

LINES = ["Rumi was a poet", "", "He wrote in Persian", "Rumi"]


@pytest.fixture(scope="session")
def folder(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT, and files of texts, good and bad."""
    transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")
    folder = tmp_path_factory.mktemp("embed")
    model = folder / "bert"
    model.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rumi", "was", "a", "poet", "he", "wrote", "in", "persian"]
    (model / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(str(model / "vocab.txt")).save_pretrained(model)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
    )
    transformers.BertModel(config).save_pretrained(model)
    (folder / "gpt").symlink_to(runs / "gpt")
    (folder / "dates").symlink_to(runs / "dates")
    files: dict[str, bytes] = {
        "lines.txt": "\n".join(LINES).encode(),
        "windows.txt": ("\ufeff" + "\r\n".join(LINES) + "\r\n").encode(),
        "rows.jsonl": "\n\n".join(json.dumps({"n": 1, "text": line}) for line in LINES).encode(),
        "rows.csv": b"n,body,text\n1,x,Rumi was a poet\n2,x,\n3,x,He wrote in Persian\n4,x,Rumi\n",
        "quoted.csv": b'text,n\r\n"Rumi,\r\n""was"" a poet",1\r\n',
        "rows.tsv": b"body\ttext\nRumi\tx\nhe\ty\n",
        "empty.txt": b"",
        "header.csv": b"text\n",
        "empty.csv": b"",
        "binary.txt": bytes(range(256)),
        "latin1.txt": "Jal\u00e4l\n".encode("latin-1") * 9,
        "broken.jsonl": b'{"text": "Rumi"}\n{"text": \n',
        "list.jsonl": b'["Rumi"]\n',
        "lacking.jsonl": b'{"text": "Rumi"}\n{"txt": "Rumi"}\n',
        "number.jsonl": b'{"text": 3}\n',
        "deep.jsonl": b"[" * 100_000,
        "short.csv": b"n,text\n1,Rumi\n2\n",
        "open.csv": b'text\n"Rumi\nwas\n',
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "a-folder.npy").mkdir()
    return folder


MISTAKES = [
    ("embed bert", "--text|--file"),
    ("embed bert --text Rumi --file lines.txt", "either|--text|--file"),
    ("embed bert --text Rumi --column text", "--column|--file"),
    ("embed nope --text Rumi", "'nope'"),
    ("embed all-minilm --text Rumi", "did you mean 'all-minilm-l6-v2'"),
    ("embed dates --text Rumi", "encoder-decoder|use an encoder"),
    ("embed gpt --text λόγος", "text 1|λ"),
    ("embed gpt --text Rumi --text ''", "text 2 is empty|leave it out"),
    ("embed bert --text Rumi --precision int3", "--precision|int3"),
    ("embed bert --file nope.txt", "nope.txt|check the path"),
    ("embed bert --file .", "cannot be opened"),
    ("embed bert --file empty.txt", "empty.txt holds no text|give"),
    ("embed bert --file header.csv", "header.csv holds no text"),
    ("embed bert --file empty.csv", "empty.csv holds no text"),
    ("embed bert --file binary.txt", "binary.txt is a binary file"),
    ("embed bert --file latin1.txt", "latin1.txt|iconv"),
    ("embed bert --file lines.txt --column text", "lines.txt has no columns|--column"),
    ("embed bert --file rows.csv --column txt", "line 1|no column 'txt'|did you mean 'text'"),
    ("embed bert --file rows.jsonl --column abstract", "line 1|no column 'abstract'|--column: n, text"),
    ("embed bert --file lacking.jsonl", "lacking.jsonl, line 2|no column 'text'|did you mean 'txt'"),
    ("embed bert --file broken.jsonl --out new.npy", "broken.jsonl, line 2|JSON"),
    ("embed bert --file list.jsonl", "list.jsonl, line 1|no JSON object"),
    ("embed bert --file number.jsonl", "number.jsonl, line 1|has 3 as 'text'"),
    ("embed bert --file deep.jsonl", "deep.jsonl, line 1|JSON"),
    ("embed bert --file short.csv", "short.csv, line 3|complete the row"),
    ("embed bert --file open.csv", "open.csv, line 3|quote left open"),
    ("embed bert --text Rumi --out new.txt", "new.txt|.npy or .parquet"),
    ("embed bert --text Rumi --out a-folder.npy", "a-folder.npy is a folder"),
    ("embed bert --text Rumi --out no/such/new.npy", "the folder no/such does not exist"),
]


@pytest.mark.parametrize(("line", "words"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_gets_one_line_and_leaves_nothing(
    line: str, words: str, command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    outcome = command(*shlex.split(line))
    assert (outcome.status, outcome.out) == (2, "")
    (told,) = outcome.err.splitlines()
    assert told.startswith("error: ")
    assert [word for word in words.split("|") if word not in told] == [], told
    assert sorted(folder.rglob("*")) == before


def expected(folder: Path, lines: list[str] = LINES) -> np.ndarray:
    return Embedder.open(folder / "bert").embed(lines).vectors


def test_texts_given_are_printed_as_json(command: Command, folder: Path) -> None:
    long = "rumi was a poet " * 5
    outcome = command("embed", str(folder / "bert"), "--text", "Rumi", "--text", "", "--text", long, "--json")
    found = outcome.json
    assert (found["model"], found["dimensions"], found["truncated"]) == (str(folder / "bert"), 16, 1)
    np.testing.assert_array_equal(np.float32(found["vectors"]), expected(folder, ["Rumi", "", long]))
    assert outcome.err == (
        "note: 1 of 3 texts are longer than the 12 tokens that are read, and their ends count for nothing\n"
    )


def test_people_get_a_table_of_how_alike_texts_are(command: Command, folder: Path) -> None:
    outcome = command("embed", str(folder / "bert"), "--text", "Rumi", "--text", "he [wrote]")
    assert outcome.status == 0
    assert outcome.err == ""
    for part in ("Rumi", "he [wrote]", "norm", "cosine to 2", "1.000", "2 vectors of 16 numbers"):
        assert part in outcome.out


@pytest.mark.parametrize("name", ["lines.txt", "windows.txt", "rows.jsonl", "rows.csv"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_files_of_every_kind_give_the_same_rows(
    command: Command, folder: Path, tmp_path: Path, name: str, precision: str
) -> None:
    out = tmp_path / "vectors.npy"
    outcome = command(
        *("embed", str(folder / "bert"), "--file", str(folder / name), "--out", str(out)),
        *("--precision", precision, "--json"),
    )
    assert outcome.json == {
        **{"model": str(folder / "bert"), "precision": precision, "dimensions": 16},
        **{"texts": 4, "truncated": 0, "path": str(out)},
    }
    found = np.load(out)
    assert found.dtype == np.float32
    if precision == "fp32":
        np.testing.assert_array_equal(found, expected(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.npy"]


def test_columns_can_be_chosen_and_cells_hold_lines(folder: Path) -> None:
    assert list(texts.read_texts(folder / "rows.tsv", "body")) == ["Rumi", "he"]
    assert list(texts.read_texts(folder / "quoted.csv")) == ['Rumi,\r\n"was" a poet']


@pytest.mark.parametrize("column", [None, "text"])
def test_standard_input_is_read_as_a_stream(
    command: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str | None
) -> None:
    lines = LINES if column is None else [json.dumps({"text": line}) for line in LINES]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    out = tmp_path / "vectors.npy"
    options = [] if column is None else ["--column", column]
    assert command("embed", str(folder / "bert"), "--file", "-", "--out", str(out), *options).status == 0
    np.testing.assert_array_equal(np.load(out), expected(folder))


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "LONGEST", 1_000)
    with pytest.raises(texts.UserError, match="standard input, line 2, has more than 1,000 characters"):
        list(texts.read_texts(io.BytesIO(b"Rumi\n" + b"x" * 5_000)))


def test_many_vectors_belong_in_a_file(command: Command, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "many.txt"
    file.write_text("Rumi\n" * (verb.MOST_SHOWN + 1))
    outcome = command("embed", str(folder / "bert"), "--file", str(file), "--json")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == "error: there are more than 1,000 texts; write their vectors to a file with --out\n"


def test_what_is_wrong_at_the_end_of_a_file_is_told_before_the_work(
    command: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Embedder, "stream", lambda *_: pytest.fail("the work has begun"))
    file = tmp_path / "late.jsonl"
    file.write_text('{"text": "Rumi"}\n' * 5_000 + "Rumi\n")
    outcome = command("embed", str(folder / "bert"), "--file", str(file), "--out", str(tmp_path / "new.npy"))
    assert outcome.status == 2
    assert "late.jsonl, line 5,001, is no JSON" in outcome.err


def test_a_full_disk_is_one_line_and_what_was_there_stays(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npy"
    out.write_bytes(b"before")
    program = [sys.executable, "-m", "scratchlm", "embed", str(folder / "bert"), "--file", "-", "--out", str(out)]

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, 4_096))

    done = subprocess.run(program, input="Rumi\n" * 200, capture_output=True, text=True, preexec_fn=small_files)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: cannot write {out}: the disk is full; free some space, or choose another path\n"
    assert out.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [out]


def test_ctrl_c_leaves_no_half_file(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npy"
    program = [sys.executable, "-m", "scratchlm", "embed", str(folder / "bert"), "--file", "-", "--out", str(out)]

    def heed() -> None:  # a shell starts what runs in its background with Ctrl-C ignored, and children inherit that
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(program, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    assert process.stdin is not None
    assert process.stderr is not None
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
            process.stdin.write("Rumi\n" * 5_000)  # more than is held at a time
            process.stdin.flush()
        assert [path.name for path in tmp_path.iterdir()] == [".vectors.npy.partial"]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()
    assert list(tmp_path.iterdir()) == []


def test_parquet_holds_texts_and_vectors(command: Command, folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    out = tmp_path / "vectors.parquet"
    assert command("embed", str(folder / "bert"), "--file", str(folder / "lines.txt"), "--out", str(out)).status == 0
    table = parquet.read_table(out)
    assert table.column("text").to_pylist() == LINES
    np.testing.assert_array_equal(np.float32(table.column("vector").to_pylist()), expected(folder))


def test_without_pyarrow_parquet_is_one_line(
    command: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_files, "find_spec", lambda _: None)
    outcome = command("embed", str(folder / "bert"), "--text", "Rumi", "--out", str(tmp_path / "new.parquet"))
    assert outcome == Outcome(
        2,
        "",
        "error: Parquet needs pyarrow, which is missing; run: pip install 'scratchlm[rag]', or write .npy\n",
    )
