"""Records: the rows that a model is tuned on, whatever file and form they come in, checked, and each with its place."""

from __future__ import annotations

import difflib
import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Literal, get_args

from scratchlm.data.preference_rows import PREFERENCE_SHAPES
from scratchlm.data.rated_pairs import Pairing
from scratchlm.data.record_files import Row, read_rows
from scratchlm.data.record_rows import ALIGNED, SHAPES, BadRow, Record, Shape, Task
from scratchlm.errors import UserError

Bad = Literal["stop", "skip"]
_FIRST_ROWS, _FIRST_REASONS, _MOST_LABELS = 100, 5, 1000


@dataclass
class Skipped:
    """Rows that were left out because something was wrong with them."""

    bad: Bad = "stop"
    count: int = 0
    reasons: list[str] = field(default_factory=list)
    """Of the first few: the place and what is wrong."""

    def add(self, place: str, what: str) -> None:
        """Count a bad row.

        Raises:
            UserError: with ``bad="stop"``, at once.
        """
        if self.bad == "stop":
            raise UserError(f"{place}: {what}; mend it, or leave such rows out with --bad skip")
        self.count += 1
        if len(self.reasons) < _FIRST_REASONS:
            self.reasons.append(f"{place}: {what}")

    def __str__(self) -> str:
        more = f"; and {self.count - len(self.reasons):,} more" if self.count > len(self.reasons) else ""
        return f"skipped {self.count:,} bad rows: {'; '.join(self.reasons)}{more}" if self.count else ""


@dataclass(frozen=True)
class Records:
    """Checked rows of one task."""

    name: str
    format: str
    task: Task
    shape: str
    """The form that the columns were recognised by, such as "prompt + completion"."""
    columns: Mapping[str, str]
    """What each part of a row was read from: {"text": "review", "label": "stars"}."""
    rows: Sequence[Record]
    labels: tuple[str, ...] = ()
    """The classes or tags in a fixed order: numbers by size, names by the alphabet."""
    skipped: Skipped = field(default_factory=Skipped)
    whole_files: bool = False
    """Rows are whole files, whose texts are read in parts, not cut."""
    pairing: Pairing | None = None
    """Of rated texts of which pairs are still to be made, once it is known which are held out; see :meth:`paired`."""

    def __len__(self) -> int:
        return len(self.rows)

    def description(self) -> str:
        """What was recognised, for people: one line, and one more for skipped rows."""
        parts = ", ".join(f"{role} = {column!r}" for role, column in self.columns.items())
        text = f"{self.name}: {len(self):,} rows of {self.format}, as {self.shape} ({parts}), for the task {self.task}"
        if self.labels:
            text += f"; {len(self.labels)} {'tags' if self.task == 'tag' else 'labels'}: {_some(self.labels)}"
        if self.task == "prompt" and self._glued():
            text += "; prompts and completions are joined as they stand, with no space between"
        return f"{text}\n{self.skipped}" if self.skipped.count else text

    def paired(self, seed: int = 0) -> Records:
        """Itself, or of rated texts the pairs that :class:`~scratchlm.data.rated_pairs.Pairing` makes of them.

        Raises:
            UserError: no two ratings differ enough.
        """
        if self.pairing is None:
            return self
        pairs = self.pairing.pair(self.rows, seed)
        if not pairs:
            raise UserError(
                f"{self.name}: of {len(self):,} texts no two have ratings that differ by {self.pairing.margin:g}; give "
                "more texts, or a lower pair_margin"
            )
        return replace(self, rows=pairs, shape=f"pairs of {len(self):,} texts by {self.shape}", pairing=None)

    def _glued(self) -> bool:
        some = self.rows[:_FIRST_ROWS]
        return sum(row.prompt[-1:].isspace() or row.text[:1].isspace() for row in some) * 2 < len(some)


@dataclass(frozen=True)
class Splits:
    """Training rows, and held-out ones that are not among them."""

    train: Records
    validation: Records | None
    notes: tuple[str, ...] = ()
    """For people: duplicates that were taken out, labels that only one part has."""


def read_records(
    source: str | Path,
    *,
    task: Task | None = None,
    columns: Mapping[str, str] | None = None,
    bad: Bad = "stop",
    split: str = "train",
    lines: bool = False,
    labels: Sequence[str] | None = None,
    pairing: Pairing | None = None,
) -> Records:
    """Read and check rows; see :func:`~scratchlm.data.record_files.read_rows` for what ``source`` may be.

    The form is recognised by the columns, the first that fits: messages or conversations (chats), instruction + output,
    prompt + completion, question + answer, tokens + tags, anchor + positive, query + passage, sentence1 + sentence2,
    text + label, text. Alignment's forms are taken only if their task is asked for.

    Args:
        task: "lm" (plain text, or prompts and completions, whose task is then "prompt"), "prompt", "chat", "classify",
            "tag" or "embed", where not the form's own; "chat" also takes prompts and completions, which become the
            user's and the assistant's turns. For alignment: "preference" (chosen + rejected, with a prompt or as two
            chats; or text + rating, of which pairs are made when the rows are split), "kto" (prompt + completion +
            label), "rollout" (prompt, and other columns for the rewards).
        columns: what to read from which column, such as {"text": "review"}.
        bad: "stop" at the first bad row, or "skip" and count them.
        split, lines: see ``read_rows``.
        labels: the only labels or tags there may be, in their order; None for those that occur.
        pairing: how pairs are made of rated texts; None for the usual way.

    Raises:
        UserError: a bad row (the line tells file, line and field), no good one, columns of no known form, or an option
            that does not fit.
    """
    wanted = dict(columns or {})
    _check_options(task, wanted, bad)
    file = read_rows(source, split=split, lines=lines, conll=task == "tag")
    rows = iter(file.rows)
    first = list(islice(rows, _FIRST_ROWS))
    present, seen = _columns(first), _columns(first, share=0.0)
    skipped, good = Skipped(bad), list[Record]()
    if not present:
        for row in (*first, *rows):
            skipped.add(row.place, str(row.values))
        raise UserError(f"{source} holds no rows{': ' + str(skipped) if skipped.count else ''}; give at least one")
    shape, found = _recognise(str(source), present, task, wanted)
    some = shape.columns(seen, wanted) or {}
    found |= {role: some[role] for role in shape.may if role in some and role not in found}
    chosen = shape.task if task == "lm" else task or shape.task
    allowed = None if labels is None else frozenset(labels)
    for place, values in chain(first, rows):
        try:
            if isinstance(values, str):
                raise BadRow(values)
            record = shape.read(values, found, chosen)
            if allowed is not None and (strange := [one for one in record.labels if one not in allowed]):
                column = found["label" if "label" in found else "tags"]
                raise BadRow(f"{column!r} has {strange[0]!r}, not among {_some(labels or ())}")
        except BadRow as error:
            skipped.add(place, str(error))
        else:
            good.append(replace(record, place=place))
    if not good:
        raise UserError(f"{source} has no good row ({skipped})")
    known = tuple(labels) if labels is not None else label_list(good)
    rated = good[0].rating is not None
    way = (pairing or Pairing()) if rated else None
    records = Records(str(source), file.format, chosen, shape.name, found, good, known, skipped, file.whole, way)
    if labels is None:
        _check_labels(records)
    return records


def split_records(records: Records, validation: float, *, seed: int = 0) -> Splits:
    """Hold out a share of the rows (below 1) or so many of them (from 1), drawn by ``seed``. Rows that are equal but
    for case and white space go to the same side. Of rated texts it is texts that are held out, and then pairs are made
    of those of each side.

    Raises:
        UserError: too few rows, or no such share.
    """
    count = len(records)
    wanted = validation if validation >= 1 else validation * count
    if not (0 <= validation < count) or (validation >= 1 and validation != int(validation)):
        raise UserError(f"validation is {validation:g}; give a share below 1, or a number of rows below {count:,}")
    groups: dict[bytes, list[int]] = {}
    for number, row in enumerate(records.rows):
        groups.setdefault(row_key(row), []).append(number)
    order = list(groups)
    random.Random(seed).shuffle(order)
    held: list[int] = []
    for key in order:
        if len(held) >= round(wanted) or len(held) + len(groups[key]) >= count:
            break
        held += groups[key]
    if validation and not held:
        raise UserError(
            f"{records.name} has {count:,} rows, too few that differ to hold {validation:g} out; give more, or 0"
        )
    out = set(held)
    train = replace(records, rows=[row for number, row in enumerate(records.rows) if number not in out])
    return _joined(train, replace(records, rows=[records.rows[n] for n in sorted(out)]) if held else None, [], seed)


def join_validation(train: Records, validation: Records) -> Splits:
    """Training rows and validation rows of files of their own. Training rows that are equal to a validation row but
    for case and white space are taken out; the label list is that of both.

    Raises:
        UserError: the tasks differ, or every training row is a validation row too.
    """
    if train.task != validation.task:
        raise UserError(
            f"{validation.name} is for the task {validation.task}, {train.name} for {train.task}; set --task for both"
        )
    keys = {row_key(row) for row in validation.rows}
    rows = [row for row in train.rows if row_key(row) not in keys]
    if not rows:
        raise UserError(f"every row of {train.name} is in {validation.name} too; give other rows to validate on")
    gone = len(train) - len(rows)
    notes = [f"took {gone:,} rows out of {train.name} that are in {validation.name} too"] if gone else []
    return _joined(replace(train, rows=rows), validation, notes)


def row_key(row: Record) -> bytes:
    """What tells rows apart when duplicates are looked for: all that the model reads and writes but the labels, in one
    case and with single spaces."""
    turns = (f"{m['role']}\0{m.get('content') or m}" for m in row.messages)
    # Of texts that belong together the first alone: what was learned of it must not be asked again. Of two answers to
    # a prompt, for the same reason, the prompt alone.
    first = () if row.prompt or row.messages else row.texts[:1]
    parts = [row.prompt, row.text, *row.tokens, *first, *turns]
    plain = "\0".join(" ".join(part.casefold().split()) for part in parts)
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def label_list(rows: Iterable[Record]) -> tuple[str, ...]:
    """The labels or tags that occur: numbers by size if all are numbers, else names by the alphabet, "O" first."""
    found = {label for row in rows for label in row.labels}
    if all(label.lstrip("-").isdecimal() for label in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found, key=lambda label: (label != "O", label)))


def _some(names: Sequence[str]) -> str:
    """The first of them, on one line."""
    shown = [" ".join(name.split())[:40] for name in names[:12]]
    return ", ".join([*shown, *(["..."] if len(names) > 12 else [])])


def _joined(train: Records, validation: Records | None, notes: list[str], seed: int = 0) -> Splits:
    """Both with one list of labels, and as pairs where they are rated texts."""
    train, validation = train.paired(seed), None if validation is None else validation.paired(seed)
    if validation is not None and train.task in ("classify", "tag"):
        ours, theirs = label_list(train.rows), label_list(validation.rows)
        if only := [label for label in theirs if label not in ours]:
            notes.append(f"only validation rows have: {_some(only)}; they cannot be learned")
        both = train.labels if train.labels == validation.labels else label_list([*train.rows, *validation.rows])
        train, validation = replace(train, labels=both), replace(validation, labels=both)
    return Splits(train, validation, tuple(notes))


def _check_options(task: str | None, columns: Mapping[str, str], bad: str) -> None:
    if task is not None and task not in get_args(Task):
        raise UserError(f"there is no task {task!r}; choose one of: {', '.join(get_args(Task))}")
    if bad not in get_args(Bad):
        raise UserError(f"bad rows can be: {', '.join(get_args(Bad))}; not {bad!r}")
    shapes = SHAPES if task not in ALIGNED else PREFERENCE_SHAPES
    roles = sorted({role for shape in shapes for role in (*shape.needs, *shape.may)})
    for role in columns:
        if role not in roles:
            raise UserError(f"there is no part {role!r} to map a column to; choose one of: {', '.join(roles)}")


def _columns(first: Iterable[Row], share: float = 0.5) -> list[str]:
    """The fields that most of the readable rows have, or another share of them, in order."""
    good = [row.values for row in first if isinstance(row.values, dict)]
    counts: dict[str, int] = {}
    for values in good:
        for name in values:
            counts[name] = counts.get(name, 0) + 1
    return [name for name, count in counts.items() if count >= share * len(good)]


def _recognise(
    source: str, present: list[str], task: Task | None, wanted: Mapping[str, str]
) -> tuple[Shape, dict[str, str]]:
    """The first form all of whose parts have a column, and which column each part has."""
    for role, column in wanted.items():
        if column not in present:
            near = difflib.get_close_matches(column, present, n=1)
            cure = f"did you mean {near[0]!r}?" if near else f"it has: {_some(present)}"
            raise UserError(f"{source} has no column {column!r} for {role!r}; {cure}")
    shapes = SHAPES if task is None else (*SHAPES, *PREFERENCE_SHAPES)
    serving = [shape for shape in shapes if task is None or task in shape.tasks]
    for shape in serving:
        found = shape.columns(present, wanted)
        if found is not None:
            return shape, found
    if task is None and (aligned := PREFERENCE_SHAPES[0].columns(present, wanted)) is not None:
        raise UserError(
            f"{source} has pairs with a preferred one ({', '.join(aligned.values())}); alignment learns from them: "
            "scratchlm align reward, or dpo"
        )
    needed = "; ".join(" + ".join(shape.needs) for shape in serving)
    purpose = f"for the task {task}" if task else "to train on"
    example = _example(serving, present)
    more = f"; or say which is which, such as --columns {example}" if example else ""
    raise UserError(f"{source} has the columns {_some(present)}; {purpose} give {needed}{more}")


def _example(shapes: Sequence[Shape], present: list[str]) -> str:
    """How to map a column to a part that is missing; empty where no form could be had so."""
    for shape in reversed(shapes):
        missing = [role for role in shape.needs if role not in present]
        free = [name for name in present if name not in shape.needs]
        if len(free) >= len(missing) > 0:
            return f"{missing[0]}={_some(free[:1])}"
    return ""


def _check_labels(records: Records) -> None:
    count = len(records.labels)
    if records.task == "classify" and count < 2:
        raise UserError(f"{records.name} has one label in all rows, {records.labels[0]!r}; give rows of at least two")
    if records.task in ("classify", "tag") and count > _MOST_LABELS:
        column = records.columns["label" if records.task == "classify" else "tags"]
        raise UserError(f"{records.name} has {count:,} different labels in {column!r}; is it the column of the labels?")
