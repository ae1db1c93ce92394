"""Our search as a LangChain retriever, and a LangChain retriever as what our answers search with."""

from __future__ import annotations

import inspect
import time
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.runnables import Runnable
from langchain_core.vectorstores import VectorStoreRetriever
from pydantic import ConfigDict

from scratchlm.errors import UserError
from scratchlm.integrations.missing import need
from scratchlm.retrieval.index import Index
from scratchlm.retrieval.passages import Hit
from scratchlm.retrieval.search import Searcher, SearchResult
from scratchlm.retrieval.search_settings import SearchSettings


class ScratchlmRetriever(BaseRetriever):
    """Our search, for LangChain.

        ScratchlmRetriever.open("manual.index", k=5).invoke("How is a model exported?")

    A document's text is the passage. Its metadata say where it stands (``source`` is the file, ``start`` and ``end``
    are characters of it, then lines, pages and headings) and what each stage of the search gave it (``score``,
    ``scores``).

    Raises:
        UserError: when it is called: ``k`` below 1, an empty query, or what the search does not take.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    searcher: Any
    """A :class:`~scratchlm.retrieval.search.Searcher`, or what has its ``search(query, k, where=None)``."""
    k: int = 4
    """Passages; another number may be given with a call."""
    where: Any = None
    """Which of the files are searched, as the searcher takes it; the same."""

    @classmethod
    def open(cls, store: str | Path, *, settings: SearchSettings | None = None, **fields: Any) -> Self:
        """The retriever of an index that ``scratchlm index`` has made.

        Args:
            settings: how to search; by default by vectors and words, and passages that touch are not joined, so that
                there are as many documents as are asked for.
            fields: ``k`` and ``where``.

        Raises:
            UserError: there is no index in ``store``, or its embedding model is not on this machine.
            MissingExtra: LanceDB is not installed.
        """
        need("langchain", "lancedb")
        index, settings = Index.open(store), settings or SearchSettings(join=False)
        embedder = None if settings.mode == "bm25" else index.open_embedder()
        return cls(searcher=Searcher(index, embedder, settings), **fields)

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        found = super()._get_ls_params(**kwargs)
        found["ls_retriever_name"] = "scratchlm"
        return found

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002
        k: int | None = None,
        where: Any = None,
    ) -> list[Document]:
        count = self.k if k is None else k
        if count < 1:
            raise UserError(f"{count} passages are asked for; ask for 1 or more")
        found = self.searcher.search(query, count, where=self.where if where is None else where)
        return [to_document(hit) for hit in found.hits]


class LangChainSearcher:
    """A LangChain retriever, or any runnable that gives documents for a text, as what our answers search with.

    Documents that :class:`ScratchlmRetriever` gave become the passages that they were. Others become passages of the
    file that their metadata name (``source``, ``file_path``, ``file``, ``path`` or ``url``), at the character that
    ``start_index`` or ``start`` says, and otherwise at 0: their offsets and lines then count from the passage's own
    start. ``page`` counts from 0, as LangChain's readers write it. Without a ``score`` in the metadata a passage's
    score is 1 over its rank, which says the order and nothing else.
    """

    def __init__(self, retriever: Runnable[str, list[Document]]) -> None:
        self.retriever = retriever

    def search(self, query: str, k: int = 10, where: Any = None) -> SearchResult:
        """The first ``k`` documents that the retriever gives. It is asked for ``k`` where it takes that.

        Raises:
            UserError: an empty query, ``k`` below 1, a filter, or something else than documents.
        """
        if not query.strip():
            raise UserError("the query is empty; write what to look for")
        if k < 1:
            raise UserError(f"{k} passages are asked for; ask for 1 or more")
        if where is not None:
            raise UserError("a LangChain retriever has filters of its own, and takes none of ours; set them there")
        begun = time.perf_counter()
        asked: dict[str, Any] = {"k": k} if _takes_k(self.retriever) else {}
        documents = self.retriever.invoke(query, **asked)
        if not isinstance(documents, list) or not all(isinstance(one, Document) for one in documents):
            raise UserError(f"{type(self.retriever).__name__} gives no list of LangChain documents; use a retriever")
        hits = [to_hit(document, rank) for rank, document in enumerate(documents[:k], 1)]
        return SearchResult(query, hits, {"total": 1000 * (time.perf_counter() - begun)})


def to_document(hit: Hit) -> Document:
    """A passage as LangChain's document."""
    about = hit.as_json()
    about |= {"source": about.pop("file"), "place": hit.place()}
    return Document(id=about.pop("id"), page_content=about.pop("text"), metadata=about)


def to_hit(document: Document, rank: int) -> Hit:
    """LangChain's document as a passage; :class:`LangChainSearcher` says how.

    Args:
        rank: its place among those that were found, from 1.
    """
    text, about = document.page_content, document.metadata
    source = next((str(about[key]) for key in ("source", "file_path", "file", "path", "url") if about.get(key)), "")
    start = next((about[key] for key in ("start_index", "start") if isinstance(about.get(key), int)), 0)
    page = about["page"] + 1 if isinstance(about.get("page"), int) else None
    first = about.get("first_line", 1)
    score = about.get("score", about.get("relevance_score"))
    score = float(score) if isinstance(score, int | float) else 1.0 / rank
    return Hit(
        id=document.id or sha256(f"{source}\0{start}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()[:32],
        file=source or "a document without a source",
        text=text,
        start=start,
        end=start + len(text),
        first_line=first,
        last_line=about.get("last_line", first + text.rstrip("\n").count("\n")),
        first_page=about.get("first_page", page),
        last_page=about.get("last_page", page),
        headings=tuple(about.get("headings", ())),
        kind=str(about.get("kind", "text")),
        score=score,
        scores=dict(about.get("scores", {})) or {"retriever": score},
    )


def _takes_k(retriever: Runnable[str, list[Document]]) -> bool:
    if isinstance(retriever, VectorStoreRetriever):
        return True  # it hands on whatever it is given
    if not isinstance(retriever, BaseRetriever):
        return False
    return "k" in inspect.signature(retriever._get_relevant_documents).parameters
