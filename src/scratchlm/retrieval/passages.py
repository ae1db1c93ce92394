"""What retrieval passes around: documents, the chunks that they are cut in, and what a search finds."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Document:
    """One file, read. All offsets are characters of ``text``."""

    path: str
    """As it is cited: below the folder that was indexed, with "/" between the parts."""
    text: str
    """Of a text file what it says; of other formats the Markdown that it was read as."""
    kind: str
    """text, markdown, html, pdf, docx, pptx, xlsx, csv, json, ipynb or code."""
    digest: str
    """SHA-256 of the file's bytes, in hexadecimal."""
    size: int
    """Bytes of the file."""
    modified: float
    """When the file was last changed, in seconds since 1970."""
    pages: tuple[int, ...] = ()
    """The offset at which each page (of slides: each slide) begins; empty where the format has none."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the file says of itself, such as a Markdown file's front matter."""

    @cached_property
    def _lines(self) -> list[int]:
        starts, at = [0], self.text.find("\n")
        while at >= 0:
            starts.append(at + 1)
            at = self.text.find("\n", at + 1)
        return starts

    def line(self, offset: int) -> int:
        """The line, from 1, that a character stands in."""
        return bisect_right(self._lines, offset)

    def page(self, offset: int) -> int | None:
        """The page, from 1, that a character stands on; None where there are no pages."""
        return max(1, bisect_right(self.pages, offset)) if self.pages else None


@dataclass(frozen=True)
class Chunk:
    """A passage of a document: ``text`` is ``document.text[start:end]``."""

    start: int
    end: int
    text: str
    first_line: int
    last_line: int
    """From 1, the last one included."""
    first_page: int | None
    last_page: int | None
    headings: tuple[str, ...]
    """Those that it stands under, the outermost first."""
    tokens: int
    """Of :attr:`embedded`, counted by the embedding model's tokenizer."""

    @property
    def embedded(self) -> str:
        """What is searched: the passage below the headings that it stands under."""
        return with_headings(self.headings, self.text)


def with_headings(headings: tuple[str, ...], text: str) -> str:
    """A passage as it is embedded."""
    return f"{' > '.join(headings)}\n{text}" if headings else text


@dataclass(frozen=True)
class Hit:
    """A passage that a search has found."""

    id: str
    """Of the chunk, in its index."""
    file: str
    """:attr:`Document.path`."""
    text: str
    start: int
    end: int
    first_line: int
    last_line: int
    first_page: int | None
    last_page: int | None
    headings: tuple[str, ...]
    kind: str
    score: float
    """What the hits are ordered by, the highest first."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """What each stage of the search has given it: dense, bm25, fused, reranked, ..."""

    @property
    def embedded(self) -> str:
        """As :attr:`Chunk.embedded`."""
        return with_headings(self.headings, self.text)

    def place(self) -> str:
        """Where it stands, for people: ``guide.md, lines 3-9``."""
        if self.first_page is not None:
            one, many, first, last = "page", "pages", self.first_page, self.last_page or self.first_page
        else:
            one, many, first, last = "line", "lines", self.first_line, self.last_line
        return f"{self.file}, {one} {first}" if first == last else f"{self.file}, {many} {first}-{last}"

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        found = {name: getattr(self, name) for name in ("file", "text", "score", "start", "end", "id", "kind")}
        lines = {"first_line": self.first_line, "last_line": self.last_line}
        pages = {} if self.first_page is None else {"first_page": self.first_page, "last_page": self.last_page}
        return found | lines | pages | {"headings": list(self.headings), "scores": dict(self.scores)}
