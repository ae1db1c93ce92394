"""Units: one quantity in another unit, by pint's definitions, in fractions."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache
from typing import Any

from scratchlm.agents.calculator import shown_number
from scratchlm.errors import missing_package

_ONE = r"[^\W\d_][^\W\d]*(?:\s*(?:\*\*|\^)\s*-?[1-9](?!\d))?"
_UNIT = re.compile(rf"{_ONE}(?:(?:\s*[*/]\s*|\s+){_ONE})*")
"""Names with powers of one digit, multiplied and divided: pint's own reader takes much more."""
_LONGEST, _DIGITS = 60, 6
_WORDS = {
    "f": "degF", "°f": "degF", "fahrenheit": "degF", "degrees fahrenheit": "degF", "degree fahrenheit": "degF",
    "c": "degC", "°c": "degC", "celsius": "degC", "degrees celsius": "degC", "degree celsius": "degC",
    "sq ft": "foot**2", "sq m": "meter**2", "square feet": "foot**2", "cubic feet": "foot**3", "mpg": "mile/gallon",
    "cubic meters": "meter**3", "square meters": "meter**2", "fl oz": "floz", "fluid ounce": "floz",
    "fluid ounces": "floz", "nautical mile": "nautical_mile", "nautical miles": "nautical_mile", "lbs": "pound",
    "light year": "light_year", "light years": "light_year", "kph": "km/hour", "hrs": "hour", "mins": "minute",
    "secs": "second", "tbsp": "tablespoon", "tsp": "teaspoon", "metric ton": "metric_ton",
}  # fmt: skip
"""What people write that pint reads otherwise (F is its farad, C its coulomb) or not at all."""


@cache
def _registry() -> Any:
    try:
        from pint import UnitRegistry
    except ImportError:
        raise missing_package("units need", "pint", "agents") from None
    return UnitRegistry(non_int_type=Fraction)


def _unit(text: str) -> Any:
    spoken = " ".join(text.split())
    spoken = _WORDS.get(spoken.lower(), spoken)
    if len(text) > _LONGEST or not _UNIT.fullmatch(spoken):
        raise ValueError(f"{text[:_LONGEST]!r} is no unit; write one such as km, mile/hour or m^2")
    registry, failure = _registry(), ""
    for one in (spoken, spoken.lower()):  # Miles, KM
        try:
            found = registry.parse_units(one)
        except Exception as error:  # pint's errors have many kinds, and its reader is Python's
            failure = failure or type(error).__name__
        else:
            return found
    raise ValueError(f"I do not know the unit {text!r}")


def convert(value: float, unit: str, to: str) -> str:
    """Convert a quantity into another unit.

    Raises:
        ValueError: a unit is unknown, or they measure different things.
    """
    source, target = _unit(unit), _unit(to)
    try:
        found = Fraction(_registry().Quantity(Fraction(str(value)), source).to(target).magnitude)
    except Exception:  # pint fails to name some pairs
        raise ValueError(f"{unit!r} cannot be converted into {to!r}: they measure different things") from None
    return f"{shown_number(found, _DIGITS, _DIGITS)} {to.strip()}"
