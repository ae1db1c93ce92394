"""The verbs index, search, rag-eval and rag-sweep, from documents to figures."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from scratchlm.evaluation.retrieval_files import read_run

from .conftest import Command, Outcome
from .library import DOCUMENTS

pytest.importorskip("lancedb", reason="lancedb is not installed")

EVERY = ["code/tower.py", "guide/bees.md", "guide/tea.md", "notes.txt"]


@pytest.fixture
def mine(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the documents and their index, where the tests then are."""
    shutil.copytree(library, tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def search(command: Command, library: Path) -> Command:
    def call(*arguments: str) -> Outcome:
        outcome = command("search", "--store", str(library / "store"), *arguments)
        assert outcome.status == 0, outcome.err
        return outcome

    return call


def files(outcome: Outcome) -> list[str]:
    return [hit["file"] for hit in outcome.json["hits"]]


# -- index -----------------------------------------------------------------------------------------------------------


def test_a_folder_is_indexed_and_then_only_what_has_changed(command: Command, mine: Path) -> None:
    made = command("index", "docs", "--store", "new", "--model", "encoder", "--json").json
    assert (made["store"], made["added"], made["read"]) == ("new", EVERY, 4)
    assert made["chunks"] == made["embedded"] > 0
    assert not made["changed"] + made["unchanged"] + made["removed"] + made["passed_over"]

    again = command("index", "docs", "--store", "new", "--json").json
    assert (again["unchanged"], again["read"], again["embedded"]) == (EVERY, 0, 0)
    assert again["chunks"] == made["chunks"]

    (mine / "docs" / "notes.txt").write_text("The windmill of Husum turns no more.\n", encoding="utf-8")
    (mine / "docs" / "guide" / "tea.md").unlink()
    (mine / "docs" / "new.md").write_text("# Coffee\n\nCoffee is roasted.\n", encoding="utf-8")
    (mine / "docs" / "blank.txt").write_text("\n", encoding="utf-8")
    (mine / "docs" / "binary.txt").write_bytes(bytes(range(256)))
    later = command("index", "docs", "--store", "new")
    assert later.status == 0
    assert later.out.startswith("new: 1 added, 1 changed, 2 unchanged, 1 removed, 2 passed over; ")
    told = later.err.splitlines()
    assert {line.split()[2] for line in told} == {"blank.txt", "binary.txt"}
    assert len(told) == 2
    assert all(line.startswith("passed over: ") for line in told)

    def found(words: str) -> list[str]:
        return files(command("search", words, "--store", "new", "--mode", "bm25", "--json"))

    assert found("windmill") == ["notes.txt"]
    assert found("roasted coffee") == ["new.md"]
    assert found("lighthouse") == found("Lisbon") == []


@pytest.mark.usefixtures("mine")
def test_what_an_index_was_made_with_holds_without_being_said_again(command: Command) -> None:
    typed = ("index", "docs", "--store", "new", "--size", "40", "--overlap", "10", "--language", "German")
    made = command(*typed, "--model", "encoder", "--precision", "int8", "--json").json
    for more in ((), ("--size", "40"), ("--language", "German", "--overlap", "10"), ("--model", "encoder")):
        assert command("index", "docs", "--store", "new", *more, "--json").json["chunks"] == made["chunks"]
    assert command("index", "docs", "--store", "new", "--overlap", "0").status == 2


def test_the_encoder_is_found_from_another_folder(
    command: Command, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("index", "docs", "--store", "new", "--model", "encoder").status == 0
    monkeypatch.chdir(mine.parent)
    assert files(command("search", "tea", "--store", "mine/new", "--json", "-k", "1")) == ["guide/tea.md"]


def test_patterns_hidden_files_and_one_file(command: Command, mine: Path) -> None:
    (mine / "docs" / ".secret.txt").write_text("A hidden word.\n", encoding="utf-8")
    typed = ("--model", "encoder", "--json")
    some = command("index", "docs", "--store", "some", "--ignore", "*.py", "--ignore", "guide/tea*", *typed).json
    assert some["added"] == ["guide/bees.md", "notes.txt"]
    every = command("index", "docs", "--store", "every", "--hidden", *typed).json
    assert set(every["added"]) == {*EVERY, ".secret.txt"}
    assert command("index", "docs/notes.txt", "--store", "one", *typed).json["added"] == ["notes.txt"]


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize("store", ["docs", "docs/index"])
def test_an_index_among_the_documents_is_none_of_them(store: str, command: Command) -> None:
    assert command("index", "docs", "--store", store, "--model", "encoder").status == 0
    again = command("index", "docs", "--store", store, "--json", "--hidden").json
    assert [one for one in again["added"] + again["unchanged"] if not one.endswith(".lock")] == EVERY
    assert [one for one in again["passed_over"] if "lance" in one["path"]] == []


# -- search ----------------------------------------------------------------------------------------------------------


def test_hits_are_json_and_point_into_their_files(search: Command) -> None:
    outcome = search("the waggle dance of bees", "--json", "-k", "3")
    found = outcome.json
    assert list(found) == ["query", "hits", "timings"]
    assert found["query"] == "the waggle dance of bees"
    assert 1 <= len(found["hits"]) <= 3
    scores = [hit["score"] for hit in found["hits"]]
    assert scores == sorted(scores, reverse=True)
    for hit in found["hits"]:
        assert list(hit)[:5] == ["file", "text", "score", "start", "end"]
        assert DOCUMENTS[hit["file"]][hit["start"] : hit["end"]] == hit["text"]
        lines = DOCUMENTS[hit["file"]].splitlines()[hit["first_line"] - 1 : hit["last_line"]]
        assert "\n".join(lines).strip() == hit["text"].strip()
    assert found["hits"][0]["file"] == "guide/bees.md"
    assert {"embed", "dense", "bm25", "total"} <= set(found["timings"])
    assert all(spent >= 0 for spent in found["timings"].values())


def test_many_queries_give_an_object_a_line_in_their_order(
    search: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["green tea", "waggle dance", "weight of a tower", "green tea"]
    (tmp_path / "queries.txt").write_text("\n".join(asked), encoding="utf-8")
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in asked))
    lines = search("--queries", str(tmp_path / "queries.txt"), "--json", "-k", "1").out.splitlines()
    found = [json.loads(line) for line in lines]
    assert [one["query"] for one in found] == asked
    assert [one["hits"][0]["file"] for one in found] == [
        *("guide/tea.md", "guide/bees.md", "code/tower.py", "guide/tea.md")
    ]
    single = search("waggle dance", "--json", "-k", "1").json
    assert single["hits"] == found[1]["hits"]

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(asked).encode())))
    for origin in (str(tmp_path / "queries.jsonl"), "-"):
        again = search("--queries", origin, "--json", "-k", "1").out.splitlines()
        assert [json.loads(line)["hits"] for line in again] == [one["hits"] for one in found]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--path", "guide"], {"guide/bees.md", "guide/tea.md"}),
        (["--path", "*.py", "--path", "notes.txt"], {"code/tower.py", "notes.txt"}),
        (["--kind", "code"], {"code/tower.py"}),
        (["--kind", "text", "--kind", "markdown"], {"guide/bees.md", "guide/tea.md", "notes.txt"}),
        (["--after", "2021-01-01"], {"code/tower.py", "guide/bees.md", "guide/tea.md"}),
        (["--before", "2021-01-01"], {"notes.txt"}),
        (["--after", "2020-06-01", "--before", "2020-06-02"], {"notes.txt"}),
        (["--meta", "author=Frisch"], {"guide/bees.md"}),
        (["--meta", "author=Rumi"], set()),
        (["--path", "guide", "--kind", "code"], set()),
        ([], set(EVERY)),
    ],
    ids=lambda one: " ".join(sorted(one) if isinstance(one, set) else one),
)
def test_filters(options: list[str], expected: set[str], search: Command) -> None:
    assert set(files(search("tea of a tower by the lighthouse", "--mode", "dense", "--json", *options))) == expected


@pytest.mark.parametrize(
    ("options", "stages", "absent"),
    [
        (["--mode", "bm25"], {"bm25"}, {"embed", "dense", "rerank"}),
        (["--mode", "dense"], {"embed", "dense"}, {"bm25", "rerank"}),
        (["--mode", "hybrid"], {"embed", "dense", "bm25", "fuse"}, {"rerank", "mmr", "feedback"}),
        (["--fusion", "rrf"], {"dense", "bm25", "fuse"}, {"rerank"}),
        (["--dense-weight", "0.1"], {"dense", "bm25", "fuse"}, {"rerank"}),
        (["--feedback", "2"], {"dense", "feedback"}, {"rerank"}),
        (["--rerank", "late"], {"dense", "bm25", "rerank"}, {"mmr"}),
        (["--rerank", "late", "--mode", "bm25"], {"bm25", "rerank"}, {"dense"}),
        (["--rerank", "words"], {"dense", "bm25", "rerank"}, {"mmr"}),
        (["--mmr", "0.5"], {"dense", "bm25", "mmr"}, {"rerank"}),
        (["--neighbours", "1"], {"dense", "bm25", "join"}, {"rerank"}),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_ways_to_search(options: list[str], stages: set[str], absent: set[str], search: Command) -> None:
    found = search("Tea was brought to Lisbon", "--json", *options).json
    assert found["hits"][0]["file"] == "guide/tea.md"
    assert stages <= set(found["timings"])
    assert not absent & set(found["timings"])
    if "rerank" in stages:
        assert "reranked" in found["hits"][0]["scores"]


def test_ranks_weigh_otherwise_than_scores(search: Command) -> None:
    scores = search("green tea", "--json", "-k", "1").json["hits"][0]["scores"]
    ranks = search("green tea", "--fusion", "rrf", "--json", "-k", "1").json["hits"][0]["scores"]
    assert scores["dense"] == pytest.approx(ranks["dense"])
    assert scores["bm25"] == pytest.approx(ranks["bm25"])
    assert 0 < ranks["fused"] < 1 / 60 < scores["fused"]


def test_neighbours_are_shown_with_a_hit(search: Command) -> None:
    alone = search("weight tonnes", "--mode", "bm25", "-k", "1", "--json").json["hits"][0]
    wider = search("weight tonnes", "--mode", "bm25", "-k", "1", "--neighbours", "1", "--json").json["hits"][0]
    assert alone["text"].startswith("def weight")
    assert wider["text"].startswith("def height")
    assert wider["end"] == alone["end"]


def test_neighbours_are_shown_in_files_from_windows(command: Command, mine: Path) -> None:
    text = "# Bees\r\n\r\n## Wax\r\n\r\nWax is warm.\r\n\r\n## Honey\r\n\r\nHoney is sweet.\r\n"
    (mine / "docs" / "windows.md").write_bytes(text.encode())
    assert command("index", "docs/windows.md", "--store", "new", "--model", "encoder", "--size", "16").status == 0
    typed = ("search", "sweet honey", "--store", "new", "--mode", "bm25", "-k", "1", "--json")
    (alone,), (wider,) = command(*typed).json["hits"], command(*typed, "--neighbours", "1").json["hits"]
    assert "Wax" not in alone["text"]
    assert "Wax is warm." in wider["text"]
    assert len(wider["text"]) == wider["end"] - wider["start"]


def test_hits_for_people_with_every_stage_explained(search: Command) -> None:
    plain = search("weight tonnes", "--mode", "bm25")
    first, text, *rest = plain.out.splitlines()
    assert first == "1. code/tower.py, lines 6-8  (weight)"
    assert text.startswith("   def weight(storeys): ")
    assert rest == []
    told = search("weight tonnes", "--rerank", "late", "--explain").out.splitlines()
    assert [part.split()[0] for part in told[1].split(", ")] == ["bm25", "dense", "fused", "reranked"]
    assert told[-1].startswith("ms: ")
    assert " total " in told[-1]
    assert search("zeppelin", "--mode", "bm25").out == "nothing found\n"


# -- rag-eval --------------------------------------------------------------------------------------------------------

QUERIES = {"q1": "Who decoded the waggle dance?", "q2": "How high is the lighthouse?", "q3": "zeppelin"}
JUDGED = [("q1", "bees", 1), ("q2", "notes.txt", 2), ("q3", "guide/tea.md", 1), ("q1", "tea", 0)]


@pytest.fixture(params=["trec", "beir"])
def judged(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    queries, qrels = tmp_path / "queries", tmp_path / "qrels"
    if request.param == "trec":
        queries.write_text("".join(f"{name}\t{text}\n" for name, text in QUERIES.items()))
        qrels.write_text("".join(f"{query} 0 {document} {grade}\n" for query, document, grade in JUDGED))
    else:
        queries.write_text("".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text in QUERIES.items()))
        rows = "".join(f"{query}\t{document}\t{grade}\n" for query, document, grade in JUDGED)
        qrels.write_text("query-id\tcorpus-id\tscore\n" + rows)
    return ["--queries", str(queries), "--qrels", str(qrels)]


def test_a_search_is_measured_and_its_run_kept(
    judged: list[str], command: Command, library: Path, tmp_path: Path
) -> None:
    typed = ("rag-eval", "--store", str(library / "store"), *judged, "--mode", "bm25")
    found = command(*typed, "--run", str(tmp_path / "run"), "--json").json
    for name in ("ndcg@10", "recall@10", "recall@100", "mrr@10", "map"):  # of the third query nothing is found
        assert found[name] == pytest.approx(2 / 3), name
    assert (found["queries"], found["mode"]) == (3, "bm25")
    assert found["p50_ms"] > 0
    kept = read_run(tmp_path / "run")
    assert set(kept) == {"q1", "q2"}
    assert max(kept["q1"], key=kept["q1"].__getitem__) == "bees"
    assert max(kept["q2"], key=kept["q2"].__getitem__) == "notes.txt"

    told = command(*typed).out.splitlines()
    assert told[0].endswith("3 judged queries, bm25")
    assert told[1].split() == ["ndcg@10", "0.667"]


def test_a_dense_search_finds_what_no_word_does(judged: list[str], command: Command, library: Path) -> None:
    typed = ("rag-eval", "--store", str(library / "store"), *judged, "--json")
    every = command(*typed).json
    assert every["recall@100"] == 1
    fewer = command(*typed, "-k", "10", "--rerank", "words", "--fusion", "rrf").json
    assert "recall@100" not in fewer  # which ten passages cannot tell
    assert fewer["recall@10"] == every["recall@10"]
    assert fewer["mode"] == "hybrid"


# -- rag-sweep --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("mine")
def test_a_sweep_tries_every_setting_on_questions_of_the_documents(command: Command) -> None:
    given = ("docs", "--model", "encoder", "--precision", "fp32", "--questions", "5", "--sizes", "16,24", "--ks", "1,2")
    found = command("rag-sweep", *given, "--json").json
    assert found["documents"] == 4
    assert 0 < found["questions"] <= 5
    tried = {(one["size"], one["fusion"], one["k"]) for one in found["trials"]}
    assert tried == {(size, fusion, k) for size in (16, 24) for fusion in ("weighted", "rrf") for k in (1, 2)}
    assert [one["ndcg"] for one in found["trials"]] == sorted((one["ndcg"] for one in found["trials"]), reverse=True)
    assert all(0 <= one["ndcg"] <= 1 and 0 <= one["found"] <= 1 for one in found["trials"])
    table = command("rag-sweep", *given)
    assert table.out.splitlines()[0].split() == ["tokens", "fusion", "k", "found", "nDCG"]
    assert len(table.out.splitlines()) == 1 + len(tried)
