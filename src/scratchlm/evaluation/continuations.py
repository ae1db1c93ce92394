"""What a tuned model makes of held-out rows: how likely it finds them, and what it says to their prompts; or, of rows
with labels, how well it tells these."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scratchlm.data import Batch, Examples, Plan, Records
from scratchlm.data.record_rows import Record
from scratchlm.errors import UserError
from scratchlm.evaluation.classification import evaluate_labels
from scratchlm.evaluation.scores import score_batches
from scratchlm.evaluation.text_metrics import TextOptions, compare_texts
from scratchlm.generation.build import build_engine
from scratchlm.generation.engine import Request
from scratchlm.generation.generate import MOST_ROWS, spelling, start_ids
from scratchlm.generation.precision import PrecisionName
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.generation.text import TextStream
from scratchlm.models import Decoder, Model, Seq2Seq, evaluating
from scratchlm.tokenizers.chat import render_chat
from scratchlm.training.progress import PLAIN_INTERVAL, clock

if TYPE_CHECKING:
    from scratchlm.tokenizers import Tokenizer

SAMPLES = 5
"""How many prompts are shown with what came of them."""
_ROWS, _TOKENS = 64, 2048
"""Of a batch that is scored: what is enough to fill the cores."""
Note = Callable[[str], None]


@dataclass(frozen=True)
class Prompt:
    """What a model is to continue, and how it goes on in the data."""

    text: str
    ids: list[int]
    """As the model was trained to read it: the same tokens, without the end of a text."""
    reference: str
    cut: bool = False
    """Whether the reference was longer than what may be generated, and is its beginning."""
    skip_special: bool = False
    """Whether special tokens in the answer are no part of it, as in chats."""


Generate = Callable[[Sequence[Prompt], int], Sequence[str]]
"""Continues prompts by at most so many tokens each."""


def evaluate_examples(
    model: Model,
    tokenizer: Tokenizer,
    records: Records,
    examples: Examples,
    *,
    prompts: int = 200,
    max_new_tokens: int = 64,
    seed: int = 0,
    prompt_share: float = 0.5,
    template: str | None = None,
    precision: PrecisionName = "fp32",
    options: TextOptions | None = None,
    generate: Generate | None = None,
    note: Note | None = None,
) -> dict[str, Any]:
    """Everything there is to say about a model and rows of its task, ready for JSON. Give held-out rows.

    Args:
        records, examples: the rows, and the same rows encoded.
        prompts: so many rows, drawn by ``seed``, are continued; 0 for none.
        max_new_tokens: of a continuation. References are cut to as many, so that like is compared with like.
        prompt_share: of a plain text's words, the first that are the prompt.
        template: a chat template in place of the tokenizer's.
        precision: of the weights that generate.
        options: how texts are compared.
        generate: in place of the model's own greedy continuation.
        note: hears a line now and then of how far it has come.

    Returns:
        ``cross_entropy`` (nats a token), ``perplexity`` and ``accuracy`` of the next token, over the ``tokens`` that
        are supervised in ``rows`` rows; the figures of :func:`~scratchlm.evaluation.text_metrics.compare_texts` over
        the continuations of ``prompts`` prompts, of which ``references_cut`` had longer references; and ``samples``,
        some of them as {"prompt", "reference", "output"}. With ``prompts`` of 0, or no row that can be parted, the
        first three and the counts only. Of the tasks "classify" and "tag" instead what
        :func:`~scratchlm.evaluation.classification.evaluate_labels` gives, with the ``words`` of tagged ``rows``.

    Raises:
        UserError: a number out of range, a model that is no decoder, or an optional package that is missing.
    """
    rows = len(set(examples.rows.tolist()))
    if examples.task in ("classify", "tag"):
        if isinstance(model, Seq2Seq):
            raise UserError("an encoder-decoder has no head for labels; use a decoder or an encoder")
        figures = evaluate_labels(model, examples)
        return figures if examples.task == "classify" else {**figures, "rows": rows, "words": figures["rows"]}
    if prompts < 0 or max_new_tokens < 1:
        raise UserError(f"{prompts} prompts and {max_new_tokens} new tokens; give 0 or more, and at least 1")
    if not 0 < prompt_share < 1:
        raise UserError(f"prompt_share is {prompt_share:g}; give a share between 0 and 1")
    if not isinstance(model, Decoder):
        raise UserError("texts are continued by decoders; this model is none")
    figures = {**score_examples(model, examples, note), "rows": rows}
    chosen = choose_prompts(tokenizer, records, examples, prompts, max_new_tokens, seed, prompt_share, template)
    if not chosen:
        return {**figures, "prompts": 0, "samples": []}
    if generate is None:
        outputs: Sequence[str] = continue_prompts(model, tokenizer, chosen, max_new_tokens, precision, note)
    else:
        outputs = generate(chosen, max_new_tokens)
    compared = compare_texts(outputs, [prompt.reference for prompt in chosen], options)
    del compared["texts"]
    some = list(zip(chosen, outputs, strict=True))[:SAMPLES]
    return {
        **figures,
        **compared,
        "prompts": len(chosen),
        "references_cut": sum(prompt.cut for prompt in chosen),
        "samples": [{"prompt": p.text, "reference": p.reference, "output": output} for p, output in some],
    }


def score_examples(model: Model, examples: Examples, note: Note | None = None) -> dict[str, Any]:
    """Cross-entropy (nats), perplexity and accuracy at the supervised positions: each weighs the same."""
    plan = Plan(examples, rows=_ROWS, tokens=_TOKENS, width=model.config.width)

    def batches() -> Iterator[Batch]:
        progress, done = _Progress(note, "measuring", examples.supervised, "tokens"), 0
        for batch in plan.in_order():
            yield batch
            done += batch.label_count()
            progress(done, done)

    scores = score_batches(model, batches())
    return {
        "cross_entropy": scores.cross_entropy,
        "perplexity": scores.perplexity,
        "accuracy": scores.accuracy,
        "tokens": scores.tokens,
    }


def choose_prompts(
    tokenizer: Tokenizer,
    records: Records,
    examples: Examples,
    count: int,
    max_new_tokens: int,
    seed: int,
    prompt_share: float,
    template: str | None = None,
) -> list[Prompt]:
    """Prompts of at most ``count`` examples that can be parted, drawn by ``seed``, in the order of the rows.

    A row's prompt is its own; a chat's, all before its last answer; a plain text's, its first words. Of texts that are
    longer than an example, the example is what counts.
    """
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    found: dict[int, Prompt] = {}
    for number in order:
        if len(found) >= count:
            break
        row = records.rows[int(examples.rows[number])]
        text = row.text
        if records.task == "lm" and (records.whole_files or len(examples[number][0]) >= examples.max_length):
            text = tokenizer.decode(examples[number][0].tolist(), skip_special=True)
        parted = _parted(tokenizer, row, text, prompt_share, template)
        if parted is not None:
            found[number] = _cut(tokenizer, parted, max_new_tokens)
    return [found[number] for number in sorted(found)]


def continue_prompts(
    model: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    precision: PrecisionName = "fp32",
    note: Note | None = None,
) -> list[str]:
    """The likeliest continuation of each prompt, token by token, many at a time. With an adapter, of the adapted
    model."""
    end_ids = frozenset(tokenizer.eos_ids)
    streams = [
        TextStream(tokenizer, before="" if p.skip_special else p.text, skip_special=p.skip_special) for p in prompts
    ]
    greedy = SamplingConfig(greedy=True)
    with evaluating(model):
        room = max(len(prompt.ids) for prompt in prompts) + max_new_tokens
        engine = build_engine(model, rows=min(len(prompts), MOST_ROWS), precision=precision, context=room)
        tickets = [
            engine.submit(Request(p.ids, max_new_tokens, greedy, end_ids=end_ids, on_token=spelling(stream, end_ids)))
            for p, stream in zip(prompts, streams, strict=True)
        ]
        progress = _Progress(note, "continuing", len(tickets), "prompts")
        while engine.step():
            done = sum(ticket.finish_reason is not None for ticket in tickets)
            # A text under way counts in part, so that there is an estimate before the first has ended.
            progress(done, done + sum(len(t.tokens) / max_new_tokens for t in tickets if t.finish_reason is None))
    return [stream.finish() for stream in streams]


class _Progress:
    """Tells now and then how far something has come, and how long it may yet take."""

    def __init__(self, note: Note | None, doing: str, total: int, what: str) -> None:
        self._note, self._doing, self._total, self._what = note, doing, total, what
        self._began = self._told = time.monotonic()

    def __call__(self, done: int, work: float) -> None:
        """``done`` of the total are done, and of the work so many of them."""
        now = time.monotonic()
        if self._note is not None and now - self._told >= PLAIN_INTERVAL and 0 < work < self._total:
            self._told = now
            left = (now - self._began) * (self._total / work - 1)
            self._note(f"{self._doing}: {done:,} of {self._total:,} {self._what}, {clock(left)} left")


def _parted(tokenizer: Tokenizer, row: Record, text: str, share: float, template: str | None) -> Prompt | None:
    """The whole continuation as the reference; None where there is nothing to part."""
    if row.messages:
        last = max(n for n, message in enumerate(row.messages) if message["role"] == "assistant")
        if not last:
            return None  # a chat that the assistant begins
        before, tools = row.messages[:last], row.tools or None
        chat = render_chat(tokenizer, before, tools=tools, add_generation_prompt=True, template=template)
        return Prompt(chat.text, chat.ids, str(row.messages[last]["content"]), skip_special=True)
    if row.prompt:
        return Prompt(row.prompt, start_ids(tokenizer, row.prompt), row.text)
    # Where a script has no spaces, characters stand for words.
    units = list(re.finditer(r"\S+", text))
    if len(units) < 2:
        units = list(re.finditer(r"\S", text))
    if len(units) < 2:
        return None
    end = units[min(len(units) - 1, max(1, round(share * len(units)))) - 1].end()
    return Prompt(text[:end], start_ids(tokenizer, text[:end]), text[end:])


def _cut(tokenizer: Tokenizer, prompt: Prompt, tokens: int) -> Prompt:
    """With a reference of at most so many tokens."""
    ids = tokenizer.encode(prompt.reference)
    if len(ids) <= tokens:
        return prompt
    reference = tokenizer.decode(ids[:tokens]).rstrip("\ufffd")  # no half of a character
    return Prompt(prompt.text, prompt.ids, reference, cut=True, skip_special=prompt.skip_special)
