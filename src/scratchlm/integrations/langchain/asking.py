"""One model that several threads ask at once: their answers are computed side by side, in one engine."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from scratchlm import api
from scratchlm.generation.chat import begin_reply
from scratchlm.generation.engine import Engine, Ticket
from scratchlm.generation.generate import Generation
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.language_model import LanguageModel
from scratchlm.tokenizers.chat import Message


class Asked:
    """A model, and the threads that wait for its answers.

    An engine is to be worked by one thread at a time. Here it is whichever of those that wait comes first: it computes
    a step for all of them, and wakes the others to see whether it brought what they wait for.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self._beginning = threading.Lock()
        self._turn = threading.Condition()
        self._at_work = False

    def begin(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        sampling: SamplingConfig,
        stop: Sequence[str],
        speculate: int,
        timeout: float | None,
    ) -> Asking:
        """Ask for an answer; :class:`Asking` gives it.

        Raises:
            UserError: as :meth:`scratchlm.language_model.LanguageModel.chat`.
        """
        texts: deque[str] = deque()
        with self._beginning:  # the engine may have to be built first
            engine = self.model.engine()
            turn = begin_reply(
                engine,
                self.model.tokenizer,
                messages,
                max_new_tokens=max_tokens,
                sampling=sampling,
                stop=stop,
                on_text=lambda _, text: texts.append(text),
                speculate=speculate,
            )
        ticket = engine.submit(turn.request)
        return Asking(self, engine, ticket, turn.finish, texts, len(turn.request.ids), timeout)

    def advance(self, engine: Engine) -> None:
        """Compute a step, or wait until another thread has computed one."""
        with self._turn:
            if self._at_work:
                self._turn.wait()
                return
            self._at_work = True
        try:
            engine.step()
        finally:
            with self._turn:
                self._at_work = False
                self._turn.notify_all()


class Asking:
    """An answer on its way. It is given up when :meth:`pieces` is left before its end."""

    def __init__(
        self,
        asked: Asked,
        engine: Engine,
        ticket: Ticket,
        finish: Callable[[Ticket], Generation],
        texts: deque[str],
        prompt_tokens: int,
        timeout: float | None,
    ) -> None:
        self._asked, self._engine, self._ticket, self._finish, self._texts = asked, engine, ticket, finish, texts
        self.prompt_tokens = prompt_tokens
        """Of the conversation, as the model reads it."""
        self.generation: Generation | None = None
        """The whole answer; None as long as it is on its way."""
        self._timeout = timeout

    @property
    def cached_tokens(self) -> int:
        """Those of the prompt's tokens that did not have to be computed."""
        return self._ticket.reused

    def pieces(self) -> Iterator[str]:
        """The answer as it comes.

        Raises:
            TimeoutError: it took longer than it may.
            UserError: the weights are broken.
        """
        until = None if self._timeout is None else time.monotonic() + self._timeout
        try:
            while self._ticket.finish_reason is None:
                if until is not None and time.monotonic() > until:
                    raise TimeoutError(
                        f"the answer was not whole after {self._timeout:g} s; allow more, or ask for less"
                    )
                self._asked.advance(self._engine)
                while self._texts:
                    yield self._texts.popleft()
            self.generation = self._finish(self._ticket)
            while self._texts:
                yield self._texts.popleft()
        finally:
            if self._ticket.finish_reason is None:
                self._engine.cancel(self._ticket)


_asked: WeakValueDictionary[tuple[Any, ...], Asked] = WeakValueDictionary()
_opening = threading.Lock()


def asked(model: str | Path | LanguageModel, device: str = "auto", precision: str = "auto") -> Asked:
    """The model of a name, opened once for all who use it at a time; or a model that is open already.

    Raises:
        UserError: as :func:`scratchlm.load`.
    """
    key: tuple[Any, ...]
    if isinstance(model, LanguageModel):
        key = (id(model),)
    else:
        key = (Path(model).resolve() if Path(model).exists() else str(model), device, precision)
    with _opening:
        found = _asked.get(key)
        if found is None:
            opened = model if isinstance(model, LanguageModel) else api.load(model, device=device, precision=precision)
            found = _asked[key] = Asked(opened)
        return found
