"""Which chunks a search looks at: conditions on their files, said to the store in SQL."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time

from scratchlm.errors import UserError

PAIR = "\x1f"
"""Between the name and the value of a metadata entry, as the store keeps it."""


@dataclass(frozen=True)
class Filter:
    """Chunks of files for which all that is given holds.

    Args:
        paths: patterns, one of which must fit. ``*`` and ``?`` stand for anything but "/", ``**`` for anything. A
            pattern without "/" fits a file or folder of that name anywhere, another one the path from its beginning; a
            folder's pattern fits all that lies below it.
        kinds: of documents, such as "pdf" or "code".
        after: files that were changed at that time or later. A date is its first moment, in local time.
        before: files that were changed earlier than that.
        metadata: entries that a document must have, with these values.

    Raises:
        UserError: a value of another type, an empty pattern, or ``after`` not before ``before``.
    """

    paths: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    after: date | datetime | None = None
    before: date | datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("paths", "kinds"):
            given = getattr(self, name)
            if isinstance(given, str) or not all(isinstance(one, str) and one.strip("/") for one in given):
                raise UserError(f"a filter's {name} are {given!r}; give a list of texts, none of them empty")
            object.__setattr__(self, name, tuple(given))
        for name in ("after", "before"):
            if not isinstance(getattr(self, name), date | None):
                raise UserError(f"a filter's {name} is {getattr(self, name)!r}; give a date or a time")
        if self.after is not None and self.before is not None and _seconds(self.after) >= _seconds(self.before):
            raise UserError(f"a filter asks for files after {self.after} and before {self.before}; no file can be both")
        if not all(isinstance(part, str) for pair in self.metadata.items() for part in pair):
            raise UserError(f"a filter's metadata are {dict(self.metadata)!r}; give texts by their names")

    def sql(self) -> str | None:
        """The condition; None where there is none."""
        parts = []
        if self.paths:
            parts.append(" OR ".join(f"regexp_like(file, {quoted(path_pattern(one))})" for one in self.paths))
        if self.kinds:
            parts.append(among("kind", self.kinds))
        if self.after is not None:
            parts.append(f"modified >= {_seconds(self.after)!r}")
        if self.before is not None:
            parts.append(f"modified < {_seconds(self.before)!r}")
        for name, value in self.metadata.items():
            parts.append(f"array_has(metadata, {quoted(name + PAIR + value)})")
        return " AND ".join(f"({one})" for one in parts) or None


def quoted(text: str) -> str:
    """A text as SQL has it. What is no character fits nothing that is stored, and becomes a "?"."""
    return "'" + plain(text).replace("'", "''") + "'"


def plain(text: str) -> str:
    """A text that can be stored as UTF-8: halves of surrogate pairs become "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def among(column: str, values: Iterable[str]) -> str:
    """The condition that a column has one of the values, of which there is at least one."""
    return f"{column} IN ({', '.join(map(quoted, values))})"


def path_pattern(pattern: str) -> str:
    """The regular expression, of Rust's kind, of the paths that a pattern fits."""
    body = pattern.strip("/")
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", body)
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    fitted = "".join(wild.get(one) or _literal(one) for one in parts)
    anywhere = "" if "/" in pattern.rstrip("/") else "(?:.*/)?"
    return rf"(?s)^{anywhere}{fitted}(?:/.*)?$"


def _literal(text: str) -> str:
    """Every character that is not a letter or digit by its number: both kinds of expression read that alike."""
    return "".join(one if one.isalnum() and one.isascii() else f"\\x{{{ord(one):x}}}" for one in plain(text))


def _seconds(when: date | datetime) -> float:
    """Since 1970."""
    moment = when if isinstance(when, datetime) else datetime.combine(when, time())
    try:
        return moment.timestamp()
    except (OverflowError, ValueError, OSError) as error:
        raise UserError(f"a filter's date is {when}, which this machine cannot count; give a later one") from error
