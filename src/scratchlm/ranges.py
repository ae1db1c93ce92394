"""What a setting may be: one line for each that is out of its range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scratchlm.errors import UserError


def check_whole(name: str, value: Any, least: int) -> None:
    """Raises UserError unless a setting is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name} is {value!r}; give a whole number of at least {least}")


def check_number(
    name: str, value: Any, *, least: float = 0.0, above: float | None = None, most: float = math.inf
) -> None:
    """Raises UserError unless a setting is a number in its range."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < least or value > most or (above is not None and value <= above):
        range_ = f"above {above:g}" if above is not None else f"of at least {least:g}"
        raise UserError(
            f"{name} is {value!r}; give a number {range_}{'' if most == math.inf else f', at most {most:g}'}"
        )


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raises UserError unless a setting is one of some words."""
    if value not in choices:
        raise UserError(f"{name} is {value!r}; choose one of: {', '.join(choices)}")
