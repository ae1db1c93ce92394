"""Making a query another one before it is looked with: a follow-up question made to stand alone, and answers made up
to find real ones by. Both ask a chat model, which is any callable from messages to a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scratchlm.errors import UserError
from scratchlm.ranges import check_whole
from scratchlm.retrieval.search import Rewritten

Message = dict[str, Any]
Chat = Callable[[Sequence[Message]], str]

_ALONE = (
    "Rewrite the last question of the conversation so that it can be understood without it: put names in place of "
    "words such as it, they and there. Answer with the question alone.\n\n{conversation}\n\nLast question: {question}"
)
_HYPOTHETICAL = "Write a short passage of a document that answers the question.\n\nQuestion: {question}"
_LONGEST = 4
"""A rewritten question may be so many times as long as the conversation's longest turn; beyond, it is no question."""


def standalone(question: str, history: Sequence[Message], chat: Chat) -> str:
    """A follow-up question as one that stands alone. Without a history it is the question itself, and so where the
    model answers with nothing, or with far more than a question.

    Args:
        history: the turns before, each with ``role`` and ``content``.

    Raises:
        UserError: the question is empty.
    """
    if not question.strip():
        raise UserError("the question is empty; ask for something")
    if not history:
        return question
    conversation = "\n".join(f"{turn['role']}: {turn['content']}" for turn in history)
    asked = _ALONE.format(conversation=conversation, question=question)
    lines = chat([{"role": "user", "content": asked}]).strip().splitlines()
    found = lines[0].strip().strip('"').removeprefix("Question:").strip() if lines else ""
    most = _LONGEST * max(len(question), *(len(str(turn["content"])) for turn in history))
    return found if 0 < len(found) <= most else question


@dataclass(frozen=True)
class Hypothetical:
    """Hypothetical documents (HyDE: Gao et al. 2022): the query is looked with beside passages that a chat model makes
    up as answers. What they say may be wrong; they are like right answers in their words.

    Raises:
        UserError: from ``__post_init__``, for a ``count`` below 1.
    """

    chat: Chat
    count: int = 1
    """Passages; more than one make sense with a model that samples."""

    def __post_init__(self) -> None:
        check_whole("count of hypothetical documents", self.count, 1)

    def __call__(self, query: str) -> Rewritten:
        """The query, and the passages that are not empty."""
        message = {"role": "user", "content": _HYPOTHETICAL.format(question=query)}
        passages = [self.chat([message]).strip() for _ in range(self.count)]
        return Rewritten(query, tuple(text for text in passages if text))


@dataclass(frozen=True)
class FollowUp:
    """A rewriter for one conversation: :func:`standalone` with its history."""

    chat: Chat
    history: Sequence[Message] = ()

    def __call__(self, query: str) -> Rewritten:
        return Rewritten(standalone(query, self.history, self.chat))
