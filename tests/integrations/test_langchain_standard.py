"""LangChain's own test suites, which every integration is to pass, on tiny untrained models and,
where they have been fetched, on real ones.

What the chat model does not do (tools, structured output, images, serialisation) it declares: the suites then skip it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_tests", reason="LangChain's test suites are not installed (langchain-tests)")
pytest.importorskip("lancedb", reason="LanceDB is not installed")

from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import (
    ChatModelIntegrationTests,
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import ChatModelUnitTests, EmbeddingsUnitTests

from scratchlm.checkpoints.catalogue import find_pulled
from scratchlm.integrations.langchain import (
    ChatScratchlm,
    ScratchlmEmbeddings,
    ScratchlmRetriever,
    ScratchlmVectorStore,
)


class WithModels:
    """Finds the models that the tests have written."""

    folder: Path

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _find_models(cls, models: Path) -> None:
        cls.folder = models


class OfChat:
    @property
    def chat_model_class(self) -> type[ChatScratchlm]:
        return ChatScratchlm


class OfEmbeddings:
    @property
    def embeddings_class(self) -> type[ScratchlmEmbeddings]:
        return ScratchlmEmbeddings


class Reader(WithModels, OfEmbeddings):
    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": self.folder / "reader"}


class TestChatUnit(WithModels, OfChat, ChatModelUnitTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": str(self.folder / "talker"), "temperature": 0}


class TestChat(WithModels, OfChat, ChatModelIntegrationTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": str(self.folder / "talker"), "temperature": 0, "max_tokens": 12}

    @property
    def model_override_value(self) -> str:
        return str(self.folder / "other")

    @property
    def supported_usage_metadata_details(self) -> dict[Any, Any]:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = ChatScratchlm(**self.chat_model_params)
        question = "the sea is wide and the wind is cold"
        model.invoke(question)
        if not stream:
            return model.invoke(question)
        chunks = list(model.stream(question))
        return sum(chunks[1:], chunks[0])


def where_fetched(model: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        find_pulled(model) is None, reason=f"it needs {model}; fetch it with: scratchlm models pull {model}"
    )


@pytest.mark.slow
@where_fetched("smollm2-135m-instruct")
class TestRealChat(OfChat, ChatModelIntegrationTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "smollm2-135m-instruct", "temperature": 0, "max_tokens": 24}


@where_fetched("all-minilm-l6-v2")
class TestRealEmbeddings(OfEmbeddings, EmbeddingsIntegrationTests):
    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "all-minilm-l6-v2", "precision": "int8"}


class TestEmbeddingsUnit(Reader, EmbeddingsUnitTests):
    pass


class TestEmbeddings(Reader, EmbeddingsIntegrationTests):
    pass


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> ScratchlmVectorStore:
        return ScratchlmVectorStore(self.get_embeddings(), tmp_path / "store")


class TestVectorStoreInMemory(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> ScratchlmVectorStore:
        return ScratchlmVectorStore(self.get_embeddings())


class TestRetriever(RetrieversIntegrationTests):
    store: Path

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _find_index(cls, index: Path) -> None:
        cls.store = index

    @property
    def retriever_constructor(self) -> type[ScratchlmRetriever]:
        return ScratchlmRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"searcher": ScratchlmRetriever.open(self.store).searcher}

    @property
    def retriever_query_example(self) -> str:
        return "how wide is the sea"
