"""A model of ours that calls tools: what it writes can only be text or valid calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from scratchlm.agents.call_format import CallFormat, format_of
from scratchlm.agents.call_grammar import MOST_CALLS, call_grammar
from scratchlm.agents.model import Choice, Reply
from scratchlm.errors import UserError
from scratchlm.generation.constraints import Constraint, Grammars
from scratchlm.generation.engine import Engine, Request
from scratchlm.generation.generate import spelling
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.generation.stopping import StopWatcher
from scratchlm.generation.text import TextStream
from scratchlm.tokenizers import Chat, Tokenizer
from scratchlm.tokenizers.chat import Message, render_chat

_turns: WeakKeyDictionary[Engine, threading.RLock] = WeakKeyDictionary()
"""One thread at a time works on an engine: agents that are tools may share a model and run side by side."""


class Loaded(Protocol):
    """What it needs of a ``scratchlm.LanguageModel``."""

    name: str
    tokenizer: Tokenizer
    config: Any

    def engine(self) -> Engine:
        """What generates its text."""


class LocalAgentModel:
    """A model on this machine.

    Args:
        model: such as ``scratchlm.load(...)`` gives.
        constrained: whether calls are held to the tools' schemas while they are written. Without, the model writes what
            it likes, and what is wrong goes back to it; so it does where calls begin with a special token (Mistral).
        form: how it is shown tools and writes calls; None: as its chat template says.

    Raises:
        UserError: it is no decoder, or has no chat template.
    """

    def __init__(self, model: Loaded, *, constrained: bool = True, form: CallFormat | None = None) -> None:
        if model.config.architecture != "decoder":
            raise UserError(f"{model.name} is no decoder and cannot call tools; give a chat model")
        self.model, self.name, self.context = model, model.name, int(model.config.context)
        self.form = form or format_of(model.tokenizer)
        opening = model.tokenizer.encode(self.form.opening, allow_special=True)
        # A grammar is of text; where a call begins with a token that spells none, the model writes freely.
        self.constrained = constrained and not model.tokenizer.special_ids.intersection(opening)
        self._grammars = Grammars()

    def count(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> int:
        """The tokens that these take as a prompt."""
        return len(self.rendered(messages, tools).ids)

    def respond(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        choice: Choice = "auto",
        max_new_tokens: int = 512,
        sampling: SamplingConfig | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """The next turn; see :class:`~scratchlm.agents.model.AgentModel`.

        Raises:
            UserError: as there; or a budget in which not the shortest call has room, where one must be made.
        """
        start = time.perf_counter()
        tokenizer, engine = self.model.tokenizer, self.model.engine()
        chat = self.rendered(messages, tools)
        room = self.context - len(chat.ids)
        if room < 1:
            raise UserError(
                f"the conversation has {len(chat.ids):,} tokens and {self.name} reads {self.context:,}; shorten it, or "
                "give fewer tools"
            )
        sampling = sampling or SamplingConfig(greedy=True)
        said = Said(self.form, on_text)
        stream = TextStream(tokenizer, on_text=said.push)
        end_ids = frozenset(tokenizer.eos_ids)
        request = Request(
            chat.ids,
            min(max_new_tokens, room),
            sampling,
            seed=sampling.resolved_seed(),
            end_ids=end_ids,
            on_token=spelling(stream, end_ids),
            constraint=self.constraint(tools, choice),
        )
        with _turns.setdefault(engine, threading.RLock()):
            ticket = engine.run([request])[0]
        raw = stream.finish()
        said.finish()
        text, calls = self.form.parse(raw) if tools else (raw.strip(), [])
        return Reply(
            text.rpartition("</think>")[2].strip(),  # what a thinking model says to itself is no answer
            tuple(calls),
            len(chat.ids),
            len(ticket.tokens),
            time.perf_counter() - start,
            ticket.finish_reason or "length",
            raw,
            tuple(chat.ids),
            tuple(token.id for token in ticket.tokens),
            tuple(not token.forced for token in ticket.tokens),
        )

    def constraint(
        self, tools: Sequence[Mapping[str, Any]], choice: Choice, most_calls: int = MOST_CALLS
    ) -> Constraint | None:
        """What the next turn may be; None for anything."""
        if not (tools and self.constrained):
            return None
        key = repr((tools, choice, most_calls))
        grammar = self._grammars.get(key, lambda: call_grammar(self.form, tools, choice, most_calls))
        return grammar.constraint(self.model.tokenizer)

    def rendered(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Chat:
        """The prompt of the next turn."""
        given, shown = self.form.prompt(messages, tools)
        return render_chat(self.model.tokenizer, given, tools=shown, add_generation_prompt=True, masked=False)


class Said:
    """Passes on what comes before the first call, as soon as it is certain that none has begun."""

    def __init__(self, form: CallFormat, on_text: Callable[[str], None] | None) -> None:
        self._bare, self._on_text = not form.opening, on_text
        self._watcher = StopWatcher((form.opening,) if form.opening else ())
        self._begun = ""

    def push(self, text: str) -> None:
        """Take new text."""
        if self._bare and not self._begun.strip():
            self._begun += text
        if not (self._bare and self._begun.lstrip().startswith(("{", "<|python_tag|>"))):
            self._show(self._watcher.push(text))

    def finish(self) -> None:
        """Show what was held back."""
        self._show(self._watcher.finish())

    def _show(self, text: str) -> None:
        if text and self._on_text is not None:
            self._on_text(text)
