"""Filling gaps: what a masked model would put where the text says [MASK]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scratchlm.errors import UserError
from scratchlm.models import Encoder, Model, evaluating

if TYPE_CHECKING:
    from scratchlm.tokenizers import Tokenizer

MASK = "[MASK]"


def own_mask(tokenizer: Tokenizer, text: str) -> str:
    """``text`` with the tokenizer's own mask token for each ``[MASK]``, where it has one."""
    return text if tokenizer.mask_id is None else text.replace(MASK, tokenizer.token(tokenizer.mask_id))


@torch.inference_mode()
def fill(model: Model, tokenizer: Tokenizer, text: str, top_k: int = 5) -> list[list[tuple[str, float]]]:
    """The ``top_k`` most likely tokens for each ``[MASK]`` of ``text``, with their probabilities, best first.

    All gaps stay hidden while each is filled. Special tokens are no candidates. In a text longer than the context each
    gap is filled from the window around it.

    Raises:
        UserError: a model that is not a masked one, no gap in the text, unknown words (from the tokenizer).
    """
    if not isinstance(model, Encoder) or tokenizer.mask_id is None:
        raise UserError("this model was not trained to fill gaps; use generate, or train tinybert")
    if top_k < 1:
        raise UserError(f"top_k is {top_k}; give 1 or more candidates to show")
    ids = tokenizer.encode(text, allow_special=True)
    gaps = [position for position, token in enumerate(ids) if token == tokenizer.mask_id]
    if not gaps:
        raise UserError(f"the text has no {MASK}; write it where a word is to be filled in, as in: Rumi was a {MASK}")
    context = min(model.config.context, len(ids))
    starts = [min(max(gap - context // 2, 0), len(ids) - context) for gap in gaps]
    device = model.head.weight.device
    windows = torch.tensor([ids[start : start + context] for start in starts], device=device)
    places = torch.tensor([gap - start for gap, start in zip(gaps, starts, strict=True)], device=device)
    with evaluating(model):
        logits = model.logits(model.hidden(windows)[torch.arange(len(gaps), device=device), places]).float()
    logits[:, sorted(tokenizer.special_ids)] = -torch.inf
    best = logits.softmax(dim=-1).topk(min(top_k, tokenizer.vocab_size - len(tokenizer.special_ids)), dim=-1)
    return [
        [(tokenizer.decode([token]), probability) for token, probability in zip(tokens, probabilities, strict=True)]
        for tokens, probabilities in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
