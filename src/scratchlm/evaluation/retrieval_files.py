"""Files of queries, of what is known to answer them (qrels), and of what a search found (runs).

Formats are told by what is in a file: TREC's qrels (``query iteration document grade``) and runs (``query Q0 document
rank score name``), between white space; BEIR's qrels (``query-id corpus-id score`` between tabs, below that heading);
queries and documents as JSONL with ``_id`` and ``text``, or as lines of an id and a text between tabs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from scratchlm.errors import UserError

Qrels = dict[str, dict[str, int]]
"""The grade of each document by query: 0 for one that does not answer it."""
Run = dict[str, dict[str, float]]
"""The score of each document by query."""


def read_qrels(path: str | Path) -> Qrels:
    """The judgements of a file, TREC's or BEIR's.

    Raises:
        UserError: it cannot be read or is empty, or a line has other columns, a grade that is no whole number, or a
            document that was judged before; the line tells its number.
    """
    found: Qrels = {}
    for number, line in _lines(path):
        where = f"{path}, line {number:,}"
        columns = line.split("\t") if line.count("\t") == 2 else line.split()
        columns = [column.strip() for column in columns]
        if number == 1 and columns[:2] == ["query-id", "corpus-id"]:
            continue
        if len(columns) not in (3, 4) or not all(columns):
            raise UserError(
                f"{where} has {len(columns)} columns; qrels have query, 0, document, grade, or query, document, grade"
            )
        query, document, grade = columns[0], columns[-2], _number(columns[-1], where, "grade")
        if not grade.is_integer():
            raise UserError(f"{where} has the grade {columns[-1]}; grades are whole numbers")
        if document in found.setdefault(query, {}):
            raise UserError(f"{where} judges document {document} of query {query} once more; leave one out")
        found[query][document] = int(grade)
    if not found:
        raise UserError(f"{path} has no judgements; give lines of query, 0, document, grade")
    return found


def read_run(path: str | Path) -> Run:
    """What a search found, in TREC's format.

    Raises:
        UserError: as :func:`read_qrels`, or a score that is no finite number.
    """
    found: Run = {}
    for number, line in _lines(path):
        where = f"{path}, line {number:,}"
        columns = line.split()
        if len(columns) != 6:
            raise UserError(f"{where} has {len(columns)} columns; a run has query, Q0, document, rank, score, name")
        query, document = columns[0], columns[2]
        if document in found.setdefault(query, {}):
            raise UserError(f"{where} has document {document} of query {query} once more; leave one out")
        found[query][document] = _number(columns[4], where, "score")
    if not found:
        raise UserError(f"{path} has no findings; give lines of query, Q0, document, rank, score, name")
    return found


def write_run(path: str | Path, run: Mapping[str, Mapping[str, float]], name: str = "scratchlm") -> None:
    """Write what a search found, in TREC's format.

    Raises:
        UserError: it cannot be written.
    """
    lines = (
        f"{query} Q0 {document} {place} {score!r} {name}\n"
        for query, scores in run.items()
        for place, (document, score) in enumerate(sorted(scores.items(), key=lambda one: -one[1]), 1)
    )
    try:
        Path(path).write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; choose another file") from error


def read_queries(path: str | Path) -> dict[str, str]:
    """Queries, or documents, by id: JSONL with ``_id`` (or ``id``) and ``text`` (a ``title`` goes before it), or lines
    of an id and a text between tabs.

    Raises:
        UserError: it cannot be read or is empty, or a line has no id or no text, or an id that was there before.
    """
    found: dict[str, str] = {}
    for number, line in _lines(path):
        where = f"{path}, line {number:,}"
        name, text = _named(line, where)
        if not name or not text:
            raise UserError(f"{where} has no {'text' if name else 'id'}; give one")
        if name in found:
            raise UserError(f"{where} has the id {name} once more; ids must be distinct")
        found[name] = text
    if not found:
        raise UserError(f"{path} is empty; give a line for each, such as: 1<tab>What is an index?")
    return found


def check_known(qrels: Qrels, queries: Collection[str], documents: Collection[str] | None = None) -> None:
    """See that judgements are of queries, and of documents, that there are.

    Raises:
        UserError: they are not; the line names the first.
    """
    for query, grades in qrels.items():
        if query not in queries:
            raise UserError(f"the qrels judge query {query}, which is not among the queries; give their file")
        for document in grades if documents is not None else ():
            if document not in (documents or ()):
                raise UserError(
                    f"the qrels of query {query} judge {document}, which is not in the index; do they belong together?"
                )


def _named(line: str, where: str) -> tuple[str, str]:
    if not line.startswith("{"):
        name, tab, text = line.partition("\t")
        if not tab:
            raise UserError(f"{where} is no JSON object and has no tab; give an id and a text with a tab between")
        return name.strip(), text.strip()
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is no JSON ({error}); write an object a line") from error
    name, text = row.get("_id", row.get("id", "")), row.get("text", "")
    if isinstance(name, bool) or not isinstance(name, str | int) or not isinstance(text, str):
        raise UserError(f"{where}: _id and text must be texts")
    title = row.get("title") or ""
    return str(name).strip(), f"{title} {text}".strip()


def _number(text: str, where: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise UserError(f"{where} has the {what} {text}, which is no number; mend the line")
    return value


def _lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """The lines that have something on them, with their numbers from 1."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give another file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start:,}); save it as UTF-8") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip("\r")
