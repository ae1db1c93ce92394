"""Batches of examples without padding: several in a row, kept apart, or rows of like lengths together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from scratchlm.data.batch import IGNORE, Batch
from scratchlm.data.examples import ADJACENT, Examples
from scratchlm.data.sharing import common_beginnings, shared_batch, shared_tokens
from scratchlm.errors import UserError

Method = Literal["auto", "pack", "length"]
Indices = NDArray[np.int64]
_PROBED = 20
"""Steps by which a plan is judged."""
_OVER = 1.125
"""A pass may have so many times its tokens where that saves one."""
_POOL = 50
"""Batches whose rows are sorted by length together; fewer would waste more, more would order the epoch more."""


def epoch_order(count: int, seed: int, epoch: int) -> Indices:
    """(count,): the order of the examples in an epoch, which depends on nothing but ``seed`` and ``epoch``."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def pack(lengths: Sequence[int] | Indices, block: int, *, seed: int = 0, epoch: int = 0) -> list[Indices]:
    """Distribute examples over bins of at most ``block`` tokens: the longest first, each into the fullest bin that has
    room ("best fit decreasing", at most 11/9 of the fewest bins; Johnson 1973). Which of equal length go together, and
    the order of the bins, change with the epoch; their number does not.

    Raises:
        ValueError: an example is longer than a block.
    """
    sizes = np.asarray(lengths, np.int64)
    if len(sizes) and sizes.max() > block:
        raise ValueError(
            f"an example has {sizes.max()} tokens, a block {block}; encode with a max_length of at most that"
        )
    order = epoch_order(len(sizes), seed, epoch)
    order = order[np.argsort(-sizes[order], kind="stable")]
    bins: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(block + 1)]
    open_rooms = 0  # bit r: some bin has room for exactly r tokens more
    for number, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        fitting = open_rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            chosen = with_room[room].pop()
            if not with_room[room]:
                open_rooms ^= 1 << room
            bins[chosen].append(number)
        else:
            chosen, room = len(bins), block
            bins.append([number])
        with_room[room - size].append(chosen)
        open_rooms |= 1 << (room - size)
    return [np.array(bins[n], np.int64) for n in epoch_order(len(bins), seed, epoch)]


def packed_batch(
    examples: Examples,
    bins: Sequence[Sequence[int] | Indices],
    block: int | None = None,
    *,
    begun: Indices | None = None,
) -> Batch:
    """The examples of each bin one after the other in a row (B, T): positions restart with each, documents keep them
    apart, and none is predicted from another. T is ``block``, or the fullest bin's tokens; a bin of one example makes
    an ordinary padded row. Padding is document -1 and has no label, whatever its id.

    ``begun`` (N,) says how many tokens each example has in common with the one before it: what an example has in common
    with the one before it in a bin is there once (see :mod:`~scratchlm.data.sharing`)."""
    if begun is not None and (shared := shared_batch(examples, bins, begun)) is not None:
        return shared
    rows = [[examples[int(number)] for number in one] for one in bins]
    width = max(sum(len(ids) for ids, _ in row) for row in rows)
    if block is not None and width > block:
        raise ValueError(f"a bin has {width} tokens, a block {block}")
    shape = (len(rows), block or width)
    ids, labels = np.zeros(shape, np.int64), np.full(shape, IGNORE, np.int64)
    positions, documents = np.zeros(shape, np.int64), np.full(shape, -1, np.int32)
    for row, parts in enumerate(rows):
        at = 0
        for number, (part, targets) in enumerate(parts):
            place = np.s_[row, at : at + len(part)]
            ids[place], labels[place], documents[place] = part, targets, number
            positions[place] = np.arange(len(part))
            at += len(part)
    whole = bool((documents == 0).all())
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(labels),
        None if whole or all(len(one) == 1 for one in bins) else torch.from_numpy(positions),
        None if whole else torch.from_numpy(documents),
    )


@dataclass(frozen=True)
class Plan:
    """Which examples each step of the training takes, and how they are laid out. A pure function of the step, so that a
    run that was stopped goes on with the same batches without any state.

    Every step takes ``rows`` examples (the last of an epoch what is left; of texts that belong together so many records
    with all their texts), and its batches add up to the same loss however they are laid out; the texts of a pair, which
    are compared, are always in one batch. "pack" puts them one after the other, "length" pads them to others of like
    length, and "auto" takes for each step what costs less. With "length" a step's examples are themselves of like
    length, which saves padding but learns from them in an order that is less random.

    Raises:
        UserError: ``rows`` or ``tokens`` below 1, or no such method.
    """

    examples: Examples
    rows: int
    tokens: int
    """Of one batch, padding included: an eighth more at most, but where one example is longer."""
    seed: int = 0
    method: Method = "auto"
    width: int = 768
    """The model's: what a token costs beside attention."""
    shares: bool = False
    """Whether a beginning that neighbours have in common is computed once, which is right for causal models alone."""
    _orders: dict[int, Indices] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("rows", "tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} of a step is {getattr(self, name)}; give at least 1")
        if self.method not in get_args(Method):
            raise UserError(f"rows cannot be laid out by {self.method!r}; choose one of: {', '.join(get_args(Method))}")

    @cached_property
    def _lengths(self) -> Indices:
        return self.examples.lengths

    @cached_property
    def _learned(self) -> Indices:
        return self.examples.learned

    @cached_property
    def _groups(self) -> Indices:
        return self.examples.groups

    @property
    def steps_per_epoch(self) -> int:
        return -(-(len(self._groups) - 1) // self.rows)

    @cached_property
    def _units(self) -> Indices:
        """(U + 1,): where the pieces begin that are laid out: groups of which no example is parted from the others, or
        single examples."""
        return self._groups if self.examples.task in ADJACENT else np.arange(len(self.examples) + 1)

    @cached_property
    def _begun(self) -> Indices:
        """(N,): tokens of each that it shares with the example before it."""
        return common_beginnings(self.examples) if self.shares else np.zeros(len(self.examples), np.int64)

    @cached_property
    def _kin(self) -> Indices:
        """(K + 1,): where the groups begin that are shuffled as one, and where the last of them end: neighbours that
        share a beginning, such as the questions about one text, as long as one step holds them. What more have in
        common, such as a system message, ties nothing together."""
        every = np.arange(len(self._groups))
        if not self.shares or len(self._groups) <= len(self.examples):
            return every
        near = self._begun >= max(float(np.median(self._begun)) / 2, 1)
        bounds = np.concatenate([np.flatnonzero(~near), [len(near)]])
        sizes = np.diff(bounds)
        tied = np.repeat(sizes <= self.rows, sizes) & near
        return np.concatenate([np.flatnonzero(~tied), [len(near)]])

    def indices(self, step: int) -> Indices:
        """The examples of a step, counted from 0 through all epochs."""
        return _opened(self._taken(step), self._units)

    def step(self, step: int, part: int = 0, parts: int = 1) -> list[Batch]:
        """The batches of a step, or of the one ``part`` of ``parts`` that a process has (an empty list where there is
        nothing for it). Their losses are sums to be added."""
        taken = self._taken(step)
        mine = np.array_split(np.sort(taken), parts)[part] if self.shares else taken[part::parts]
        return [self._batch(bins) for bins in self._layout(mine)]

    def sizes(self, step: int) -> tuple[int, int]:
        """How many predictions are learned from in a step, and how many tokens it has, over all its parts."""
        chosen = self.indices(step)
        return int(self._learned[chosen].sum()), int(self._lengths[chosen].sum())

    def only(self, numbers: Indices, rows: int | None = None) -> Plan:
        """The same for some of the examples, rising and with all that belong together; ``rows`` a step."""
        parts = [self.examples[int(number)] for number in numbers]
        some = replace(
            self.examples,
            ids=np.concatenate([ids for ids, _ in parts]),
            targets=np.concatenate([targets for _, targets in parts]),
            offsets=np.cumsum([0, *(len(ids) for ids, _ in parts)], dtype=np.int64),
            rows=self.examples.rows[numbers],
            flags=self.examples.flags[numbers] if len(self.examples.flags) else self.examples.flags,
        )
        return replace(self, examples=some, rows=rows or self.rows, _orders={})

    def in_order(self) -> Iterator[Batch]:
        """All examples once, for evaluation."""
        by_length = np.argsort(np.add.reduceat(self._lengths, self._units[:-1]), kind="stable")
        for first in range(0, len(by_length), self.rows):
            some = by_length[first : first + self.rows]
            yield from map(self._batch, self._layout(np.sort(some) if self.shares else some))

    def waste(self) -> float:
        """The share of padding among the tokens of the first steps."""
        blocks = [
            block
            for step in range(min(_PROBED, self.steps_per_epoch))
            for block in self._blocks(self._layout(self._taken(step)))
        ]
        return 1 - sum(used for _, _, used in blocks) / sum(rows * width for rows, width, _ in blocks)

    def _taken(self, step: int) -> Indices:
        """The pieces of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self._orders:
            self._orders.clear()
            self._orders[epoch] = self._order(epoch)
        chosen = self._orders[epoch][place * self.rows : (place + 1) * self.rows]
        return chosen if len(self._units) == len(self._groups) else _opened(chosen, self._groups)

    def _batch(self, bins: list[Indices]) -> Batch:
        return packed_batch(self.examples, bins, begun=self._begun if self.shares else None)

    def _order(self, epoch: int) -> Indices:
        order = _opened(epoch_order(len(self._kin) - 1, self.seed, epoch), self._kin)
        if self.method != "length":
            return order
        pool = _POOL * self.rows
        lengths = np.add.reduceat(self._lengths, self._groups[:-1])
        pools = [order[first : first + pool] for first in range(0, len(order), pool)]
        ordered = np.concatenate([one[np.argsort(-lengths[one], kind="stable")] for one in pools])
        full = len(ordered) // self.rows
        shuffled = epoch_order(full, self.seed, epoch)
        return np.concatenate(
            [ordered[: full * self.rows].reshape(full, self.rows)[shuffled].ravel(), ordered[full * self.rows :]]
        )

    def _layout(self, units: Indices) -> list[list[Indices]]:
        """The bins of each batch of some units: the numbers of their examples."""
        if not len(units):
            return []
        pieces = self._pieces(units)
        sizes = np.array([self._tokens(one) for one in pieces])
        ways = {"pack": (self._packed,), "length": (self._by_length,), "auto": (self._packed, self._by_length)}
        laid = (
            [[np.concatenate([pieces[n] for n in one]) for one in bins] for bins in way(sizes)]
            for way in ways[self.method]
        )
        return min(laid, key=self._cost)

    def _pieces(self, units: Indices) -> list[Indices]:
        """The examples of each unit; of units that share beginnings as many neighbours together as one batch holds."""
        pieces = [np.arange(self._units[n], self._units[n + 1]) for n in units]
        if not self.shares:
            return pieces
        joined = [pieces[0]]
        for one in pieces[1:]:
            both = np.concatenate([joined[-1], one])
            shared = shared_tokens(self._begun, int(joined[-1][-1]), int(one[0]))
            if shared and self._tokens(both) <= _OVER * self.tokens:
                joined[-1] = both
            else:
                joined.append(one)
        return joined

    def _tokens(self, numbers: Indices) -> int:
        """Tokens of examples that lie one after the other in a row."""
        whole = int(self._lengths[numbers].sum())
        if not self.shares:
            return whole
        return whole - sum(shared_tokens(self._begun, *two) for two in pairwise(numbers.tolist()))

    def _packed(self, sizes: Indices) -> list[list[Indices]]:
        """Bins of like fullness, as few as may be: a last one with a few tokens would cost nearly as much as a full."""
        total, longest = int(sizes.sum()), int(sizes.max())
        wanted = math.ceil(total / (_OVER * self.tokens))
        block = max(math.ceil(total / wanted), longest)
        bins = pack(sizes, block)
        while len(bins) > wanted and block < _OVER * self.tokens:
            block += max(1, block // 64)
            bins = pack(sizes, block)
        return [[one] for one in bins]

    def _by_length(self, sizes: Indices) -> list[list[Indices]]:
        """Rows of like length, in as few batches as may be, and those of like size."""
        order = np.argsort(-sizes, kind="stable")
        batches = _rows_of(sizes, order, int(_OVER * self.tokens))
        low, high = int(sizes.max()), int(_OVER * self.tokens)
        while low < high:
            room = (low + high) // 2
            tried = _rows_of(sizes, order, room)
            if len(tried) > len(batches):
                low = room + 1
            else:
                batches, high = tried, room
        return batches

    def _cost(self, layout: list[list[Indices]]) -> int:
        """In a row of T a token takes 12 C^2 multiplications by matrices and 2 T C in attention, a layer."""
        return sum(rows * width * (6 * self.width + width) for rows, width, _ in self._blocks(layout))

    def _blocks(self, layout: list[list[Indices]]) -> Iterator[tuple[int, int, int]]:
        """Rows, tokens a row, and examples' tokens of each batch."""
        for bins in layout:
            sums = [self._tokens(one) for one in bins]
            yield len(bins), max(sums), sum(sums)


def _rows_of(sizes: Indices, order: Indices, room: int) -> list[list[Indices]]:
    """Rows of one piece each, the longest first, in batches of ``room`` tokens at most, padding included."""
    batches: list[list[Indices]] = []
    longest = 0
    for place in order:
        if batches and (len(batches[-1]) + 1) * longest <= room:
            batches[-1].append(np.array([place]))
        else:
            batches.append([np.array([place])])
            longest = int(sizes[place])
    return batches


def _opened(numbers: Indices, bounds: Indices) -> Indices:
    """What lies between the bounds of some pieces, one piece after the other."""
    if not len(numbers):
        return numbers
    return np.concatenate([np.arange(bounds[n], bounds[n + 1]) for n in numbers])
