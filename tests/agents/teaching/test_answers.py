"""Which answers count as right."""

from __future__ import annotations

from typing import Any

import pytest

from scratchlm.agents.teaching.answers import check, dates_in
from scratchlm.agents.teaching.task import Task


def task(kind: Any, answer: str) -> Task:
    return Task("?", answer, kind, "family", "family:1", (), (), ())


RIGHT = [
    ("number", "1250", "1250"),
    ("number", "1250", "The answer is 1,250."),
    ("number", "1250", "1,250.00 dollars"),
    ("number", "92.6", "That is $92.60, all in all."),
    ("number", "-12", "It is −12 degrees"),
    ("number", "24", "3 * 8 = 24"),
    ("rounded", "8.04412", "8.04 litres"),
    ("rounded", "1700.9872", "about 1,701"),
    ("rounded", "0.00661387", "6.614e-3"),
    ("date", "2024-03-05", "2024-03-05"),
    ("date", "2024-03-05", "5 March 2024"),
    ("date", "2024-03-05", "It is March 5th, 2024."),
    ("date", "2024-03-05", "on the 5th of Mar 2024"),
    ("date", "2024-03-05", "from 1 March 2024 to 5 March 2024"),
    ("text", "Hedda Moss", "It was designed by hedda moss."),
    ("text", "The train is late.", "the train is late"),
    ("text", "TIGER", "It is TIGER."),
    ("text", "Friday", "Friday"),
    ("text", "8:30", "Until 8:30."),
    ("text", "wood gas", "It burns wood  gas"),
]
WRONG = [
    ("number", "1250", ""),
    ("number", "1250", "none"),
    ("number", "1250", "1250 or 1251"),
    ("number", "1250", "12.50"),
    ("number", "1250", "125"),
    ("number", "92.6", "92.61"),
    ("number", "12", "-12"),
    ("rounded", "8.04412", "8.1"),
    ("rounded", "8.04412", "80.4412"),
    ("date", "2024-03-05", "2024-05-03"),
    ("date", "2024-03-05", "5 March 2024, or 6 March 2024"),
    ("date", "2024-03-05", "5 March"),
    ("date", "2024-03-05", "2024-13-45"),
    ("text", "Hedda Moss", "Hedda"),
    ("text", "Hedda Moss", "Moss Hedda"),
    ("text", "cat", "concatenate"),
    ("text", "TIGER", "tiger"),
    ("text", "Friday", "Friday " + "or perhaps another day " * 8),
    ("text", "8:30", "8"),
]


@pytest.mark.parametrize(("kind", "answer", "said"), RIGHT)
def test_right(kind: str, answer: str, said: str) -> None:
    assert check(task(kind, answer), said)


@pytest.mark.parametrize(("kind", "answer", "said"), WRONG)
def test_wrong(kind: str, answer: str, said: str) -> None:
    assert not check(task(kind, answer), said)


def test_dates_come_in_their_order() -> None:
    found = dates_in("2020-02-29, May 1, 1999 and 31 Feb 2001, the 3rd of June 2007")
    assert [day.isoformat() for day in found] == ["2020-02-29", "1999-05-01", "2007-06-03"]
