"""Notebooks from plain Python files, so that their differences can be read and no output is kept.

``docs/notebooks/NAME.py`` is in the "percent" form that Jupytext, VS Code and others read: a line ``# %%`` begins a
cell of code, and ``# %% [markdown]`` one of text, whose lines are comments.

    python docs/site/notebook_pages.py FOLDER     write them as .ipynb files into a folder
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def cells(program: str) -> list[tuple[str, str]]:
    """(``code`` or ``markdown``, text) of each cell, in order."""
    found = []
    for part in re.split(r"^# %%", program, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        if head.strip() == "[markdown]":
            found.append(("markdown", re.sub(r"^# ?", "", body, flags=re.MULTILINE).strip()))
        else:
            found.append(("code", body.strip()))
    return found


def notebook(program: str) -> dict[str, Any]:
    """A notebook of format 4.5, without outputs; a cell's id is its number."""
    made = []
    for number, (kind, text) in enumerate(cells(program)):
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
        cell["source"] = text.splitlines(keepends=True)
        made.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    return {"cells": made, "metadata": {"kernelspec": KERNEL}, "nbformat": 4, "nbformat_minor": 5}


def programs() -> dict[str, str]:
    """Each notebook's name and its file's text, in the order of the names."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(NOTEBOOKS.glob("*.py"))}


def pages() -> dict[str, str]:
    """A page and an .ipynb file for each, and the page that lists them."""
    found, rows = {}, []
    for name, program in programs().items():
        parts = cells(program)
        title = parts[0][1].splitlines()[0].removeprefix("# ")
        rows.append(f"| [{title}]({name}.md) | [{name}.ipynb]({name}.ipynb) |")
        shown = [text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in parts]
        shown.insert(1, f"[Open it as a notebook]({name}.ipynb)")
        found[f"notebooks/{name}.md"] = "\n\n".join(shown) + "\n"
        found[f"notebooks/{name}.ipynb"] = json.dumps(notebook(program), indent=1, ensure_ascii=False) + "\n"
    head = "# Notebooks\n\nSmall enough to run in seconds, each beside a chapter. The tests run them all.\n\n"
    found["notebooks/index.md"] = head + "| | file |\n| --- | --- |\n" + "\n".join(rows) + "\n"
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, program in programs().items():
        text = json.dumps(notebook(program), indent=1, ensure_ascii=False) + "\n"
        (folder / f"{name}.ipynb").write_text(text, encoding="utf-8")
