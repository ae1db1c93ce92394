"""The vector store for LangChain, and the table behind it."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("langchain_core", reason="LangChain is not installed (langchain-core)")
pytest.importorskip("lancedb", reason="LanceDB is not installed")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from scratchlm.errors import UserError
from scratchlm.integrations.langchain import ScratchlmEmbeddings, ScratchlmVectorStore
from scratchlm.integrations.langchain.vector_store import PROBE
from scratchlm.retrieval import text_table
from scratchlm.retrieval.text_table import MadeWith, TextTable

SIZE = 8
TEXTS = [f"text number {n}" for n in range(30)]
ABOUT: list[dict[str, Any]] = [{"number": n, "even": n % 2 == 0, "part": "ab"[n % 2], "half": n / 2} for n in range(30)]


def fake(size: int = SIZE) -> Embeddings:
    return DeterministicFakeEmbedding(size=size)


@pytest.fixture
def store(tmp_path: Path) -> ScratchlmVectorStore:
    return ScratchlmVectorStore.from_texts(
        TEXTS, fake(), ABOUT, store=tmp_path / "store", ids=list(map(str, range(30)))
    )


def cosines(query: str) -> np.ndarray[Any, Any]:
    vectors = np.array(fake().embed_documents([*TEXTS, query]))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found: np.ndarray[Any, Any] = vectors[:-1] @ vectors[-1]
    return found


def test_scores_are_cosines_and_the_best_come_first(store: ScratchlmVectorStore) -> None:
    expected = cosines("a query")
    found = store.similarity_search_with_score("a query", k=5)
    assert [int(one.id or "") for one, _ in found] == np.argsort(-expected)[:5].tolist()
    assert [score for _, score in found] == pytest.approx(np.sort(expected)[::-1][:5].tolist(), abs=1e-5)
    by_vector = store.similarity_search_by_vector(fake().embed_query("a query"), k=5)
    assert by_vector == [one for one, _ in found] == store.similarity_search("a query", k=5)
    assert all(0 <= score <= 1 for _, score in store.similarity_search_with_relevance_scores("a query", k=30))


def test_the_most_unlike_ones_are_those_of_langchain(store: ScratchlmVectorStore) -> None:
    vectors, query = fake().embed_documents(TEXTS), fake().embed_query("a query")
    for weight in (0.0, 0.3, 0.5, 1.0):
        near = np.argsort(-cosines("a query"))[:12].tolist()
        picked = maximal_marginal_relevance(np.array(query), [vectors[i] for i in near], lambda_mult=weight, k=6)
        found = store.max_marginal_relevance_search("a query", k=6, fetch_k=12, lambda_mult=weight)
        assert [one.id for one in found] == [str(near[i]) for i in picked]
    assert len(store.max_marginal_relevance_search("a query", k=9, fetch_k=2)) == 9
    retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 3})
    assert len(retriever.invoke("a query")) == 3


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ({"part": "a"}, set(range(0, 30, 2))),
        ({"even": True, "number": [1, 2, 4]}, {2, 4}),
        ({"half": 3}, {6}),
        ({"half": 3.5}, {7}),
        ({"number": 1}, {1}),
        ({"number": "1"}, set()),
        ({"even": 1}, set()),
        ({"nothing": None}, set()),
        ({}, set(range(30))),
    ],
)
def test_filters_find_all_and_only_what_fits(
    where: dict[str, Any], numbers: set[int], store: ScratchlmVectorStore
) -> None:
    assert {one.metadata["number"] for one in store.similarity_search("q", k=30, filter=where)} == numbers


def test_a_store_is_found_again_as_it_was_left(store: ScratchlmVectorStore, tmp_path: Path) -> None:
    store.delete(["3", "4", "no such id"])
    again = ScratchlmVectorStore(fake(), tmp_path / "store")
    assert len(again) == 28
    assert again.get_by_ids(["5", "4", "1"]) == [
        Document(id="5", page_content=TEXTS[5], metadata=ABOUT[5]),
        Document(id="1", page_content=TEXTS[1], metadata=ABOUT[1]),
    ]
    assert again.similarity_search(TEXTS[7], k=1)[0].id == "7"
    again.delete()
    assert len(store) == 0  # and the other one sees it
    assert store.similarity_search("q") == []


def test_ids_are_made_where_there_are_none_and_the_last_of_the_same_counts() -> None:
    store = ScratchlmVectorStore(fake())
    made = store.add_texts(["a", "b"])
    assert len({*made}) == 2
    assert store.add_documents([Document("c", id="x"), Document("d")])[0] == "x"
    assert store.add_texts(["first", "last"], ids=["y", "y"]) == ["y", "y"]
    assert [one.page_content for one in store.get_by_ids(["y"])] == ["last"]
    assert len(store) == 5
    assert store
    assert not len(ScratchlmVectorStore(fake()))
    assert ScratchlmVectorStore(fake())


def test_a_store_may_have_several_tables(tmp_path: Path) -> None:
    for name in ("one", "two"):
        ScratchlmVectorStore.from_texts([name], fake(), store=tmp_path, table=name)
    assert ScratchlmVectorStore(fake(), tmp_path, table="two").similarity_search("q")[0].page_content == "two"
    assert len(ScratchlmVectorStore(fake(), tmp_path)) == 0


def test_many_small_additions_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_table, "SMALL_PARTS", 4)
    store = ScratchlmVectorStore(fake(), tmp_path)
    for n in range(10):
        store.add_texts([f"text {n}"], ids=[str(n)])
    table: Any = store._table._opened
    assert table.stats()["fragment_stats"]["num_small_fragments"] < 5
    assert len(store) == 10
    assert store.similarity_search("text 3", k=1)[0].id == "3"


def test_threads_may_write_and_search_at_a_time(tmp_path: Path) -> None:
    store = ScratchlmVectorStore(fake(), tmp_path)

    def work(n: int) -> str | None:
        store.add_texts([f"text {n}"], ids=[str(n)])
        return store.similarity_search(f"text {n}", k=1)[0].id

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(24))) == list(map(str, range(24)))
    assert len(store) == 24


WRITER = """
import sys
from langchain_core.embeddings import DeterministicFakeEmbedding
from scratchlm.integrations.langchain import ScratchlmVectorStore

store = ScratchlmVectorStore(DeterministicFakeEmbedding(size=8), sys.argv[1])
for n in range(5):
    store.add_texts([f"{sys.argv[2]} {n}"], ids=[f"{sys.argv[2]}{n}"])
"""


@pytest.mark.slow
def test_processes_may_write_at_a_time(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, name]) for name in "abc"]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    store = ScratchlmVectorStore(fake(), tmp_path)
    assert {one.id for one in store.similarity_search("q", k=99)} == {f"{name}{n}" for name in "abc" for n in range(5)}


def test_another_model_is_refused(tmp_path: Path, models: Path) -> None:
    ScratchlmVectorStore.from_texts(["a"], ScratchlmEmbeddings(models / "reader"), store=tmp_path)
    in_8_bits = ScratchlmVectorStore(ScratchlmEmbeddings(models / "reader", "int8"), tmp_path)
    assert in_8_bits.similarity_search("a")[0].page_content == "a"
    for other in (fake(16), fake(3)):
        wrong = ScratchlmVectorStore(other, tmp_path)
        for use in (lambda wrong=wrong: wrong.similarity_search("a"), lambda wrong=wrong: wrong.add_texts(["b"])):
            with pytest.raises(UserError, match=r"was made with the embedding model .*reader.* gives other vectors"):
                use()
    assert len(in_8_bits) == 1


def test_a_model_that_cannot_read_the_probe_is_known_by_its_name() -> None:
    class Strict(Broken):
        model = "strict"

        def embed_query(self, text: str) -> list[float]:
            if text == PROBE:
                raise UserError("the character 't' is not in the vocabulary")
            return [1.0, 0.0]

    store = ScratchlmVectorStore.from_texts(["1"], Strict())
    assert store.similarity_search("2")[0].page_content == "1"
    store._embedding = Broken()
    del store._own
    with pytest.raises(UserError, match="was made with the embedding model strict, and Broken gives other vectors"):
        store.similarity_search("2")


class Broken(Embeddings):
    """Its vector of the text "bad" has no finite numbers."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [float("nan") if text == "bad" else 1.0, 0.0]


def mistakes(folder: Path) -> dict[str, tuple[Any, str]]:
    store = ScratchlmVectorStore.from_texts(["a"], fake(), store=folder / "store")
    broken = ScratchlmVectorStore(Broken())
    file = folder / "file"
    file.write_text("x")
    return {
        "k": (lambda: store.similarity_search("q", k=0), "ask for 1 or more"),
        "mmr k": (lambda: store.max_marginal_relevance_search("q", k=0), "ask for 1 or more"),
        "lambda": (lambda: store.max_marginal_relevance_search("q", lambda_mult=2), "lambda_mult is 2"),
        "filter": (lambda: store.similarity_search("q", filter=lambda _: True), "a filter is a mapping"),
        "filter value": (lambda: store.similarity_search("q", filter={"a": {"$gt": 1}}), "give a value, or a list"),
        "empty filter": (lambda: store.similarity_search("q", filter={"a": []}), "give a value, or a list"),
        "unknown": (lambda: store.similarity_search("q", fliter={}), "takes no 'fliter'"),
        "unknown add": (lambda: store.add_texts(["b"], batch=3), "takes no 'batch'"),
        "ids": (lambda: store.add_texts(["b", "c"], ids=["1"]), "2 texts and 1 ids"),
        "number": (lambda: store.add_texts(["b"], ids=[5]), "an id is no text"),  # type: ignore[list-item]
        "metadatas": (lambda: store.add_texts(["b"], [{}, {}]), "1 texts and 2 metadatas"),
        "metadata": (lambda: store.add_texts(["b"], [{"a": object()}], ids=["z"]), "metadata of the text 'z'"),
        "vector": (lambda: store.similarity_search_by_vector([1.0]), "not of 8 finite numbers"),
        "nan": (lambda: broken.add_texts(["bad"]), "numbers that are not finite"),
        "nan query": (lambda: (broken.add_texts(["good"]), broken.similarity_search("bad")), "finite numbers"),
        "name": (lambda: ScratchlmVectorStore(fake(), folder, table="a/b"), "cannot be called 'a/b'"),
        "file": (lambda: ScratchlmVectorStore(fake(), file), "cannot be opened"),
    }


MISTAKES = (
    *("k", "mmr k", "lambda", "filter", "filter value", "empty filter", "unknown", "unknown add", "ids", "number"),
    *("metadatas", "metadata", "vector", "nan", "nan query", "name", "file"),
)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_in_one_line(name: str, tmp_path: Path) -> None:
    cases = mistakes(tmp_path)
    assert set(cases) == {*MISTAKES}
    use, says = cases[name]
    with pytest.raises(UserError) as caught:
        use()
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_another_programs_table_is_refused(tmp_path: Path) -> None:
    import lancedb
    import pyarrow

    plain = pyarrow.schema([("a", pyarrow.int32())])
    about = {"format": 99, "model": "m", "probe": [1.0]}
    lancedb.connect(tmp_path).create_table("theirs", schema=plain)
    lancedb.connect(tmp_path).create_table("later", schema=plain.with_metadata({"scratchlm": json.dumps(about)}))
    with pytest.raises(UserError, match="is another program's"):
        TextTable(tmp_path, "theirs")
    with pytest.raises(UserError, match="by a later scratchlm"):
        TextTable(tmp_path, "later")


def test_a_damaged_store_is_told(tmp_path: Path) -> None:
    ScratchlmVectorStore.from_texts(TEXTS, fake(), store=tmp_path / "store")
    for file in (tmp_path / "store").rglob("*.lance"):
        if file.is_file():
            file.write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be read") as caught:
        ScratchlmVectorStore(fake(), tmp_path / "store").similarity_search("q")
    assert len(str(caught.value).splitlines()) == 1


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=12).filter(lambda s: s.isprintable() or "\n" in s), st.text()), min_size=1))
def test_any_text_may_be_an_id_and_metadata(pairs: list[tuple[str, str]]) -> None:
    pairs = [(key or "-", value.encode("utf-8", "replace").decode()) for key, value in pairs]
    latest = dict(pairs)
    table, made = TextTable(), MadeWith("m", (1.0, 0.0))
    vectors = np.tile(np.array([[1.0, 0.0]], np.float32), (len(pairs), 1))
    table.write([key for key, _ in pairs], ["t"] * len(pairs), vectors, [{"v": value} for _, value in pairs], made)
    assert {one.id: one.metadata["v"] for one in table.get(list(latest))} == latest
    wanted = pairs[-1][1]
    found = table.search(vectors[0], len(pairs), {"v": wanted})
    assert {one.id for one in found} == {key for key, value in latest.items() if value == wanted}
    table.delete(list(latest))
    assert len(table) == 0
