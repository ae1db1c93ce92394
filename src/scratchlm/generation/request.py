"""What an engine is asked, and what comes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from scratchlm.errors import UserError
from scratchlm.generation.constraints import Constraint
from scratchlm.generation.sampling import SamplingConfig, uniform_stream

FinishReason = Literal["stop", "end", "length", "cancelled", "error"]


@dataclass
class Token:
    """One token as it comes."""

    id: int
    log_probability: float | None = None
    """Of the token in the model's own distribution (or that of the draws), in nats; None unless asked for."""
    top: list[tuple[int, float]] = field(default_factory=list)
    """The likeliest tokens and their log-probabilities, best first."""
    forced: bool = False
    """Whether the constraint left no choice. A token that was never drawn has no log-probability."""


@dataclass
class Request:
    """What to continue and how.

    Raises:
        ValueError: from ``__post_init__``: no tokens, or a negative number.
    """

    ids: Sequence[int]
    """The prompt, at least one token. Longer than the context, its end is read."""
    max_new_tokens: int
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0
    """With ``sample`` it decides the draws; neither other requests nor the moment of arrival do."""
    sample: int = 0
    end_ids: frozenset[int] = frozenset()
    """Tokens that end the text."""
    log_probabilities: int | None = None
    """None for none; 0 for the chosen tokens'; k for the k likeliest beside them."""
    prompt_log_probabilities: bool = False
    """Whether the prompt's tokens get theirs, too, each given those before it. The whole prompt is then computed, also
    where the cache has its beginning."""
    as_drawn: bool = False
    """Whether these are of the distribution that is drawn from, the temperature worked in, not of the model's own."""
    speculate: int = 0
    """At most so many tokens are guessed from what the text has said before and checked in one pass. The text is the
    same with and without."""
    on_token: Callable[[Token], bool] | None = None
    """Called for every token; True ends the text there ("stop")."""
    constraint: Constraint | None = None
    """What the text may be; of this request alone. The text ends ("end") when nothing may follow, and is valid when it
    ends at ``max_new_tokens``, too. Log-probabilities are the model's own, as if there were none."""

    def __post_init__(self) -> None:
        if not self.ids:
            raise ValueError("a request needs at least one token to continue")
        if min(self.max_new_tokens, self.speculate, self.log_probabilities or 0) < 0:
            raise ValueError("max_new_tokens, speculate and log_probabilities cannot be negative")


class Ticket:
    """A request on its way; what the caller holds to wait for, read or cancel it."""

    def __init__(self, request: Request, context: int) -> None:
        self.request = request
        self.rule = replace(request.sampling, seed=None)
        """How its tokens are chosen; the seed is in its draws."""
        self.tokens: list[Token] = []
        self.finish_reason: FinishReason | None = None
        """None as long as it runs."""
        self.error: UserError | None = None
        """Why it could not go on ("error")."""
        self.window = list(request.ids[-context:])
        """What the model sees: at most a context of tokens, the prompt's and the new ones."""
        self.cancelled = False
        """Whether its end was asked for; see :meth:`Engine.cancel`."""
        self.slot = -1
        self.fed = 0
        """Tokens of the window that the slot holds."""
        self.reused = 0
        """Tokens of the prompt that were in the cache when it came."""
        self.pending = 0
        """New tokens at the window's end that are yet to be fed; 0 where more than these are."""
        self.draft: list[int] = []
        self.blocked: Future[tuple[Tensor, list[bool]]] | None = None
        self.seen: set[int] = set(request.ids)
        self.counts: Counter[int] = Counter()
        """How often each token came."""
        self.prompt_tokens: list[Token] = []
        """The window's first tokens with their log-probabilities, where these were asked for; the first has none."""
        self._random = uniform_stream(request.seed, request.sample)
        self._uniforms: list[float] = []

    @property
    def decoding(self) -> bool:
        """Whether its prompt has been read: what is to be fed came since."""
        return self.pending > 0 and self.fed == len(self.window) - self.pending

    @property
    def scores_prompt(self) -> bool:
        """Whether log-probabilities of the prompt are asked for, and not all are there."""
        return self.request.prompt_log_probabilities and len(self.prompt_tokens) < len(self.window) - len(self.tokens)

    @property
    def left(self) -> int:
        """Tokens that may yet come."""
        return self.request.max_new_tokens - len(self.tokens)

    def uniforms(self, count: int) -> list[float]:
        """The draws for the next ``count`` tokens; the same number always decides the same place of the text."""
        first = len(self.tokens)
        while len(self._uniforms) < first + count:
            self._uniforms += self._random.random(64).tolist()
        return self._uniforms[first : first + count]
