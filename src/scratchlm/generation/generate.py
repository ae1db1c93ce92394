"""Text from a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scratchlm.errors import UserError
from scratchlm.generation.decode import Decoding
from scratchlm.generation.sampling import Dice, SamplingConfig, sample
from scratchlm.generation.stopping import StopWatcher
from scratchlm.models import Decoder, Encoder, Model, Seq2Seq

if TYPE_CHECKING:
    from scratchlm.tokenizers import Tokenizer

OnText = Callable[[int, str], None]
"""Called with the number of a generation (its place in the list that is returned) and new text of it, never empty."""


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


class _Row:
    """A text in the making."""

    def __init__(
        self, number: int, generation: Generation, tokenizer: Tokenizer, stops: Sequence[str], *, continues: bool
    ) -> None:
        self.number, self.generation = number, generation
        generation.text = before = generation.prompt if continues else ""
        self._eos = tokenizer.eos_id
        self._watcher = StopWatcher(stops)
        self._pieces: list[str] = []
        self._stream = tokenizer.stream()
        for token in tokenizer.encode(
            before
        ):  # so that what separates the first new token from the prompt is spelled, too
            self._stream.push(token)
        # A tokenizer that splits at spaces spells one before each word, also where the prompt already ends in one.
        self._drop_space = tokenizer.kind in ("word", "wordpiece") and before[-1:].isspace()

    def take(self, token: int, budget: int, on_text: OnText | None) -> bool:
        """Add a sampled token; return whether the text has ended."""
        generation = self.generation
        generation.ids.append(token)
        if token == self._eos:
            generation.finish_reason = "end"
        else:
            self._show(self._watcher.push(self._stream.push(token)), on_text)
            if self._watcher.stopped:
                generation.finish_reason = "stop"
            elif len(generation.ids) < budget:
                return False
        if not self._watcher.stopped:
            rest = self._watcher.push(self._stream.finish())
            self._show(rest + self._watcher.finish(), on_text)
        generation.completion = "".join(self._pieces)
        generation.text += generation.completion
        return True

    def _show(self, text: str, on_text: OnText | None) -> None:
        if self._drop_space and text:
            text, self._drop_space = text.removeprefix(" "), False
        if text:
            self._pieces.append(text)
            if on_text is not None:
                on_text(self.number, text)


@torch.inference_mode()
def generate(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str | Sequence[str],
    *,
    max_new_tokens: int = 100,
    sampling: SamplingConfig | None = None,
    stop: str | Sequence[str] = (),
    samples: int = 1,
    on_text: OnText | None = None,
    use_cache: bool = True,
) -> list[Generation]:
    """Continue each prompt ``samples`` times.

    A text ends at a stop string, at the tokenizer's end token, or after ``max_new_tokens`` tokens, whichever is first
    (0 gives an empty completion). An empty prompt starts from the tokenizer's start token or, where it has none, from a
    newline, which is not part of the text. Of a prompt longer than the context the model sees the end; what happens
    when the text outgrows the context is told at :class:`~scratchlm.generation.decode.Decoding`. For an encoder-decoder
    the prompt is the source, and the completion its target, at most a context long.

    Args:
        sampling: how tokens are drawn; None draws from the model's own distribution. With a seed, sample i of a prompt
            depends on neither the number of samples nor the other prompts.
        stop: stop strings; they may span tokens. The completion ends before them.
        on_text: called as text becomes final: no part of a stop string, no half of a character.
        use_cache: False recomputes the window for every token; the text is the same.

    Returns:
        ``samples`` generations of the first prompt, then of the second, and so on.

    Raises:
        UserError: a masked model, an empty prompt without a start token, unknown characters (from the tokenizer),
            negative numbers, an empty stop string.
    """
    if isinstance(model, Encoder):
        raise UserError("this is a masked model, which fills gaps and does not continue text; use fill, or a decoder")
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens is {max_new_tokens}; give 0 or more")
    if samples < 1:
        raise UserError(f"samples is {samples}; give 1 or more")
    sampling = SamplingConfig() if sampling is None else sampling
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    StopWatcher(stops)  # an empty stop string is told before any work
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    starts = [_start_ids(tokenizer, text, model) for text in prompts]
    seed = sampling.resolved_seed()

    translates = isinstance(model, Seq2Seq)
    rows: list[_Row] = []
    was_training = model.training
    model.eval()
    try:
        for text, ids in zip(prompts, starts, strict=True):
            group = [
                _Row(
                    len(rows) + i, Generation(text, "", [], "length", seed), tokenizer, stops, continues=not translates
                )
                for i in range(samples)
            ]
            rows += group
            _run(model, tokenizer, ids, group, max_new_tokens, sampling, seed, on_text, use_cache)
    finally:
        model.train(was_training)
    return [row.generation for row in rows]


def _start_ids(tokenizer: Tokenizer, prompt: str, model: Model) -> list[int]:
    """The tokens of a prompt, or those that stand for an empty one."""
    ids = list(tokenizer.encode(prompt))
    if ids:
        return ids
    if isinstance(model, Seq2Seq):
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


def _run(
    model: Decoder | Seq2Seq,
    tokenizer: Tokenizer,
    ids: list[int],
    group: list[_Row],
    max_new_tokens: int,
    sampling: SamplingConfig,
    seed: int,
    on_text: OnText | None,
    use_cache: bool,
) -> None:
    """Decode the samples of one prompt together, dropping each row as it ends."""
    if isinstance(model, Seq2Seq):
        max_new_tokens = min(max_new_tokens, model.config.context)
    if max_new_tokens == 0:
        return
    device = model.head.weight.device
    decoding = _start(model, tokenizer, torch.tensor([ids], device=device), use_cache)
    if len(group) > 1:
        decoding.keep([0] * len(group))  # the prompt is read once for all samples
    dice = Dice(seed, range(len(group)), device)
    seen: Tensor | None = None
    if sampling.repetition_penalty != 1.0:
        seen = torch.zeros(decoding.logits.shape, dtype=torch.bool, device=device)
        seen[:, ids] = True
    active = group
    while True:
        uniforms = None if sampling.is_greedy else dice.roll()
        chosen = sample(decoding.logits, sampling, uniforms, seen)
        tokens = chosen.tolist()
        going = [i for i, row in enumerate(active) if not row.take(tokens[i], max_new_tokens, on_text)]
        if not going:
            return
        if seen is not None:
            seen.scatter_(1, chosen[:, None], True)
        if len(going) < len(active):
            active, tokens = [active[i] for i in going], [tokens[i] for i in going]
            decoding.keep(going)
            dice.keep(going)
            seen = None if seen is None else seen[going]
        decoding.push(tokens)


def _start(model: Decoder | Seq2Seq, tokenizer: Tokenizer, ids: Tensor, use_cache: bool) -> Decoding:
    """Read the prompt: a decoder's beginning, or an encoder-decoder's source."""
    if isinstance(model, Decoder):
        return Decoding(model, ids, use_cache=use_cache)
    if tokenizer.bos_id is None:
        raise UserError("an encoder-decoder starts from a start token, and this tokenizer has none; train it again")
    if ids.shape[1] > model.config.context:
        raise UserError(f"the source has {ids.shape[1]} tokens and the model reads {model.config.context}; shorten it")
    start = torch.full((1, 1), tokenizer.bos_id, device=ids.device)
    return Decoding(model, start, memory=model.encode(ids), use_cache=use_cache)
