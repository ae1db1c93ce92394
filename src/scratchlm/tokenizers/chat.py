"""Messages -> text -> ids, and which of the ids the model is to learn: one function for use and for training."""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from scratchlm.errors import UserError
from scratchlm.tokenizers.template import ChatTemplate, compiled
from scratchlm.tokenizers.tokenizer import Tokenizer

Message = Mapping[str, Any]
Span = tuple[int, int]


class Chat(NamedTuple):
    """A rendered conversation."""

    text: str
    ids: list[int]
    mask: list[bool]
    """True for the tokens of the assistant's turns, the token that ends each included: what the model is to learn."""


def render_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    template: str | None = None,
    masked: bool = True,
) -> Chat:
    """Render ``messages`` by the tokenizer's chat template, or by ``template``.

    Text and ids are those of ``transformers``' ``apply_chat_template``. Where the template has ``{% generation %}``
    blocks, they are what the model is to learn. Otherwise it is what follows the generation prompt in each of the
    assistant's turns, up to and with the token that ends the turn. (Where a token would lie across the border, as a
    run of line breaks can, the text is cut there, since the model will find it cut so when it answers.)

    Args:
        tools: JSON schemas of functions, for templates that show them.
        add_generation_prompt: end the text where the assistant begins to answer.
        masked: False where nothing is learned: turns that cannot be told apart are then no error, only not marked.

    Raises:
        UserError: no template, messages of the wrong form, a template that refuses them or does too much, or one in
            whose text the assistant's turns cannot be told apart.
    """
    source = tokenizer.chat_template if template is None else template
    if source is None:
        raise UserError("this model has no chat template; give one, or use generate, which continues plain text")
    checked = [_checked(number, message) for number, message in enumerate(messages, 1)]
    rendering = _Rendering(compiled(source), tokenizer, list(tools) if tools else None)
    if rendering.template.marks_generation:
        text, spans = rendering(checked, add_generation_prompt, marks=True)
    else:
        text, _ = rendering(checked, add_generation_prompt)
        spans = _Turns(rendering, checked, text, add_generation_prompt).spans(masked)
    ids, mask = _tokens(tokenizer, text, spans)
    return Chat(text, ids, mask)


def _checked(number: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise UserError(f'message {number} has no role; write each as {{"role": "user", "content": "..."}}')
    return dict(message)


class _Rendering:
    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, tools: list[Any] | None) -> None:
        self.template = template
        ends = [tokenizer.token(i) for i in sorted(tokenizer.eos_ids)]
        self.end_pattern = "|".join(re.escape(token) for token in ends) or r"(?!)"
        roles = {f"{role}_token": token for role, token in tokenizer.roles.items()}
        self._always: dict[str, Any] = {**roles, "tools": tools, "documents": None}

    def __call__(self, messages: list[dict[str, Any]], prompt: bool, marks: bool = False) -> tuple[str, list[Span]]:
        values = {**self._always, "messages": messages, "add_generation_prompt": prompt}
        return self.template.render(values, marks=marks)


class _Turns:
    """Finds the assistant's turns in a rendered text: each begins where the text of the messages before it, with the
    generation prompt, ends, and ends where the text of the messages up to it does. Where a template writes earlier
    turns differently once more have come, a mark in the turn's content is looked for instead."""

    def __init__(self, render: _Rendering, messages: list[dict[str, Any]], text: str, prompt: bool) -> None:
        self._render, self._messages, self._text, self._prompt = render, messages, text, prompt

    def spans(self, all_of_them: bool = True) -> list[Span]:
        found: list[Span] = []
        for number, message in enumerate(self._messages):
            if message["role"] != "assistant":
                continue
            start, end = self._start(number), self._end(number)
            if start is None or end is None or end < start or (found and start < found[-1][1]):
                if not all_of_them:
                    continue
                raise UserError(
                    f"the chat template hides where the answer of message {number + 1} begins or ends; "
                    "put {% generation %} and {% endgeneration %} around the assistant's text in it"
                )
            found.append((start, end))
        return found

    def _start(self, number: int) -> int | None:
        before = self._prefix(self._messages[:number], True)
        return (
            before if before is not None else self._mark(number, lambda text, mark: (mark + text, mark + text.lstrip()))
        )

    def _end(self, number: int) -> int | None:
        end = self._prefix(self._messages[: number + 1], False)
        if end is not None:
            # A line break after the token that ends the turn is the template's, not the model's.
            ends = list(re.finditer(self._render.end_pattern, self._text[:end]))
            return ends[-1].end() if ends and not self._text[ends[-1].end() : end].strip() else end
        end = self._mark(number, lambda text, mark: (text + mark, text.rstrip() + mark))
        if end is None:
            return None
        closing = re.compile(rf"\s*(?:{self._render.end_pattern})").match(self._text, end)
        return closing.end() if closing else end

    def _prefix(self, messages: list[dict[str, Any]], prompt: bool) -> int | None:
        """The length of the text of some of the messages, if the whole text begins with it."""
        try:
            text, _ = self._render(messages, prompt)
        except UserError:
            return None  # such as a template that insists on a user's message
        return len(text) if self._text.startswith(text) else None

    def _mark(self, number: int, marked: Callable[[str, str], tuple[str, ...]]) -> int | None:
        content = self._messages[number].get("content")
        if not isinstance(content, str) or not content:
            return None
        mark = f"\ue000{secrets.token_hex(8)}\ue001"
        for changed in marked(content, mark):
            messages = copy.copy(self._messages)
            messages[number] = {**messages[number], "content": changed}
            text, _ = self._render(messages, self._prompt)
            if text.count(mark) == 1 and text.replace(mark, "") == self._text:
                return text.index(mark)
        return None


def _tokens(tokenizer: Tokenizer, text: str, spans: list[Span]) -> tuple[list[int], list[bool]]:
    bounds = sorted({0, len(text), *(place for span in spans for place in span)})
    inside = dict(spans)
    ids: list[int] = []
    mask: list[bool] = []
    for start, end in pairwise(bounds):
        part = tokenizer.encode(text[start:end], allow_special=True)
        ids += part
        mask += [start in inside] * len(part)
    if tokenizer.kind != "spm" or ids == tokenizer.encode(text, allow_special=True):
        return ids, mask
    # SentencePiece writes a text's start in a way of its own, so its parts do not add up to the whole.
    ids, offsets = tokenizer.encode_with_offsets(text)
    for start, end in offsets:
        if any(start < place < end for span in spans for place in span):
            raise UserError(
                f"the token {text[start:end]!r} lies across the border of an answer; strip the answers' spaces"
            )
    return ids, [any(a <= start and end <= b and start < end for a, b in spans) for start, end in offsets]
