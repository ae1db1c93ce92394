"""Source code by its definitions: classes and functions, and what they are called."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from scratchlm.retrieval.blocks import Block, Section

_PYTHON = (".py", ".pyi")
_DEEPEST = 20
"""Levels of definitions inside of each other that are told apart."""


@dataclass
class Definition:
    """A class, a function or the like: whole lines, from its decorators and comments on."""

    name: str
    start: int
    """Offset of its first line."""
    end: int
    """Offset after its last line, the end of that line included."""
    inner: list[Definition] = field(default_factory=list)
    """Those in it, in order."""


def definitions(path: str, text: str) -> list[Definition]:
    """The outermost definitions of a file, in order, none overlapping another.

    Python is parsed. Python that does not parse, and other languages, are read by their lines: a line that looks like a
    definition's begins one, which goes on as long as lines are indented deeper, and to the bracket or ``end`` that
    closes it. That fits code as formatters leave it; where it errs, a chunk begins elsewhere and nothing is lost.
    """
    if PurePosixPath(path).suffix.lower() in _PYTHON:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of invalid escapes, which are the file's author's to mend
                tree = ast.parse(text)
            return _parsed(tree, _Offsets(text), 0)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass
    return _by_lines(_Offsets(text))


def code_sections(path: str, text: str, fits: Callable[[int, int, tuple[str, ...]], bool]) -> list[Section]:
    """The sections of a file of source code: each definition, and what stands between them.

    A class that fits a chunk whole is one section; of a larger one each method is one, under the class's name. What is
    cut is cut at empty lines first.

    Args:
        fits: whether ``text[start:end]`` fits a chunk under such headings.
    """
    found: list[Section] = []

    def add(start: int, end: int, headings: tuple[str, ...]) -> None:
        blocks = tuple(_paragraphs(text, start, end))
        if not blocks:
            return
        if found and not any(character.isalnum() for character in text[start:end]):  # a bracket that closes
            blocks, headings = (*found[-1].blocks, *blocks), found.pop().headings
        found.append(Section(headings, blocks))

    def walk(inner: list[Definition], start: int, end: int, headings: tuple[str, ...]) -> None:
        for one in inner:
            below = (*headings, one.name)
            add(start, one.start, headings)
            if one.inner and not fits(one.start, one.end, below):
                walk(one.inner, one.start, one.end, below)
            else:
                add(one.start, one.end, below)
            start = one.end
        add(start, end, headings)

    walk(definitions(path, text), 0, len(text), ())
    return found


def _paragraphs(text: str, start: int, end: int) -> Iterator[Block]:
    """Blocks between empty lines, each from the beginning of a line, with its indentation."""
    begin: int | None = None
    stop = at = start
    while at < end:
        line_end = text.find("\n", at, end)
        line_end = end if line_end < 0 else line_end
        if length := len(text[at:line_end].rstrip()):
            begin, stop = at if begin is None else begin, at + length
        elif begin is not None:
            yield Block(begin, stop, "lines")
            begin = None
        at = line_end + 1
    if begin is not None:
        yield Block(begin, stop, "lines")


class _Offsets:
    """A text's lines, and where they begin."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.starts[-1] -= 1
        """Of each line, and the text's end."""


def _parsed(tree: ast.AST, offsets: _Offsets, depth: int) -> list[Definition]:
    found: list[Definition] = []
    if depth == _DEEPEST:
        return found
    for node in _statements(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found += _parsed(node, offsets, depth + 1)  # such as in an "if" or a "try"
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
        last = (node.end_lineno or node.lineno) - 1
        first = _with_comments(offsets.lines, first, found[-1].end if found else 0, offsets)
        start, end = offsets.starts[first], offsets.starts[last + 1]
        if found and start < found[-1].end:
            continue  # two on one line: they stay together
        found.append(Definition(node.name, start, end, _parsed(node, offsets, depth + 1)))
    return found


def _statements(tree: ast.AST) -> list[ast.stmt]:
    found: list[ast.stmt] = []
    for name in ("body", "orelse", "handlers", "finalbody", "cases"):
        for one in getattr(tree, name, None) or ():
            found += [one] if isinstance(one, ast.stmt) else _statements(one)
    return found


_NAME = r"[A-Za-z_$][\w$]*"
_MODIFIERS = (
    r"(?:(?:export|default|declare|public|private|protected|internal|static|final|abstract|sealed|open|override|virtual|"
    r"async|inline|extern|unsafe|partial|readonly|data|case|pub(?:\([^)]*\))?|const|suspend|local|template\s*<[^>]*>)\s+)*"
)
_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\s*{_MODIFIERS}(?:class|struct|interface|enum(?:\s+class)?|trait|module|namespace|union|record|object|protocol|"
        rf"extension|contract|service|message)\s+(?P<name>{_NAME}(?:(?:::|\.){_NAME})*)(?![\w\s]*[;=(])",
        rf"\s*{_MODIFIERS}impl\b(?:\s*<[^>]*>)?\s+(?P<name>[^{{]+?)\s*(?:\{{|where\b|$)",
        rf"\s*{_MODIFIERS}(?:def|fn|func|fun|function\*?|sub|macro_rules!|defmodule|defp?|proc)\s+(?:\([^)]*\)\s*)?"
        rf"(?P<name>(?:{_NAME}[.:])*{_NAME}[?!]?)",
        rf"\s*type\s+(?P<name>{_NAME})\s+(?:struct|interface)\b",
        rf"\s*{_MODIFIERS}(?:let|var|const)\s+(?P<name>{_NAME})\s*(?::[^=]+)?=\s*(?:async\s+)?"
        rf"(?:function\b|\([^()]*\)\s*(?::[^=]+)?=>|{_NAME}\s*=>)",
        r"(?:function\s+)?(?P<name>[\w.:-]+)\s*\(\)\s*(?:\{.*)?$",
        r"(?i:\s*create\s+(?:or\s+replace\s+)?(?:temp(?:orary)?\s+)?(?:table|view|function|procedure|trigger|index)\s+"
        r"(?:if\s+not\s+exists\s+)?(?P<name>[\w.\"`\[\]]+))",
        # C and its kin: a type and a name with brackets, at the margin or with the brace on the same line.
        rf"{_NAME}[\w\s*&:<>,\[\]]*[\s*&](?P<name>~?{_NAME}(?:::~?{_NAME})*)\s*\([^;]*$",
        rf"\s+(?:[\w<>\[\],.*&:?@]+\s+)*(?P<name>~?{_NAME})\s*\([^;{{}}]*\)[^;{{}}()=]*\{{\s*$",
    )
)
_NO_NAMES = (
    "if else for foreach while do switch case return catch try throw new delete sizeof using with when match "
    "unless until elif elsif goto assert await yield typedef import from print raise and or not in is lambda "
    "super synchronized"
)
_CONTROL = frozenset(_NO_NAMES.split())
_ABOVE = re.compile(r"\s*(?://|/\*|\*|#|@|--|\[\w)")
"""How a line begins that belongs to the definition below it: a comment, a decorator, an attribute."""
_CLOSING = re.compile(
    r"\s*(?:[}\])]|end\b|fi\b|done\b|esac\b|EOF\b|\{|(?:public|private|protected)\s*:|else\b|catch\b)"
)
"""How a line begins, no deeper than the definition's own, that still belongs to it."""


def _named(line: str) -> str | None:
    if len(line) > 400:
        return None
    for pattern in _PATTERNS:
        if match := pattern.match(line):
            name = match["name"]
            words = re.findall(r"[A-Za-z_]\w*", line)
            if name not in _CONTROL and (not words or words[0] not in _CONTROL):
                return " ".join(name.split())
    return None


def _indent(line: str) -> int:
    return len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip())


def _by_lines(offsets: _Offsets) -> list[Definition]:
    found: list[Definition] = []
    open_ones: list[tuple[int, Definition]] = []
    lines = offsets.lines
    last_line = 0  # the last that is not empty
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        indent = _indent(line)
        name = _named(line)
        while open_ones and indent <= open_ones[-1][0]:
            if indent == open_ones[-1][0] and name is None and _CLOSING.match(line):
                break
            _, done = open_ones.pop()
            done.end = offsets.starts[last_line + 1]
        if name is not None and len(open_ones) < _DEEPEST:
            into = open_ones[-1][1].inner if open_ones else found
            floor = into[-1].end if into else open_ones[-1][1].start if open_ones else 0
            first = _with_comments(lines, number, floor, offsets)
            start = offsets.starts[first]
            if not (open_ones and not into and start <= open_ones[-1][1].start):
                one = Definition(name, start, start)
                into.append(one)
                open_ones.append((indent, one))
        last_line = number
    for _, done in open_ones:
        done.end = offsets.starts[last_line + 1]
    return found


def _with_comments(lines: list[str], first: int, floor: int, offsets: _Offsets) -> int:
    """The first line of a definition with the comments right above it, none of them before the offset ``floor``."""
    indent = _indent(lines[first])
    while first > 0 and offsets.starts[first - 1] >= floor and lines[first - 1].strip():
        above = lines[first - 1]
        if not _ABOVE.match(above) or _indent(above) not in (indent, indent + 1):
            break
        first -= 1
    return first
