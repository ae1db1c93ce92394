"""A vocabulary as the grammar engine (llguidance) reads it, and how a text is spelled in it with the fewest tokens.

llguidance thinks in bytes: every token is the bytes that it adds to a text. Words of a tokenizer that splits at spaces
carry the space before them, so a text of theirs begins with one; see :attr:`Spelling.lead`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import NDArray

from scratchlm.errors import missing_package
from scratchlm.generation.text import LEADS

if TYPE_CHECKING:
    from scratchlm.tokenizers import Tokenizer

LONGEST_TOKEN = 32
"""Bytes of a token that is tried when a text is spelled; longer ones are runs of spaces and the like."""
_PREFERRED = b"}])>\",0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.-/:;!?+*=%&#@$|~'`^<([{\\ \n\t\r"
"""In which order a search for an end tries characters: those that close something first."""
UNSPELLED = 1 << 30
"""The cost of what no tokens spell."""
_known: WeakKeyDictionary[Tokenizer, Spelling] = WeakKeyDictionary()


def need_llguidance() -> None:
    """Raises UserError where the package that reads grammars is missing."""
    if find_spec("llguidance") is None:
        raise missing_package("constrained text needs", "llguidance", "agents")


class Spelling:
    """What is kept of one tokenizer; :func:`spelling_of` makes it once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        size = tokenizer.vocab_size
        self.tokens: list[bytes] = [tokenizer.bytes_of(i) for i in range(size)]
        self.special = tokenizer.special_ids
        self.end_ids: list[int] = sorted(tokenizer.eos_ids)
        self.lead = tokenizer.kind in LEADS
        """Whether a text's first token may bring a space that is not the text's."""
        if not self.end_ids:  # llguidance wants one; that of nobody is allowed where a text may end, and never drawn
            self.end_ids = [size]
            self.tokens.append(b"<|end|>")
            self.special = self.special | {size}
        self.size = size
        self._tokenizer = ref(tokenizer)

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """Bytes -> the token for them; special tokens spell nothing."""
        return {token: i for i, token in enumerate(self.tokens) if token and i not in self.special}

    @cached_property
    def words(self) -> Any:
        """The vocabulary for llguidance."""
        return self._compiled(self.tokens, self.encode, None)

    @cached_property
    def letters(self) -> Any:
        """The vocabulary of a search: the 256 bytes, after places for all tokens, of which only the special ones are
        filled."""
        tokens = [token if i in self.special else b"" for i, token in enumerate(self.tokens)]
        return self._compiled(
            [*tokens, *(bytes([b]) for b in range(256))], lambda text: self.symbols(text.encode()), []
        )

    @property
    def letter_count(self) -> int:
        return len(self.tokens) + 256

    @cached_property
    def preferred(self) -> NDArray[np.int64]:
        """Letters by the order in which they are tried: bytes that tokens have, and special tokens."""
        had = set().union(*self.ids)
        others = [byte for byte in range(256) if byte not in _PREFERRED]
        special = sorted(self.special.difference(self.end_ids))
        return np.array([*self.symbols(bytes(b for b in [*_PREFERRED, *others] if b in had)), *special], np.int64)

    @cached_property
    def plain(self) -> bool:
        """Whether every ASCII text can be spelled."""
        return all(bytes([byte]) in self.ids for byte in range(32, 127))

    def symbols(self, text: bytes) -> list[int]:
        """A text as letters."""
        return [len(self.tokens) + byte for byte in text]

    def letters_of(self, token: int) -> list[int]:
        """A token as letters."""
        return [token] if token in self.special else self.symbols(self.tokens[token])

    def encode(self, text: str) -> list[int]:
        """The tokens of a text that stands within another, as they are usual; the fewest where nothing is usual."""
        tokenizer = self._tokenizer()
        if tokenizer is not None and tokenizer.kind == "bpe":
            return tokenizer.encode(text)
        return self.spell(self.symbols(text.encode())) or []

    # ---- the fewest tokens for a text

    def with_cost(self, text: bytes, costs: tuple[int, ...], letter: int) -> tuple[int, ...]:
        """``costs`` of the beginnings of a text, its last letter being new."""
        if letter < len(self.tokens):
            return (*costs, costs[-1] + 1)
        longest = min(LONGEST_TOKEN, len(text))
        return (*costs, min((costs[-n] + 1 for n in range(1, longest + 1) if text[-n:] in self.ids), default=UNSPELLED))

    def least(self, text: bytes, costs: tuple[int, ...]) -> int:
        """No text that begins with this one takes fewer tokens."""
        best = costs[-1]
        for n in range(1, len(costs)):
            if costs[-n - 1] + 1 < best and text[-n:] in self._beginnings:
                best = costs[-n - 1] + 1
        return best

    def spell(self, letters: Sequence[int]) -> list[int] | None:
        """The fewest tokens for these letters; None where there are none."""
        text = b"".join(map(self.byte_of, letters))
        costs: tuple[int, ...] = (0,)
        for end, letter in enumerate(letters, 1):
            costs = self.with_cost(text[:end], costs, letter)
        if costs[-1] >= UNSPELLED:
            return None
        found, end = [], len(letters)
        while end:
            if letters[end - 1] < len(self.tokens):
                found.append(letters[end - 1])
                end -= 1
                continue
            start = next(
                s
                for s in range(max(end - LONGEST_TOKEN, 0), end)
                if costs[s] + 1 == costs[end] and text[s:end] in self.ids
            )
            found.append(self.ids[text[start:end]])
            end = start
        return found[::-1]

    def byte_of(self, letter: int) -> bytes:
        """A letter's byte; 0xFF, which no text has, for a special token."""
        return b"\xff" if letter < len(self.tokens) else bytes([letter - len(self.tokens)])

    @cached_property
    def _beginnings(self) -> set[bytes]:
        return {token[:n] for token in self.ids for n in range(1, min(len(token), LONGEST_TOKEN + 1))}

    def _compiled(self, tokens: list[bytes], encode: Any, slices: list[str] | None) -> Any:
        from llguidance import LLTokenizer, TokenizerWrapper

        vocabulary = _Vocabulary(tokens, sorted(self.special), self.end_ids[0], encode)
        return LLTokenizer(TokenizerWrapper(vocabulary), n_vocab=len(tokens), eos_token=self.end_ids, slices=slices)


class _Vocabulary:
    """What llguidance's wrapper asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: list[int], end: int, encode: Any) -> None:
        self.tokens, self.special_token_ids, self.eos_token_id, self._encode = tokens, special, end, encode

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            raise TypeError("give a text")  # the wrapper finds out so that it is to give texts
        found: list[int] = self._encode(text)
        return found


def spelling_of(tokenizer: Tokenizer) -> Spelling:
    """The tokenizer's :class:`Spelling`, made when first asked for.

    Raises:
        UserError: llguidance is missing.
    """
    need_llguidance()
    if tokenizer not in _known:
        _known[tokenizer] = Spelling(tokenizer)
    return _known[tokenizer]
