"""Reading text as a stream: UTF-8 decoded piece by piece, cut only where every tokenizer may be cut."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from scratchlm.errors import UserError

CHUNK_BYTES = 1 << 20
LONGEST_RUN = 64 << 20
"""Characters without white space that are still held in memory to find a place to cut."""


def open_bytes(origin: Path | str) -> BinaryIO:
    """Open a file, or a text that is already in memory (a ``str`` here is the text itself).

    Raises:
        UserError: the file cannot be opened; the line says why.
    """
    if isinstance(origin, str):
        return io.BytesIO(origin.encode("utf-8"))
    try:
        return origin.open("rb")
    except PermissionError as error:
        raise UserError(f"{origin} may not be read (permission denied); change its permissions or copy it") from error
    except OSError as error:
        raise UserError(f"{origin} cannot be opened ({error.strerror or error}); check the path") from error


def read_bytes(origin: Path | str) -> Iterator[bytes]:
    """The content in chunks of about a megabyte.

    Raises:
        UserError: the file cannot be opened or read.
    """
    with open_bytes(origin) as file:
        while True:
            try:
                chunk = file.read(CHUNK_BYTES)
            except OSError as error:
                raise UserError(f"{origin} cannot be read ({error.strerror or error}); check the disk") from error
            if not chunk:
                return
            yield chunk


def read_text(origin: Path | str) -> Iterator[str]:
    """The text in chunks, exactly as it stands (line ends untouched), without a UTF-8 byte order mark.

    Raises:
        UserError: the file cannot be read, or is not UTF-8 text; the line says what it seems to be, and the cure.
    """
    return decode_chunks(read_bytes(origin), str(origin) if isinstance(origin, Path) else "the text")


def decode_chunks(chunks: Iterable[bytes], name: str) -> Iterator[str]:
    """Decode UTF-8; a character that lies across two chunks is held until it is whole. ``name`` is for the errors.

    Raises:
        UserError: not UTF-8 text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    offset = 0
    head = b""
    for read in chunks:
        chunk = read
        if offset == 0:
            head = chunk[:4096]
            chunk = chunk.removeprefix(codecs.BOM_UTF8)
            offset = len(read) - len(chunk)
        zero = chunk.find(b"\0")
        if zero >= 0:
            raise not_text(name, head, chunk[zero : zero + 4096], offset + zero)
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk)
        except UnicodeDecodeError as error:
            near = chunk[max(0, error.start - held - 2048) :][:4096]
            raise not_text(name, head, near, offset - held + error.start) from error
        yield text
        offset += len(chunk)
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise not_text(name, head, error.object, offset - len(error.object)) from error


def not_text(name: str, head: bytes, near: bytes, offset: int) -> UserError:
    """The error for a file that is not UTF-8.

    ``head`` is its beginning, ``near`` what stands around the first offending byte, which is at ``offset``.
    """
    encoding = _guess(head, near)
    if encoding is None:
        return UserError(f"{name} is a binary file (byte {offset:,} is no text); give a file of plain UTF-8 text")
    seems = f"{name} is {encoding} text, not UTF-8"
    if encoding == "ISO-8859-1":
        seems = f"{name} is not UTF-8 text (byte {offset:,} fits no character); it may be Latin-1 (ISO-8859-1)"
    return UserError(f"{seems}; convert it: iconv -f {encoding} -t UTF-8 OLD > NEW")


def _guess(head: bytes, near: bytes) -> str | None:
    """The likely encoding of bytes that are not UTF-8, or None for binary data."""
    marks = {
        codecs.BOM_UTF32_LE: "UTF-32",
        codecs.BOM_UTF32_BE: "UTF-32",
        codecs.BOM_UTF16_LE: "UTF-16",
        codecs.BOM_UTF16_BE: "UTF-16",
    }
    for mark, encoding in marks.items():
        if head.startswith(mark):
            return encoding
    if b"\0" in near:
        # Western text in UTF-16 has a zero in nearly every other byte, and readable characters between.
        for letters, zeros, encoding in ((head[0::2], head[1::2], "UTF-16LE"), (head[1::2], head[0::2], "UTF-16BE")):
            if zeros.count(0) * 2 > len(zeros) and not _controls(letters):
                return encoding
        return None
    return "ISO-8859-1" if _controls(near) * 50 <= len(near) else None


def _controls(content: bytes) -> int:
    """How many bytes stand for no printable character and no white space."""
    return sum(byte < 32 and byte not in b"\t\n\r\f\x0b\x1b" for byte in content)


def cut_safely(texts: Iterable[str], cut: Callable[[str], int | None], name: str) -> Iterator[str]:
    """The same text in other chunks, each ending where ``cut`` allows (see ``Tokenizer.safe_cut``).

    Raises:
        UserError: 64 million characters without a place to cut.
    """
    held = ""
    for text in texts:
        held += text
        at = cut(held)
        if at:
            yield held[:at]
            held = held[at:]
        elif len(held) > LONGEST_RUN:
            raise UserError(
                f"{name} has {LONGEST_RUN >> 20} million characters without white space, so words cannot be told; "
                f"use --set tokenizer=char, or break it into lines"
            )
    if held:
        yield held
