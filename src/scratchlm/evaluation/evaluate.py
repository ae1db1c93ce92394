"""A run's figures: on training and held-out text, beside the floor, with a sample and how varied it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scratchlm.data.pairs import encode_pairs
from scratchlm.errors import UserError
from scratchlm.evaluation.diversity import distinct, text_units
from scratchlm.evaluation.floor import masked_token_floor, next_token_floor
from scratchlm.evaluation.scores import Scores, character_counts, score_batches, score_masked, score_text
from scratchlm.generation.generate import generate
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.models import Decoder, Encoder, Model, Seq2Seq

if TYPE_CHECKING:
    from scratchlm.tokenizers import Tokenizer

Windows = Literal["auto", "every", "apart"]

EVERY_WINDOW_LIMIT = 1_000_000
"""Tokens through the model up to which ``windows="auto"`` takes every window; of a longer text, windows set apart."""
PROMPT_TOKENS = 8


def evaluate_run(
    model: Model,
    tokenizer: Tokenizer,
    training: np.ndarray | None = None,
    validation: np.ndarray | None = None,
    *,
    windows: Windows = "auto",
    new_tokens: int = 400,
    sampling: SamplingConfig | None = None,
    prompt: str | None = None,
) -> dict[str, Any]:
    """Everything there is to say about a decoder or an encoder and its texts, ready for JSON.

    Args:
        training, validation: token ids (N,); at least one of them.
        windows: see :func:`evaluate_text`.
        new_tokens: tokens to generate for distinct-1 and -2; 0 leaves them out. (Decoders only.)
        sampling: None for the tutorial's temperature 0.8 and top-k 50, with seed 0.
        prompt: None for the first tokens of the text.

    Returns:
        The figures of :func:`evaluate_text` for the held-out text where there is one, else for the training text
        (``measured_on`` says which); the same for each under ``training`` and ``validation``; and for decoders
        ``distinct_1``, ``distinct_2``, ``distinct_units`` and the ``sample`` they were taken from.

    Raises:
        UserError: an encoder-decoder (see :func:`evaluate_pairs`), a text too short.
    """
    texts = {name: ids for name, ids in (("validation", validation), ("training", training)) if ids is not None}
    if not texts:
        raise ValueError("there is no text to evaluate on")
    parts = {name: evaluate_text(model, tokenizer, ids, windows=windows) for name, ids in texts.items()}
    measured_on = next(iter(parts))
    result = {"measured_on": measured_on, **parts[measured_on], **parts}
    if isinstance(model, Decoder) and new_tokens:
        ids = training if training is not None else texts[measured_on]
        start = tokenizer.decode(ids[:PROMPT_TOKENS].tolist(), skip_special=True) if prompt is None else prompt
        sampling = SamplingConfig(temperature=0.8, top_k=50, seed=0) if sampling is None else sampling
        sample = generate(model, tokenizer, start, max_new_tokens=new_tokens, sampling=sampling)[0]
        units, name = text_units(sample.completion, tokenizer.kind)
        result |= {
            "distinct_1": distinct(units, 1),
            "distinct_2": distinct(units, 2),
            "distinct_units": name,
            "sample": sample.text,
        }
    return result


def evaluate_text(model: Model, tokenizer: Tokenizer, ids: np.ndarray, *, windows: Windows = "auto") -> dict[str, Any]:
    """Cross-entropy (nats a token), perplexity, accuracy (0 to 1) and, for decoders, bits per character on a text.

    A decoder predicts the next token at every position of every window; an encoder each token of every window, hidden
    in turn. ``windows`` is ``every`` (one starts at each token), ``apart`` (they do not overlap) or ``auto``: every
    window where that sends at most a million tokens through the model. With every window ``floor_cross_entropy`` and
    ``floor_accuracy`` say what no model can better on these windows.

    Raises:
        UserError: an encoder-decoder, or a text too short.
    """
    context = model.config.context
    cost = len(ids) * min(context, len(ids)) ** (2 if isinstance(model, Encoder) else 1)
    every = windows == "every" or (windows == "auto" and cost <= EVERY_WINDOW_LIMIT)
    stride = 1 if every else context
    if isinstance(model, Encoder):
        if tokenizer.mask_id is None:
            raise UserError("the tokenizer has no [MASK] token, so it is not this masked model's; give the run's own")
        special = tokenizer.special_ids
        scores = score_masked(model, ids, mask_id=tokenizer.mask_id, special_ids=special, stride=stride)
    elif isinstance(model, Decoder):
        scores = score_text(model, ids, stride=stride, counts=character_counts(tokenizer, ids))
    else:
        raise UserError("an encoder-decoder is measured on pairs, not on plain text; give it source and target pairs")
    result = _figures(scores) | {"windows": "every" if every else "apart"}
    if isinstance(model, Encoder):
        del result["bits_per_character"]
    if every:
        floor = (masked_token_floor if isinstance(model, Encoder) else next_token_floor)(ids, context)
        result |= {"floor_cross_entropy": floor.cross_entropy, "floor_accuracy": floor.accuracy}
    return result


def evaluate_pairs(
    model: Seq2Seq, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], *, rows: int = 64
) -> dict[str, Any]:
    """An encoder-decoder's figures on (source, target) pairs.

    Cross-entropy, perplexity and accuracy of each target token given the ones before it, bits per character of the
    targets, and ``exact_match``: the share of sources whose greedy answer is the target, character for character.

    Raises:
        UserError: pairs that do not fit the model, or unknown text.
    """
    table = encode_pairs(pairs, tokenizer, model.config.context)
    scores = score_batches(model, table.every(rows))
    scores.characters = table.target_characters
    sources = [source for source, _ in pairs]
    answers = generate(
        model, tokenizer, sources, max_new_tokens=model.config.context, sampling=SamplingConfig(greedy=True)
    )
    exact = sum(answer.completion == target for answer, (_, target) in zip(answers, pairs, strict=True))
    return _figures(scores) | {"exact_match": exact / len(pairs), "pairs": len(pairs)}


def _figures(scores: Scores) -> dict[str, Any]:
    return {
        "cross_entropy": scores.cross_entropy,
        "perplexity": scores.perplexity,
        "accuracy": scores.accuracy,
        "bits_per_character": scores.bits_per_character,
        "tokens": scores.tokens,
    }
