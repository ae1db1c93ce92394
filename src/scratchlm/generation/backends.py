"""The engine's view of a model: pieces of sequences go in, logits come out, and a cache remembers the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from scratchlm.generation.native import NativeCache, NativeModel, Segment, Stop
from scratchlm.models import Decoder, KVCache
from scratchlm.models.quantised import QuantisedLinear


class Backend(Protocol):
    """A decoder with room for ``slots`` sequences."""

    context: int
    vocab_size: int
    slots: int
    precision: str
    """Of the weights, for people: "fp32", "bf16", "int8" or "int4"."""
    keeps: bool
    """Whether it remembers; without a cache each call brings whole sequences."""
    enough: int
    """Tokens of prompts in a pass from which on each further one makes it longer by what it takes alone."""

    def logits(self, segments: Sequence[Segment], stop: Stop | None = None) -> Tensor:
        """(wanted, V) float32 of the wanted tokens, in order; valid until the next call. A backend that can end a pass
        early raises GivenUpError when it is asked to; the others compute it to its end."""

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Make the first tokens of one slot those of another, too."""


class NativeBackend:
    """On the CPU, in native code: float32, 8 or 4 bits."""

    keeps = True
    enough = 32

    def __init__(self, model: NativeModel, slots: int, context: int | None = None) -> None:
        self.context = model.config.context if context is None else context
        self._model, self._cache = model, NativeCache(model.config, slots, self.context)
        self.vocab_size, self.slots = model.config.vocab_size, slots
        self.precision: str = model.precision

    def logits(self, segments: Sequence[Segment], stop: Stop | None = None) -> Tensor:
        return self._model.logits(segments, self._cache, stop)

    def copy(self, source: int, target: int, tokens: int) -> None:
        self._cache.copy(source, target, tokens)


class TorchBackend:
    """Any decoder, on any device and in any precision, adapters and all.

    Segments of the same number of tokens are computed together. Where their sequences differ in length, each row's
    keys are brought to end at the same place, with padding before them that nothing attends to.
    """

    keeps = True
    enough = 256

    def __init__(self, model: Decoder, slots: int, context: int | None = None) -> None:
        self._model = model
        like = model.embed.tokens.weight
        self._device = like.device
        self.context = model.config.context if context is None else context
        self._cache = KVCache(model.config, slots, self.context, like.device, like.dtype)
        self.precision = _precision_of(model)
        self.vocab_size, self.slots = model.config.vocab_size, slots

    def logits(self, segments: Sequence[Segment], stop: Stop | None = None) -> Tensor:  # noqa: ARG002
        parts: list[Tensor] = [torch.empty(0)] * len(segments)
        groups: dict[int, list[int]] = {}
        for i, segment in enumerate(segments):
            groups.setdefault(len(segment.ids), []).append(i)
        for tokens, members in groups.items():
            rows = _Rows(self._cache, [segments[i] for i in members], tokens)
            ids = torch.tensor([list(segments[i].ids) for i in members], device=self._device)
            hidden = self._model.hidden(ids, positions=rows.positions, documents=rows.documents, cache=rows)  # type: ignore[arg-type]
            for i, states in zip(members, hidden, strict=True):
                wanted = {"last": states[-1:], "all": states, "none": states[:0]}[segments[i].wanted]
                parts[i] = self._model.logits(wanted).float() if len(wanted) else wanted.new_empty(0, self.vocab_size)
        return torch.cat([part.float() for part in parts])

    def copy(self, source: int, target: int, tokens: int) -> None:
        for kept in (self._cache.keys, self._cache.values):
            kept[:, target, :, :tokens] = kept[:, source, :, :tokens]


class UncachedBackend:
    """A decoder that computes whole sequences for every token: what the others are checked against."""

    keeps = False
    enough = 256

    def __init__(self, model: Decoder, slots: int) -> None:
        self._model = model
        self.precision = _precision_of(model)
        self.context, self.vocab_size, self.slots = model.config.context, model.config.vocab_size, slots

    def logits(self, segments: Sequence[Segment], stop: Stop | None = None) -> Tensor:  # noqa: ARG002
        parts = []
        for segment in segments:
            if segment.start:
                raise ValueError("nothing is remembered here; give the sequence from its start")
            ids = torch.tensor([list(segment.ids)], device=self._model.embed.tokens.weight.device)
            states = self._model.hidden(ids)[0]
            parts.append(self._model.logits(states[-1:] if segment.wanted == "last" else states).float())
        return torch.cat(parts)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """There is nothing to copy."""


def _precision_of(model: Decoder) -> str:
    for module in model.modules():
        if isinstance(module, QuantisedLinear) and module is not model.head:
            return module.precision
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}.get(model.embed.tokens.weight.dtype, "fp16")


class _Rows:
    """Some slots of a cache, of different lengths, as the cache of one call of the model.

    ``length`` is what the longest holds; the others' keys are preceded by padding.
    """

    def __init__(self, cache: KVCache, segments: Sequence[Segment], tokens: int) -> None:
        self._cache, self._tokens = cache, tokens
        device = cache.keys.device
        self._slots = [segment.slot for segment in segments]
        self._starts = [segment.start for segment in segments]
        self.length, self.capacity = max(self._starts), cache.capacity
        if self.length + tokens > self.capacity:
            raise ValueError(f"{self.length + tokens} tokens do not fit a context of {self.capacity}")
        self.ragged = len(set(self._starts)) > 1
        starts = torch.tensor(self._starts, device=device)
        new = torch.arange(tokens, device=device)
        self.positions: Tensor = starts[:, None] + new if self.ragged else self._starts[0] + new
        self.documents: Tensor | None = None
        self._rows = torch.tensor(self._slots, device=device)[:, None]
        self._places = starts[:, None] + new
        if self.ragged:
            place = torch.arange(self.length + tokens, device=device) - (self.length - starts)[:, None]
            self.documents = torch.where(place >= 0, 0, -1)
            self._gather = place.clamp(min=0)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`KVCache.append`: (B, K, T, D) go in, (B, K, S, D) come out."""
        found: list[Tensor] = []
        for kept, new in ((self._cache.keys[layer], keys), (self._cache.values[layer], values)):
            end = self._starts[0] + self._tokens
            if len(self._slots) == 1:
                row = kept[self._slots[0] : self._slots[0] + 1]
                row[:, :, self._starts[0] : end] = new
                found.append(row[:, :, :end])
                continue
            kept[self._rows, :, self._places] = new.transpose(1, 2)
            if self.ragged:
                found.append(kept[self._rows, :, self._gather].transpose(1, 2))
            else:
                found.append(kept[self._slots, :, :end])
        return found[0], found[1]

    def advance(self, tokens: int) -> None:
        """The engine counts the tokens."""
