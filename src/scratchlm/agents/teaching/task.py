"""A task whose answer can be checked, and the call or calls by which it can be found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["number", "rounded", "date", "text"]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """What an earlier call of the same task gave, as an argument of a later one: the ``number``-th, from 0 on."""

    number: int


@dataclass(frozen=True)
class Step:
    """A call that leads to the answer."""

    tool: str
    arguments: Mapping[str, Any]
    """With :class:`Result` where an earlier result goes in, and in texts ``{0}``."""


@dataclass(frozen=True)
class Text:
    """A document that can be searched."""

    file: str
    text: str


@dataclass(frozen=True)
class Task:
    """A question, what it needs, and what is right."""

    question: str
    answer: str
    """As an answer may say it; :func:`~scratchlm.agents.teaching.answers.check` knows other ways."""
    kind: Kind
    family: str
    template: str
    """Its name: the family and the line in the family's file."""
    steps: tuple[Step, ...]
    """A way to the answer: the calls, in their order. None where no tool helps."""
    table: tuple[Row, ...]
    """The rows that can be looked up; of most tasks they have nothing to do with the question."""
    documents: tuple[Text, ...]
    """What can be searched; the same for all tasks of a set."""
