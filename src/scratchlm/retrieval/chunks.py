"""Chunks: a document cut into passages that the embedding model reads whole, where its own structure allows it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from scratchlm.errors import UserError
from scratchlm.retrieval.blocks import Block, Section, line_sections, markdown_sections, plain_sections, rst_sections
from scratchlm.retrieval.code_parts import code_sections
from scratchlm.retrieval.passages import Chunk, Document, with_headings
from scratchlm.retrieval.sentences import sentences

if TYPE_CHECKING:
    from scratchlm.retrieval.embeddings import Embedder

Count = Callable[[str], int]
"""Tokens of a text."""
SIZE, LEAST = 256, 16
"""Tokens of a chunk where nothing else is said, and the fewest that can be asked for."""
_CHARACTERS = 32
"""A chunk has no more characters for each token of the size: some tokenizers make one token of an endless word."""
_MARKED = ("markdown", "html", "docx", "pptx", "xlsx", "csv", "ipynb")
_WORDS = re.compile(r"\S+(?:\s+\S+){0,7}")
_WORD = re.compile(r"\S+")
_RUN = re.compile(r"[^,;|&/}\]]{1,16}[,;|&/}\]]{0,16}|[,;|&/}\]]{1,16}")
_CHARACTER = re.compile(r"\S")


@dataclass(frozen=True)
class ChunkSettings:
    """How documents are cut.

    Args:
        size: the most tokens of a chunk, those of the headings that it stands under included.
        overlap: tokens of whole sentences (in code and tables, lines) at most that a chunk repeats of the one before
            it under the same heading.

    Raises:
        UserError: a size below 16, or an overlap of more than half of it.
    """

    size: int = SIZE
    overlap: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < LEAST:
            raise UserError(f"a chunk's size is {self.size!r}; give a whole number of at least {LEAST} tokens")
        most = self.size // 2
        if isinstance(self.overlap, bool) or not isinstance(self.overlap, int) or not 0 <= self.overlap <= most:
            raise UserError(
                f"the chunks' overlap is {self.overlap!r}; give a whole number from 0 to {most}, half of the size"
            )


def token_counter(embedder: Embedder) -> Count:
    """Counts a text's tokens as the embedding model reads it, without the ones that it puts around every text."""
    tokenizer, lower = embedder.tokenizer, embedder.pooling.lower_case
    return lambda text: len(tokenizer.encode_array(text.lower() if lower else text))


def settings_for(embedder: Embedder, size: int | None = None, overlap: int = 0) -> ChunkSettings:
    """Settings of which the model reads every chunk to its end.

    Args:
        size: by default 256, or what the model reads if that is less.

    Raises:
        UserError: the model reads less than ``size``, or less than any chunk has.
    """
    tokenizer = embedder.tokenizer
    room = embedder.max_length - len(tokenizer.prefix_ids) - len(tokenizer.suffix_ids)
    if size is not None and size > room:
        raise UserError(f"a chunk's size is {size:,}, and {embedder.name} reads {room:,} tokens; give {room:,} at most")
    return ChunkSettings(min(SIZE, room) if size is None else size, overlap)


def chunk_document(document: Document, count: Count, settings: ChunkSettings | None = None) -> list[Chunk]:
    """The chunks of a document, in order; the same every time.

    It is cut by headings (code: by definitions), then paragraphs, sentences, lines, words, and characters where a word
    alone is too long; neighbouring parts under the same heading share a chunk as far as they fit. Tables, code blocks
    and paragraphs are cut only where they are larger than a chunk. Rows that are cut off from their table's head have
    its names as one more heading. Of headings that would take more than half of the size the outermost are left out.

    Every character that is not white space is in a chunk, and in one alone unless there is an overlap.

    Args:
        count: as :func:`token_counter` makes it.

    Raises:
        UserError: a single character has more tokens than the size.
    """
    settings = settings or ChunkSettings()
    return [
        chunk
        for section in _sections(document, count, settings)
        for chunk in _Packer(document, count, settings, section)
    ]


def _sections(document: Document, count: Count, settings: ChunkSettings) -> list[Section]:
    text = document.text

    def fits(start: int, end: int, headings: tuple[str, ...]) -> bool:
        few = end - start <= settings.size * _CHARACTERS
        return few and count(with_headings(headings, text[start:end])) <= settings.size

    if document.kind in _MARKED:
        return markdown_sections(text, document.pages)
    if document.kind == "code":
        return code_sections(document.path, text, fits)
    if document.path.lower().endswith(".rst"):
        return rst_sections(text)
    return line_sections(text) if document.kind == "json" else plain_sections(text)


Level = Literal["block", "part", "line", "words", "word", "run", "character"]
_FINER: dict[Level, tuple[Level, re.Pattern[str]]] = {
    "line": ("words", _WORDS),
    "words": ("word", _WORD),
    "word": ("run", _RUN),
    "run": ("character", _CHARACTER),
}


def _lines(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Lines that are not empty, with their indentation, without the white space at their ends."""
    found = []
    while start < end:
        stop = text.find("\n", start, end)
        stop = end if stop < 0 else stop
        if length := len(text[start:stop].rstrip()):
            found.append((start, start + length))
        start = stop + 1
    return found


@dataclass(frozen=True)
class _Piece:
    """A part of a block that goes into a chunk whole."""

    start: int
    end: int
    block: Block
    level: Level = "block"
    tokens: int = 0


class _Packer:
    """Fills the chunks of a section."""

    def __init__(self, document: Document, count: Count, settings: ChunkSettings, section: Section) -> None:
        self.document, self.text, self.count = document, document.text, count
        self.size, self.overlap = settings.size, settings.overlap
        self.longest = settings.size * _CHARACTERS
        self.headings = self._fitting(section.headings)
        self.room = self.size - self._cost(self.headings)
        self.pieces = [piece for block in section.blocks for piece in self._fit(self._whole(block))]

    def __iter__(self) -> Iterator[Chunk]:
        first, repeat = 0, None
        while first < len(self.pieces):
            headings = self._headings(self.pieces[first])
            after = self._fill(first, repeat, self.size - self._cost(headings))
            while True:
                start = self.pieces[first].start if repeat is None else repeat
                end = self.pieces[after - 1].end
                tokens = self.count(with_headings(headings, self.text[start:end]))
                if tokens <= self.size and end - start <= self.longest:
                    break
                # The sum of the parts was too low: tokens across their borders, and white space between them.
                if repeat is not None:
                    repeat = None
                elif after - first > 1:
                    after -= 1
                else:
                    self.pieces[first : first + 1] = self._must_be_finer(self.pieces[first])
            yield self._chunk(start, end, headings, tokens)
            repeat = self._repeated(first, after, start) if self.overlap and after < len(self.pieces) else None
            first = after

    def _whole(self, block: Block) -> _Piece:
        return _Piece(block.start, block.start + len(self.text[block.start : block.end].rstrip()), block)

    def _fill(self, first: int, repeat: int | None, room: int) -> int:
        """The number of the piece that the chunk from ``first`` on has no room for."""
        start = self.pieces[first].start if repeat is None else repeat
        used = self.pieces[first].tokens
        if repeat is not None:
            used += self._tokens(repeat, self.pieces[first].start)
        after, only_headings = first + 1, self.pieces[first].block.form == "heading"
        while after < len(self.pieces):
            piece = self.pieces[after]
            if used + piece.tokens > room or piece.end - start > self.longest:
                finer = self._finer(piece) if only_headings and piece.level in ("block", "part") else []
                torn = not finer or finer[0].level not in ("part", "line", "words")
                if torn or finer[0].tokens + used > room:
                    break
                self.pieces[after : after + 1] = finer  # no heading stands alone if a sentence can stand with it
                continue
            only_headings = only_headings and piece.block.form == "heading"
            used += piece.tokens
            after += 1
        return after

    def _repeated(self, first: int, after: int, start: int) -> int | None:
        """Where the chunk after this one begins, if it repeats whole sentences of it."""
        following = self.pieces[after]
        most = min(self.overlap, self.size - self._cost(self._headings(following)) - following.tokens)
        found = None
        for piece in reversed(self.pieces[first:after]):
            if piece.level not in ("block", "part"):
                break  # no whole sentence
            parts = self._finer(piece) if piece.level == "block" else [piece]
            for part in reversed(parts):
                if part.start <= start or self._tokens(part.start, following.start) > most:
                    return found
                found = part.start
        return found

    def _fit(self, piece: _Piece) -> list[_Piece]:
        """The piece, counted, or finer ones that fit into a chunk."""
        if piece.end - piece.start <= self.longest:
            piece = replace(piece, tokens=self._tokens(piece.start, piece.end))
            if piece.tokens <= self.room:
                return [piece]
        return self._must_be_finer(piece)

    def _must_be_finer(self, piece: _Piece) -> list[_Piece]:
        if finer := self._finer(piece):
            return finer
        shown = f"{self.document.path}: the character {self.text[piece.start : piece.end]!r}"
        raise UserError(f"{shown} has more tokens than a chunk of {self.size}; raise the size")

    def _finer(self, piece: _Piece) -> list[_Piece]:
        """Smaller pieces instead of one, each of which fits; none of a single character."""
        level, spans = piece.level, [(piece.start, piece.end)]
        while spans == [(piece.start, piece.end)]:
            if level == "character":
                return []
            if level == "block":
                level, spans = "part", self._parts(piece.block)
            elif level == "part":
                level, spans = "line", _lines(self.text, piece.start, piece.end)
            else:
                level, pattern = _FINER[level]
                spans = [match.span() for match in pattern.finditer(self.text, piece.start, piece.end)]
        return [fine for start, end in spans for fine in self._fit(_Piece(start, end, piece.block, level))]

    def _parts(self, block: Block) -> list[tuple[int, int]]:
        if block.form in ("prose", "heading"):
            return sentences(self.text, block.start, block.end)
        lines = _lines(self.text, block.start, block.end)
        if block.form == "table" and len(lines) > 2:
            # A table's names, the line below them and the first row are of no use without each other.
            together = (lines[0][0], lines[2][1])
            if together[1] - together[0] <= self.longest and self._tokens(*together) <= self.room:
                return [together, *lines[3:]]
        return lines

    def _tokens(self, start: int, end: int) -> int:
        # With the white space that follows, which is a token in some vocabularies.
        return self.count(self.text[start : end + 1] if self.text[end : end + 1].isspace() else self.text[start:end])

    def _cost(self, headings: tuple[str, ...]) -> int:
        return self.count(with_headings(headings, "")) if headings else 0

    def _fitting(self, headings: tuple[str, ...]) -> tuple[str, ...]:
        while headings and self._cost(headings) > self.size // 2:
            headings = headings[1:]
        return headings

    def _headings(self, first: _Piece) -> tuple[str, ...]:
        """Those of a chunk that begins with a piece."""
        header = first.block.header
        if not header or first.start == first.block.start:
            return self.headings
        # More names than half of the size would leave no room for rows, and rows have been measured to fit without.
        more = (*self.headings, header)
        return (
            more
            if self._cost(more) <= self.size // 2 and first.tokens + self._cost(more) <= self.size
            else self.headings
        )

    def _chunk(self, start: int, end: int, headings: tuple[str, ...], tokens: int) -> Chunk:
        document = self.document
        lines = document.line(start), document.line(end - 1)
        pages = document.page(start), document.page(end - 1)
        return Chunk(start, end, self.text[start:end], *lines, *pages, headings, tokens)
