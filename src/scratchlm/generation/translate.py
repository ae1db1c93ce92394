"""Decoding of an encoder-decoder: the target, token by token, with the source's states at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from scratchlm.errors import UserError
from scratchlm.generation.sampling import Dice, SamplingConfig, sample
from scratchlm.models import KVCache, Seq2Seq

if TYPE_CHECKING:
    from scratchlm.tokenizers import Tokenizer


def translate(
    model: Seq2Seq,
    tokenizer: Tokenizer,
    source: list[int],
    max_new_tokens: int,
    sampling: SamplingConfig,
    seed: int,
    number: int,
    on_token: Callable[[int], bool],
    *,
    use_cache: bool = True,
) -> tuple[list[int], str]:
    """The target's tokens and why they ended ("stop", "end" or "length"), at most a context of them.

    ``on_token`` is called for each but the end token; True ends the text. ``number`` is the sample's.

    Raises:
        UserError: the tokenizer has no start token, or the source is longer than the context.
    """
    if tokenizer.bos_id is None:
        raise UserError("an encoder-decoder starts from a start token, and this tokenizer has none; train it again")
    context = model.config.context
    if len(source) > context:
        raise UserError(f"the source has {len(source)} tokens and the model reads {context}; shorten it")
    like = model.head.weight
    memory = model.encode(torch.tensor([source], device=like.device))
    cache = KVCache(model.config, 1, context, like.device, like.dtype) if use_cache else None
    dice = Dice(seed, [number], like.device)
    target, seen = [tokenizer.bos_id], None
    if sampling.repetition_penalty != 1.0:
        seen = torch.zeros(1, model.config.vocab_size, dtype=torch.bool, device=like.device)
        seen[:, source] = True
    counts = torch.zeros(1, model.config.vocab_size, device=like.device) if sampling.counts else None
    for _ in range(min(max_new_tokens, context)):
        fed = target[-1:] if use_cache else target
        states = model.decoder.hidden(torch.tensor([fed], device=like.device), cache=cache, memory=memory)
        logits = model.logits(states[:, -1]).float()
        token = int(sample(logits, sampling, None if sampling.is_greedy else dice.roll(), seen, counts))
        target.append(token)
        if seen is not None:
            seen[0, token] = True
        if counts is not None:
            counts[0, token] += 1
        if token in tokenizer.eos_ids:
            return target[1:], "end"
        if on_token(token):
            return target[1:], "stop"
    return target[1:], "length"
