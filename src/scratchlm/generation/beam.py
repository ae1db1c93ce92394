"""Beam search: the likeliest whole texts rather than a drawn one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from scratchlm.errors import UserError
from scratchlm.generation.backends import Backend
from scratchlm.generation.engine import Engine
from scratchlm.generation.generate import start_ids
from scratchlm.generation.native import Segment
from scratchlm.generation.text import TextStream

if TYPE_CHECKING:
    from scratchlm.tokenizers import Tokenizer


@dataclass(frozen=True)
class Beam:
    """A text that the search has kept."""

    ids: list[int]
    """The new tokens, the end token too where there is one."""
    log_probability: float
    """Of all of ``ids`` together, in nats."""
    score: float
    """``log_probability / len(ids) ** length_penalty``; what the search compares."""


@dataclass(frozen=True)
class FoundText:
    """A text that the search has found."""

    text: str
    completion: str
    log_probability: float
    score: float
    """Nats a token."""


@dataclass
class _Running:
    slot: int
    ids: list[int]
    log_probability: float


@torch.inference_mode()
def beam_search(
    backend: Backend,
    ids: Sequence[int],
    *,
    beams: int,
    max_new_tokens: int,
    end_ids: Collection[int] = (),
    length_penalty: float = 1.0,
) -> list[Beam]:
    """The best ``beams`` continuations of ``ids`` that the search finds, best first (Graves 2012; Wu et al. 2016).

    Every step keeps the ``beams`` likeliest texts that go on; a text that ends is set aside with its score. The search
    is over when nothing that goes on can still score better than what is set aside, or after ``max_new_tokens``.

    Args:
        backend: with at least ``beams`` slots, which the search overwrites; it must keep a cache.
        length_penalty: 0 compares sums of log-probabilities (short texts win), 1 means; above 1 favours long ones.

    Raises:
        ValueError: too few slots, nothing to continue, or texts that would not fit the context.
    """
    if beams < 1 or backend.slots < beams or not backend.keeps:
        raise ValueError(f"{beams} beams need as many slots; the backend has {backend.slots}")
    if not ids or len(ids) + max_new_tokens > backend.context:
        raise ValueError(f"the prompt and {max_new_tokens} tokens must fit a context of {backend.context}")
    running, finished = [_Running(0, [], 0.0)], list[Beam]()
    logits = backend.logits([Segment(0, list(ids), 0)]) if max_new_tokens else torch.empty(0)
    for step in range(max_new_tokens):
        sums = torch.tensor([beam.log_probability for beam in running], device=logits.device, dtype=torch.float64)
        totals = sums[:, None] + logits.double().log_softmax(-1)
        # Each text has one ending per end token, so that many more candidates always leave enough that go on.
        best = totals.flatten().topk(min(beams * (1 + len(end_ids)), totals.numel()))
        going: list[tuple[_Running, int, float]] = []
        for total, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            parent, token = running[place // backend.vocab_size], place % backend.vocab_size
            if token in end_ids:
                finished.append(_beam([*parent.ids, token], total, length_penalty))
            elif len(going) < beams:
                going.append((parent, token, total))
        finished = sorted(finished, key=lambda beam: -beam.score)[:beams]
        running = _branch(backend, going, len(ids) + step, beams)
        if (
            not running
            or step + 1 == max_new_tokens
            or _settled(running, finished, beams, max_new_tokens, length_penalty)
        ):
            break
        logits = backend.logits([Segment(beam.slot, beam.ids[-1:], len(ids) + step, prompt=False) for beam in running])
    texts = finished + [_beam(beam.ids, beam.log_probability, length_penalty) for beam in running]
    return sorted(texts, key=lambda beam: -beam.score)[:beams]


def _beam(ids: list[int], log_probability: float, length_penalty: float) -> Beam:
    return Beam(ids, log_probability, log_probability / max(len(ids), 1) ** length_penalty)


def _branch(backend: Backend, going: list[tuple[_Running, int, float]], held: int, slots: int) -> list[_Running]:
    """Give each text that goes on a slot: the first child of each parent takes the parent's, the others copies."""
    taken: set[int] = set()
    placed: list[_Running | None] = []
    for parent, token, total in going:
        first = parent.slot not in taken
        taken.add(parent.slot)
        placed.append(_Running(parent.slot, [*parent.ids, token], total) if first else None)
    free = [slot for slot in range(slots) if slot not in taken]
    for i, (parent, token, total) in enumerate(going):
        if placed[i] is None:
            slot = free.pop()
            backend.copy(parent.slot, slot, held)
            placed[i] = _Running(slot, [*parent.ids, token], total)
    return [beam for beam in placed if beam is not None]


def _settled(running: list[_Running], finished: list[Beam], beams: int, most: int, length_penalty: float) -> bool:
    """Whether no running text can come before any of the finished ones: its sum of log-probabilities only falls."""
    if len(finished) < beams:
        return False
    best = max(beam.log_probability for beam in running)
    length = most if length_penalty > 0 else len(running[0].ids)
    return bool(best / length**length_penalty <= finished[-1].score)


def search_text(
    engine: Engine, tokenizer: Tokenizer, prompt: str, beams: int, max_new_tokens: int, best: int
) -> list[FoundText]:
    """The ``best`` likeliest continuations of a text, best first. The engine must have nothing else to do.

    Raises:
        UserError: numbers that make no sense, an empty prompt without a start token, or too little room in the context.
    """
    if not 1 <= best <= beams or max_new_tokens < 1:
        raise UserError(
            f"{beams} beams cannot give {best} texts of {max_new_tokens} tokens; give at least as many beams as texts, "
            "and at least 1 token"
        )
    ids = start_ids(tokenizer, prompt)
    room = engine.backend.context - len(ids)
    if room < 1:
        raise UserError(f"the prompt fills the context of {engine.backend.context:,} tokens; a beam search needs room")
    engine.forget()
    found = beam_search(
        engine.backend, ids, beams=beams, max_new_tokens=min(max_new_tokens, room), end_ids=tokenizer.eos_ids
    )
    texts = []
    for beam in found[:best]:
        stream = TextStream(tokenizer, before=prompt)
        for token in beam.ids:
            if token not in tokenizer.eos_ids:
                stream.push(token)
        completion = stream.finish()
        texts.append(FoundText(prompt + completion, completion, beam.log_probability, beam.score))
    return texts
