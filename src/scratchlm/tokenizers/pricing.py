"""What an operation of a chat template costs, paid before it is done."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

from jinja2.exceptions import SecurityError

ALLOWANCE = 20_000_000
PER_CHARACTER = 50
"""The budget: so much for any rendering, and so much more for each character of the messages."""
STEP = 40
"""The price of a loop's turn or a call; so a template takes half a million of them at most, a second or two."""


def names(text: str) -> frozenset[str]:
    """Words in a text, as a set."""
    return frozenset(text.split())


_OF_TEXT = names(
    "capitalize dictsort e escape groupby indent lower max min replace safe sort string title tojson trim unique upper"
)
"""Filters that write a container out, or compare all that is in it."""
_COMPARING = names("eq equalto == ne != lt lessthan < le <= gt greaterthan > ge >= in")
"""Tests that do."""


@dataclass
class Budget:
    """What a rendering may still spend."""

    left: int
    marks: tuple[str, str] = ("", "")
    """What stands around the text of ``{% generation %}`` blocks, where they are looked for."""


BUDGET: ContextVar[Budget] = ContextVar("budget")


def spend(amount: int) -> None:
    """Pay.

    Raises:
        SecurityError: there is not so much left.
    """
    budget = BUDGET.get()
    budget.left -= max(amount, 0)
    if budget.left < 0:
        raise SecurityError("it takes more steps or more memory than any chat needs")


def refuse(what: str) -> NoReturn:
    """Say that a template may not do ``what``."""
    raise SecurityError(f"{what} is not allowed in a chat template")


def size(value: Any) -> int:
    """How many parts a value has at its top: characters, elements."""
    return len(value) if isinstance(value, str | bytes | list | tuple | dict | range) else 0


def weigh(value: Any) -> None:
    """Pay for all elements of a container, also those of the containers in it: nesting doubles quickly."""
    if isinstance(value, list | tuple | dict):
        spend(8 + 8 * len(value))
        for item in value.values() if isinstance(value, dict) else value:
            weigh(item)


def write_out(value: Any) -> None:
    """Pay for a value's text before it is made."""
    if isinstance(value, str | range):
        spend(len(value))
    elif isinstance(value, list | tuple | dict):
        spend(4 + 4 * len(value))
        for item in value if not isinstance(value, dict) else (*value.keys(), *value.values()):
            write_out(item)
    else:
        spend(STEP)


def pay_replacement(text: str, old: Any, new: Any) -> None:
    """Pay for ``text.replace(old, new)``."""
    if isinstance(old, str) and isinstance(new, str):
        spend(len(text) + text.count(old) * len(new))


def pay_joining(separator: Any, items: Iterable[Any]) -> list[Any]:
    """Pay for ``separator.join(items)``; gives the items, gone through once."""
    listed = list(items)
    for item in listed:
        write_out(item)
    spend(size(separator) * len(listed))
    return listed


def paid_filter(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    """Jinja's filter of that name, paid for with each use."""
    place = 1 if hasattr(made, "jinja_pass_arg") else 0  # after the environment or context that Jinja passes

    @functools.wraps(made)
    def paid(*args: Any, **kwargs: Any) -> Any:
        listed = list(args)
        value, rest = listed[place], listed[place + 1 :]
        spend(STEP + 4 * size(value))
        if name == "join":
            listed[place] = value = pay_joining(rest[0] if rest else kwargs.get("d", ""), value)
        elif name in _OF_TEXT:
            write_out(value)
        if name == "replace":
            named = dict(zip(("old", "new"), rest, strict=False)) | kwargs
            pay_replacement(str(value), named.get("old"), named.get("new"))
        if name == "indent":
            width = rest[0] if rest else kwargs.get("width", 4)
            spend((width if isinstance(width, int) else size(width)) * (1 + str(value).count("\n")))
        result = made(*listed, **kwargs)
        spend(size(result))
        return result

    return paid


def paid_test(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    """Jinja's test of that name, paid for with each use if it compares."""
    if name not in _COMPARING:
        return made

    @functools.wraps(made)
    def paid(*args: Any) -> Any:
        write_out(args)
        return made(*args)

    return paid
