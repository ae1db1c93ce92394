"""An answer in a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scratchlm.errors import UserError
from scratchlm.generation.constraints import Grammar
from scratchlm.generation.engine import Engine, Request, Ticket
from scratchlm.generation.generate import Generation, OnText, finish_generation, spelling
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.generation.text import TextStream
from scratchlm.tokenizers.chat import Message, render_chat

if TYPE_CHECKING:
    from scratchlm.tokenizers import Tokenizer


@dataclass
class Turn:
    """An answer that is to come: what the engine is asked, and what becomes text of it."""

    request: Request
    generation: Generation
    stream: TextStream

    def finish(self, ticket: Ticket) -> Generation:
        """The answer, once its request has ended."""
        finish_generation(self.generation, ticket, self.stream)
        return self.generation


def begin_reply(
    engine: Engine,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig,
    stop: str | Sequence[str] = (),
    on_text: OnText | None = None,
    speculate: int = 0,
    grammar: Grammar | None = None,
) -> Turn:
    """What :func:`reply` asks of the engine, for those who ask several things of it at a time.

    Raises:
        UserError: as :func:`reply`.
    """
    if max_new_tokens < 0 or speculate < 0:
        raise UserError("max_new_tokens and speculate cannot be negative; give 0 or more")
    chat = render_chat(tokenizer, messages, add_generation_prompt=True, masked=False)
    context = engine.backend.context
    if len(chat.ids) >= context:
        raise UserError(
            f"the conversation has {len(chat.ids):,} tokens and the model reads {context:,}; shorten it, or begin anew"
        )
    seed = sampling.resolved_seed()
    stream = TextStream(
        tokenizer,
        stops=(stop,) if isinstance(stop, str) else tuple(stop),
        on_text=None if on_text is None else lambda text: on_text(0, text),
        skip_special=True,
        drop_space=grammar is not None,
    )
    end_ids = frozenset(tokenizer.eos_ids)
    request = Request(
        chat.ids,
        max_new_tokens,
        sampling,
        seed=seed,
        end_ids=end_ids,
        speculate=speculate,
        on_token=spelling(stream, end_ids),
        constraint=None if grammar is None else grammar.constraint(tokenizer),
    )
    return Turn(request, Generation(chat.text, "", [], "length", seed), stream)


def reply(
    engine: Engine,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig,
    stop: str | Sequence[str] = (),
    on_text: OnText | None = None,
    speculate: int = 0,
    grammar: Grammar | None = None,
) -> Generation:
    """The assistant's answer to ``messages``. Its turn's end token is not part of the text.

    Raises:
        UserError: no chat template, messages of the wrong form, a conversation as long as the context, bad numbers, a
            grammar that cannot be spelled or needs more tokens.
    """
    turn = begin_reply(
        engine,
        tokenizer,
        messages,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop=stop,
        on_text=on_text,
        speculate=speculate,
        grammar=grammar,
    )
    return turn.finish(engine.run([turn.request])[0])
