"""A text that is made for a client: tokens in, and out come pieces of text with the tokens that they are of."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from scratchlm.generation.constraints import Constraint
from scratchlm.generation.engine import Request, Token
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.generation.text import TextStream
from scratchlm.serving.scheduler import Job, News
from scratchlm.tokenizers import Tokenizer

LEAST_LOG_PROBABILITY = -9999.0
"""What stands for minus infinity, which JSON lacks; OpenAI's."""


class Piece(NamedTuple):
    """What is new of a text."""

    text: str
    tokens: list[Token]


class Filter(Protocol):
    """Decides what of a text is shown at once, as a call of a tool is not."""

    def push(self, text: str) -> None:
        """Take new text."""

    def finish(self) -> None:
        """No more comes."""


class Text(Job):
    """One choice of an answer.

    Args:
        index: its number among the choices.
        ids: the prompt.
        sampling: with its seed, which decides the draws together with ``sample``.
        stop: texts that end it.
        constraint: what it may be.
        log_probabilities: how many of the likeliest tokens to tell beside each; None for none at all.
        scores_prompt: whether the prompt's tokens get log-probabilities, too.
        before: the text that it continues, where that decides how its first token is spelled.
        end_token: whether the token that ends the text is told with the others.
        filtered: makes what decides what is shown of the text, given the function that shows it.
    """

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        ids: Sequence[int],
        max_new_tokens: int,
        sampling: SamplingConfig,
        client: str,
        news: News,
        *,
        sample: int = 0,
        stop: Sequence[str] = (),
        constraint: Constraint | None = None,
        log_probabilities: int | None = None,
        scores_prompt: bool = False,
        before: str = "",
        skip_special: bool = True,
        end_token: bool = False,
        filtered: Callable[[Callable[[str], None]], Filter] | None = None,
    ) -> None:
        self.index, self._end_token = index, end_token
        self._end_ids = frozenset(tokenizer.eos_ids)
        request = Request(
            ids,
            max_new_tokens,
            sampling,
            seed=sampling.resolved_seed(),
            sample=sample,
            end_ids=self._end_ids,
            log_probabilities=log_probabilities,
            prompt_log_probabilities=scores_prompt,
            constraint=constraint,
            on_token=self._take,
        )
        super().__init__(request, client, news)
        self._shown: list[str] = []
        self._tokens: list[Token] = []
        self._filter = None if filtered is None else filtered(self._shown.append)
        self._stream = TextStream(
            tokenizer,
            before=before,
            stops=stop,
            on_text=self._shown.append if self._filter is None else self._filter.push,
            skip_special=skip_special,
            drop_space=constraint is not None,
        )
        self._pieces: deque[Piece] = deque()
        self._fetched = 0
        self.raw = ""
        """The whole text, once it has ended."""

    @property
    def finish_reason(self) -> str:
        """OpenAI's: ``stop`` or ``length``."""
        return "length" if self.ticket is not None and self.ticket.finish_reason == "length" else "stop"

    @property
    def written(self) -> int:
        """Tokens so far."""
        return 0 if self.ticket is None else len(self.ticket.tokens)

    @property
    def cached(self) -> int:
        """Tokens of the prompt that need not be computed."""
        return 0 if self.ticket is None else self.ticket.reused

    def fetch(self) -> Piece | None:
        """What has come since the last time; None for nothing. In the event loop."""
        texts: list[str] = []
        tokens: list[Token] = []
        while self._pieces:
            piece = self._pieces.popleft()
            texts.append(piece.text)
            tokens += piece.tokens
        self._fetched += sum(map(len, texts))
        return Piece("".join(texts), tokens) if texts else None

    @property
    def rest(self) -> str:
        """Of a text that has ended and was fetched, what was not shown: what looked like a call."""
        return self.raw[self._fetched :]

    def finish(self) -> None:
        """The rest, once no more tokens come. In the engine's thread."""
        self.raw = self._stream.finish()
        if self._filter is not None:
            self._filter.finish()
        stopped = self.ticket is not None and self.ticket.finish_reason == "stop"
        if stopped and not self._shown and not self._end_token:
            self._tokens = []  # they spell the stop text, which is not shown
        self._flush()

    def _take(self, token: Token) -> bool:
        ends = token.id in self._end_ids
        stopped = not ends and self._stream.push(token.id)
        if self.request.log_probabilities is not None and (self._end_token or not ends):
            self._tokens.append(token)
        if self._shown:
            self._flush()
        return stopped

    def _flush(self) -> None:
        if self._shown or self._tokens:
            self._pieces.append(Piece("".join(self._shown), self._tokens))
            self._shown.clear()
            self._tokens = []


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token as text; bytes that are no character by themselves become U+FFFD."""
    return tokenizer.bytes_of(token).decode("utf-8", "replace") if token < tokenizer.vocab_size else ""


def log_probability(token: Token) -> float:
    """A token's log-probability in nats. One that the grammar left no choice about is certain: 0."""
    value = 0.0 if token.log_probability is None else token.log_probability
    return max(value, LEAST_LOG_PROBABILITY)


def usage(prompt: int, texts: Sequence[Text]) -> dict[str, Any]:
    """The tokens of an answer, as OpenAI counts them."""
    written = sum(text.written for text in texts)
    cached = texts[0].cached if texts else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def envelope(kind: str, prefix: str, model: str) -> dict[str, Any]:
    """What every answer and every piece of one begins with."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }
