"""Tokens that become text as they come, up to a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from scratchlm.generation.stopping import StopWatcher

if TYPE_CHECKING:
    from scratchlm.tokenizers import Tokenizer


LEADS = ("word", "wordpiece", "spm")
"""Kinds of tokenizers whose first token may bring a space that is not the text's."""


class TextStream:
    """The text of sampled tokens.

    Args:
        before: the text that the tokens continue; it is not shown.
        stops: stop strings; they may span tokens, and neither they nor what follows them is shown.
        drop_space: whether a space that the tokenizer alone puts before the first token is not the text's.
        on_text: called with each new piece as soon as it is final: no part of a stop string, no half of a character.

    Raises:
        UserError: a stop string is empty.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        before: str = "",
        stops: Sequence[str] = (),
        on_text: Callable[[str], None] | None = None,
        skip_special: bool = False,
        drop_space: bool = False,
    ) -> None:
        self._watcher = StopWatcher(stops)
        self._on_text = on_text
        self._pieces: list[str] = []
        self._stream = tokenizer.stream(skip_special)
        for token in tokenizer.encode(before):  # so that what separates the first token from them is spelled, too
            self._stream.push(token)
        # A tokenizer that splits at spaces spells one before each word, also where the text already ends in one.
        self._drop_space = tokenizer.kind in ("word", "wordpiece") and before[-1:].isspace()
        self._drop_space |= drop_space and tokenizer.kind in LEADS

    @property
    def text(self) -> str:
        """What has been shown so far."""
        return "".join(self._pieces)

    def push(self, token: int) -> bool:
        """Take a token in; True when a stop string has appeared."""
        self._show(self._watcher.push(self._stream.push(token)))
        return self._watcher.stopped

    def finish(self) -> str:
        """Show what was held back, and return the whole text."""
        if not self._watcher.stopped:
            rest = self._watcher.push(self._stream.finish())
            self._show(rest + self._watcher.finish())
        return self.text

    def _show(self, text: str) -> None:
        if self._drop_space and text:
            text, self._drop_space = text.removeprefix(" "), False
        if text:
            self._pieces.append(text)
            if self._on_text is not None:
                self._on_text(text)
