"""Where a text ends: stop strings that may span tokens, and what may already be shown."""

from __future__ import annotations

from collections.abc import Sequence

from scratchlm.errors import UserError


class StopWatcher:
    """Passes text on as soon as it is certain not to belong to a stop string.

    Raises:
        UserError: a stop string is empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if any(not stop for stop in stops):
            raise UserError("a stop string is empty; it would stop before the first character, so leave it out")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False
        """True once a stop string has appeared."""

    def push(self, text: str) -> str:
        """Take new text; return what can be shown. Nothing comes after (or of) the first stop string."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:  # the one that is complete first, so that it does not matter how the text is cut into tokens
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The text that was held back, now that nothing can complete a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that begins ``stop`` without completing it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
