"""Our search in LangChain and LangChain's retrievers in ours: what goes over and comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_core", reason="LangChain is not installed (langchain-core)")

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from scratchlm.errors import UserError
from scratchlm.integrations.langchain import LangChainSearcher, ScratchlmRetriever
from scratchlm.integrations.langchain.retrieval import to_document, to_hit
from scratchlm.retrieval.embeddings import Embedder
from scratchlm.retrieval.filters import Filter
from scratchlm.retrieval.index import Index
from scratchlm.retrieval.passages import Hit
from scratchlm.retrieval.search import Searcher
from scratchlm.retrieval.search_settings import SearchSettings

from ..training.tuned_models import sentence
from .made_up_search import TEXT, MadeUpSearch

QUERY = "who built the bridge at Halden"


class Fixed(BaseRetriever):
    """Gives the same documents for everything, and takes no ``k``."""

    documents: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:  # noqa: ARG002
        return self.documents


def test_documents_say_where_they_stand() -> None:
    (found,) = ScratchlmRetriever(searcher=MadeUpSearch(), k=1).invoke(QUERY)
    about = found.metadata
    assert about["source"] == "bridges.md"
    assert TEXT[about["start"] : about["end"]] == found.page_content
    assert (about["place"], about["headings"], about["kind"]) == ("bridges.md, line 2", ["Bridges"], "markdown")
    assert about["score"] == about["scores"]["bm25"] == 4.0
    assert found.id == "c2"


def test_a_retriever_hands_on_what_is_asked_for() -> None:
    search = MadeUpSearch()
    retriever = ScratchlmRetriever(searcher=search, k=2, where="*.md")
    retriever.invoke(QUERY)
    retriever.invoke(QUERY, k=3, where="*.txt")
    assert search.asked == [(QUERY, 2, "*.md"), (QUERY, 3, "*.txt")]


def test_an_index_is_opened_with_the_model_that_it_was_made_with(index: Path, models: Path) -> None:
    searcher = Searcher(Index.open(index), Embedder.open(models / "reader"), SearchSettings(join=False))
    retriever = ScratchlmRetriever.open(index, k=3, where=Filter(paths=("*.txt",)))
    ours = searcher.search("the wind is cold", 3).hits
    found = retriever.invoke("the wind is cold")
    assert [one.id for one in found] == [hit.id for hit in ours]
    assert {"dense", "bm25", "fused"} <= {*found[0].metadata["scores"]}
    assert LangChainSearcher(retriever).search("the wind is cold", 3).hits == ours
    assert retriever.invoke("the wind is cold", where=Filter(paths=("*.md",))) == []
    by_words = ScratchlmRetriever.open(index, settings=SearchSettings(mode="bm25"))
    assert "dense" not in by_words.invoke("the wind is cold")[0].metadata["scores"]


def test_threads_may_search_at_a_time(index: Path) -> None:
    retriever = ScratchlmRetriever.open(index, k=3)
    queries = [sentence(n, 3) for n in range(12)]
    alone = [[one.id for one in retriever.invoke(query)] for query in queries]
    assert [[one.id for one in found] for found in retriever.batch(queries * 3)] == alone * 3


def test_a_store_without_an_index_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no index in"):
        ScratchlmRetriever.open(tmp_path)


def test_a_passage_that_goes_over_comes_back_as_it_was() -> None:
    search = MadeUpSearch()
    back = LangChainSearcher(ScratchlmRetriever(searcher=search, k=1)).search(QUERY, 3)
    assert back.hits == search.search(QUERY, 3).hits
    paged = Hit("i", "a.pdf", "text", 5, 9, 2, 3, 7, 8, (), "pdf", 0.25, {"dense": 0.25})
    assert to_hit(to_document(paged), 1) == paged
    assert back.as_json()["hits"][0]["file"] == "bridges.md"
    assert set(back.timings) == {"total"}


def test_documents_of_others_become_passages() -> None:
    documents = [
        Document("one\ntwo", metadata={"source": "a.txt", "start_index": 40}),
        Document("three", metadata={"file_path": "b.pdf", "page": 0, "relevance_score": 0.5}, id="x"),
        Document("four"),
    ]
    first, second, third = LangChainSearcher(Fixed(documents=documents)).search("q", 5).hits
    assert (first.file, first.start, first.end, first.last_line, first.score) == ("a.txt", 40, 47, 2, 1.0)
    assert (second.id, second.file, second.first_page, second.score) == ("x", "b.pdf", 1, 0.5)
    assert (third.file, third.first_page, third.score) == ("a document without a source", None, 1 / 3)
    assert len({first.id, second.id, third.id}) == 3
    assert third.place() == "a document without a source, line 1"


def test_a_retriever_is_asked_for_as_many_as_are_wanted() -> None:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_texts([f"text {n}" for n in range(12)])
    assert len(LangChainSearcher(store.as_retriever()).search("text", 9).hits) == 9
    documents = [Document(str(n)) for n in range(6)]
    assert [hit.text for hit in LangChainSearcher(Fixed(documents=documents)).search("q", 2).hits] == ["0", "1"]
    assert len(LangChainSearcher(RunnableLambda(lambda _: documents)).search("q", 4).hits) == 4


@pytest.mark.parametrize(
    ("query", "settings", "says"),
    [
        (" ", {}, "the query is empty"),
        ("q", {"k": 0}, "ask for 1 or more"),
        ("q", {"where": "*.md"}, "has filters of its own"),
    ],
)
def test_wrong_searches_are_told_in_one_line(query: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        LangChainSearcher(Fixed(documents=[])).search(query, **settings)


def test_what_gives_no_documents_is_no_retriever() -> None:
    with pytest.raises(UserError, match="gives no list of LangChain documents"):
        LangChainSearcher(RunnableLambda(lambda query: query)).search("q", 1)


def test_a_retriever_takes_one_or_more() -> None:
    with pytest.raises(UserError, match="ask for 1 or more"):
        ScratchlmRetriever(searcher=MadeUpSearch(), k=0).invoke("q")
