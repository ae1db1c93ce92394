"""A memory that outlives a run: texts that the model keeps in an index, and finds again by meaning and words."""

from __future__ import annotations

import time
from dataclasses import replace
from hashlib import sha256

from scratchlm.agents.document_tool import document_tool
from scratchlm.agents.tool import Tool, tool
from scratchlm.retrieval.embeddings import Embedder
from scratchlm.retrieval.index import Index
from scratchlm.retrieval.passages import Document
from scratchlm.retrieval.search import Searcher
from scratchlm.retrieval.updating import Cut

MODEL = "all-minilm-l6-v2"
"""Embeds what a new memory is to hold."""
_LONGEST = 4_000


def memory_tools(store: str, embedder: Embedder | None = None, *, cut: Cut | None = None) -> list[Tool]:
    """The tools ``remember`` and ``recall``, over an index that is made where there is none.

    What is recalled is data: sentences in it that speak to the model are left out, as those of documents are.

    Args:
        store: the folder of the index.
        embedder: what it was, or is to be, made with.
        cut: how a text is parted; None: as the index does.

    Raises:
        UserError: the store cannot be used, or the embedding model is not here.
    """
    if Index.exists(store):
        index = Index.open(store, embedder)
        index.embedder = known = embedder or index.open_embedder()
    else:
        known = embedder or Embedder.open(MODEL)
        index = Index.create(store, known)

    @tool(effects=True)
    def remember(text: str) -> str:
        """Keep a text, to be recalled later."""
        if not text.strip() or len(text) > _LONGEST:
            raise ValueError(f"give a text of at most {_LONGEST:,} characters")
        data = text.encode()
        digest = sha256(data).hexdigest()
        kept = Document(f"memory/{digest[:12]}", text, "text", digest, len(data), time.time())
        index.update([kept], partial=True, cut=cut)
        return "kept"

    recall = document_tool(searcher=Searcher(index, known))
    told = "Search the texts that were remembered, in this run and in earlier ones."
    return [remember, replace(recall, name="recall", description=told)]
