"""A small real task for the encoder-decoder: a date as people write it -> the date in ISO 8601."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date, timedelta
from functools import cache
from typing import Literal

# Not from the calendar module, which follows the user's locale.
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_FIRST, _LAST = date(1900, 1, 1), date(2099, 12, 31)
_VALIDATION = 1_000
_TRAIN = 20_000


def _month(d: date) -> str:
    return _MONTHS[d.month - 1]


def _weekday(d: date) -> str:
    return _DAYS[d.weekday()]


def _ordinal(d: date) -> str:
    suffix = "th" if 10 < d.day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(d.day % 10, "th")
    return f"{d.day}{suffix}"


FORMATS: tuple[Callable[[date], str], ...] = (
    lambda d: f"{_weekday(d)}, {d.day} {_month(d)} {d.year}",
    lambda d: f"{_weekday(d)}, {_month(d)} {d.day}, {d.year}",
    lambda d: f"{_weekday(d)[:3]} {d.day} {_month(d)[:3]} {d.year}",
    lambda d: f"{d.day} {_month(d)} {d.year}",
    lambda d: f"{_month(d)} {d.day}, {d.year}",
    lambda d: f"{_month(d)[:3]} {d.day}, {d.year}",
    lambda d: f"{_month(d)} {_ordinal(d)}, {d.year}",
    lambda d: f"the {_ordinal(d)} of {_month(d)} {d.year}",
    lambda d: f"{_ordinal(d)} {_month(d)[:3]} {d.year}",
    lambda d: f"{d.day}-{_month(d)[:3].upper()}-{d.year}",
    lambda d: f"{d.month}/{d.day}/{d.year}",
    lambda d: f"{d.day:02}.{d.month:02}.{d.year}",
    lambda d: f"{d.day}. {d.month}. {d.year}",
)
"""How a date is written. One meaning each: between slashes the month comes first, between dots the day."""


@cache
def _days(seed: int) -> tuple[date, ...]:
    """Every day from 1900 to 2099 in an order that the seed decides."""
    days = [_FIRST + timedelta(n) for n in range((_LAST - _FIRST).days + 1)]
    draw = random.Random(seed).random  # the one method whose numbers Python keeps the same in every version
    for n in range(len(days) - 1, 0, -1):
        other = int(draw() * (n + 1))
        days[n], days[other] = days[other], days[n]
    return tuple(days)


def date_pairs(
    split: Literal["train", "validation"], count: int | None = None, *, seed: int = 0
) -> list[tuple[str, str]]:
    """``count`` pairs (written, ISO), such as ("Friday, 3 March 1987", "1987-03-03"); the same for the same seed.

    Each date occurs once, in one format drawn at random, and none is in both splits: validation takes the first 1,000
    days of the shuffled order, training the next ones, 20,000 unless ``count`` says otherwise.

    Raises:
        ValueError: an unknown split, or more pairs than there are days for it.
    """
    if split not in ("train", "validation"):
        raise ValueError(f"split is 'train' or 'validation', not {split!r}")
    days = _days(seed)
    pool = days[:_VALIDATION] if split == "validation" else days[_VALIDATION:]
    wanted = count if count is not None else min(_TRAIN, len(pool))
    if not 0 <= wanted <= len(pool):
        raise ValueError(f"there are {len(pool):,} days for {split}, not {wanted:,}")
    draw = random.Random(f"{seed} {split}").random
    return [(FORMATS[int(draw() * len(FORMATS))](day), day.isoformat()) for day in pool[:wanted]]
