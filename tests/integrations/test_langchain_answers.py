"""Our answers from what a LangChain retriever finds: cited by the documents' sources, refused where they say none."""

from __future__ import annotations

import pytest

pytest.importorskip("langchain_core", reason="LangChain is not installed (langchain-core)")
pytest.importorskip("lancedb", reason="LanceDB is not installed")

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from scratchlm.checkpoints.catalogue import find_pulled
from scratchlm.integrations.langchain import LangChainSearcher, ScratchlmEmbeddings, ScratchlmVectorStore
from scratchlm.retrieval.answers import Answerer

MODEL = "all-minilm-l6-v2"
FILE = "About bridges.\nThe Halden bridge was opened in 1931. Ada Lund designed the Halden bridge.\n"
START = FILE.index("The Halden")
DOCUMENTS = [
    Document(FILE[START:], metadata={"source": "bridge.md", "start_index": START}, id="bridge"),
    Document("A ferry crossed the river six times a day.", metadata={"source": "ferry.md"}, id="ferry"),
    Document("The old mill at Tolsby grinds oats and barley.", metadata={"source": "mill.md"}, id="mill"),
]


@pytest.fixture(scope="module")
def embeddings() -> ScratchlmEmbeddings:
    if find_pulled(MODEL) is None:
        pytest.skip(f"it needs {MODEL}; fetch it with: scratchlm models pull {MODEL}")
    return ScratchlmEmbeddings(MODEL)


@pytest.mark.parametrize("kind", [ScratchlmVectorStore, InMemoryVectorStore])
def test_answers_come_from_any_of_langchains_stores(kind: type[VectorStore], embeddings: ScratchlmEmbeddings) -> None:
    store = kind.from_documents(DOCUMENTS, embeddings)
    answerer = Answerer(LangChainSearcher(store.as_retriever()), embeddings.embedder)
    answer = answerer.ask("When was the Halden bridge opened?")
    assert "1931" in answer.text
    (citation, *_) = answer.sentences[0].citations
    assert citation.hit.file == "bridge.md"
    assert FILE[citation.start : citation.end] == citation.quote == "The Halden bridge was opened in 1931."
    assert "oats" in answerer.ask("What does the mill at Tolsby grind?").text
    assert answerer.ask("How high is the Eiffel Tower?").refused
