"""Rollouts: what a policy says to prompts, and how likely it was to say it.

The engine samples them: native code where there is some, many texts side by side, the beginning that a prompt's
completions share computed once. Only the temperature shapes the draws, no top-k and no top-p, so that a token's
probability is that of ``softmax(logits / temperature)``, which the training can work out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scratchlm.adapters import adapters_of, merge
from scratchlm.adapters.attach import wrappers
from scratchlm.adapters.lora import LoraLinear, Replaced
from scratchlm.errors import UserError
from scratchlm.generation.build import build_engine
from scratchlm.generation.engine import Engine, FinishReason, Request
from scratchlm.generation.precision import PrecisionName
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.models import Decoder, evaluating
from scratchlm.tokenizers import Tokenizer

SLOTS = 64
"""Texts that are worked on side by side at most."""


@dataclass(frozen=True)
class Rollout:
    """One completion."""

    source: int
    """The number of its prompt among those given."""
    prompt: list[int]
    completion: list[int]
    """Its tokens, the one that ends it included. At least one."""
    sampled: list[bool]
    """For each of them whether the policy chose it. What it did not choose, such as a tool's output, is not learned."""
    log_probabilities: list[float]
    """Of each, in nats, in the distribution that it was drawn from."""
    reason: FinishReason
    text: str
    """The completion without the token that ends it."""

    @property
    def finished(self) -> bool:
        """Whether it came to an end by itself."""
        return self.reason != "length"


@dataclass(frozen=True)
class Scored:
    """Rollouts and what they are worth."""

    rollouts: list[Rollout]
    rewards: Tensor
    """(R, S) float32: by each reward."""
    total: Tensor
    """(S,) float32."""


class Sampler:
    """A policy's engine, kept from rollout to rollout.

    Adapters are worked into a copy, which shares all that is frozen with the model: the native code knows plain layers
    alone, and is several times as fast as PyTorch with a token a row. The copy is brought up to date before each use.

    Args:
        precision: of the weights that sample; other than float32 they are packed anew each time, and what they say is
            not quite what the policy would.
        slots: texts side by side, at most.
    """

    def __init__(self, model: Decoder, precision: PrecisionName = "fp32", slots: int = SLOTS) -> None:
        self.model, self.precision, self.slots = model, precision, slots
        self._merged: Decoder | None = None
        self._engine: Engine | None = None

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        per_prompt: int,
        *,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        tokenizer: Tokenizer,
        first: int = 0,
    ) -> list[Rollout]:
        """``per_prompt`` completions of the first prompt, then of the second, and so on.

        What is drawn depends on the seed and the completion's number, counted from ``first``, not on what is sampled
        beside it.

        Raises:
            UserError: a prompt is empty, or fills the context.
        """
        if not prompts:
            return []
        context = self.model.config.context
        for number, prompt in enumerate(prompts):
            if not 0 < len(prompt) < context:
                raise UserError(
                    f"prompt {number + 1} has {len(prompt):,} tokens; give at least 1 and fewer than the model's "
                    f"context of {context:,}"
                )
        ends = frozenset(tokenizer.eos_ids)
        requests = [
            Request(
                prompt,
                min(max_new_tokens, context - len(prompt)),
                SamplingConfig(temperature=temperature),
                seed=seed,
                sample=first + number * per_prompt + k,
                end_ids=ends,
                log_probabilities=0,
                as_drawn=True,
            )
            for number, prompt in enumerate(prompts)
            for k in range(per_prompt)
        ]
        room = max(len(request.ids) + request.max_new_tokens for request in requests)
        with evaluating(self.model):
            tickets = self._ready(min(self.slots, len(requests)), room).run(requests)
        found = []
        for number, ticket in enumerate(tickets):
            completion = [token.id for token in ticket.tokens]
            reason = ticket.finish_reason or "length"
            found.append(
                Rollout(
                    number // per_prompt,
                    list(ticket.request.ids),
                    completion,
                    [True] * len(completion),
                    [float(token.log_probability or 0.0) for token in ticket.tokens],
                    reason,
                    tokenizer.decode(completion[:-1] if reason == "end" else completion),
                )
            )
        return found

    def _ready(self, rows: int, room: int) -> Engine:
        """The engine, with the weights as they are now."""
        plain = self._plain()
        engine = self._engine
        fits = engine is not None and engine.backend.slots >= rows and engine.backend.context >= room
        if engine is not None and fits and self.precision == "fp32":
            engine.forget()  # what it remembers was computed by other weights
            return engine
        self._engine = None  # before the next one takes memory
        self._engine = build_engine(plain, rows=rows, precision=self.precision, context=room)
        return self._engine

    @torch.no_grad()
    def _plain(self) -> Decoder:
        """The model as plain layers, its adapters worked in."""
        if not adapters_of(self.model).active:
            return self.model
        if self._merged is None:
            frozen = [p for p in self.model.parameters() if not p.requires_grad]
            shared: dict[int, Any] = {id(tensor): tensor for tensor in (*frozen, *self.model.buffers())}
            self._merged = deepcopy(self.model, shared)
            merge(self._merged)
            return self._merged.eval()
        for path, wrapper in wrappers(self.model).items():
            copy = self._merged.get_submodule(path)
            if isinstance(wrapper, Replaced):
                copy.load_state_dict(wrapper.current.state_dict())
            elif isinstance(wrapper, LoraLinear) and wrapper.in_use():
                weight, bias = wrapper.merged()
                copy.weight.copy_(weight)  # type: ignore[operator]
                if bias is not None:
                    copy.bias.copy_(bias)  # type: ignore[operator]
        return self._merged


def sample_rollouts(
    model: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    per_prompt: int = 1,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    precision: PrecisionName = "fp32",
    slots: int = SLOTS,
) -> list[Rollout]:
    """:meth:`Sampler.sample` of a sampler that is used once."""
    return Sampler(model, precision, slots).sample(
        prompts,
        per_prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        tokenizer=tokenizer,
    )
