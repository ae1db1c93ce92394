"""From ids back to text, all at once or token by token."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import Generic, TypeVar

from tokenizers import Tokenizer as Backend

from scratchlm.tokenizers.parts import steps_of

Piece = TypeVar("Piece", str, bytes)


class _Table(dict[int, Piece], Generic[Piece]):
    """Id -> what it is spelled as, worked out when it is first asked for: a vocabulary has many, a text few."""

    def __init__(self, spell: Callable[[int], Piece]) -> None:
        super().__init__()
        self._spell: Callable[[int], Piece] = spell

    def __missing__(self, token: int) -> Piece:
        piece: Piece = self._spell(token)
        self[token] = piece
        return piece


class Pieces:
    """What each id adds to a text: bytes for byte-level BPE and SentencePiece's, characters for the rest.

    A word or WordPiece token is written differently at the start of a text (no space before it), hence two tables.
    """

    first: _Table[str]
    later: _Table[str]

    def __init__(self, backend: Backend, kind: str) -> None:
        added = backend.get_added_tokens_decoder()
        self.bytes: _Table[bytes] | None = None
        self.drop_space = False
        """Whether the space at the very start of a text is the tokenizer's and not the text's."""

        def name(token: int) -> str:
            return backend.id_to_token(token) or ""  # published vocabularies may have gaps

        if kind == "bpe":
            alphabet = byte_alphabet()
            self.bytes = _Table(lambda i: name(i).encode() if i in added else _bytes_of(name(i), alphabet))
        elif kind == "spm":
            self.bytes = _Table(lambda i: name(i).encode() if i in added else _sentencepiece_bytes(name(i)))
            self.drop_space = any(
                step["type"] == "Strip" or (step["type"] == "Metaspace" and step.get("prepend_scheme") != "never")
                for step in steps_of(backend.decoder)
            )
        elif kind == "char":
            self.first = self.later = _Table(name)
        elif kind == "word":
            self.first, self.later = _Table(name), _Table(lambda i: " " + name(i))
        else:
            # The library's own rules (which signs take no space before them), asked once per token.
            self.first = _Table(lambda i: str(backend.decoder.decode([name(i)])))
            self.later = _Table(lambda i: str(backend.decoder.decode(["x", name(i)]))[1:])

    def text(self, ids: list[int]) -> str:
        if self.bytes is not None:
            content = b"".join([self.bytes[i] for i in ids])
            return (content.removeprefix(b" ") if self.drop_space else content).decode("utf-8", "replace")
        parts = [self.later[i] for i in ids]
        if parts:
            parts[0] = self.first[ids[0]]
        return "".join(parts)


class StreamDecoder:
    """Decodes tokens as they come; whatever it returns is final, and no character is ever cut in two.

    ``push(a) + push(b) + ... + finish()`` equals decoding ``[a, b, ...]`` at once.
    """

    def __init__(self, pieces: Pieces, skipped: frozenset[int], known: int | None = None) -> None:
        self._pieces = pieces
        self._skipped = skipped
        self._known = known
        self._started = False
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that ``token`` completes; empty while a character is still missing bytes."""
        if token in self._skipped or (self._known is not None and token >= self._known):
            return ""
        if self._pieces.bytes is not None:
            content = self._pieces.bytes[token]
            if self._pieces.drop_space and not self._started:
                content = content.removeprefix(b" ")
            self._started = True
            return self._utf8.decode(content)
        table = self._pieces.later if self._started else self._pieces.first
        self._started = True
        return table[token]

    def finish(self) -> str:
        """What was held back: U+FFFD for bytes that never became a character, otherwise nothing."""
        return self._utf8.decode(b"", final=True)


def _bytes_of(name: str, alphabet: dict[str, int]) -> bytes:
    try:
        return bytes([alphabet[character] for character in name])
    except KeyError:  # an entry that is not spelled in bytes, as padding at the end of some vocabularies
        return name.encode()


_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


def _sentencepiece_bytes(name: str) -> bytes:
    found = _BYTE.fullmatch(name)
    return bytes([int(found[1], 16)]) if found else name.replace("\u2581", " ").encode()


def byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of the 256 bytes (Radford et al. 2019): printable ones as themselves, the rest from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return alphabet | {chr(0x100 + n): byte for n, byte in enumerate(others)}
