"""A calculator: one expression, read by a parser of its own and worked out exactly. Nothing is ever run as Python.

Numbers are fractions, so that ``0.1 + 0.2`` is 0.3 and nothing is lost before the end; roots, logarithms and powers
that are not fractions have 50 digits, angles (in radians) what a double has. ``%`` after a value is a hundredth,
between two values the rest of a division; commas part thousands outside a function's brackets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction

_LONGEST, _DEEPEST, _BITS = 1_000, 50, 16_384
"""Characters of an expression; brackets within brackets; bits of a numerator or denominator on the way."""
_EXACT, _DECIMALS, _SHORT = 60, 12, 10
"""Digits, and digits after the point, that a result has at most to be shown whole; else its significant ones."""
_PRECISE = Context(prec=50)
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d[\d_]*(?:\.\d[\d_]*)?|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>x(?=\d)|[^\W\d]\w*)|(?P<sign>\*\*|//|\S))"
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_SAME = str.maketrans(
    {"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "√": "sqrt ", "π": "pi", "$": "", "€": "", "£": ""}
)


def calculate(expression: str) -> Fraction:
    """The value of an expression.

    Raises:
        ValueError: it cannot be read, has no real value, or is too large; the line says where or why.
    """
    if len(expression) > _LONGEST:
        raise ValueError(f"the expression has {len(expression):,} characters; at most {_LONGEST:,} are read")
    return _Parser(expression.translate(_SAME).strip().rstrip("=").strip()).whole()


def shown_number(value: Fraction, decimals: int = _DECIMALS, short: int = _SHORT) -> str:
    """A fraction in digits: all of them where at most ``decimals`` follow the point, else ``short`` significant ones,
    or as many as the whole part has. Beyond 60 digits as ``1.5e80``."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest == 1:  # the digits end
        text = _plain(Context(prec=_BITS).divide(Decimal(value.numerator), Decimal(value.denominator)))
        if sum(map(str.isdigit, text)) <= _EXACT and len(text.partition(".")[2]) <= decimals:
            return text
    whole = len(str(abs(value.numerator) // value.denominator))
    precise = Context(prec=max(short, whole) if whole <= _EXACT else short)
    rounded = precise.divide(Decimal(value.numerator), Decimal(value.denominator))
    if -7 < rounded.adjusted() < _EXACT:
        return _plain(rounded)
    return f"{_plain(rounded.scaleb(-rounded.adjusted()))}e{rounded.adjusted()}"


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _decimal(value: Fraction) -> Decimal:
    return _PRECISE.divide(Decimal(value.numerator), Decimal(value.denominator))


def _angle(work: Callable[[float], float]) -> Callable[[Fraction], Fraction]:
    return lambda given: Fraction(str(round(work(float(given)), 15)))


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise ValueError(f"{shown_number(value)} has no real square root")
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if top * top == value.numerator and bottom * bottom == value.denominator:
        return Fraction(top, bottom)
    return Fraction(_decimal(value).sqrt(_PRECISE))


def _log(value: Fraction, base: Fraction | None = None) -> Fraction:
    if value <= 0 or (base is not None and (base <= 0 or base == 1)):
        raise ValueError("a logarithm is of a number above 0, to a base above 0 that is not 1")
    if base is None:
        return Fraction(_decimal(value).log10(_PRECISE))
    found = Fraction(_PRECISE.divide(_decimal(value).ln(_PRECISE), _decimal(base).ln(_PRECISE)))
    near = Fraction(round(found))
    return near if abs(near) < 1_000 and base**near.numerator == value else found


def _ln(value: Fraction) -> Fraction:
    if value <= 0:
        raise ValueError("a logarithm is of a number above 0")
    return Fraction(_decimal(value).ln(_PRECISE))


def _exp(value: Fraction) -> Fraction:
    if abs(value) > 5_000:
        raise ValueError("the result is too large")
    return Fraction(_decimal(value).exp(_PRECISE))


def _whole(value: Fraction) -> int:
    if value.denominator != 1:
        raise ValueError(f"{shown_number(value)} is no whole number")
    return value.numerator


def _factorial(value: Fraction) -> Fraction:
    if not 0 <= _whole(value) <= 1_000:
        raise ValueError("a factorial is of a whole number from 0 to 1,000")
    return Fraction(math.factorial(value.numerator))


def _round(value: Fraction, digits: Fraction = Fraction(0)) -> Fraction:
    """Halves go away from zero, as at school."""
    if abs(_whole(digits)) > 100:
        raise ValueError("a number is rounded to at most 100 digits")
    scale = Fraction(10) ** digits.numerator
    return math.floor(abs(value) * scale + Fraction(1, 2)) / scale * (-1 if value < 0 else 1)


def _power(base: Fraction, power: Fraction) -> Fraction:
    if base == 0 and power < 0:
        raise ValueError("0 has no negative power")
    if power.denominator == 1:
        size = max(abs(base.numerator).bit_length(), base.denominator.bit_length())
        if abs(power) * size > _BITS and abs(base) != 1:
            raise ValueError("the result is too large")
        return base**power.numerator
    if base < 0:
        raise ValueError(f"{shown_number(base)} has no real power of {shown_number(power)}")
    if base == 0:
        return Fraction(0)
    if power.denominator == 2 and abs(power.numerator) < 1_000:
        return _power(_root(base), Fraction(power.numerator))
    return _exp(power * _ln(base))


def _divide(top: Fraction, bottom: Fraction) -> Fraction:
    if bottom == 0:
        raise ValueError("division by zero")
    return top / bottom


def _rest(top: Fraction, bottom: Fraction) -> Fraction:
    return top - bottom * (_divide(top, bottom).__floor__())


_Work = Callable[..., Fraction]
_FUNCTIONS: dict[str, tuple[_Work, int, int]] = {
    "sqrt": (_root, 1, 1),
    "abs": (abs, 1, 1),
    "round": (_round, 1, 2),
    "floor": (lambda x: Fraction(math.floor(x)), 1, 1),
    "ceil": (lambda x: Fraction(math.ceil(x)), 1, 1),
    "min": (min, 1, 99),
    "max": (max, 1, 99),
    "sum": (lambda *all_: sum(all_, Fraction(0)), 1, 99),
    "mean": (lambda *all_: sum(all_, Fraction(0)) / len(all_), 1, 99),
    "gcd": (lambda *all_: Fraction(math.gcd(*map(_whole, all_))), 1, 99),
    "lcm": (lambda *all_: Fraction(math.lcm(*map(_whole, all_))), 1, 99),
    "factorial": (_factorial, 1, 1),
    "exp": (_exp, 1, 1),
    "ln": (_ln, 1, 1),
    "log": (_log, 1, 2),
    "log10": (_log, 1, 1),
    "log2": (lambda x: _log(x, Fraction(2)), 1, 1),
    "sin": (_angle(math.sin), 1, 1),
    "cos": (_angle(math.cos), 1, 1),
    "tan": (_angle(math.tan), 1, 1),
    "asin": (_angle(math.asin), 1, 1),
    "acos": (_angle(math.acos), 1, 1),
    "atan": (_angle(math.atan), 1, 1),
    "degrees": (_angle(math.degrees), 1, 1),
    "radians": (_angle(math.radians), 1, 1),
}
_CONSTANTS = {
    "pi": Fraction("3.14159265358979323846264338327950288419716939937511"),
    "e": Fraction("2.71828182845904523536028747135266249775724709369996"),
}
_BINARY: dict[str, tuple[int, _Work]] = {
    "+": (1, lambda a, b: a + b),
    "-": (1, lambda a, b: a - b),
    "*": (2, lambda a, b: a * b),
    "/": (2, _divide),
    "//": (2, lambda a, b: Fraction(math.floor(_divide(a, b)))),
    "%": (2, _rest),
}
_WORDS = {"x": "*", "of": "*", "times": "*", "plus": "+", "minus": "-", "mod": "%", "percent": "%"}
_SIGN = 3


class _Parser:
    """Precedence climbing (Pratt 1973) over a list of tokens."""

    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.at = self.depth = 0

    def whole(self) -> Fraction:
        value = self.sum(0)
        if self.at < len(self.tokens):
            raise ValueError(f"I cannot read {self.peek()!r} at this place of the expression")
        return value

    def peek(self, ahead: int = 0) -> str:
        place = self.at + ahead
        return self.tokens[place] if place < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        found = self.peek()
        if expected and found != expected:
            raise ValueError(f"{expected!r} is missing {f'before {found!r}' if found else 'at the end'}")
        self.at += 1
        return found

    def sum(self, least: int) -> Fraction:
        """A value with all operators that bind more tightly than ``least``."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise ValueError(f"the expression has more than {_DEEPEST} levels")
        value = self.start()
        while True:
            sign = self.peek()
            if sign == "!":
                self.take()
                value = _factorial(value)
            elif sign == "%" and not _begins(self.peek(1)):
                self.take()
                value /= 100
            elif sign in ("^", "**"):
                self.take()
                value = _power(value, self.sum(_SIGN))
            elif sign in _BINARY and _BINARY[sign][0] > least:
                value = self.binary(value)
            elif _begins(sign) and not sign[0].isdigit() and sign[0] != "." and least < 2:
                value *= self.sum(2)  # 2(3 + 4), 2 pi
            else:
                break
            if max(value.numerator.bit_length(), value.denominator.bit_length()) > _BITS:
                raise ValueError("the result is too large")
        self.depth -= 1
        return value

    def binary(self, left: Fraction) -> Fraction:
        before, sign, start = self.tokens[self.at - 1], self.take(), self.at
        least, work = _BINARY[sign]
        right = self.sum(least)
        part = self.tokens[start : self.at]
        if sign in "+-" and len(part) == 2 and part[1] == "%" != before:
            raise ValueError(f"{part[0]}% of what? write it out, such as 80 {sign} 80 * {part[0]}%")
        return work(left, right)

    def start(self) -> Fraction:
        token = self.take()
        if token in ("+", "-"):
            return self.sum(_SIGN) * (-1 if token == "-" else 1)
        if token == "(":
            value = self.sum(0)
            self.take(")")
            return value
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        if token in _FUNCTIONS:
            return self.function(token)
        if token[:1].isdigit() or token[:1] == ".":
            return _number(token)
        raise ValueError(_unknown(token))

    def function(self, name: str) -> Fraction:
        work, fewest, most = _FUNCTIONS[name]
        if name == "sqrt" and self.peek() != "(":  # as √2 is written
            return _root(self.start())
        self.take("(")
        given = [self.sum(0)]
        while self.peek() == ",":
            self.take()
            given.append(self.sum(0))
        self.take(")")
        if not fewest <= len(given) <= most:
            raise ValueError(f"{name} takes {fewest if fewest == most else f'{fewest} or {most}'} numbers")
        try:
            return Fraction(work(*given))
        except OverflowError as error:
            raise ValueError("the result is too large") from error
        except ValueError as error:
            raise ValueError(f"{name} is not defined here") if "domain" in str(error) else error from None


def _begins(token: str) -> bool:
    """Whether a token can begin a value."""
    return token == "(" or token[:1].isdigit() or token[:1] == "." or token in _FUNCTIONS or token in _CONSTANTS


def _number(token: str) -> Fraction:
    if abs(int(token.lower().partition("e")[2] or 0)) > 4_000:
        raise ValueError("the number is too large")
    return Fraction(token.replace("_", ""))


def _unknown(token: str) -> str:
    if not token:
        return "the expression ends too early"
    if token[0].isalpha():
        return f"I do not know {token[:40]!r}; use numbers, + - * / ^ % ( ) and {', '.join(_FUNCTIONS)}"
    return f"I cannot read {token!r} at this place of the expression"


def _tokens(text: str) -> list[str]:
    """Numbers, names and signs. Commas within a function's brackets part its arguments, others thousands."""
    found: list[str] = []
    of_function: list[bool] = []
    at = 0
    while at < len(text):
        at += len(text) - at - len(text[at:].lstrip())
        if not any(of_function) and (thousands := _THOUSANDS.match(text, at)):
            text = text[:at] + thousands[0].replace(",", "") + text[thousands.end() :]
        match = _TOKEN.match(text, at)
        if match is None:  # white space at the end
            break
        token = match["number"] or _WORDS.get((match["name"] or "").lower(), (match["name"] or "").lower())
        token = token or match["sign"]
        if token == "(":
            of_function.append(bool(found) and found[-1] in _FUNCTIONS)
        elif token == ")" and of_function:
            of_function.pop()
        found.append(token)
        at = match.end()
    return found
