"""The reference: what the package exports, and the public names of each room, from their docstrings."""

from __future__ import annotations

import ast
from pathlib import Path

import scratchlm

SOURCE = Path(__file__).resolve().parents[2] / "src" / "scratchlm"
LEFT_OUT = {"cli", "__main__"}
"""The verbs have pages of their own."""


def rooms() -> dict[str, list[str]]:
    """The modules of each folder with something public in them, by dotted name; files beside them are rooms, too."""
    found: dict[str, list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[0] not in LEFT_OUT and path.stem != "__init__" and _has_public_names(path):
            found.setdefault(parts[0], []).append(".".join(("scratchlm", *parts)))
    return found


def _has_public_names(path: Path) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    named = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(node, named) and not node.name.startswith("_") for node in body)


def summary(room: str) -> str:
    """The first line of what the room says of itself."""
    path = SOURCE / room / "__init__.py" if (SOURCE / room).is_dir() else SOURCE / f"{room}.py"
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def pages() -> dict[str, str]:
    """``reference/index.md`` with what ``import scratchlm`` gives, and a page for each room."""
    index = ["# Reference", "", "What `import scratchlm` gives:", "", "| name | |", "| --- | --- |"]
    for name in sorted(set(scratchlm.__all__) - {"__version__"}):
        thing = getattr(scratchlm, name)
        told = " ".join((thing.__doc__ or "").split("\n\n")[0].split())
        index.append(f"| [`{name}`][{thing.__module__}.{thing.__qualname__}] | {told} |")
    index.append("")
    index += ["## The rooms", "", "| room | |", "| --- | --- |"]
    index += [f"| [`scratchlm.{room}`]({room}.md) | {summary(room)} |" for room in rooms()]
    found = {"reference/index.md": "\n".join(index) + "\n"}
    for room, modules in rooms().items():
        found[f"reference/{room}.md"] = f"# scratchlm.{room}\n\n" + "\n".join(f"::: {name}\n" for name in modules)
    return found
