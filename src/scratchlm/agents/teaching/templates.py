"""Templates of questions, and the words and numbers that fill them.

A file of templates has a line for each, in three parts: ``train``, ``validation`` and ``test``. In a question ``[a|b]``
is one of two wordings and ``{a}`` a slot. What is drawn for the training leaves out every fourth word of each kind, so
that the other parts have new words beside new sentences; some kinds have more words, for the training alone.
"""

from __future__ import annotations

import datetime
import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_FOLDER = resources.files("scratchlm.agents.teaching") / "templates"
_CHOICE, _SLOT = re.compile(r"\[([^\[\]]*\|[^\[\]]*)\]"), re.compile(r"\{(\w+)\}")
_ONSETS = re.split(" ", "b br d dr f fl g gr h k kl l m n p pr r s st t tr v w z")
_CODAS = re.split(" ", "l n r s nd rn lm rk st ss n l")
_PERCENTS = (5, 10, 12, 15, 20, 25, 30, 35, 40, 45, 50, 60, 75, 80)
_ENDINGS = ("th", "st", "nd", "rd")


@dataclass(frozen=True)
class Template:
    """One line of a file."""

    family: str
    split: Split
    number: int
    """Of the line, from 1 on; with the family it names the template."""
    parts: tuple[str, ...]
    """What stands between the bars."""
    subject: tuple[str, ...] = ()
    """Of a fact: the parts of the line that begins its subject."""

    @property
    def name(self) -> str:
        return f"{self.family}:{self.number}"


@cache
def read_templates(family: str) -> tuple[Template, ...]:
    """All templates of a family's file."""
    found, split, subject = [], SPLITS[0], tuple[str, ...]()
    for number, line in enumerate((_FOLDER / f"{family}.txt").read_text(encoding="utf-8").splitlines(), 1):
        mark, _, rest = line.partition(" ")
        if not line or mark == "#":
            continue
        if mark == "=":
            (split,) = (one for one in SPLITS if one == rest.strip())
        elif mark == ">":
            subject = _parts(rest)
        else:
            found.append(Template(family, split, number, _parts(line), subject))
    return tuple(found)


def _parts(line: str) -> tuple[str, ...]:
    """A bar parts the line, but within ``[a|b]`` it parts wordings."""
    return tuple(part.strip() for part in re.split(r"\s\|\s", line))


@cache
def words(kind: str, split: Split) -> tuple[tuple[str, str], ...]:
    """The words of a kind with what each is paired with (itself where that is nothing).

    Raises:
        KeyError: there is no such kind.
    """
    every = _words()[kind]
    if split != "train":
        return tuple(every)
    learned = [one for n, one in enumerate(every) if len(every) < 8 or n % 4 != 3]
    return (*learned, *_words().get(f"{kind}+", ()))


@cache
def _words() -> dict[str, list[tuple[str, str]]]:
    found = {}
    for line in (_FOLDER / "words.txt").read_text(encoding="utf-8").splitlines():
        kind, colon, rest = line.partition(":")
        if colon and not line.startswith("#"):
            separator = r"(?<=\.)\s" if kind == "sentence" else ","
            pairs = (one.partition(" = ") for one in re.split(separator, rest))
            found[kind] = [(one.strip(), (other or one).strip()) for one, _, other in pairs]
    return found


@dataclass
class Slots:
    """What fills the slots of one question. A slot keeps its value once it is drawn."""

    random: random.Random
    split: Split
    values: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    """For a word that is paired with another: the other."""

    def fill(self, text: str) -> str:
        """A text with its wordings chosen and its slots filled."""
        text = _CHOICE.sub(lambda found: self.random.choice(found[1].split("|")), text)
        return _SLOT.sub(lambda found: self.shown(found[1]), text)

    def shown(self, name: str) -> str:
        """A slot as the question has it: dates and large numbers in one of several ways."""
        value = self[name]
        if isinstance(value, datetime.date):
            return self._date(value)
        if name in ("g", "h") and value >= 1000 and self.random.random() < 0.3:
            return f"{value:,}"
        return str(value)

    def __getitem__(self, name: str) -> Any:
        if name not in self.values:
            self.values[name] = self._drawn(name)
        return self.values[name]

    def _drawn(self, name: str) -> Any:
        if name in _NUMBERS:
            return _NUMBERS[name](self.random)
        if name in _MADE:
            return _MADE[name](self)
        kind = _ALIASES.get(name, name)
        others = [self.values.get(one) for one, its in _ALIASES.items() if its == kind] + [self.values.get(kind)]
        word, answer = self.random.choice([one for one in words(kind, self.split) if one[0] not in others])
        self.answers[name] = answer
        return word

    def number(self, low: int, high: int) -> int:
        """Small ones as often as large ones where there are many sizes."""
        if high < 100 * max(low, 1):
            return self.random.randint(low, high)
        return min(high, round(max(low, 1) * math.pow(high / max(low, 1), self.random.random())))

    def place(self) -> str:
        """An invented name such as Bremol."""
        syllables = self.random.choice((2, 2, 3))
        middle = "".join(self.random.choice(_ONSETS) + self.random.choice("aeiou") for _ in range(syllables))
        return (middle + self.random.choice(("", *_CODAS))).capitalize()

    def person(self) -> str:
        first, last = (self.random.choice(words(kind, self.split))[0] for kind in ("name", "surname"))
        return f"{first} {last}"

    def product(self) -> str:
        return f"{self.place()} {self.random.randint(2, 99)}"

    def title(self) -> str:
        """A book's or a film's, such as The Silver Basket."""
        noun = self.random.choice(words("noun", self.split))[0]
        of = self.random.choice((words("colour", self.split), words("adjective", self.split)))
        return f"The {self.random.choice(of)[0].capitalize()} {noun.capitalize()}"

    def _date(self, day: datetime.date) -> str:
        month, ending = day.strftime("%B"), _ENDINGS[day.day % 10 if day.day % 10 < 4 and day.day // 10 != 1 else 0]
        forms = (
            *(f"{day.day} {month} {day.year}",) * 2,
            *(f"{month} {day.day}, {day.year}",) * 2,
            f"the {day.day}{ending} of {month} {day.year}",
            f"{month} {day.day}{ending}, {day.year}",
            f"{day.day} {month[:3]} {day.year}",
            day.isoformat(),
        )
        return self.random.choice(forms)

    def _later(self) -> datetime.date:
        day: datetime.date = self["d"]
        return day + datetime.timedelta(days=self.random.choice((self.number(2, 30), self.number(20, 500))))

    def _amount(self) -> str:
        whole = self.random.choice((self.number(2, 20), self.number(10, 200), self.number(100, 5000)))
        return str(whole) if self.random.random() < 0.7 else f"{whole}.{self.random.randint(1, 9)}"


def _money(random: random.Random) -> str:
    return f"{random.randint(5, 1200) * 5 / 100:.2f}"


_NUMBERS: Mapping[str, Callable[[random.Random], Any]] = {
    **dict.fromkeys("abc", lambda random: random.randint(3, 95)),
    **dict.fromkeys("jk", lambda random: random.randint(2, 12)),
    **dict.fromkeys("gh", lambda random: random.choice((random.randint(100, 900), random.randint(400, 6000)))),
    **dict.fromkeys("mn", _money),
    "p": lambda random: random.choice(_PERCENTS),
    "year": lambda random: random.randint(1650, 2015),
    "hour": lambda random: f"{random.randint(1, 12)}:{random.choice(('00', '15', '30', '45'))}",
}
_MADE: Mapping[str, Callable[[Slots], Any]] = {
    "d": lambda s: datetime.date(1950, 1, 1) + datetime.timedelta(days=s.random.randint(0, 31000)),
    "e": Slots._later,
    "v": Slots._amount,
    **dict.fromkeys(("X", "Y", "place"), Slots.place),
    **dict.fromkeys(("person", "somebody"), Slots.person),
    "product": Slots.product,
    "title": Slots.title,
}
_ALIASES = {"other": "name", "town": "city"}
