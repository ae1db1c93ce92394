"""A page for each verb: what ``scratchlm VERB --help`` prints, of its parts too."""

from __future__ import annotations

from typing import Any

import typer
from typer.testing import CliRunner

from scratchlm.cli.main import app

WIDTH = "100"


def help_text(*words: str) -> str:
    """What ``scratchlm WORDS --help`` prints in a terminal of 100 columns without colours."""
    plain = {"COLUMNS": WIDTH, "TERMINAL_WIDTH": WIDTH, "NO_COLOR": "1", "TERM": "dumb"}
    done = CliRunner().invoke(app, [*words, "--help"], prog_name="scratchlm", env=plain)
    if done.exit_code:
        raise RuntimeError(f"scratchlm {' '.join(words)} --help: {done.output}")
    return "\n".join(line.rstrip() for line in done.output.strip().splitlines())


def verbs() -> dict[str, Any]:
    """The program's commands by name, as the parser has them."""
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def first_line(command: Any) -> str:
    return " ".join((command.help or "").split("\n\n")[0].split()).replace("\\[", "\\\\[")


def pages() -> dict[str, str]:
    """``commands/index.md`` and one page for each verb, ``scratchlm-VERB.md``: one of the verbs is ``index``."""
    rows = [f"| [`{name}`](scratchlm-{name}.md) | {first_line(command)} |" for name, command in verbs().items()]
    index = ["# Commands", "", "Each page is what `scratchlm VERB --help` prints.", "", "| verb | |", "| --- | --- |"]
    found = {"commands/index.md": "\n".join([*index, *rows]) + "\n"}
    for name, command in verbs().items():
        lines = [f"# scratchlm {name}", "", "```text", help_text(name), "```"]
        for part in getattr(command, "commands", {}):
            lines += ["", f"## scratchlm {name} {part}", "", "```text", help_text(name, part), "```"]
        found[f"commands/scratchlm-{name}.md"] = "\n".join(lines) + "\n"
    return found
