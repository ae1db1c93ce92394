"""Log-probabilities of tokens, those that were chosen and those of a prompt."""

from __future__ import annotations

from torch import Tensor

from scratchlm.generation.native import Segment
from scratchlm.generation.request import Request, Ticket, Token


def score(made: Token, request: Request, logits: Tensor) -> Token:
    """The token with its log-probability and those of the likeliest, from the logits (V,) that it was chosen from."""
    scores = logits.float()
    if request.as_drawn and not request.sampling.is_greedy:
        scores = scores / request.sampling.temperature
    scores = scores.log_softmax(-1)
    made.log_probability = float(scores[made.id])
    best = scores.topk(min(request.log_probabilities or 0, len(scores)))
    made.top = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return made


def score_prompt(sequence: Ticket, segment: Segment, logits: Tensor) -> None:
    """Score a piece of a prompt from its logits (tokens, V): each row is of the token after its own, so that the
    prompt's last row is of the first new token, and left alone."""
    made = sequence.prompt_tokens
    if not made:
        made.append(Token(sequence.window[0]))
    end = min(segment.start + 1 + len(segment.ids), len(sequence.window) - len(sequence.tokens))
    following = sequence.window[segment.start + 1 : end]
    for token, row in zip(following, logits, strict=False):
        made.append(score(Token(token), sequence.request, row))
