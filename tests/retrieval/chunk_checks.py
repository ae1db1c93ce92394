"""What the tests of chunks share: ways to count tokens, and what holds for the chunks of every document."""

from __future__ import annotations

import re
from itertools import pairwise

from scratchlm.retrieval.chunks import ChunkSettings, Count, chunk_document
from scratchlm.retrieval.passages import Chunk, Document


def words(text: str) -> int:
    return len(text.split())


def pieces(text: str) -> int:
    """Nearly what WordPiece makes of it: words of up to six letters, and marks."""
    return len(re.findall(r"\w{1,6}|[^\w\s]", text))


def spaces_too(text: str) -> int:
    """As a byte-level vocabulary: runs of white space and bytes of other scripts count, and "ab" may be one token or
    two by what stands before it, so that the parts do not add up to the whole."""
    return len(re.findall(rb"\s+| ?[a-zA-Z]{1,4}|.", text.encode("utf-8", "surrogatepass"), re.DOTALL))


def document(text: str, kind: str = "markdown", path: str = "a.md", pages: tuple[int, ...] = ()) -> Document:
    return Document(path, text, kind, "", len(text), 0.0, pages)


def chunks(text: str, size: int = 32, overlap: int = 0, kind: str = "markdown", count: Count = words) -> list[Chunk]:
    return chunk_document(document(text, kind, "a.py" if kind == "code" else "a"), count, ChunkSettings(size, overlap))


def check(source: Document, found: list[Chunk], count: Count, size: int, overlap: int = 0) -> None:
    """What holds for every document."""
    text = source.text
    seen = bytearray(len(text))
    for chunk in found:
        assert 0 <= chunk.start < chunk.end <= len(text)
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.tokens == count(chunk.embedded) <= size
        assert chunk.text == chunk.text.rstrip()
        assert chunk.first_line == text.count("\n", 0, chunk.start) + 1
        assert chunk.last_line == text.count("\n", 0, chunk.end) + 1
        assert not chunk.text.split("\n")[0].isspace()
        seen[chunk.start : chunk.end] = b"\1" * (chunk.end - chunk.start)
    assert all(seen[at] for at, character in enumerate(text) if not character.isspace())
    for one, other in pairwise(found):
        assert one.start < other.start
        assert one.end < other.end
        if other.start < one.end:
            assert overlap
            assert count(text[other.start : one.end]) <= overlap
            assert one.headings == other.headings or other.headings[: len(one.headings)] == one.headings
