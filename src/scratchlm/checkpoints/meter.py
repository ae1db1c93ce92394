"""Who listens while a model is fetched."""

from __future__ import annotations


class Meter:
    """Hears how far a pull has come. This one keeps silent; the command line's shows it."""

    def say(self, text: str) -> None:
        """A line worth knowing."""

    def show(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` bytes are there; ``what`` is the file now under way."""
