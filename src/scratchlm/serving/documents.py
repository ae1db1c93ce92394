"""Indexes that are served: searched as OpenAI's vector stores are, and asked as a chat model is, with cited answers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from scratchlm.retrieval.answers import Answer, Answerer, AnswerSettings
from scratchlm.retrieval.chat_models import ChatModel, OnText
from scratchlm.retrieval.followup import Turn
from scratchlm.retrieval.index import Index
from scratchlm.retrieval.passages import Hit
from scratchlm.retrieval.search import Searcher
from scratchlm.serving.errors import ApiError
from scratchlm.serving.schemas import ChatRequest, SearchRequest
from scratchlm.serving.texts import envelope


class Documents:
    """One index, with its own embedding model.

    Raises:
        UserError: there is no index, or its model is not here or has changed.
    """

    def __init__(self, store: str) -> None:
        self.index = Index.open(store)
        self._embedder = self.index.open_embedder()
        self.name, self.created = Path(store).name, int(time.time())
        self.searcher = Searcher(self.index, self._embedder)
        self._answerer = Answerer(self.searcher, self._embedder)

    def search(self, asked: SearchRequest) -> dict[str, Any]:
        """The page of OpenAI's vector store search.

        Raises:
            UserError: an empty query.
        """
        self.index.refresh()
        queries = [asked.query] if isinstance(asked.query, str) else asked.query
        best: dict[str, Hit] = {}
        for query in queries:
            for hit in self.searcher.search(query, asked.max_num_results or 10).hits:
                if hit.id not in best or best[hit.id].score < hit.score:
                    best[hit.id] = hit
        hits = sorted(best.values(), key=lambda hit: -hit.score)[: asked.max_num_results or 10]
        data = [_result(hit) for hit in hits]
        page = "vector_store.search_results.page"
        return {"object": page, "search_query": queries, "data": data, "has_more": False, "next_page": None}

    def answer(self, asked: ChatRequest) -> dict[str, Any]:
        """A chat's answer: sentences of the documents with [n] behind each, and where each stands as annotations.

        Raises:
            ApiError: the last message is no user's, or tools or a schema are asked for.
            UserError: an empty or too long question.
        """
        if asked.messages[-1].role != "user":
            raise ApiError(400, "the last message is to be the user's question", param="messages")
        if asked.tools or (asked.response_format is not None and asked.response_format.type != "text"):
            raise ApiError(400, f"{self.name} quotes documents; it takes no tools and no schema", param="model")
        found = self.ask(asked.messages[-1].text, _history(asked))
        message = {"role": "assistant", "content": found.text, "refusal": None, "annotations": _annotations(found)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        head = envelope("chat.completion", "chatcmpl", self.name)
        return {**head, "choices": [choice], "usage": usage}

    def ask(
        self,
        question: str,
        history: Sequence[Turn] = (),
        on_text: OnText | None = None,
        writer: ChatModel | None = None,
    ) -> Answer:
        """A cited answer from what is indexed by now.

        Args:
            writer: writes it; None for sentences of the documents, word for word.
            on_text: hears it as it comes.

        Raises:
            UserError: an empty or too long question, or a writer that reads too little.
        """
        self.index.refresh()
        answerer = self._answerer
        if writer is not None:
            answerer = Answerer(self.searcher, self._embedder, writer, AnswerSettings(style="write"))
        return answerer.ask(question, history, on_text)

    async def events(self, answer: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """A whole answer as a stream's pieces."""
        head = {name: answer[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
        (choice,) = answer["choices"]
        for delta, reason in ((choice["message"], None), ({}, "stop")):
            yield {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}


def _history(asked: ChatRequest) -> Sequence[Turn]:
    turns, question = [], ""
    for message in asked.messages[:-1]:
        if message.role == "user":
            question = message.text
        elif message.role == "assistant" and question:
            turns.append(Turn(question, message.text))
    return turns


def _result(hit: Hit) -> dict[str, Any]:
    attributes = {"place": hit.place(), "first_line": hit.first_line, "last_line": hit.last_line}
    content = [{"type": "text", "text": hit.text}]
    return {"file_id": hit.file, "filename": hit.file, "score": hit.score, "attributes": attributes, "content": content}


def _annotations(found: Answer) -> list[dict[str, Any]]:
    return [
        {
            "type": "file_citation",
            "file_citation": {
                **{"file_id": citation.hit.file, "filename": citation.hit.file, "place": citation.place()},
                **{"quote": citation.quote, "start_index": sentence.start, "end_index": sentence.end},
            },
        }
        for sentence in found.sentences
        for citation in sentence.citations
    ]
