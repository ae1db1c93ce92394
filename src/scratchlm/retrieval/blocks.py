"""The parts of a text that should stay together: paragraphs, tables and code blocks, under their headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from scratchlm.retrieval.formats import front_matter

Form = Literal["prose", "heading", "table", "lines"]
"""What a block is, and so what it is cut by where it is too long: sentences; rows; or lines, as code is."""


@dataclass(frozen=True)
class Block:
    """A part of a text, ``text[start:end]``."""

    start: int
    end: int
    form: Form = "prose"
    header: str = ""
    """Of a table, the names of its columns: rows that are cut off from them stand under these."""


@dataclass(frozen=True)
class Section:
    """Neighbouring blocks under the same heading; together the sections hold all that is not white space."""

    headings: tuple[str, ...]
    """The outermost first."""
    blocks: tuple[Block, ...]


_FENCE = re.compile(r"[ \t]*(?:>[ \t]?)*(`{3,}(?=[^`]*$)|~{3,})")
_HEADING = re.compile(r" {0,3}(#{1,6})(?=[ 	]|$)")
_CLOSED = re.compile(r"(?:^|[ 	])#+$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_DELIMITERS = re.compile(r"\|?:?-+:?(?:\|:?-+:?)*\|?$")
_NO_TITLE = re.compile(r"[ \t]*(?:[-*+>|]|\d+[.)][ \t]|<!--)")
"""How a line begins that a row of dashes below does not make a heading."""
_LINK = re.compile(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])")
_MARKS = re.compile(r"\*\*|__|`|(?<!\w)[*_]|[*_](?!\w)|\{#[^}]*\}|</?\w+[^>]*>")


_RST_MARKS = "=-~^\"'`#*+:._<>"
_LONGEST_TITLE = 1_000
"""Characters; a line that is longer is no heading that anybody has written."""


@dataclass(frozen=True)
class _Line:
    start: int
    end: int
    """Without its end of line."""
    text: str


def markdown_sections(text: str, pages: tuple[int, ...] = ()) -> list[Section]:
    """The sections of a Markdown text: from each heading (``#`` or underlined) to the next.

    A heading with nothing below it goes with its first subsection. Code between fences, tables and front matter are
    blocks of their own. Each of ``pages`` begins a section anew, without headings from before.
    """
    outline = _Outline(text)
    lines = _lines(text)
    paragraph: list[_Line] = []
    breaks = set(pages)
    at = 0

    def close() -> None:
        if paragraph:
            outline.add(Block(paragraph[0].start, paragraph[-1].end))
            paragraph.clear()

    if matter := front_matter(text)[0]:
        while at < len(lines) and lines[at].start < matter:
            at += 1
        outline.add(Block(0, lines[at - 1].end, "lines"))
    while at < len(lines):
        line = lines[at]
        if line.start in breaks:
            close()
            outline.reset()
        if not line.text.strip():
            close()
        elif fence := _FENCE.match(line.text):
            close()
            last = _fence_end(lines, at, fence[1])
            outline.add(Block(line.start, lines[last].end, "lines"))
            at = last
        elif heading := _HEADING.match(line.text):
            close()
            outline.head(len(heading[1]), _CLOSED.sub("", line.text[heading.end() :].strip()), line)
        elif len(paragraph) == 1 and (under := _UNDERLINE.match(line.text)) and not _NO_TITLE.match(paragraph[0].text):
            title = paragraph.pop()
            outline.head(1 if under[1][0] == "=" else 2, title.text, _Line(title.start, line.end, ""))
        elif "|" in line.text and at + 1 < len(lines) and _is_delimiters(lines[at + 1].text):
            close()
            last = at + 1
            while last + 1 < len(lines) and "|" in lines[last + 1].text and lines[last + 1].start not in breaks:
                last += 1
            outline.add(Block(line.start, lines[last].end, "table", _header(line.text)))
            at = last
        else:
            paragraph.append(line)
        at += 1
    close()
    return outline.finish()


def plain_sections(text: str) -> list[Section]:
    """The paragraphs of a text without marks: one section, no headings."""
    blocks: list[Block] = []
    begin: int | None = None
    end = 0
    for line in _lines(text):
        if line.text.strip():
            begin, end = line.start if begin is None else begin, line.end
        elif begin is not None:
            blocks.append(Block(begin, end))
            begin = None
    if begin is not None:
        blocks.append(Block(begin, end))
    return [Section((), tuple(blocks))] if blocks else []


def rst_sections(text: str) -> list[Section]:
    """The sections of a reStructuredText: titles are underlined, with what marks is up to the text. The marks that
    appear first are the outermost level."""
    outline = _Outline(text)
    lines = _lines(text)
    styles: list[tuple[str, bool]] = []
    begin: int | None = None
    at = 0
    while at < len(lines):
        over = _rule(lines, at)
        title, under = (at + 1, at + 2) if over else (at, at + 1)
        mark = _rule(lines, under)
        words = lines[title].text.rstrip() if title < len(lines) else ""
        named = bool(words) and (bool(over) or not words[0].isspace()) and not _rule(lines, title)
        if mark and named and len(lines[under].text.rstrip()) >= len(words) and over in ("", mark):
            if begin is not None:
                outline.add(Block(begin, lines[at - 1].end))
                begin = None
            style = (mark, bool(over))
            if style not in styles:
                styles.append(style)
            outline.head(styles.index(style) + 1, words, _Line(lines[at].start, lines[under].end, ""))
            at = under
        elif lines[at].text.strip():
            begin = lines[at].start if begin is None else begin
        elif begin is not None:
            outline.add(Block(begin, lines[at - 1].end))
            begin = None
        at += 1
    if begin is not None:
        outline.add(Block(begin, lines[-1].end))
    return outline.finish()


def _rule(lines: list[_Line], at: int) -> str:
    """The mark that a line of two or more of them is made of, or ""."""
    marks = lines[at].text.rstrip() if at < len(lines) else ""
    return marks[0] if len(marks) > 1 and marks[0] in _RST_MARKS and set(marks) == {marks[0]} else ""


def line_sections(text: str) -> list[Section]:
    """A text that is read line by line: one section, one block."""
    stop = len(text.rstrip())
    start = text.rfind("\n", 0, len(text) - len(text.lstrip())) + 1
    return [Section((), (Block(start, stop, "lines"),))] if stop else []


def title_of(marked: str) -> str:
    """A heading's words, without emphasis, links and other marks; of an endless line its beginning."""
    marked = marked[:_LONGEST_TITLE]
    return " ".join(_MARKS.sub("", _LINK.sub(r"\1", marked)).split())


class _Outline:
    """Collects blocks under the headings that are open."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.open: list[tuple[int, str]] = []
        self.blocks: list[Block] = []
        self.only_headings = True
        self.sections: list[Section] = []

    def add(self, block: Block) -> None:
        self.blocks.append(block)
        self.only_headings = False

    def head(self, level: int, title: str, line: _Line) -> None:
        deeper = not self.open or level > self.open[-1][0]
        if not (self.blocks and self.only_headings and deeper):
            self.reset(keep=True)
        while self.open and self.open[-1][0] >= level:
            self.open.pop()
        self.open.append((level, title_of(title)))
        self.blocks.append(Block(line.start, line.end, "heading"))

    def reset(self, keep: bool = False) -> None:
        if self.blocks:
            headings = tuple(title for _, title in self.open if title)
            self.sections.append(Section(headings, tuple(self.blocks)))
            self.blocks, self.only_headings = [], True
        if not keep:
            self.open.clear()

    def finish(self) -> list[Section]:
        self.reset()
        return self.sections


def _lines(text: str) -> list[_Line]:
    """Lines end at "\\n" alone, as their numbers are counted; a "\\r" before it is no part of them."""
    return list(_each_line(text))


def _each_line(text: str) -> Iterator[_Line]:
    start = 0
    while start < len(text):
        stop = text.find("\n", start)
        stop = len(text) if stop < 0 else stop
        end = stop - 1 if stop > start and text[stop - 1] == "\r" else stop
        yield _Line(start, end, text[start:end])
        start = stop + 1


def _fence_end(lines: list[_Line], at: int, fence: str) -> int:
    """The line that closes a code block; the last one if none does, as Markdown has it."""
    closing = re.compile(rf"[ \t]*(?:>[ \t]?)*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$")
    for number in range(at + 1, len(lines)):
        if closing.match(lines[number].text):
            return number
    return len(lines) - 1


def _is_delimiters(line: str) -> bool:
    return "|" in line and _DELIMITERS.match("".join(line.split())) is not None


def _header(line: str) -> str:
    cells = (title_of(cell) for cell in line[:_LONGEST_TITLE].strip().strip("|").split("|"))
    return " | ".join(cell for cell in cells if cell)
