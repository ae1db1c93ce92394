"""Arithmetic without ``eval``: what an expression in a text comes to, exactly, and whether an answer says so."""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?"
_TOKENS = re.compile(rf"{_NUMBER}|[-+*/()]")
_EXPRESSION = re.compile(r"[-(0-9][-+*/(0-9.,) \t]*")
_ANSWER = re.compile(rf"(?<![0-9)])-?{_NUMBER}|{_NUMBER}")
_TIMES = re.compile(r"(?<=[0-9)])[ \t]*[x×·][ \t]*(?=[0-9(-])")
_SIGNS = str.maketrans({"−": "-", "–": "-", "÷": "/", "×": "*"})
_LONGEST, _DEEPEST, _DIGITS = 200, 20, 50
"""Characters and brackets of an expression, digits of a number."""


def calculated(text: str) -> Fraction:
    """The last expression in a text, such as "What is 2 * (3 + 4)?", worked out.

    Raises:
        ValueError: there is none, it divides by zero, or it is too long.
    """
    plain = _TIMES.sub("*", text).translate(_SIGNS)
    found = [one.strip(" \t.,") for one in _EXPRESSION.findall(plain)]
    for expression in reversed(found):
        body = expression.rstrip("+-*/ \t")
        if re.search(r"[0-9)][ \t]*[-+*/]", body):
            return _Reader(body).value()
    raise ValueError(f"there is no expression in {text[:40]!r}")


def same_number(text: str, expected: Fraction) -> bool:
    """Whether the last number in a text is the expected one; rounded to two places or more, where it has no end as a
    decimal."""
    found = _ANSWER.findall(text.translate(_SIGNS))
    if not found or len(found[-1]) > _DIGITS:
        return False
    given = found[-1].replace(",", "")
    places = len(given.partition(".")[2])
    rest = expected.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    if rest == 1 or places < 2:
        return Fraction(given) == expected
    return abs(Fraction(given) - expected) <= Fraction(1, 2 * 10**places)


class _Reader:
    """sum: product (+|- product)*; product: factor (*|/ factor)*; factor: -factor, (sum) or a number."""

    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST:
            raise ValueError(f"an expression of {len(text)} characters is too long")
        self._tokens: list[str] = _TOKENS.findall(text)
        if "".join(self._tokens) != re.sub(r"[ \t]", "", text):
            raise ValueError(f"{text!r} is no expression")
        self._text, self._at, self._depth = text, 0, 0

    def value(self) -> Fraction:
        result = self._sum()
        if self._at < len(self._tokens):
            raise ValueError(f"{self._text!r} is no expression")
        return result

    def _next(self, *wanted: str) -> str | None:
        """The next token where it is one of those that are wanted."""
        if self._at < len(self._tokens) and self._tokens[self._at] in wanted:
            self._at += 1
            return self._tokens[self._at - 1]
        return None

    def _sum(self) -> Fraction:
        result = self._product()
        while sign := self._next("+", "-"):
            other = self._product()
            result = result + other if sign == "+" else result - other
        return result

    def _product(self) -> Fraction:
        result = self._factor()
        while sign := self._next("*", "/"):
            other = self._factor()
            if sign == "/" and other == 0:
                raise ValueError(f"{self._text!r} divides by zero")
            result = result * other if sign == "*" else result / other
        return result

    def _factor(self) -> Fraction:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError(f"{self._text!r} is nested too deeply")
        if self._next("-"):
            result = -self._factor()
        elif self._next("("):
            result = self._sum()
            if not self._next(")"):
                raise ValueError(f"{self._text!r} has a bracket that is not closed")
        elif self._at < len(self._tokens) and self._tokens[self._at][0].isdigit():
            digits = self._tokens[self._at].replace(",", "")
            if len(digits) > _DIGITS:
                raise ValueError(f"{self._text!r} has a number of {len(digits)} digits")
            result = Fraction(digits)
            self._at += 1
        else:
            raise ValueError(f"{self._text!r} is no expression")
        self._depth -= 1
        return result
