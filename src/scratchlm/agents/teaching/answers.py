"""Whether an answer is right."""

from __future__ import annotations

import re
import unicodedata
from datetime import date, datetime
from fractions import Fraction

from scratchlm.agents.teaching.task import Task

_NUMBER = re.compile(r"[-−]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:e[+-]?\d{1,3})?")
_ISO = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b")
_SPOKEN = re.compile(
    r"\b(\d{1,2})(?:st|nd|rd|th)?(?: of)? ([a-z]{3,9})\.?,? (\d{4})\b"
    r"|\b([a-z]{3,9})\.? (\d{1,2})(?:st|nd|rd|th)?,? (\d{4})\b"
)
_MOST_WORDS, _CLOSE = 25, Fraction(1, 1000)
"""Words that an answer may have beside what is right; how far a converted quantity may be off, as a share of it."""


def check(task: Task, answer: str) -> bool:
    """Whether an answer to a task is right.

    Of a number the last one in the answer counts and must be equal, whatever way it is written (``1,250.0`` is 1250);
    of a quantity in other units it may be a thousandth off, since it is rounded. Of a date the last one counts, in any
    usual form. A text must be in the answer word for word, case and punctuation aside, with at most 25 words beside it.
    """
    if task.kind == "date":
        dates = dates_in(answer)
        return bool(dates) and dates[-1].isoformat() == task.answer
    if task.kind == "text":
        said, wanted = _words(answer), _words(task.answer)
        places = range(len(said) - len(wanted) + 1)
        same = any(said[place : place + len(wanted)] == wanted for place in places)
        shouted = task.answer.upper() != task.answer or task.answer in answer
        return same and shouted and len(said) - len(wanted) <= _MOST_WORDS
    numbers = numbers_in(answer)
    if not numbers:
        return False
    wanted_number, said_number = Fraction(task.answer), numbers[-1]
    close = _CLOSE * abs(wanted_number) if task.kind == "rounded" else 0
    return abs(wanted_number - said_number) <= close


def numbers_in(text: str) -> list[Fraction]:
    """The numbers that a text has, in their order."""
    return [Fraction(one.replace(",", "").replace("−", "-")) for one in _NUMBER.findall(text)]


def dates_in(text: str) -> list[date]:
    """The dates that a text has, in their order."""
    found: list[tuple[int, date]] = []
    for match in _ISO.finditer(text):
        found += _date(match.start(), "-".join(match.groups()), "%Y-%m-%d")
    for match in _SPOKEN.finditer(text.lower()):
        day, month, year = match.groups()[:3] if match[1] else (match[5], match[4], match[6])
        found += _date(match.start(), f"{day} {month[:3]} {year}", "%d %b %Y")
    return [day for _, day in sorted(found)]


def _date(place: int, text: str, form: str) -> list[tuple[int, date]]:
    try:
        return [(place, datetime.strptime(text, form).date())]
    except ValueError:
        return []


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", text).casefold()
    return re.findall(r"\d+(?:[:.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*", plain)
