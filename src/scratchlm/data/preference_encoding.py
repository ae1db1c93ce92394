"""How pairs, judged completions and prompts to answer become token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice

from scratchlm.data.encoding import Part
from scratchlm.data.record_rows import BadRow, Record

Found = list[Part] | BadRow
Way = Callable[[Sequence[Record]], Iterator[Found]]


def completions(row: Record) -> list[Record]:
    """A row for each of its ``texts``: a completion of its prompt, or the assistant's answer to its messages."""
    if row.messages:
        turns = [{"role": "assistant", "content": text} for text in row.texts]
        return [replace(row, messages=(*row.messages, turn), texts=()) for turn in turns]
    return [replace(row, text=text, texts=()) for text in row.texts]


def encode_completions(rows: Sequence[Record], plain: Way, chatted: Way) -> Iterator[Found]:
    """Rows that are plain or chats, each the way that is its own."""
    for chat, some in groupby(rows, lambda row: bool(row.messages)):
        yield from (chatted if chat else plain)(list(some))


def encode_groups(rows: Sequence[Record], encode: Way) -> Iterator[Found]:
    """For each row the parts of all its ``texts``, or what is wrong with one of them."""
    found = encode([one for row in rows for one in completions(row)])
    for row in rows:
        own = list(islice(found, len(row.texts)))
        bad = next((one for one in own if isinstance(one, BadRow)), None)
        parts = [part for one in own if not isinstance(one, BadRow) for part in one]
        if bad is None and len(parts) > 1 and all(list(part[0]) == list(parts[0][0]) for part in parts):
            bad = BadRow(f"its texts have the same {len(parts[0][0]):,} tokens, so neither can be preferred")
        yield parts if bad is None else bad


def last_turn(mask: Sequence[bool]) -> tuple[int, list[bool]]:
    """Where the last run of learned tokens begins, and the mask of that run alone; the end where there is none."""
    end = next((n for n in range(len(mask), 0, -1) if mask[n - 1]), 0)
    start = next((n for n in range(end, 0, -1) if not mask[n - 1]), 0) if end else len(mask)
    return start, [start <= n < end for n in range(len(mask))]
