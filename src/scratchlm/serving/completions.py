"""``/v1/completions``: a text, or its tokens, goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from scratchlm.generation.engine import Token
from scratchlm.generation.generate import start_ids
from scratchlm.serving.drawing import begin, room, sampling_of
from scratchlm.serving.errors import ApiError
from scratchlm.serving.events import Running
from scratchlm.serving.registry import Loaded, Registry
from scratchlm.serving.scheduler import News
from scratchlm.serving.schemas import CompletionRequest
from scratchlm.serving.texts import LEAST_LOG_PROBABILITY, Text, envelope, log_probability, token_text, usage
from scratchlm.tokenizers import Tokenizer

_MOST_NEW = 16
"""New tokens where no number is given; OpenAI's."""


@dataclass
class Completion:
    """One request for texts that go on."""

    asked: CompletionRequest
    running: Running = field(init=False)
    _tokenizer: Tokenizer = field(init=False)
    _written: dict[int, int] = field(default_factory=dict)
    """Characters of each choice that were sent, for the offsets of its tokens."""

    async def begin(self, models: Registry, client: str) -> None:
        """Take it in.

        Raises:
            ApiError, UserError: it is refused.
        """
        self.running = await begin(models, self.asked.model, client, self._texts)
        self._head = envelope("text_completion", "cmpl", self.asked.model)

    def _texts(self, loaded: Loaded, client: str, news: News) -> list[Text]:
        asked, self._tokenizer = self.asked, loaded.tokenizer
        sampling = sampling_of(asked, loaded.tokenizer.vocab_size)
        scores = bool(asked.echo) and asked.logprobs is not None
        most = _MOST_NEW if asked.max_tokens is None else asked.max_tokens
        texts: list[Text] = []
        self._prompts: list[str] = []
        self._read = 0
        for prompt in asked.prompts:
            ids = self._ids(prompt)
            new = room(loaded.context, len(ids), most, "prompt")
            self._read += len(ids)
            before = prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)
            for sample in range(asked.n or 1):
                self._prompts.append(before)
                texts.append(
                    Text(
                        *(len(texts), self._tokenizer, ids, new, sampling, client, news),
                        sample=sample,
                        stop=asked.stops,
                        log_probabilities=asked.logprobs,
                        scores_prompt=scores,
                        before=before,
                        skip_special=False,
                        end_token=True,
                    )
                )
        return texts

    def _ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return start_ids(self._tokenizer, prompt)
        if not 0 <= min(prompt) <= max(prompt) < self._tokenizer.vocab_size:
            least = self._tokenizer.vocab_size
            raise ApiError(400, f"a token of the prompt is not in the vocabulary, 0 to {least - 1}", param="prompt")
        return prompt

    # ---- what comes of it

    def answer(self) -> dict[str, Any]:
        """The whole answer, once all have ended."""
        choices = []
        for text in self.running.texts:
            piece = text.fetch()
            choices.append(self._choice(text, piece.text if piece else "", piece.tokens if piece else [], first=True))
            choices[-1]["finish_reason"] = text.finish_reason
        return {**self._head, "choices": choices, "usage": self._usage()}

    def _choice(self, text: Text, new: str, tokens: Sequence[Token], *, first: bool) -> dict[str, Any]:
        """A choice, or what is new of it; the ``first`` piece has the prompt, where it is to be said again."""
        shown = None
        echoes = first and self.asked.echo
        if echoes:
            new = self._prompts[text.index] + new
        if self.asked.logprobs is not None:
            before = text.ticket.prompt_tokens if echoes and text.ticket is not None else []
            shown = self._logprobs(text.index, [*before, *tokens])
        return {"index": text.index, "text": new, "logprobs": shown, "finish_reason": None}

    def _logprobs(self, index: int, tokens: Sequence[Token]) -> dict[str, Any]:
        """As OpenAI's older protocol has them; a prompt's first token has none."""
        names = [token_text(self._tokenizer, token.id) for token in tokens]
        offsets, at = [], self._written.get(index, 0)
        for name in names:
            offsets.append(at)
            at += len(name)
        self._written[index] = at
        unknown = [token.log_probability is None and not token.forced for token in tokens]
        values = [None if no else log_probability(token) for no, token in zip(unknown, tokens, strict=True)]
        top: list[dict[str, float] | None] = []
        for no, token in zip(unknown, tokens, strict=True):
            # The likeliest first, so that of two tokens that are spelled alike its number stays.
            likely: dict[str, float] = {}
            for one, value in token.top:
                likely.setdefault(token_text(self._tokenizer, one), max(value, LEAST_LOG_PROBABILITY))
            if not no:
                likely.setdefault(token_text(self._tokenizer, token.id), log_probability(token))
            top.append(None if no else likely)
        return {"tokens": names, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets}

    def _usage(self) -> dict[str, Any]:
        return usage(self._read, self.running.texts)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The answer in pieces."""
        head = dict(self._head)
        if self.asked.tells_usage:
            head["usage"] = None
        begun = set[int]()
        async for text, piece, ended in self.running.pieces():
            if ended and text.error is not None:
                raise text.error
            new, tokens = piece or ("", [])
            choice = self._choice(text, new, tokens, first=text.index not in begun)
            begun.add(text.index)
            if ended:
                choice["finish_reason"] = text.finish_reason
            yield {**head, "choices": [choice]}
        if self.asked.tells_usage:
            yield {**head, "choices": [], "usage": self._usage()}
