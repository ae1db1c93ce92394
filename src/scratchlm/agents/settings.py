"""What a run may take, and what is told of it as it goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from scratchlm.agents.model import Reply, ToolCall
from scratchlm.agents.state import CallRecord, State
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.ranges import check_number, check_whole

EFFECTS = "effects"
"""The pattern that stands for every tool that changes something outside."""


@dataclass(frozen=True)
class AgentSettings:
    """How a run goes.

    Raises:
        UserError: a number out of range.
    """

    system: str = ""
    """What the model is told before the task."""
    max_steps: int = 10
    """Turns of the model. In the last one it cannot call, so that it answers."""
    max_new_tokens: int = 512
    """Of each turn."""
    max_tokens: int | None = None
    """Read and written, over all turns."""
    max_seconds: float | None = None
    """Of the model and the tools; the time in which someone is asked does not count."""
    max_cost: float | None = None
    """In the currency of ``prices``."""
    prices: tuple[float, float] = (0.0, 0.0)
    """Of a million tokens read, and of a million written."""
    approve: tuple[str, ...] = ()
    """Calls that someone is asked about first: patterns (``*``, ``?``, ``[...]``) of a tool's name or of
    ``name(arguments)``, or ``effects``."""
    repeats: int = 1
    """How often the same call is made, as long as no other call has changed something; one that failed, once more. A
    call that is made again is answered with what was found before."""
    stalls: int = 3
    """After so many turns in a row in which no call could be made (all broken, unknown or repeated), the model has to
    answer."""
    most_calls: int = 8
    """In one turn; the rest are not made."""
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(greedy=True))
    summarise: bool = True
    """Whether the model sums up old turns when its context is full; otherwise they are dropped."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "max_new_tokens", "repeats", "stalls", "most_calls"):
            check_whole(name, getattr(self, name), 1)
        if self.max_tokens is not None:
            check_whole("max_tokens", self.max_tokens, 1)
        for name in ("max_seconds", "max_cost"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), above=0)
        for price in self.prices:
            check_number("a price", price)


@dataclass(frozen=True)
class Event:
    """Something that has happened in a run."""

    kind: Literal["start", "step", "summary", "text", "reply", "call", "result", "told", "end"]
    """``start``; ``step`` (a turn begins); ``summary`` (the model has summed up old turns); ``text`` (a piece of what
    the model says); ``reply``; ``call`` (is about to be made); ``result``; ``told`` (the step is finished); ``end``."""
    state: State
    """As it is now; not to be changed."""
    step: int = 0
    text: str = ""
    reply: Reply | None = None
    call: CallRecord | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    """Of a ``start``: the tools' schemas."""
    settings: AgentSettings | None = None
    """Of a ``start``."""


OnEvent = Callable[[Event], None]
Ask = Callable[[ToolCall, Literal["approval", "again"]], bool | str]
"""Asked before a call that needs approval, and before one with effects is made ``again`` of which nobody knows whether
it had happened. True: make it; False, or what to tell the model: do not."""
