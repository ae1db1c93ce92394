"""Options that say what a text may be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.generation.constraints import Grammar

Schema = Annotated[
    str | None,
    typer.Option(metavar="FILE|JSON", help="Only JSON that fits this JSON Schema.", show_default=False),
]
Regex = Annotated[
    str | None,
    typer.Option(metavar="PATTERN", help="Only a text that matches this as a whole.", show_default=False),
]
Choices = Annotated[
    list[str] | None,
    typer.Option("--choice", metavar="TEXT", help="Only this text, or another choice; repeat it.", show_default=False),
]
GrammarFile = Annotated[
    Path | None,
    typer.Option("--grammar", metavar="FILE", help="Only a text of this Lark grammar.", show_default=False),
]


def grammar_asked(
    schema: str | None, regex: str | None = None, choices: list[str] | None = None, grammar: Path | None = None
) -> Grammar | None:
    """What the options ask for; None for nothing.

    Raises:
        UserError: more than one is given, a file cannot be read, or what is given is wrong.
    """
    if (given := sum(option is not None for option in (schema, regex, choices, grammar))) > 1:
        raise UserError("give one of --schema, --regex, --choice and --grammar; a text cannot be asked for twice")
    if not given:
        return None
    from scratchlm.generation.constraints import Grammar

    if schema is not None:
        return Grammar.json_schema(schema if schema.lstrip()[:1] in ("{", "") else _text(Path(schema)))
    if regex is not None:
        return Grammar.regex(regex)
    return Grammar.choices(choices) if choices is not None else Grammar.lark(_text(grammar or Path()))


def _text(path: Path) -> str:
    from scratchlm.reading import read_text

    try:
        return read_text(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8; give a text file") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a file, or of a schema the JSON") from error
