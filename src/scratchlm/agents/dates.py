"""Dates: small exact functions of the calendar (ISO 8601's, proleptic Gregorian, the years 1 to 9999).

A docstring's first part is what a model reads of a tool, so these are short. Adding counts years and months first; a
day that the month does not have becomes its last, so 31 January and a month are 28 or 29 February.
"""

from __future__ import annotations

import calendar
import datetime

from scratchlm.agents.tool import Tool, tool

Day = datetime.date
_OUTSIDE, _MOST = "that is outside the years 1 to 9999", 4_000_000


def today() -> Day:
    """Today's date."""
    return datetime.date.today()


def weekday(date: Day) -> str:
    """The weekday of a date (YYYY-MM-DD)."""
    return calendar.day_name[date.weekday()]


def days_between(start: Day, end: Day) -> int:
    """The number of days from one date (YYYY-MM-DD) to another."""
    return (end - start).days


def add_to_date(date: Day, days: int = 0, weeks: int = 0, months: int = 0, years: int = 0) -> Day:
    """A date (YYYY-MM-DD) so much later; numbers below 0 go back.

    Raises:
        ValueError: the calendar ends before.
    """
    if max(map(abs, (days, weeks, months, years))) > _MOST:
        raise ValueError(_OUTSIDE)
    year, month = divmod(date.year * 12 + date.month - 1 + months + 12 * years, 12)
    if not datetime.MINYEAR <= year <= datetime.MAXYEAR:
        raise ValueError(_OUTSIDE)
    moved = datetime.date(year, month + 1, min(date.day, calendar.monthrange(year, month + 1)[1]))
    try:
        return moved + datetime.timedelta(days=days, weeks=weeks)
    except OverflowError:
        raise ValueError(_OUTSIDE) from None


def date_tools() -> list[Tool]:
    """``today``, ``weekday``, ``days_between`` and ``add_to_date``."""
    return [tool(function) for function in (today, weekday, days_between, add_to_date)]
