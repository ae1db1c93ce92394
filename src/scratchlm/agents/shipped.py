"""The tools that come with scratchlm, by the names that a command line gives them, and a user's own functions."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

from scratchlm.agents.calculator import calculate, shown_number
from scratchlm.agents.dates import date_tools
from scratchlm.agents.document_tool import document_tool
from scratchlm.agents.file_tools import file_tools
from scratchlm.agents.remembering import memory_tools
from scratchlm.agents.sandbox import python_tool
from scratchlm.agents.table import read_table, table_tool
from scratchlm.agents.tool import Tool, tool
from scratchlm.agents.units import convert
from scratchlm.errors import UserError
from scratchlm.importing import load_named

_FORMS = "a tool's name, file.py:function or module:function"


def calculator(expression: str) -> str:
    """Calculate an expression, such as (3 + 4) * 12 or 15% of 80."""
    return shown_number(calculate(expression))


def open_tools(names: Sequence[str]) -> list[Tool]:
    """The tools that names stand for, in their order; one name may stand for several.

    ``calculator``, ``dates``, ``units``; ``python``, and ``python-full`` by CPython; ``table:FILE`` looks up rows;
    ``files:FOLDER`` reads what is in a folder, and ``files-write:FOLDER`` writes there too; ``documents:STORE``
    searches an index, and ``memory:STORE`` keeps texts in one; ``web`` fetches public pages, ``web:HOST`` those of a
    host (give several for several); ``file.py:function`` and ``module:function`` are functions or :class:`Tool` objects
    of the user's own, whose code is run.

    Raises:
        UserError: there is no such tool, what it needs is missing, or two have the same name.
    """
    tables = sum(name.startswith("table:") for name in names)
    hosts = [name.removeprefix("web:") for name in names if name.startswith("web:")]
    found: list[Tool] = [_web(hosts)] if hosts else []
    for name in names:
        kind, colon, place = name.partition(":")
        if kind == "web" and colon:
            continue
        if kind == "table" and place:
            found.append(_table(Path(place), alone=tables == 1))
        elif kind in _PLACED and place:
            found.extend(_PLACED[kind][1](place))
        elif kind in _PLAIN and not colon:
            found.extend(_PLAIN[kind]())
        elif kind in _PLACED:
            raise UserError(f"the tool {kind} needs a place: {kind}:{_PLACED[kind][0]}")
        elif kind in _PLAIN:
            raise UserError(f"the tool {kind} takes no place; write {kind}")
        else:
            found.append(_own(name))
    twice = [one.name for one in found if sum(other.name == one.name for other in found) > 1]
    if twice:
        raise UserError(f"two tools are called {twice[0]}; give each name once")
    return found


_PLAIN: dict[str, Callable[[], list[Tool]]] = {
    "calculator": lambda: [tool(calculator)],
    "dates": date_tools,
    "units": lambda: [tool(convert)],
    "python": lambda: [python_tool()],
    "python-full": lambda: [python_tool(full=True)],
    "web": lambda: [_web()],
}
_PLACED: dict[str, tuple[str, Callable[[str], list[Tool]]]] = {
    "table": ("FILE", lambda place: [_table(Path(place), alone=True)]),
    "documents": ("STORE", lambda place: [document_tool(place)]),
    "memory": ("STORE", memory_tools),
    "files": ("FOLDER", lambda place: file_tools(Path(place))),
    "files-write": ("FOLDER", lambda place: file_tools(Path(place), writing=True)),
}


def _web(hosts: Sequence[str] = ()) -> Tool:
    from scratchlm.agents.web import web_tool

    return web_tool(hosts)


def _table(path: Path, alone: bool) -> Tool:
    letters = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in path.stem)
    return table_tool(read_table(path), "lookup" if alone else f"lookup_{letters}"[:64], f"the table {path.stem}")


def _own(spec: str) -> Tool:
    """A function or a tool of the user's own."""
    place, colon, name = spec.rpartition(":")
    known = [*_PLAIN, *(f"{kind}:{what}" for kind, (what, _) in _PLACED.items())]
    if not colon or not name.isidentifier():
        near = difflib.get_close_matches(spec.lower(), [*_PLAIN, *_PLACED], 1)
        cure = f"did you mean {near[0]}?" if near else f"choose of: {', '.join(known)}, or give file.py:function"
        raise UserError(f"there is no tool {spec!r}; {cure}")
    found = load_named(place, name, "tool", "tools.py:look_up", _FORMS)
    if isinstance(found, Tool):
        return found
    if not callable(found) or isinstance(found, type):
        raise UserError(f"{spec} is no function; a tool is a function with types, or a Tool")
    return tool(found)
