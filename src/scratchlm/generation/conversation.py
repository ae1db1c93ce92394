"""A conversation: whose turn it was, what was said, what of it fits the context, and what people thought of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from scratchlm.checkpoints.files import disk_errors
from scratchlm.errors import UserError
from scratchlm.generation.constraints import Grammar
from scratchlm.generation.generate import Generation, OnText
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.tokenizers import Tokenizer
from scratchlm.tokenizers.chat import Message, render_chat


class Chats(Protocol):
    """A model that answers messages."""

    name: str
    tokenizer: Tokenizer

    def chat(
        self,
        messages: list[Message],
        *,
        max_new_tokens: int,
        sampling: SamplingConfig,
        on_text: OnText | None,
        speculate: int,
        grammar: Grammar | None,
    ) -> Generation:
        """The answer."""


@dataclass
class Answer:
    """One answer, or as much of it as came before it was stopped."""

    text: str
    tokens: int
    seconds: float
    """From the question to the last token."""
    first: float
    """Of these, the seconds until the first token: reading the question."""
    stopped: bool
    """Whether Ctrl-C ended it."""
    used: int
    """Tokens of the context that the conversation takes now."""


@dataclass
class Conversation:
    """Questions and answers with one model.

    Args:
        model: what answers.
        context: tokens that the model reads.
        system: what comes before all turns; None for what the model's template has of its own.
        max_new_tokens: the longest answer.
    """

    model: Chats
    context: int
    system: str | None = None
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=0.8))
    max_new_tokens: int = 512
    speculate: int = 0
    grammar: Grammar | None = None
    """What each answer may be."""
    turns: list[Message] = field(default_factory=list)
    """The messages so far, the system's apart."""

    def messages(self) -> list[Message]:
        """All messages, the system's first."""
        before: list[Message] = [] if self.system is None else [{"role": "system", "content": self.system}]
        return before + self.turns

    def reset(self, system: str | None = None) -> None:
        """Forget the turns; with ``system``, begin with another one."""
        self.turns = []
        self.system = self.system if system is None else system

    def ask(self, text: str, on_text: Callable[[str], None] | None = None) -> Answer:
        """Say something and hear the answer. Ctrl-C ends the answer, and what there is of it stays.

        Raises:
            UserError: the question alone does not fit the context, or the model cannot chat. The conversation is then
                as it was.
        """
        before = list(self.turns)
        self.turns = [*before, {"role": "user", "content": text}]
        shown: list[str] = []
        pieces, first = 0, 0.0

        def hear(_number: int, piece: str) -> None:
            nonlocal pieces, first
            pieces, first = pieces + 1, first or time.perf_counter() - start
            shown.append(piece)
            if on_text is not None:
                on_text(piece)

        start = time.perf_counter()
        try:
            self._make_room()
            given = self.model.chat(
                self.messages(),
                max_new_tokens=self.max_new_tokens,
                sampling=self.sampling,
                on_text=hear,
                speculate=self.speculate,
                grammar=self.grammar,
            )
        except KeyboardInterrupt:
            said, tokens, stopped = "".join(shown), pieces, True
        except BaseException:
            self.turns = before
            raise
        else:
            said, tokens, stopped = given.completion, len(given.ids), False
        seconds = time.perf_counter() - start
        self.turns.append({"role": "assistant", "content": said})
        return Answer(said, tokens, seconds, first or seconds, stopped, self._length(self.messages()))

    def again(self, on_text: Callable[[str], None] | None = None) -> Answer:
        """Answer the last question anew.

        Raises:
            UserError: nothing was asked yet.
        """
        if len(self.turns) < 2:
            raise UserError("nothing was asked yet; type a question first")
        question = str(self.turns[-2]["content"])
        before, self.turns = self.turns, self.turns[:-2]
        try:
            return self.ask(question, on_text)
        except BaseException:
            self.turns = before
            raise

    def rate(self, good: bool, file: Path) -> None:
        """Append the last answer and what was thought of it to a JSONL file: prompt, completion, label.

        Raises:
            UserError: there is no answer yet, or the file cannot be written.
        """
        if len(self.turns) < 2:
            raise UserError("there is no answer to rate yet; type a question first")
        prompt, answer = self.messages()[:-1], self.turns[-1]
        self._append(file, {"prompt": prompt, "completion": [answer], "label": good, "model": self.model.name})

    def save(self, file: Path) -> None:
        """Append the conversation to a JSONL file, as a row of messages that can be trained on.

        Raises:
            UserError: nothing was said yet, or the file cannot be written.
        """
        if not self.turns:
            raise UserError("nothing was said yet, so there is nothing to save")
        self._append(file, {"messages": self.messages(), "model": self.model.name})

    def _append(self, file: Path, row: dict[str, Any]) -> None:
        line = json.dumps(row, ensure_ascii=False) + "\n"
        with (
            disk_errors(str(file), "choose another file; the conversation goes on"),
            file.open("a", encoding="utf-8") as out,
        ):
            out.write(line)

    def _make_room(self) -> None:
        """Drop the oldest exchanges until the conversation and a fair answer fit the context."""
        room = self.context - min(self.max_new_tokens, self.context // 4)
        while self._length(self.messages()) > room and len(self.turns) > 2:
            self.turns = self.turns[2:]

    def _length(self, messages: list[Message]) -> int:
        return len(render_chat(self.model.tokenizer, messages, add_generation_prompt=True).ids)
