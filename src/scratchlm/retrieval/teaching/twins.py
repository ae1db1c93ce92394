"""Twins: two passages about the same thing that tell different facts, and questions that only one of them answers.

Whether a question is answered cannot be guessed from the question, since each is asked of both passages; and the one
that does not answer it speaks of the very same thing, often with another number or name in the place. A file has one
pair of twins after the other::

    == folder/name
    # Title of both
    The first passage, in one line.
    ---
    The second passage.
    a A question that only the first answers? | the span of it that does
    b A question that only the second answers? | the span
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from scratchlm.errors import UserError
from scratchlm.reading import read_text

_FOLDER = resources.files("scratchlm.retrieval.teaching") / "twins"


@dataclass(frozen=True)
class Passage:
    """One of two twins."""

    name: str
    """Of the pair."""
    title: str
    text: str
    asked: tuple[tuple[str, str | None], ...]
    """Questions, each with the span that answers it, None where nothing here does."""


def own_twins() -> list[tuple[Passage, Passage]]:
    """Those that come with the library, file by file."""
    files = sorted((one for one in _FOLDER.iterdir() if one.name.endswith(".txt")), key=lambda one: one.name)
    return [pair for one in files for pair in parse_twins(one.read_text(encoding="utf-8").splitlines(), one.name)]


def read_twins(path: str | Path) -> list[tuple[Passage, Passage]]:
    """Those of a file.

    Raises:
        UserError: it cannot be read, or has other lines; the line says which.
    """
    found = list(parse_twins(read_text(Path(path)).splitlines(), str(path)))
    if not found:
        raise UserError(f"{path} has no twins; begin each pair with a line: == NAME")
    return found


def parse_twins(lines: Iterable[str], name: str) -> Iterator[tuple[Passage, Passage]]:
    """The twins of a file's lines.

    Raises:
        UserError: something is missing, or a passage has not the span that it is said to answer with.
    """
    part: list[tuple[int, str]] = []
    for number, line in enumerate([*lines, "== "], 1):
        if line.startswith("== "):
            if part:
                yield _pair(part, name)
            part = []
        if line.strip():
            part.append((number, line.strip()))


def _pair(lines: list[tuple[int, str]], file: str) -> tuple[Passage, Passage]:
    (first, head), *rest = lines
    title, texts, asked = "", ["", ""], {"a": list[tuple[str, str]](), "b": list[tuple[str, str]]()}
    now = 0
    for number, line in rest:
        if line.startswith("# "):
            title = line[2:]
        elif line == "---":
            now = 1
        elif line[:2] in ("a ", "b ") and " | " in line:
            question, _, span = line[2:].rpartition(" | ")
            if span not in texts[line[0] == "b"]:
                raise UserError(f"{file}, line {number}: its passage does not say {span!r}; copy the span from there")
            asked[line[0]].append((question, span))
        elif asked["a"] or asked["b"]:
            raise UserError(f"{file}, line {number}: {line[:40]!r} is no question; write: a QUESTION | SPAN")
        else:
            texts[now] = f"{texts[now]} {line}".strip()
    if not (head.startswith("== ") and title and all(texts) and all(asked.values())):
        raise UserError(
            f"{file}, line {first}: a pair is a line == NAME, a line # TITLE, two passages with --- between, and "
            "questions of both (a and b); mend it"
        )
    name = head[3:].strip()
    both = [
        Passage(name, title, text, (*asked[mine], *((question, None) for question, _ in asked[other])))
        for text, mine, other in zip(texts, "ab", "ba", strict=True)
    ]
    return both[0], both[1]
