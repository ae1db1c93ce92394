"""LangChain's messages as the mappings that a chat template reads."""

from __future__ import annotations

import re
from collections.abc import Sequence

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage

from scratchlm.errors import UserError
from scratchlm.tokenizers import Tokenizer
from scratchlm.tokenizers.chat import Message

ROLES: tuple[tuple[type[BaseMessage], str], ...] = (
    (SystemMessage, "system"),
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
)


def plain_messages(messages: Sequence[BaseMessage], tokenizer: Tokenizer) -> list[Message]:
    """Each message's role and text. A message's ``name`` is left out, as templates know none.

    A special token that stands in a text is written with a space in it, ``< |im_end|>``: no document that is put into a
    prompt can end its turn and begin another.

    Raises:
        UserError: there are none, or one has something else than text, calls a tool or is a tool's result; the line
            tells its number.
    """
    if not messages:
        raise UserError("there are no messages; give at least one, such as ('user', 'Hello')")
    special = sorted(
        (one for one in map(tokenizer.token, tokenizer.special_ids) if len(one) > 1), key=len, reverse=True
    )
    pattern = re.compile("|".join(map(re.escape, special)) or r"(?!)")
    return [_plain(number, message, pattern) for number, message in enumerate(messages, 1)]


def _plain(number: int, message: BaseMessage, special: re.Pattern[str]) -> Message:
    role = message.role if isinstance(message, ChatMessage) else _role(message)
    if role is None or getattr(message, "tool_calls", None):
        raise UserError(
            f"message {number} is about a tool ({message.type}), and ChatScratchlm calls none; leave it out"
        )
    text = special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", _text(number, message.content))
    return {"role": role, "content": text}


def _role(message: BaseMessage) -> str | None:
    return next((role for kind, role in ROLES if isinstance(message, kind)), None)


def _text(number: int, content: str | list[str | dict[str, object]]) -> str:
    parts = [content] if isinstance(content, str) else content
    found: list[str] = []
    for part in parts:
        text = part if isinstance(part, str) else part.get("text") if part.get("type") == "text" else None
        if not isinstance(text, str):
            kind = "no text" if isinstance(part, str) else repr(part.get("type", "no type"))
            raise UserError(
                f"message {number} has a part of type {kind}, and ChatScratchlm reads text only; leave it out"
            )
        found.append(text)
    return "".join(found)
