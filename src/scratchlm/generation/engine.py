"""The engine: requests come and go, and every step computes one token (or a piece of a prompt) for each that is there.

A request waits until a slot of the cache is free. Its prompt is read in pieces, beside the tokens of the others, so
that a long prompt does not stop them. A slot keeps its tokens when its request ends: the next prompt that begins alike
goes on from there (in place, or on a copy), and only the rest is computed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from scratchlm.errors import UserError
from scratchlm.generation.backends import Backend
from scratchlm.generation.lookup import common, guess
from scratchlm.generation.native import GivenUpError, Segment, Stop
from scratchlm.generation.request import FinishReason, Request, Ticket, Token
from scratchlm.generation.sampling import SamplingConfig, sample
from scratchlm.generation.scoring import score, score_prompt

__all__ = ["Engine", "FinishReason", "Request", "Ticket", "Token"]
LEAST_SHARED = 16
"""Beginnings shorter than this are computed again rather than waited for."""


class Engine:
    """Computes requests side by side on one backend.

    Args:
        backend: the model and its cache.
        chunk: tokens of prompts computed in one step, over all requests.

    One thread calls :meth:`step`; :meth:`submit` and :meth:`cancel` may be called from any.
    """

    def __init__(self, backend: Backend, *, chunk: int = 256) -> None:
        self.backend, self._chunk = backend, chunk
        self._lock = threading.Lock()
        self._waiting: deque[Ticket] = deque()
        self._running: list[Ticket] = []
        self._held: list[list[int]] = [[] for _ in range(backend.slots)]  # the tokens that lie in each slot
        self._used = [0] * backend.slots  # when each was last given out
        self._clock = self._ahead = 0
        self._stop, self._patient = Stop(), False

    def submit(self, request: Request) -> Ticket:
        """Take a request in; it is worked on by :meth:`step`.

        Raises:
            UserError: its constraint needs more tokens than it has, or the vocabulary is another's.
        """
        sequence = Ticket(request, self.backend.context)
        if request.constraint is not None:
            request.constraint.check(request.max_new_tokens, self.backend.vocab_size)
        if request.max_new_tokens == 0 and not request.prompt_log_probabilities:
            sequence.finish_reason = "length"
            return sequence
        with self._lock:
            self._waiting.append(sequence)
        return sequence

    def cancel(self, sequence: Ticket) -> None:
        """End a request at the next step."""
        sequence.cancelled = True

    def hurry(self) -> None:
        """Say that a request is about to come: a pass over generated tokens that has not got far is given up, so that
        the prompt need not wait for it. Never two in a row. From any thread."""
        self._stop.set()

    def run(self, requests: Sequence[Request]) -> list[Ticket]:
        """Submit requests and work until they have ended. If one is refused, none is left behind."""
        sequences: list[Ticket] = []
        try:
            sequences += (self.submit(request) for request in requests)
            while any(sequence.finish_reason is None for sequence in sequences):
                self.step()
            for sequence in sequences:
                if sequence.error is not None:
                    raise sequence.error
        except BaseException:
            for sequence in sequences:
                self._drop(sequence)
            raise
        return sequences

    def forget(self) -> None:
        """Give the slots' memory free for other uses of the backend.

        Raises:
            RuntimeError: requests are running.
        """
        if self._running:
            raise RuntimeError("the engine is at work; its slots cannot be given away")
        self._held = [[] for _ in self._held]

    def abandon(self) -> list[Ticket]:
        """Take out every request that runs, after a failed step; those that wait stay. What the slots hold is
        forgotten, since nobody knows how far the step came. Called by the thread that steps."""
        with self._lock:
            dropped, self._running = self._running, []
        self.forget()
        return dropped

    @cached_property
    def _worker(self) -> ThreadPoolExecutor:
        """Makes the masks of constraints while the model computes."""
        return ThreadPoolExecutor(1, "scratchlm-masks")

    @property
    def load(self) -> tuple[int, int]:
        """Requests that run, and requests that wait."""
        return len(self._running), len(self._waiting)

    @torch.inference_mode()
    def step(self) -> bool:
        """Compute one piece for every running request; False if there was nothing to do."""
        self._admit()
        segments, chosen = self._plan()
        if not segments:
            return False
        for sequence, segment in zip(chosen, segments, strict=True):
            if sequence.request.constraint is not None and segment.wanted != "none":
                sequence.blocked = self._worker.submit(sequence.request.constraint.blocked, sequence.draft)
        reads = any(segment.prompt for segment in segments)
        for sequence, segment in zip(chosen, segments, strict=True):
            del self._held[sequence.slot][segment.start :]  # what lies there is written over
        try:
            logits = self.backend.logits(segments, None if reads or self._patient else self._stop)
        except GivenUpError:
            wait([one.blocked for one in chosen if one.blocked is not None])  # a constraint is one thread's at a time
            self._patient = True
            return True
        finally:
            self._stop.clear()
        self._patient = self._patient and reads
        for sequence, segment in zip(chosen, segments, strict=True):
            self._held[sequence.slot] += segment.ids
            sequence.fed = segment.start + len(segment.ids)
        self._take(logits, list(zip(chosen, segments, strict=True)))
        return True

    # ---- who takes part

    def _admit(self) -> None:
        with self._lock:
            for sequence in [*self._running, *self._waiting]:
                if sequence.cancelled:
                    self._finish(sequence, "cancelled")
            self._waiting = deque(s for s in self._waiting if s.finish_reason is None)
            taken = {sequence.slot for sequence in self._running}
            free = [slot for slot in range(self.backend.slots) if slot not in taken]
            later: deque[Ticket] = deque()
            while self._waiting and free:
                sequence = self._waiting.popleft()
                if not self._begun(sequence):
                    continue
                slot = self._place(sequence, free)
                if slot is None:
                    later.append(sequence)
                else:
                    free.remove(slot)
                    self._running.append(sequence)
            self._waiting.extendleft(reversed(later))

    def _begun(self, sequence: Ticket) -> bool:
        """Write what a constraint forces at the very start; False where that is all."""
        constraint = sequence.request.constraint
        if constraint is not None and not constraint.begun:
            self._write(sequence, constraint.begin(sequence.left))
        return sequence.finish_reason is None

    def _place(self, sequence: Ticket, free: list[int]) -> int | None:
        """A slot for the sequence, its beginning in it as far as one is known; None to wait for a running twin."""
        window = sequence.window
        anew = not self.backend.keeps or sequence.request.prompt_log_probabilities
        shared = [0 if anew else min(common(window, held), len(window) - 1) for held in self._held]
        best = max(range(len(shared)), key=lambda slot: (shared[slot], slot in free))
        for other in [] if anew else self._running:  # one that reads the same beginning will soon have more of it
            coming = min(common(window, other.window), len(window) - 1)
            if other.pending == 0 and coming >= max(LEAST_SHARED, shared[best] + 1) and coming > other.fed:
                return None
        if best in free and not anew and 10 * shared[best] >= 9 * len(self._held[best]):
            slot = best  # it goes on with that text; another text that only begins alike gets a copy
        else:
            slot = min(free, key=lambda one: (bool(self._held[one]), self._used[one]))
            if slot != best and shared[best]:
                self.backend.copy(best, slot, shared[best])
        self._held[slot] = window[: shared[best]]
        sequence.slot, sequence.fed, sequence.reused = slot, shared[best], shared[best]
        self._clock += 1
        self._used[slot] = self._clock
        return slot

    def _plan(self) -> tuple[list[Segment], list[Ticket]]:
        """What to compute now: a token (and guesses) for each text, then pieces of prompts as far as they fit. Short
        prompts go before the texts, one after the other where together they would only all be late, so that their
        first tokens come soon."""
        segments, chosen, budget = [], [], self._chunk
        unread = sum(len(s.window) - s.fed for s in self._running if not s.decoding)
        first = self.backend.keeps and 0 < unread <= budget - self._ahead
        wanted: Literal["all", "last", "none"]
        for sequence in self._running:
            if not self.backend.keeps:
                sequence.fed = 0
            elif sequence.decoding:
                if first:
                    continue
                sequence.draft = guess(sequence, self.backend.context)
                ids = sequence.window[sequence.fed :] + sequence.draft
                wanted = "all" if sequence.draft else "last"
                segments.append(Segment(sequence.slot, ids, sequence.fed, prompt=False, wanted=wanted))
                chosen.append(sequence)
                continue
            full = first and self._chunk - budget >= self.backend.enough
            ids = sequence.window[sequence.fed : sequence.fed + budget if self.backend.keeps else None]
            if not ids or full:
                continue  # its turn is in the next pass
            budget = max(budget - len(ids), 0)
            complete = sequence.fed + len(ids) == len(sequence.window)
            wanted = "all" if sequence.scores_prompt else "last" if complete else "none"
            segments.append(Segment(sequence.slot, ids, sequence.fed, wanted=wanted))
            chosen.append(sequence)
        self._ahead = self._ahead + self._chunk - budget if first else 0
        return segments, chosen

    # ---- what comes of it

    def _take(self, logits: Tensor, parts: list[tuple[Ticket, Segment]]) -> None:
        """Choose tokens from the logits (those of each part follow one another), and end what has ended."""
        parts, firsts, counts = self._rows(logits, parts)
        groups: dict[SamplingConfig, list[int]] = {}
        for i, (sequence, _) in enumerate(parts):
            groups.setdefault(sequence.rule, []).append(i)
        blocked: dict[int, Tensor] = {}
        single: dict[int, list[bool]] = {}
        for i, (sequence, _) in enumerate(parts):
            if (made := self._blocked(sequence)) is not None:
                blocked[i], single[i] = made[0].to(logits.device), made[1]
        choices: list[list[int]] = [[] for _ in parts]
        for config, members in groups.items():
            rows = [row for i in members for row in range(firsts[i], firsts[i] + counts[i])]
            mine = logits if len(rows) == len(logits) else logits[rows]
            if any(i in blocked for i in members):
                mine = mine.clone()  # the log-probabilities are of what the model said
                for part, i in zip(torch.split(mine, [counts[i] for i in members]), members, strict=True):
                    if i in blocked:
                        part.masked_fill_(blocked[i], -torch.inf)
            uniforms = seen = often = None
            if not config.is_greedy:
                draws = [u for i in members for u in parts[i][0].uniforms(counts[i])]
                uniforms = torch.tensor(draws, dtype=torch.float64, device=logits.device)
            if config.repetition_penalty != 1.0:
                seen = torch.zeros(mine.shape, dtype=torch.bool, device=logits.device)
                for row, i in enumerate(members):  # one row each: no guesses with a penalty
                    seen[row, list(parts[i][0].seen)] = True
            if config.counts:
                often = torch.zeros_like(mine)
                for row, i in enumerate(members):
                    said = parts[i][0].counts
                    often[row, list(said)] = torch.tensor([*said.values()], dtype=often.dtype, device=often.device)
            found = iter(sample(mine, config, uniforms, seen, often).tolist())
            for i in members:
                choices[i] = [next(found) for _ in range(counts[i])]
        for i, (sequence, _) in enumerate(parts):
            if sequence.finish_reason is None:
                self._extend(sequence, choices[i], logits, firsts[i], single.get(i))
        self._running = [s for s in self._running if s.finish_reason is None]

    def _rows(
        self, logits: Tensor, parts: list[tuple[Ticket, Segment]]
    ) -> tuple[list[tuple[Ticket, Segment]], list[int], list[int]]:
        """The parts of which tokens are chosen, the first of each one's rows of logits, and how many it has; of a
        prompt that is scored, the tokens of this piece get their log-probabilities."""
        kept, firsts, counts, row = [], [], [], 0
        for sequence, segment in parts:
            count = {"all": len(segment.ids), "last": 1, "none": 0}[segment.wanted]
            if segment.prompt and segment.wanted == "all":
                score_prompt(sequence, segment, logits[row : row + count])
                row, count = row + count - 1, int(sequence.fed == len(sequence.window))
                row += 1 - count
            elif segment.wanted == "all":  # before the guesses, what was forced: what comes after it is known
                row, count = row + count - 1 - len(sequence.draft), 1 + len(sequence.draft)
            if count and sequence.request.max_new_tokens == 0:  # its prompt alone was asked for
                self._finish(sequence, "length")
                row, count = row + count, 0
            if count:
                kept.append((sequence, segment))
                firsts.append(row)
                counts.append(count)
            row += count
        return kept, firsts, counts

    def _blocked(self, sequence: Ticket) -> tuple[Tensor, list[bool]] | None:
        """What a constraint forbids, see :meth:`Constraint.blocked`; None where there is none, or it cannot be said."""
        if sequence.blocked is None:
            return None
        made, sequence.blocked = sequence.blocked, None
        try:
            return made.result()
        except UserError as error:
            self._fail(sequence, error)
            return None

    def _extend(self, sequence: Ticket, ids: list[int], logits: Tensor, row: int, single: list[bool] | None) -> None:
        """Append the chosen tokens, as long as what was guessed for the next place is what was chosen."""
        draft, sequence.draft = sequence.draft, []
        before, held = len(sequence.window), 0  # so many guesses held
        while sequence.finish_reason is None:
            if single is None:
                self._append(sequence, ids[held], logits[row + held])
            else:
                self._follow(sequence, ids[held], logits[row + held], single[held])
            made = sequence.window[before + held :]
            right = common(made, draft[held:])
            held += right
            if right < len(made):
                break
        # What was fed beyond the tokens that stand is forgotten; the last one is yet to be fed.
        if sequence.finish_reason is None and len(sequence.window) > self.backend.context:
            kept = max(self.backend.context // 2, 1)
            sequence.window = sequence.window[-kept:]
            sequence.fed = sequence.pending = 0
            return
        if draft:
            sequence.fed = min(sequence.fed, before + held)
        sequence.pending = len(sequence.window) - sequence.fed
        if self.backend.keeps:
            del self._held[sequence.slot][sequence.fed :]

    def _follow(self, sequence: Ticket, token: int, logits: Tensor, single: bool) -> None:
        """Append a token that was chosen under a constraint (``single``: no other was allowed), and what it forces."""
        constraint = sequence.request.constraint
        assert constraint is not None
        try:
            ids, kept = constraint.take(token, sequence.left)
        except UserError as error:
            self._fail(sequence, error)
            return
        if kept:
            self._append(sequence, token, logits, forced=single)
        self._write(sequence, ids[kept:])

    def _write(self, sequence: Ticket, ids: Sequence[int]) -> None:
        """Append what a constraint forces, and end the text where nothing may follow."""
        for token in ids:
            if sequence.finish_reason is None:
                self._append(sequence, token, None, forced=True)
        constraint = sequence.request.constraint
        if constraint is not None and constraint.ended and sequence.finish_reason in (None, "length"):
            self._finish(sequence, constraint.ended)

    def _append(self, sequence: Ticket, token: int, logits: Tensor | None, *, forced: bool = False) -> None:
        request = sequence.request
        made = Token(token, forced=forced)
        if request.log_probabilities is not None and logits is not None:
            score(made, request, logits)
        sequence.tokens.append(made)
        sequence.window.append(token)
        sequence.seen.add(token)
        sequence.counts[token] += 1
        stopped = request.on_token is not None and request.on_token(made)
        if token in request.end_ids:
            self._finish(sequence, "end")
        elif stopped:
            self._finish(sequence, "stop")
        elif len(sequence.tokens) == request.max_new_tokens:
            self._finish(sequence, "length")

    def _finish(self, sequence: Ticket, reason: FinishReason) -> None:
        sequence.finish_reason = reason
        if reason == "cancelled" and sequence in self._running:
            self._running.remove(sequence)

    def _fail(self, sequence: Ticket, error: UserError) -> None:
        sequence.error = error
        self._finish(sequence, "error")

    def _drop(self, sequence: Ticket) -> None:
        with self._lock:
            if sequence in self._running:
                self._running.remove(sequence)
            if sequence in self._waiting:
                self._waiting.remove(sequence)
