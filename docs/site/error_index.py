"""The error index: every line that the library tells a user, read from the source without running it.

A message is a call of ``UserError``, of a class derived from it, of one that is told as a ``UserError`` with more words
around it, or what is raised by a function that makes one. Where a value is filled in, its expression stands in braces.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "scratchlm"
HOLE = "\0"
"""Stands in ``Message.pieces`` for a value that is filled in."""
CARRIED = ("BadRow", "Unreadable", "NotText")
"""Classes that are caught and told as a ``UserError``, with the file and the line around their words."""


@dataclass(frozen=True)
class Message:
    """One line that a user may see.

    Attributes:
        pieces: its words in order, with ``HOLE`` where a value is filled in.
        text: the same for a reader, with the value's expression in braces.
        room: the folder, or the file's name where it lies in none.
        path: from the project's root.
    """

    pieces: tuple[str, ...]
    text: str
    room: str
    path: str
    line: int

    @property
    def wrong(self) -> str:
        """What is wrong: the message without its last clause, where it has several."""
        return self.text.rpartition("; ")[0] or self.text

    @property
    def cure(self) -> str:
        """What to do: the last clause, or nothing where the message is of one."""
        return self.text.rpartition("; ")[2] if "; " in self.text else ""

    @property
    def pattern(self) -> re.Pattern[str]:
        """What a line that was made from this message looks like."""
        return re.compile("".join(".*" if piece == HOLE else re.escape(piece) for piece in self.pieces), re.DOTALL)


def error_classes(trees: dict[Path, ast.Module]) -> set[str]:
    """``UserError``, what is derived from it at any depth, and what is told as one."""
    found = {"UserError", *CARRIED}
    while True:
        more = {
            node.name
            for tree in trees.values()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and found & {getattr(base, "id", "") for base in node.bases}
        }
        if more <= found:
            return found
        found |= more


def spelled(node: ast.expr) -> Iterator[tuple[list[str], str]]:
    """The texts that an expression may give, each as pieces and for a reader; none where no words stand in it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield [node.value], node.value
    elif isinstance(node, ast.JoinedStr):
        pieces, shown = [], ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                pieces.append(str(part.value))
                shown += str(part.value)
            elif isinstance(part, ast.FormattedValue):
                pieces.append(HOLE)
                shown += "{" + ast.unparse(part.value) + "}"
        yield pieces, shown
    elif isinstance(node, ast.IfExp):
        yield from spelled(node.body)
        yield from spelled(node.orelse)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        hole = [([HOLE], "{" + ast.unparse(side) + "}") for side in (node.left, node.right)]
        left, right = list(spelled(node.left)) or hole[:1], list(spelled(node.right)) or hole[1:]
        if [left, right] != [hole[:1], hole[1:]]:
            yield from ((a + b, c + d) for a, c in left for b, d in right)


def messages(source: Path = SOURCE) -> list[Message]:
    """All of them, by room, file and line."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(source.rglob("*.py"))}
    classes = error_classes(trees)
    found = []
    for path, tree in trees.items():
        room = path.relative_to(source).parts[0].removesuffix(".py")
        raised = {id(node.exc) for node in ast.walk(tree) if isinstance(node, ast.Raise)}
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            name = getattr(node.func, "id", "") or getattr(node.func, "attr", "")
            made = id(node) in raised and name.lstrip("_")[:1].islower()
            if name not in classes and not made:
                continue
            words = [text for argument in node.args for text in spelled(argument)] if made else spelled(node.args[0])
            for pieces, text in words:
                if re.search(r"[a-z]{2}", "".join(pieces)):  # a bare {error} passes another message on
                    place = path.relative_to(source.parents[1]).as_posix()
                    found.append(Message(tuple(pieces), " ".join(text.split()), room, place, node.lineno))
    return sorted(found, key=lambda one: (one.room, one.path, one.line))


def cell(text: str) -> str:
    """Words as they stand, in a table of Markdown: nothing in them is markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#$~])", lambda found: f"&#{ord(found[0])};", text)


def pages() -> dict[str, str]:
    """``errors.md``: rooms in the order of the alphabet, and what each may say."""
    found = messages()
    lines = [
        "# Error index",
        "",
        "A mistake that you can mend is told in one line, and the program ends with status 2. These are all",
        f"{len(found)} of them, by the folder of the source that says them. What stands in braces is filled in. Look",
        "for words of your line with the browser's search, or with the box above.",
        "",
        "A line that says *a fault of scratchlm itself* is none of these: run the command again with",
        "`SCRATCHLM_DEBUG=1`, and report what it prints.",
    ]
    for room in dict.fromkeys(one.room for one in found):
        lines += ["", f"## {room}", "", "| what is wrong | what to do | where |", "| --- | --- | --- |"]
        lines += [
            f"| {cell(one.wrong)} | {cell(one.cure)} | `{one.path.removeprefix('src/scratchlm/')}:{one.line}` |"
            for one in found
            if one.room == room
        ]
    return {"errors.md": "\n".join(lines) + "\n"}
