"""Mistakes with the verbs of retrieval: one line that names the cause and the cure, and nothing is written."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from scratchlm.cli.main import run
from scratchlm.retrieval.store import LOCK

from .conftest import Command
from .library import DOCUMENTS, write_encoder

lancedb = pytest.importorskip("lancedb", reason="lancedb is not installed")

ASK = "ask 'Who decoded the waggle dance?' --store store --threshold 0"
EVAL = "rag-eval --store store"
TABLE: list[tuple[str, str]] = [
    # what is typed; words that the line must have, split at |
    ("index docs", "--store|scratchlm index --help"),
    ("index nowhere --store new --model encoder", "nowhere cannot be read|o such file|give a file or folder"),
    ("index empty --store new --model encoder", "empty holds no documents|give another folder"),
    ("index pictures --store new --model encoder", "pictures holds no documents|--ignore"),
    ("index docs --store new --model encoder --ignore '*'", "docs holds no documents|--ignore"),
    ("index empty --store store", "empty holds no documents"),
    ("index docs --store new --model encoder --ignore '[z-a]'", "[z-a]|pattern|.gitignore"),
    ("index docs --store q.tsv --model encoder", "q.tsv is a file|give a folder"),
    ("index docs --store '' --model encoder", "store has no name|give a folder"),
    ("index docs --store new --model nope", "'nope'|scratchlm models list"),
    ("index docs --store new --model all-minilm", "did you mean 'all-minilm-l6-v2'"),
    ("index docs --store new --model docs", "docs is not a run"),
    ("index docs --store new --model encoder --precision int3", "'int3'|fp32 or int8"),
    ("index docs --store new --model encoder --size 400", "size is 400|reads 126|126 at most"),
    ("index docs --store new --model encoder --size 3", "size is 3|at least 16"),
    ("index docs --store new --model encoder --size many", "--size|integer"),
    ("index docs --store new --model encoder --size 40 --overlap 40", "overlap is 40|0 to 20"),
    ("index docs --store new --model encoder --overlap -1", "overlap is -1|from 0"),
    ("index docs --store new --model encoder --language Klingon", "Klingon|English"),
    ("index docs --store store --size 50", "size 40, not 50|leave it out"),
    ("index docs --store store --overlap 5", "overlap 0, not 5|leave it out"),
    ("index docs --store store --language German", "English, not German|leave it out"),
    ("index docs --store store --precision int8", "fp32, not int8|use fp32"),
    ("index docs --store store --model other", "was made with|encoder|other|use that one"),
    ("index docs --store changed", "another version of it"),
    ("index docs --store foreign", "no index of scratchlm|another store"),
    ("index docs --store later", "later version|update scratchlm"),
    # search
    ("search --store store", "QUERY|--queries"),
    ("search tea --store store --queries queries.txt", "QUERY|--queries|not both"),
    ("search --store store --queries queries.txt", "--json"),
    ("search --store store --queries nope.txt --json", "nope.txt|check the path"),
    ("search --store store --queries empty.txt --json", "empty.txt holds no text"),
    ("search --store store --queries gap.txt --json", "query 2 of gap.txt is empty|fill it"),
    ("search --store store --queries latin1.txt --json", "latin1.txt|UTF-8|iconv"),
    ("search --store store --queries broken.jsonl --json", "broken.jsonl, line 2|JSON"),
    ("search --store store --queries lacking.csv --json", "lacking.csv, line 1|no column 'text'"),
    ("search '' --store store", "query is empty|ask for something"),
    ("search ' ' --store store --json", "query is empty"),
    ("search tea --store nowhere", "no index in nowhere|scratchlm index FOLDER --store nowhere"),
    ("search tea --store docs", "no index in docs|scratchlm index"),
    ("search tea --store q.tsv", "q.tsv is a file|give a folder"),
    ("search tea --store moved", "moved was made with|gone|put it back"),
    ("search tea --store changed", "changed was made with|another version of it"),
    ("search tea --store no-manifest", "no-manifest|index again"),
    ("search tea --store no-data", "no-data|index again"),
    ("search tea --store cut-data", "cut-data|index again"),
    ("search tea --store foreign", "no index of scratchlm"),
    ("search tea --store later", "later version|update scratchlm"),
    ("search tea --store no-record", "damaged record|index again"),
    ("search tea --store store -k 0", "-k is 0|at least 1"),
    ("search tea --store store -k few", "-k|integer"),
    ("search tea --store store --mode sparse", "mode is 'sparse'|hybrid, dense, bm25"),
    ("search tea --store store --fusion max", "fusion is 'max'|weighted, rrf"),
    ("search tea --store store --dense-weight 2", "dense_weight is 2|0 to 1"),
    ("search tea --store store --dense-weight nan", "dense_weight is nan|0 to 1"),
    ("search tea --store store --feedback -1", "feedback is -1|at least 0"),
    ("search tea --store store --mmr 1.5", "mmr|1.5|0 to 1"),
    ("search tea --store store --neighbours -1", "neighbours is -1|at least 0"),
    ("search tea --store store --rerank nope", "--rerank is late, words or a model|'nope'"),
    ("search tea --store store --rerank encoder", "--rerank is late, words or a model|encoder"),
    ("search tea --store store --path ''", "--path|empty|guide/*.md"),
    ("search tea --store store --kind pfd", "--kind|'pfd'|did you mean 'pdf'"),
    ("search tea --store store --kind poem", "--kind|'poem'|choose one of: markdown"),
    ("search tea --store store --after yesterday", "--after|'yesterday' is no date|2026-01-31"),
    ("search tea --store store --before 2026-02-30", "--before|'2026-02-30' is no date"),
    ("search tea --store store --after ''", "--after|'' is no date"),
    ("search tea --store store --after 2026-02-01 --before 2026-01-01", "2026-02-01|2026-01-01|no file can be both"),
    ("search tea --store store --meta author", "--meta|'author'|NAME=VALUE"),
    ("search tea --store store --meta =Frisch", "--meta|'=Frisch'|NAME=VALUE"),
    # ask
    ("ask Who --store nowhere", "no index in nowhere|scratchlm index"),
    ("ask '' --store store", "question is empty|ask something"),
    ("ask '?!' --store store", "question is empty|ask something"),
    (f"ask '{'why ' * 600}' --store store", "2,399 characters|2,000|ask shorter"),
    ("ask Who --store store -k 0", "-k is 0|at least 1"),
    ("ask Who --store store --style poem", "no style 'poem'|auto, quote, write"),
    ("ask Who --store store --threshold 3", "threshold|3|0 to 1"),
    ("ask Who --store store --threshold nan", "threshold|nan|0 to 1"),
    ("ask Who --store store --max-new-tokens 0", "max_new_tokens|at least 1"),
    ("ask Who --store store --mode sparse", "mode is 'sparse'"),
    ("ask Who --store store --kind pfd", "did you mean 'pdf'"),
    ("ask Who --store store --meta author", "NAME=VALUE"),
    ("ask Who --store store --style write --model nope", "'nope'|scratchlm models list"),
    ("ask Who --store store --style write --model encoder", "encoder"),
    ("ask Who --store store --style quote --model encoder", "--style quote|--model|--style write"),
    ("ask Who --store store --endpoint http://127.0.0.1:9/v1", "--endpoint|--model|/models"),
    ("ask Who --store store --model big --endpoint localhost", "'localhost' is no address|http://localhost:8000/v1"),
    ("ask Who --store store --model big --endpoint http://me:secret@here/v1", "user or password|leave them out"),
    (f"{ASK} --model big --endpoint http://127.0.0.1:9/v1", "127.0.0.1:9|cannot be reached|start it"),
    (f"{ASK} --model big --endpoint http://127.0.0.1:9/v1 --max-new-tokens 9000", "max_new_tokens|8,192"),
    # rag-eval
    (f"{EVAL} --queries nope.tsv --qrels qrels", "nope.tsv cannot be read"),
    (f"{EVAL} --queries empty.txt --qrels qrels", "empty.txt is empty|tab"),
    (f"{EVAL} --queries queries.txt --qrels qrels", "queries.txt, line 1|tab"),
    (f"{EVAL} --queries no-id.jsonl --qrels qrels", "no-id.jsonl, line 1|no id"),
    (f"{EVAL} --queries list.jsonl --qrels qrels", "list.jsonl, line 2|JSON"),
    (f"{EVAL} --queries twice.tsv --qrels qrels", "twice.tsv, line 2|q1 once more"),
    (f"{EVAL} --queries latin1.txt --qrels qrels", "latin1.txt is not UTF-8"),
    (f"{EVAL} --queries q.tsv --qrels docs", "docs cannot be read"),
    (f"{EVAL} --queries q.tsv --qrels empty.txt", "empty.txt has no judgements"),
    (f"{EVAL} --queries q.tsv --qrels unknown-query", "query q9|not among the queries"),
    (f"{EVAL} --queries q.tsv --qrels unknown-document", "query q1 judge wasps|not in the index"),
    (f"{EVAL} --queries q.tsv --qrels columns", "columns, line 2 has 2 columns"),
    (f"{EVAL} --queries q.tsv --qrels no-number", "no-number, line 1|grade nan|no number"),
    (f"{EVAL} --queries q.tsv --qrels half", "half, line 1|grade 1.5|whole numbers"),
    (f"{EVAL} --queries q.tsv --qrels judged-twice", "judged-twice, line 2|once more"),
    (f"{EVAL} --queries q.tsv --qrels latin1.txt", "latin1.txt is not UTF-8"),
    (f"{EVAL} --queries q.tsv --qrels qrels -k 0", "-k is 0|at least 1"),
    (f"{EVAL} --queries q.tsv --qrels qrels --fusion max", "fusion is 'max'"),
    (f"{EVAL} --queries q.tsv --qrels qrels --run docs", "--run docs is a folder|give a file"),
    (f"{EVAL} --queries q.tsv --qrels qrels --run no/run", "--run|the folder no does not exist"),
    ("rag-eval --store nowhere --queries q.tsv --qrels qrels", "no index in nowhere"),
    # rag-sweep
    ("rag-sweep", "DOCS|scratchlm rag-sweep --help"),
    ("rag-sweep nowhere", "nowhere cannot be read"),
    ("rag-sweep empty", "empty has no document that can be read|give a folder"),
    ("rag-sweep docs --model nope", "'nope'|scratchlm models list"),
    ("rag-sweep docs --model encoder --precision int3", "'int3'|fp32 or int8"),
    ("rag-sweep docs --model encoder --sizes a", "--sizes|'a'|64,128"),
    ("rag-sweep docs --model encoder --sizes 32,400", "size is 400|reads 126|126 at most"),
    ("rag-sweep docs --model encoder --sizes 4", "size is 4|at least 16"),
    ("rag-sweep docs --model encoder --ks 0", "--ks|'0'|below 1"),
    ("rag-sweep docs --model encoder --sizes 32 --questions 0", "0 questions|at least 1"),
    ("rag-sweep docs --model encoder --sizes 32 --writer nope", "'nope'"),
]
FILES: dict[str, bytes] = {
    "pictures/bee.png": b"\x89PNG",
    "queries.txt": b"tea\nwaggle dance\n",
    "gap.txt": b"tea\n\nwaggle dance\n",
    "empty.txt": b"",
    "latin1.txt": "caf\u00e9 am Meer\n".encode("latin-1") * 9,
    "broken.jsonl": b'{"text": "tea"}\n{"text": \n',
    "lacking.csv": b"id,query\n1,tea\n",
    "q.tsv": b"q1\tWho decoded the waggle dance?\nq2\tHow high is the lighthouse?\n",
    "twice.tsv": b"q1\tWho?\nq1\tWhat?\n",
    "no-id.jsonl": b'{"text": "tea"}\n',
    "list.jsonl": b'{"_id": "q1", "text": "tea"}\n{"_id": \n',
    "qrels": b"q1 0 bees 1\n",
    "unknown-query": b"q9 0 bees 1\n",
    "unknown-document": b"q1 0 wasps 1\n",
    "columns": b"q1 0 bees 1\nq1 bees\n",
    "no-number": b"q1 0 bees nan\n",
    "half": b"q1 0 bees 1.5\n",
    "judged-twice": b"q1 0 bees 1\nq1 0 bees 0\n",
}


@pytest.fixture(scope="session")
def mistakes(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the table names."""
    folder = tmp_path_factory.mktemp("mistakes")
    shutil.copytree(library, folder, dirs_exist_ok=True)
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "empty").mkdir()
    write_encoder(folder / "other", DOCUMENTS.values(), seed=1)
    for store, encoder in (("moved", "gone"), ("changed", "new-weights")):
        shutil.copytree(library / "encoder", folder / encoder)
        typed = ["index", str(folder / "docs"), "--store", str(folder / store), "--model", str(folder / encoder)]
        assert run(typed) == 0
    shutil.rmtree(folder / "gone")
    shutil.copy(folder / "other" / "model.safetensors", folder / "new-weights")
    for name in ("no-manifest", "no-data", "cut-data"):
        shutil.copytree(library / "store", folder / name)
    for path in (folder / "no-manifest").rglob("*.manifest"):
        path.unlink()
    for path in (folder / "no-data" / "chunks.lance" / "data").iterdir():
        path.unlink()
    for path in (folder / "cut-data" / "chunks.lance" / "data").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    table = lancedb.connect(library / "store").open_table("chunks")
    record = json.loads(table.schema.metadata[b"scratchlm"])
    for name, said in {"foreign": None, "later": {**record, "format": 99}, "no-record": {"format": 1}}.items():
        schema = table.schema.with_metadata({} if said is None else {"scratchlm": json.dumps(said)})
        lancedb.connect(folder / name).create_table("chunks", schema=schema)
    return folder


def _contents(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size if path.is_file() else -1 for path in folder.rglob("*")}


@pytest.mark.parametrize(("line", "words"), TABLE, ids=[line[:90] for line, _ in TABLE])
def test_a_mistake_gets_one_line_and_leaves_nothing(
    line: str, words: str, command: Command, mistakes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mistakes)
    before = _contents(mistakes)
    outcome = command(*shlex.split(line))
    assert outcome.status == 2, outcome.err
    assert outcome.out == ""
    (told,) = outcome.err.splitlines()
    assert told.startswith("error: ")
    assert [word for word in words.split("|") if word not in told] == [], told
    assert _contents(mistakes) == before


def test_the_table_is_long_and_covers_the_verbs_of_retrieval() -> None:
    assert len(TABLE) >= 40
    assert {line.split()[0] for line, _ in TABLE} == {"index", "search", "ask", "rag-eval", "rag-sweep"}


def test_an_index_that_another_process_writes(
    command: Command, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(library, tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    with FileLock(Path("store", LOCK)):
        outcome = command("index", "docs", "--store", "store")
        assert outcome.status == 2
        assert outcome.err == "error: store is being indexed by another process; wait for it to end\n"
        assert command("search", "tea", "--store", "store").status == 0
    assert command("index", "docs", "--store", "store").status == 0


@pytest.mark.parametrize("place", ["store", "docs"])
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_what_may_not_be_read_or_written(place: str, command: Command, library: Path, tmp_path: Path) -> None:
    shutil.copytree(library / "docs", tmp_path / "docs")
    (tmp_path / "shut").mkdir()
    shut = tmp_path / "docs" if place == "docs" else tmp_path / "shut"
    shut.chmod(0)
    try:
        outcome = command(
            *("index", str(tmp_path / "docs"), "--store", str(tmp_path / "shut" / "store")),
            *("--model", str(library / "encoder")),
        )
    finally:
        shut.chmod(0o755)
    assert outcome.status == 2
    (told,) = outcome.err.splitlines()
    assert str(shut) in told
    assert "ermission" in told or "not readable" in told


@pytest.mark.parametrize(
    ("typed", "words"),
    [(b"caf\xe9?\n", "standard input|UTF-8|iconv"), (b"?!\n", "question is empty"), (b"why " * 600, "ask shorter")],
)
def test_a_mistake_in_a_conversation_that_comes_from_a_file(
    typed: bytes, words: str, command: Command, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="utf-8"))
    outcome = command("ask", "--store", str(library / "store"))
    assert outcome.status == 2
    assert outcome.out == ""
    (told,) = outcome.err.splitlines()
    assert [word for word in words.split("|") if word not in told] == [], told
