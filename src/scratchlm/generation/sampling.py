"""From logits to the next token: filters as pure functions, and the draw.

The order is fixed: biases, penalties, temperature, top-k, top-p, min-p. Each filter sets what it drops to -inf and
leaves the rest alone, so that they combine; the most likely token always stays.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scratchlm.errors import UserError

HEAD = 512
"""Tokens looked at before a whole vocabulary is sorted."""


@dataclass(frozen=True)
class SamplingConfig:
    """How to choose the next token. The defaults draw from the model's own distribution.

    Raises:
        UserError: from ``__post_init__``; the line names the setting and what it takes.
    """

    temperature: float = 1.0
    """Logits are divided by this; below 1 sharpens, above 1 flattens, 0 is greedy."""
    top_k: int = 0
    """Only the k most likely tokens; 0 for all."""
    top_p: float = 1.0
    """Only the fewest tokens that have this probability together (nucleus, Holtzman et al. 2020); 1 for all."""
    min_p: float = 0.0
    """Only tokens with at least this share of the best token's probability (Nguyen et al. 2024); 0 for all."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that the prompt or the text so far has less likely (Keskar et al. 2019, section 4.1)."""
    greedy: bool = False
    """Always the most likely token."""
    seed: int | None = None
    """Same seed, same text; None draws a fresh one."""
    presence_penalty: float = 0.0
    """Taken once from the logit of each token that the new text has (not the prompt); OpenAI's, from -2 to 2."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit for each time that the new text has it; OpenAI's, from -2 to 2."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Tokens and what is added to their logits: -100 all but forbids one, 100 all but demands it."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"temperature is {self.temperature}; give 0 (greedy) or a positive number such as 0.8")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}; give how many tokens to choose from, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; give a probability above 0 and at most 1 (1 for all tokens)")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p is {self.min_p}; give a share from 0 (all tokens) to 1")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise UserError(f"repetition_penalty is {self.repetition_penalty}; give a positive number (1 for none)")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= (value := getattr(self, name)) <= 2:
                raise UserError(f"{name} is {value}; give a number from -2 to 2 (0 for none)")
        for token, bias in self.logit_bias:
            if token < 0 or not -100 <= bias <= 100:
                raise UserError(f"logit_bias gives token {token} {bias}; give token ids numbers from -100 to 100")
        if self.seed is not None and self.seed < 0:
            raise UserError(f"seed is {self.seed}; give a whole number of at least 0")

    @property
    def is_greedy(self) -> bool:
        return self.greedy or self.temperature == 0

    @property
    def counts(self) -> bool:
        """Whether it matters how often the new text has a token."""
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def penalises(self) -> bool:
        """Whether a token's chance depends on what was said before it."""
        return self.repetition_penalty != 1.0 or self.counts

    def resolved_seed(self) -> int:
        """The seed, or a fresh one where none is set (small enough to be typed again)."""
        return secrets.randbelow(2**32) if self.seed is None else self.seed


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that were seen less likely (Keskar et al. 2019, eq. in section 4.1; for negative logits multiplied).

    logits (B, V), seen (B, V) bool -> (B, V). Positive logits are divided by ``penalty``, negative ones multiplied, so
    that a penalty above 1 lowers both.
    """
    if penalty == 1.0:
        return logits
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def penalise_counts(logits: Tensor, counts: Tensor, presence: float, frequency: float) -> Tensor:
    """Make tokens that the text has less likely: logits - presence * (counts > 0) - frequency * counts (OpenAI's API).

    logits (B, V), counts (B, V) of the same type -> (B, V). Negative penalties make them likelier.
    """
    return logits - presence * (counts > 0) - frequency * counts


def add_bias(logits: Tensor, bias: Sequence[tuple[int, float]]) -> Tensor:
    """Add numbers to the logits of some tokens. logits (B, V) -> (B, V).

    Raises:
        UserError: a token that is not in the vocabulary.
    """
    if not bias:
        return logits
    ids, added = zip(*bias, strict=True)
    if max(ids) >= logits.shape[-1]:
        raise UserError(f"logit_bias names token {max(ids)}; this vocabulary ends at {logits.shape[-1] - 1}")
    logits = logits.clone()
    logits[:, list(ids)] += torch.tensor(added, dtype=logits.dtype, device=logits.device)
    return logits


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest of each row; ties with the k-th stay. logits (B, V) -> (B, V). 0, or V and more, keeps all."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    smallest = logits.topk(k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < smallest, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep each row's nucleus: the most likely tokens, up to and with the one that brings their sum to p or above.

    logits (B, V) -> (B, V). Holtzman et al. 2020, eq. 2.
    """
    if p >= 1.0:
        return logits
    edge = _nucleus_edge(logits, p)
    if edge is not None:
        return logits.masked_fill(logits < edge, -torch.inf)
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1, dtype=torch.float64)
    before = probabilities.cumsum(dim=-1) - probabilities
    drop = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(drop, -torch.inf)


def _nucleus_edge(logits: Tensor, p: float) -> Tensor | None:
    """The least logit of each row's nucleus, (B, 1), where the ``HEAD`` likeliest tokens are enough to find it.

    Sorting a whole vocabulary costs as much as computing a token of a small model does. None where the head does not
    reach p, or where a token beyond the edge is as likely as the one on it: then only the order decides.
    """
    if logits.shape[-1] <= HEAD:
        return None
    head = logits.topk(HEAD, dim=-1).values
    probabilities = (head.double() - logits.double().logsumexp(dim=-1, keepdim=True)).exp()
    inside = probabilities.cumsum(dim=-1) - probabilities < p
    count = inside.sum(dim=-1, keepdim=True)
    if int(count.max()) >= HEAD:
        return None
    edge = head.gather(-1, count - 1)
    return None if bool((edge == head.gather(-1, count)).any()) else edge


def keep_min_p(logits: Tensor, share: float) -> Tensor:
    """Keep tokens at least ``share`` times as likely as the row's best. logits (B, V) -> (B, V).

    Nguyen et al. 2024, section 3. A ratio of probabilities is a difference of logits, so no softmax is needed.
    """
    if share == 0.0:
        return logits
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(share), -torch.inf)


def filter_logits(
    logits: Tensor, config: SamplingConfig, seen: Tensor | None = None, counts: Tensor | None = None
) -> Tensor:
    """The logits (B, V) that are drawn from: biased, penalised, scaled, and -inf where a filter drops a token.

    ``seen`` (B, V) bool is needed only with a repetition penalty, ``counts`` (B, V) of the new text's tokens only with
    a penalty on presence or frequency.
    """
    logits = add_bias(logits, config.logit_bias)
    if config.repetition_penalty != 1.0:
        if seen is None:
            raise ValueError("a repetition penalty needs to know which tokens were seen")
        logits = penalise_repetition(logits, seen, config.repetition_penalty)
    if config.counts:
        if counts is None:
            raise ValueError("a penalty on presence or frequency needs the counts of the text's tokens")
        logits = penalise_counts(logits, counts, config.presence_penalty, config.frequency_penalty)
    if config.is_greedy:
        return logits
    if config.temperature != 1.0:
        logits = logits / config.temperature
    return keep_min_p(keep_top_p(keep_top_k(logits, config.top_k), config.top_p), config.min_p)


def choose(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one token per row by inverting the cumulative distribution.

    logits (B, V), uniforms (B,) float64 in [0, 1) -> ids (B,) int64. Row b takes the first token whose cumulative
    probability exceeds ``uniforms[b]``: a pure function, so that one number per token makes a text reproducible.
    """
    cumulative = logits.softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    # Scaled by the last sum, which rounding leaves a little off 1; u < 1 then always falls inside the row.
    return torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)[:, 0]


def sample(
    logits: Tensor,
    config: SamplingConfig,
    uniforms: Tensor | None = None,
    seen: Tensor | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """The next token of each row.

    Args:
        logits: (B, V).
        config: the settings.
        uniforms: (B,) float64 in [0, 1), one per row; not needed when greedy.
        seen: (B, V) bool, the tokens so far; needed only with a repetition penalty.
        counts: (B, V), how often the new text has each token; needed only with a penalty on presence or frequency.

    Returns:
        ids: (B,) int64.

    Raises:
        UserError: the logits are not numbers: the weights are broken.
    """
    logits = filter_logits(logits, config, seen, counts)
    if config.is_greedy:
        best = logits.max(dim=-1)
        ids, broken = best.indices, bool(best.values.isnan().any())
    else:
        if uniforms is None:
            raise ValueError("sampling needs one uniform number per row")
        ids = choose(logits, uniforms)
        broken = int(ids.max()) >= logits.shape[-1]  # no comparison with NaN holds, so the search runs off the end
    if broken:
        raise UserError("the model answers with NaN: its weights are broken; train again or load an older checkpoint")
    return ids


def uniform_stream(seed: int, row: int) -> np.random.Generator:
    """The generator of one text's draws, which depends on the seed and the text's number among its samples.

    NumPy's PCG64 seeded by ``SeedSequence`` gives the same numbers on every platform.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(row,)))


class Dice:
    """One stream of uniform numbers per row; row i's depends on the seed and i, not on how many rows there are."""

    BLOCK = 256

    def __init__(self, seed: int, rows: Sequence[int], device: torch.device) -> None:
        self._generators = [uniform_stream(seed, row) for row in rows]
        self._device = device
        self._block = torch.empty(0)
        self._used = self.BLOCK

    def roll(self) -> Tensor:
        """(B,) float64: the next number of every row."""
        if self._used == self.BLOCK:
            drawn = np.stack([generator.random(self.BLOCK) for generator in self._generators], axis=1)
            self._block, self._used = torch.from_numpy(drawn).to(self._device), 0
        self._used += 1
        return self._block[self._used - 1]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only (indices into the present ones)."""
        self._generators = [self._generators[row] for row in rows]
        if self._used < self.BLOCK:
            self._block = self._block[:, list(rows)]
