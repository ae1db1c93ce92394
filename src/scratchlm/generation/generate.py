"""Text from a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from scratchlm.errors import UserError
from scratchlm.generation.build import build_engine
from scratchlm.generation.constraints import Grammar
from scratchlm.generation.engine import Engine, Request, Ticket, Token
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.generation.stopping import StopWatcher
from scratchlm.generation.text import TextStream
from scratchlm.generation.translate import translate
from scratchlm.models import Encoder, Model, Seq2Seq, evaluating

if TYPE_CHECKING:
    from scratchlm.tokenizers import Tokenizer

OnText = Callable[[int, str], None]
"""Called with the number of a generation (its place in the list that is returned) and new text of it, never empty."""
MOST_ROWS = 16
"""Sequences that :func:`generate` keeps in the cache at once; more wait for their turn."""


@dataclass
class Generation:
    """One finished text."""

    prompt: str
    completion: str
    """What came after the prompt, without the stop string that ended it."""
    ids: list[int]
    """Every token that was sampled, the last ones too where a stop string or the end token cut the text."""
    finish_reason: str
    """``stop`` (a stop string), ``end`` (the model's end token) or ``length`` (the token budget)."""
    seed: int
    """Makes the same text again, together with the place among the samples of its prompt."""
    text: str = ""
    """Prompt and completion; of an encoder-decoder, whose prompt is the source, the completion alone."""
    tokens: list[Token] = field(default_factory=list)
    """``ids`` with their log-probabilities, where these were asked for."""


@torch.inference_mode()
def generate(
    model: Model | Engine,
    tokenizer: Tokenizer,
    prompt: str | Sequence[str],
    *,
    max_new_tokens: int = 100,
    sampling: SamplingConfig | None = None,
    stop: str | Sequence[str] = (),
    samples: int = 1,
    on_text: OnText | None = None,
    use_cache: bool = True,
    log_probabilities: int | None = None,
    speculate: int = 0,
    grammar: Grammar | None = None,
) -> list[Generation]:
    """Continue each prompt ``samples`` times.

    A text ends at a stop string, at one of the tokenizer's end tokens, or after ``max_new_tokens`` tokens, whichever is
    first (0 gives an empty completion). An empty prompt starts from the tokenizer's start token or, where it has none,
    from a newline, which is not part of the text. Of a prompt longer than the context the model sees the end. When the
    text outgrows the context, its last half becomes the new window, at positions that count from 0 again. For an
    encoder-decoder the prompt is the source, and the completion its target, at most a context long.

    Args:
        model: a model, or an engine that has one; for a model an engine is built and dropped again.
        sampling: how tokens are drawn; None draws from the model's own distribution. With a seed, sample i of a prompt
            depends on neither the number of samples nor the other prompts.
        stop: stop strings; they may span tokens. The completion ends before them.
        on_text: called as text becomes final: no part of a stop string, no half of a character.
        use_cache: False recomputes the window for every token; the text is the same.
        log_probabilities: None for none; k >= 0 for the chosen tokens' and the k likeliest tokens' beside them.
        speculate: guess up to so many tokens from the text itself and check them in one pass; the text is the same.
        grammar: what each completion may be. It ends where nothing may follow, and fits ``max_new_tokens``.

    Returns:
        ``samples`` generations of the first prompt, then of the second, and so on.

    Raises:
        UserError: a masked model, an empty prompt without a start token, unknown characters (from the tokenizer),
            negative numbers, an empty stop string, a grammar that cannot be spelled or needs more tokens.
    """
    if grammar is not None and isinstance(model, Seq2Seq):
        raise UserError("constraints are for decoders; an encoder-decoder answers freely")
    if isinstance(model, Encoder):
        raise UserError("this is a masked model, which fills gaps and does not continue text; use fill, or a decoder")
    for name, value in (
        *(("max_new_tokens", max_new_tokens), ("speculate", speculate)),
        ("log_probabilities", log_probabilities or 0),
    ):
        if value < 0:
            raise UserError(f"{name} is {value}; give 0 or more")
    if samples < 1:
        raise UserError(f"samples is {samples}; give 1 or more")
    sampling = SamplingConfig() if sampling is None else sampling
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    StopWatcher(stops)  # an empty stop string is told before any work
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    starts = [start_ids(tokenizer, text, may_be_empty=not isinstance(model, Seq2Seq)) for text in prompts]
    seed = sampling.resolved_seed()
    generations = [Generation(text, "", [], "length", seed) for text in prompts for _ in range(samples)]
    streams = [
        TextStream(
            tokenizer,
            before="" if isinstance(model, Seq2Seq) else generation.prompt,
            stops=stops,
            on_text=None if on_text is None else _numbered(on_text, number),
            drop_space=grammar is not None,
        )
        for number, generation in enumerate(generations)
    ]
    if isinstance(model, Seq2Seq):
        with evaluating(model):
            for number, (generation, stream) in enumerate(zip(generations, streams, strict=True)):
                source, take = starts[number // samples], stream.push
                found = translate(
                    *(model, tokenizer, source, max_new_tokens, sampling, seed, number % samples, take),
                    use_cache=use_cache,
                )
                generation.ids, generation.finish_reason = found
                generation.completion = generation.text = stream.finish()
        return generations
    end_ids = frozenset(tokenizer.eos_ids)
    requests = [
        Request(
            starts[number // samples],
            max_new_tokens,
            sampling,
            seed=seed,
            sample=number % samples,
            end_ids=end_ids,
            log_probabilities=log_probabilities,
            speculate=speculate,
            on_token=spelling(stream, end_ids),
            constraint=None if grammar is None else grammar.constraint(tokenizer),
        )
        for number, stream in enumerate(streams)
    ]
    if isinstance(model, Engine):
        tickets = model.run(requests)
    else:
        with evaluating(model):
            tickets = build_engine(model, rows=min(len(requests), MOST_ROWS), use_cache=use_cache).run(requests)
    for generation, ticket, stream in zip(generations, tickets, streams, strict=True):
        finish_generation(generation, ticket, stream)
    return generations


def start_ids(tokenizer: Tokenizer, prompt: str, *, may_be_empty: bool = True) -> list[int]:
    """The tokens of a prompt, or those that stand for an empty one.

    Raises:
        UserError: the prompt is empty and there is nothing to start from.
    """
    ids = list(tokenizer.encode(prompt))
    if ids:
        return [*tokenizer.prefix_ids, *ids]
    if not may_be_empty:
        raise UserError("the prompt is empty, and an encoder-decoder answers a source; give it a text")
    if tokenizer.bos_id is not None:
        return [tokenizer.bos_id]
    try:
        ids = list(tokenizer.encode("\n"))
    except UserError:
        ids = []
    if not ids or tokenizer.unk_id in ids:
        raise UserError(
            f"the prompt {prompt!r} has no token to start from, and this tokenizer has neither a start token nor a "
            "newline; give at least one character or word that it knows"
        )
    return ids


def finish_generation(generation: Generation, ticket: Ticket, stream: TextStream) -> None:
    """Fill in what has come of a request."""
    generation.tokens = ticket.tokens
    generation.ids = [token.id for token in ticket.tokens]
    generation.finish_reason = ticket.finish_reason or "length"
    generation.completion = stream.finish()
    generation.text = generation.prompt + generation.completion


def _numbered(on_text: OnText, number: int) -> Callable[[str], None]:
    return lambda text: on_text(number, text)


def spelling(stream: TextStream, end_ids: frozenset[int]) -> Callable[[Token], bool]:
    """What a request calls for each token: all but those that end the text go into the stream."""
    return lambda token: token.id not in end_ids and stream.push(token.id)
