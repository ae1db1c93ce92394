"""A vector store for LangChain."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from scratchlm.errors import UserError
from scratchlm.integrations.missing import need
from scratchlm.retrieval.fusion import mmr
from scratchlm.retrieval.text_table import MEMORY, MadeWith, StoredText, TextTable

PROBE = "the"
"""Its vector tells whether a store was made with another embedding model."""
ALIKE = 0.98
"""The least cosine of the probe's vectors by the same model: 8 bits in place of 32 move one by less."""


class ScratchlmVectorStore(VectorStore):
    """Texts with metadata, found by the cosine of their vectors; on disk, with LanceDB.

        store = ScratchlmVectorStore(ScratchlmEmbeddings(), "notes.lance")
        store.add_texts(["Rumi was born in 1207."], [{"source": "life.md"}])
        store.similarity_search("the poet's year of birth", k=1, filter={"source": "life.md"})

    A search compares all vectors, so that it finds what there is. The score is the cosine, the higher the better.
    Several threads and processes may use a store.

    Every search takes ``filter``: what the metadata must have under some keys, a value each or a list of values of
    which one must be there.

    Args:
        embedding: makes the vectors. A store remembers which model it was made with and refuses others.
        store: a folder, an address such as ``s3://bucket/folder``, or ``memory://``, which is gone with the object.
        table: a store may have several.

    Raises:
        UserError: the store cannot be opened.
        MissingExtra: LanceDB is not installed.
    """

    def __init__(self, embedding: Embeddings, store: str | Path = MEMORY, *, table: str = "texts") -> None:
        need("langchain", "lancedb", "pyarrow")
        self._embedding = embedding
        self._table = TextTable(store, table)

    @property
    def embeddings(self) -> Embeddings:
        """What makes the vectors."""
        return self._embedding

    def __len__(self) -> int:
        return len(self._table)

    def __bool__(self) -> bool:
        """An empty store is a store: code that asks ``if store`` wants to know whether there is one."""
        return True

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        store: str | Path = MEMORY,
        table: str = "texts",
        **kwargs: Any,
    ) -> Self:
        """A store with these texts in it, beside those that it has."""
        made = cls(embedding, store, table=table)
        made.add_texts(texts, metadatas, ids=ids, **kwargs)
        return made

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add texts, all at once or none; one whose id is there already takes its place.

        Args:
            ids: a text without one gets one.

        Returns:
            the ids.

        Raises:
            UserError: not as many ids or metadatas as texts, metadata that JSON does not have, another embedding model
                than the store's, or the store cannot be written.
        """
        _takes_no(kwargs)
        listed = list(texts)
        for name, given in (("metadatas", metadatas), ("ids", ids)):
            if given is not None and len(given) != len(listed):
                raise UserError(f"there are {len(listed):,} texts and {len(given):,} {name}; give one for each")
        if any(one is not None and not isinstance(one, str) for one in ids or ()):
            raise UserError("an id is no text; write it as one")
        if not listed:
            return []
        self._check_model()
        named = [one or str(uuid.uuid4()) for one in ids or [None] * len(listed)]
        vectors = np.asarray(self._embedding.embed_documents(listed), np.float32)
        new = not any(ids or ())
        self._table.write(named, listed, vectors, metadatas or [{}] * len(listed), self._own, new=new)
        return named

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete the texts with these ids; without ids, as LangChain has it, all texts."""
        _takes_no(kwargs)
        self._table.delete(ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The texts with these ids, in that order; those that are not there are left out."""
        return [_document(one) for one in self._table.get(ids)]

    # ---- searching

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The ``k`` texts that are most like ``query``.

        Raises:
            UserError: ``k`` below 1, or values to filter by that cannot be looked for.
        """
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """The same, with their cosines."""
        return self.similarity_search_with_score_by_vector(self._vector(query), k, **kwargs)

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """The ``k`` texts whose vectors are most like one of C numbers."""
        return [document for document, _ in self.similarity_search_with_score_by_vector(embedding, k, **kwargs)]

    def similarity_search_with_score_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        **kwargs: Any,
    ) -> list[tuple[Document, float]]:
        """The same, with their cosines."""
        _takes_no(kwargs)
        return [(_document(one), one.score) for one in self._search(embedding, k, filter)]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """``k`` texts that are like ``query`` and unlike one another (Carbonell and Goldstein 1998).

        Args:
            fetch_k: how many of the most alike are chosen from.
            lambda_mult: 1 looks at the likeness to the query alone, 0 at the texts' to one another.

        Raises:
            UserError: a number is out of its range, or values to filter by cannot be looked for.
        """
        return self.max_marginal_relevance_search_by_vector(self._vector(query), k, fetch_k, lambda_mult, **kwargs)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        **kwargs: Any,
    ) -> list[Document]:
        """The same for a vector of C numbers."""
        _takes_no(kwargs)
        if not 0 <= lambda_mult <= 1:
            raise UserError(f"lambda_mult is {lambda_mult}; give a number from 0 to 1")
        if k < 1:
            raise UserError(f"{k} texts are asked for; ask for 1 or more")
        found = self._search(embedding, max(fetch_k, k), filter)
        if not found:
            return []
        vectors = np.stack([one.vector for one in found])
        return [_document(found[i]) for i in mmr(vectors, [one.score for one in found], lambda_mult, k)]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """The cosine is the relevance; LangChain wants it between 0 and 1."""
        return lambda score: min(max(score, 0.0), 1.0)

    def _search(self, embedding: Sequence[float], k: int, where: Mapping[str, Any] | None) -> list[StoredText]:
        if where is not None and not isinstance(where, Mapping):
            raise UserError('a filter is a mapping of metadata, such as {"source": "life.md"}; give one')
        return self._table.search(np.asarray(embedding, np.float32), k, where)

    def _vector(self, query: str) -> list[float]:
        self._check_model()
        return self._embedding.embed_query(query)

    @cached_property
    def _own(self) -> MadeWith:
        """What our embedding model makes of the probe."""
        model = self._embedding
        name = getattr(model, "model", None) or getattr(model, "model_name", None) or type(model).__name__
        try:
            probe = model.embed_query(PROBE)
        except UserError:  # a tokenizer of one's own that has not these letters
            probe = []
        return MadeWith(str(name), tuple(map(float, probe)))

    def _check_model(self) -> None:
        """See that the store's vectors are our model's.

        Raises:
            UserError: they are another's.
        """
        known = self._table.made_with
        if known is None:
            return
        if not _alike(known, self._own):
            raise UserError(
                f"the store {self._table.store} was made with the embedding model {known.name}, and {self._own.name} "
                "gives other vectors; use that model, or another store"
            )


def _takes_no(kwargs: Mapping[str, Any]) -> None:
    if kwargs:
        raise UserError(f"ScratchlmVectorStore takes no {', '.join(map(repr, kwargs))} here; leave it out")


def _document(found: StoredText) -> Document:
    return Document(id=found.id, page_content=found.text, metadata=found.metadata)


def _alike(first: MadeWith, second: MadeWith) -> bool:
    """Whether two models are the same, by their vectors of the probe or, where there are none, by their names."""
    one, other = np.asarray(first.probe), np.asarray(second.probe)
    if one.shape != other.shape or not len(one):
        return one.shape == other.shape and first.name == second.name
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return bool(one @ other >= ALIKE * lengths)
