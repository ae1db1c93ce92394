"""Looking into a model while it reads a text: where each head looks, and what each layer would say by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scratchlm.errors import UserError
from scratchlm.generation.fill import own_mask
from scratchlm.models import Decoder, Encoder, Model, evaluating
from scratchlm.ranges import check_whole

if TYPE_CHECKING:
    from scratchlm.tokenizers import Tokenizer

_WORDS = ("linear", "mlm")
"""Heads that give words."""


@dataclass(frozen=True)
class Looks:
    """Where each head of each layer looks."""

    ids: Sequence[int]
    """The tokens that were read, T of them."""
    total: int
    """Tokens of the whole text."""
    causal: bool
    """Whether a token sees only those before it, and itself."""
    maps: Sequence[Tensor]
    """For each layer (H, T, T): row t is how token t shares its attention out, which sums to 1."""


@dataclass(frozen=True)
class Guess:
    """What one layer would say at one token."""

    best: Sequence[tuple[int, float]]
    """The likeliest tokens with their probabilities, the best first."""
    probability: float
    """Of the token that the model says in the end, at this layer."""
    rank: int
    """Of that token among all, from 1."""


@dataclass(frozen=True)
class LogitLens:
    """What each layer would say at each token, had it the last word."""

    ids: Sequence[int]
    """The tokens that were read, T of them."""
    total: int
    """Tokens of the whole text."""
    next: bool
    """Whether what is said at a token is the one after it; else it is the token in its place."""
    layers: Sequence[Sequence[Guess]]
    """T guesses for the embeddings, then for each layer; the last ones are what the model says."""


def read_attention(
    model: Model, tokenizer: Tokenizer, text: str, *, most: int | None = None, add_special: bool = False
) -> Looks:
    """Where each head looks while a decoder or an encoder reads ``text``, by the textbook path.

    Args:
        text: ``[MASK]`` in it is the mask token; other special tokens are found, too.
        most: tokens to read at most; of a longer text, as of one longer than the context, the first ones are read.
        add_special: whether what the model expects around a text is put there.

    Raises:
        UserError: an encoder-decoder, an empty text, or characters that the tokenizer does not know.
    """
    reader, ids, total = _ready(model, tokenizer, text, most, add_special)
    with evaluating(reader):
        maps = reader.attention_maps(_row(reader, ids))
    return Looks(ids, total, reader.causal, [one[0] for one in maps])


def logit_lens(
    model: Model,
    tokenizer: Tokenizer,
    text: str,
    *,
    top: int = 5,
    most: int | None = None,
    add_special: bool = False,
) -> LogitLens:
    """What each layer of a decoder or a masked encoder would say at each token of ``text``: the final norm and the head
    on what has come up to there (nostalgebraist 2020, "interpreting GPT: the logit lens").

    Args:
        text, most, add_special: as :func:`read_attention` takes them.
        top: how many of the likeliest tokens to tell, at each.

    Raises:
        UserError: as :func:`read_attention`; a model that says no words, or ``top`` below 1.
    """
    check_whole("top of a logit lens", top, 1)
    reader, ids, total = _ready(model, tokenizer, text, most, add_special)
    if reader.config.head not in _WORDS:
        raise UserError(
            f"this model has the head {reader.config.head!r} and says no words, so that its layers have none to guess; "
            "take one that writes or fills gaps"
        )
    with evaluating(reader):
        streams = reader.streams(_row(reader, ids))
        said = reader.lens(streams[-1]).argmax(-1)
        layers = [_guesses(reader.lens(stream)[0], said[0], top) for stream in streams]
    return LogitLens(ids, total, reader.causal, layers)


def _ready(
    model: Model, tokenizer: Tokenizer, text: str, most: int | None, add_special: bool
) -> tuple[Decoder | Encoder, list[int], int]:
    if not isinstance(model, Decoder | Encoder):
        raise UserError("attention maps of one text need a decoder or an encoder, not an encoder-decoder")
    encoded = tokenizer.encode(own_mask(tokenizer, text), allow_special=True, add_special=add_special)
    if not text or not encoded:
        raise UserError("the text is empty; give some words to look at")
    read = model.config.context if most is None else min(most, model.config.context)
    return model, encoded[:read], len(encoded)


def _row(model: Decoder | Encoder, ids: Sequence[int]) -> Tensor:
    return torch.tensor([ids], device=model.embed.tokens.weight.device)


def _guesses(logits: Tensor, said: Tensor, top: int) -> list[Guess]:
    """logits (T, V), said (T,): the tokens that the model says in the end."""
    shares = logits.float().softmax(-1)
    mine = shares.gather(1, said[:, None])
    ranks = 1 + (shares > mine).sum(1)
    best = shares.topk(min(top, shares.shape[1]), dim=1)
    rows = zip(best.indices.tolist(), best.values.tolist(), mine[:, 0].tolist(), ranks.tolist(), strict=True)
    return [Guess(list(zip(tokens, values, strict=True)), own, rank) for tokens, values, own, rank in rows]
