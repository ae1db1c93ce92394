"""Records as token ids, and what the model is to learn at each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from scratchlm.data import showing
from scratchlm.data.batch import IGNORE
from scratchlm.data.encoding import Part as Part
from scratchlm.data.encoding import encode_texts as encode_texts
from scratchlm.data.encoding import encode_words as encode_words
from scratchlm.data.preference_encoding import encode_completions, encode_groups, last_turn
from scratchlm.data.record_rows import ALIGNED, BadRow, Record, Task
from scratchlm.data.records import Records, Skipped
from scratchlm.errors import UserError
from scratchlm.tokenizers import Chat, Tokenizer, render_chat

LossOn = Literal["auto", "completion", "assistant", "all"]
_DEFAULTS: dict[str, LossOn] = {"lm": "all", "prompt": "completion", "chat": "assistant"}
GROUPED: tuple[Task, ...] = ("embed", "preference")
"""Tasks whose records are several examples each, which are learned from together."""
ADJACENT: tuple[Task, ...] = ("preference",)
"""Those of them whose examples are compared in one pass, side by side."""
_ROWS_AT_ONCE = 1000
"""Ids in Python's lists take ten times the memory of those in arrays, so only so many rows are lists at a time."""


@dataclass(frozen=True)
class Examples:
    """N encoded rows, end to end in flat arrays."""

    task: Task
    ids: NDArray[np.uint32]
    """(tokens,)."""
    targets: NDArray[np.int32]
    """(tokens,): what is to be said at each token, aligned with the logits: the next id where it is supervised, or the
    number of the tag or, at one token of each row, of the label; elsewhere ``IGNORE``. Of texts that belong together,
    at each one's first token, its own number."""
    offsets: NDArray[np.int64]
    """(N + 1,): row i is ``ids[offsets[i]:offsets[i + 1]]``."""
    rows: NDArray[np.int64]
    """(N,): which record each example is, or is a part, of. A record of texts that belong together is as many examples:
    the first, the one that belongs to it, and those that do not; of two texts that are compared the chosen is first."""
    labels: tuple[str, ...]
    max_length: int
    truncated: int
    """Rows that were longer than ``max_length`` and lost something."""
    skipped: Skipped
    """Rows that cannot be encoded, or in which nothing is left to learn."""
    notes: tuple[str, ...] = ()
    flags: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """(N,) for "kto": whether the completion is a good one. Elsewhere (0,)."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,): tokens of each."""
        return np.diff(self.offsets)

    @property
    def learned(self) -> NDArray[np.int64]:
        """(N,): predictions of each that are learned from."""
        counts = np.concatenate([[0], np.cumsum(self.targets != IGNORE)])
        return np.diff(counts[self.offsets])

    @property
    def groups(self) -> NDArray[np.int64]:
        """(G + 1,): where those examples begin that are learned from together, and where the last of them end."""
        if self.task not in GROUPED:
            return np.arange(len(self) + 1)
        return np.concatenate([np.flatnonzero(np.diff(self.rows, prepend=-1)), [len(self)]])

    @property
    def count(self) -> int:
        """How many there are to learn from: examples, or groups of them."""
        return len(self.groups) - 1

    @property
    def supervised(self) -> int:
        """How many predictions are learned from."""
        return int((self.targets != IGNORE).sum())

    def __getitem__(self, number: int) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
        """The ids and the targets of one example."""
        part = slice(self.offsets[number], self.offsets[number + 1])
        return self.ids[part], self.targets[part]

    def show(self, tokenizer: Tokenizer, number: int = 0) -> str:
        """One example as text: what is supervised stands between ⟦ and ⟧, tags and labels behind an arrow."""
        ids, targets = self[number]
        if self.task == "embed":
            texts = [tokenizer.decode(self[int(n)][0]) for n in np.flatnonzero(self.rows == self.rows[number])]
            return " | ".join([f"{texts[0]} ↔ {texts[1]}", *(f"not {text}" for text in texts[2:])])
        if self.task == "classify":
            return f"{tokenizer.decode(ids)} → {self.labels[targets.max()]}"
        if self.task == "tag":
            return showing.tagged(tokenizer, ids, targets, self.labels)
        if self.task == "preference":
            own = np.flatnonzero(self.rows == self.rows[number]).tolist()
            return " ≻ ".join(showing.marked(tokenizer, *self[n]) for n in own)
        judged = f" → {'good' if self.flags[number] else 'bad'}" if self.task == "kto" else ""
        return showing.marked(tokenizer, ids, targets) + judged

    def description(self) -> str:
        """Counts, for people."""
        tokens, longest = len(self.ids), int(self.lengths.max())
        text = f"{len(self):,} examples of {tokens / len(self):,.1f} tokens on average, the longest {longest:,}; "
        learned = "in pairs" if self.task in GROUPED else f"{self.supervised / tokens:.0%} supervised"
        learned = "to be answered" if self.task == "rollout" else learned
        text += f"{tokens:,} tokens, {learned}; {self.truncated:,} truncated"
        text += f" to {self.max_length:,} tokens" if self.truncated else ""
        return "\n".join([text, *self.notes, *([str(self.skipped)] if self.skipped.count else [])])

    def histogram(self) -> str:
        """The lengths, a bar for each range of tokens."""
        return showing.histogram(self.lengths)


def encode_records(
    records: Records,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    loss_on: LossOn = "auto",
    causal: bool = True,
    template: str | None = None,
) -> Examples:
    """Encode rows.

    A plain text and a completion end in EOS, which is supervised; an assistant's turn ends in the template's token, or
    in EOS where the template has none. What is too long for ``max_length`` is cut thus: of a prompt and its completion
    first the prompt's beginning, then the completion's end; of all else the end. Where the end is cut, no EOS follows.
    Whole text files are read in parts of ``max_length`` instead. Tags stand at the first sub-token of each word; a
    label at an encoder's first token ([CLS], or [BOS], where the vocabulary has one), and at a decoder's last. Texts
    that belong together are encoded as texts to embed are, each by itself. Completions that are compared or judged are
    encoded and cut as those of prompts are, each after its whole prompt; of chats only the last turn is learned. Of
    prompts to answer the end is kept, and nothing is supervised.

    Args:
        loss_on: "completion" of a prompt, the "assistant"'s turns of a chat, or "all" tokens but a row's first. "auto"
            is the first two; a plain text is always learned whole. Alignment learns from completions alone.
        causal: for a decoder. Encoders serve the tasks "classify", "tag", "embed" and, of texts that are no chats,
            "preference".
        template: a chat template in place of the tokenizer's.

    Raises:
        UserError: a row that cannot be encoded or in which nothing is supervised, with ``bad="stop"``; no row left; or
            options that do not fit.
        ValueError: rated texts, of which pairs have not been made.
    """
    task = records.task
    if records.pairing is not None:
        raise ValueError("of rated texts pairs are encoded: split_records makes them, and Records.paired")

    if loss_on not in get_args(LossOn):
        raise UserError(f"there is no loss on {loss_on!r}; choose one of: {', '.join(get_args(LossOn))}")
    fitting = ("auto",) if task in ALIGNED else ("auto", "all", _DEFAULTS.get(task, "auto"))
    if loss_on not in fitting:
        raise UserError(f"the task {task} has no {loss_on} to learn from; leave loss_on out")
    if not causal and (task in _DEFAULTS or task in ("kto", "rollout")):
        raise UserError(f"the task {task} needs a decoder, and this is an encoder; use classify, tag or embed")
    encoder = RecordEncoder(records, tokenizer, max_length, loss_on == "all" or task == "lm", causal, template)
    if max_length < encoder.least:
        raise UserError(f"max_length is {max_length}; give at least {encoder.least} tokens")
    skipped = Skipped(records.skipped.bad)
    ids: list[NDArray[np.uint32]] = []
    targets: list[NDArray[np.int32]] = []
    numbers: list[int] = []
    for number, (record, found) in enumerate(zip(records.rows, encoder.rows(), strict=True)):
        if isinstance(found, BadRow):
            skipped.add(record.place, str(found))
            continue
        for part_ids, part_targets in found:
            ids.append(np.asarray(part_ids, np.uint32))
            targets.append(np.asarray(part_targets, np.int32))
            numbers.append(number)
    if not ids:
        raise UserError(f"{records.name}: no row is left to learn from ({skipped})")
    joined, offsets = np.concatenate(targets), np.cumsum([0, *map(len, ids)], dtype=np.int64)
    if task == "embed":
        joined[offsets[:-1]] = np.arange(len(ids))
    return Examples(
        task,
        np.concatenate(ids),
        joined,
        offsets,
        np.array(numbers, np.int64),
        records.labels,
        max_length,
        encoder.truncated,
        skipped,
        tuple(encoder.notes),
        np.array([records.rows[n].labels == ("true",) for n in numbers if task == "kto"], np.bool_),
    )


class RecordEncoder:
    """Makes parts of records: for each a list of them (of all but whole files, one), or what is wrong. See
    :func:`encode_records`; with ``everything`` the loss is on all tokens."""

    def __init__(
        self,
        records: Records,
        tokenizer: Tokenizer,
        max_length: int,
        everything: bool,
        causal: bool,
        template: str | None = None,
    ) -> None:
        self._records, self._tokenizer, self._most = records, tokenizer, max_length
        self._everything, self._causal, self._template = everything, causal, template
        self._numbers = {label: number for number, label in enumerate(records.labels)}
        self.truncated = 0
        self.notes: list[str] = []
        self._before, self._after = list(tokenizer.prefix_ids), list(tokenizer.suffix_ids)
        if not causal and not self._before and tokenizer.bos_id is not None:
            self._before = [tokenizer.bos_id]
        self.around = len(self._before) + len(self._after)
        """How many tokens stand around the text of a class or of tags."""
        self._end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        self.least = 1 + len(self._before) + max(1, len(self._after))
        if (records.task in _DEFAULTS or (records.task in ("preference", "kto") and causal)) and not self._end:
            self.notes.append("the vocabulary has no EOS, so the model does not learn to stop")

    def rows(self) -> Iterator[list[Part] | BadRow]:
        way = {
            "lm": self._plain,
            "prompt": self._prompted,
            "chat": self._chatted,
            "classify": self._classified,
            "tag": self._tagged,
            "embed": self._paired,
            "preference": self._compared,
            "kto": self._completed,
            "rollout": self._asked,
        }[self._records.task]
        rows = self._records.rows
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            yield from way(rows[first : first + _ROWS_AT_ONCE])

    def _cut(self, ids: list[int], room: int) -> list[int]:
        self.truncated += len(ids) > room
        return ids[:room]

    def _next(self, ids: list[int], learned: Sequence[bool]) -> list[Part] | BadRow:
        """A part whose targets are the ids that follow, where they are learned."""
        targets = [i if yes else IGNORE for i, yes in zip(ids[1:], learned[1:], strict=True)]
        if all(target == IGNORE for target in targets):
            return BadRow(f"nothing is left to learn in its first {self._most:,} tokens; raise max_length")
        return [(ids, [*targets, IGNORE])]

    def _plain(self, rows: Sequence[Record]) -> Iterator[list[Part] | BadRow]:
        for text in encode_texts(self._tokenizer, [row.text for row in rows]):
            ids = [*self._before, *text, *self._end]
            if not self._records.whole_files:
                ids = self._cut(ids, self._most)
                yield self._next(ids, [True] * len(ids))
                continue
            # The first token of a part is the last of the part before it, so that each token is predicted once.
            starts = range(0, max(1, len(ids) - 1), self._most - 1)
            parts = [self._next(part := ids[s : s + self._most], [True] * len(part)) for s in starts]
            yield [one for part in parts if not isinstance(part, BadRow) for one in part] or parts[0]

    def _prompted(self, rows: Sequence[Record]) -> Iterator[list[Part] | BadRow]:
        prompts = encode_texts(self._tokenizer, [row.prompt for row in rows])
        if self._tokenizer.kind == "spm":  # which writes a text's start in a way of its own
            answers = encode_texts(self._tokenizer, [row.prompt + row.text for row in rows])
        else:
            answers = encode_texts(self._tokenizer, [row.text for row in rows])
        for prompt, answer in zip(prompts, answers, strict=True):
            if self._tokenizer.kind == "spm":
                same = next((n for n, (a, b) in enumerate(zip(prompt, answer, strict=False)) if a != b), len(prompt))
                prompt, answer = prompt[:same], answer[same:]
            room = self._most - len(self._before)
            whole = [*answer, *self._end]
            kept = min(len(prompt), max(room - len(whole), 0 if self._before else 1))
            self.truncated += len(prompt) + len(whole) > room
            ids = [*self._before, *prompt[len(prompt) - kept :], *whole[: room - kept]]
            first = len(self._before) + kept
            yield self._next(ids, [self._everything or n >= first for n in range(len(ids))])

    def _chatted(self, rows: Sequence[Record]) -> Iterator[list[Part] | BadRow]:
        for row in rows:
            chat = self._rendered(row)
            if isinstance(chat, BadRow):
                yield chat
                continue
            ids, mask = list(chat.ids), list(chat.mask)
            if ids and mask[-1] and ids[-1] not in self._tokenizer.eos_ids:
                ids, mask = [*ids, *self._end], [*mask, *(True for _ in self._end)]
            if self._records.task == "chat":
                ids = self._cut(ids, self._most)
            else:
                ids, mask = self._fit(ids, *last_turn(mask))
            yield self._next(ids, [self._everything or yes for yes in mask[: len(ids)]])

    def _compared(self, rows: Sequence[Record]) -> Iterator[list[Part] | BadRow]:
        return encode_groups(rows, self._completed if self._causal else self._read)

    def _completed(self, rows: Sequence[Record]) -> Iterator[list[Part] | BadRow]:
        return encode_completions(rows, self._prompted, self._chatted)

    def _read(self, rows: Sequence[Record]) -> Iterator[list[Part] | BadRow]:
        """Prompts and completions as an encoder reads them, with nothing to say."""
        if chat := next((row.place for row in rows if row.messages), None):
            raise UserError(f"{chat} is a chat, which this encoder has no template for; compare chats by a decoder")
        texts = ([row.prompt for row in rows], [row.prompt + row.text for row in rows])
        room = self._most - self.around
        for prompt, whole in zip(*(encode_texts(self._tokenizer, some) for some in texts), strict=True):
            self.truncated += len(whole) > room
            gone = min(max(len(whole) - room, 0), len(prompt))
            ids = [*self._before, *whole[gone : gone + room], *self._after]
            yield [(ids, [IGNORE] * len(ids))] if whole else BadRow("one of its texts has no token")

    def _asked(self, rows: Sequence[Record]) -> Iterator[list[Part] | BadRow]:
        for row in rows:
            chat = self._rendered(row, answer=True) if row.messages else None
            if isinstance(chat, BadRow):
                yield chat
                continue
            whole = [*self._before, *self._tokenizer.encode(row.prompt)] if chat is None else chat.ids
            ids, _ = self._fit(whole, len(whole), [])
            yield [(ids, [IGNORE] * len(ids))] if ids else BadRow("its prompt has no token")

    def _rendered(self, row: Record, *, answer: bool = False) -> Chat | BadRow:
        """A row's chat, or why its template refuses it; with ``answer`` up to where the assistant begins to speak."""
        tools = row.tools or None
        try:
            return render_chat(
                self._tokenizer, row.messages, tools=tools, add_generation_prompt=answer, template=self._template
            )
        except UserError as error:
            if self._template is None and self._tokenizer.chat_template is None:
                raise
            return BadRow(str(error))

    def _fit(self, ids: list[int], start: int, mask: list[bool]) -> tuple[list[int], list[bool]]:
        """Cut ids of which an answer begins at ``start`` as a prompt and its completion are: first the beginning, but
        for what stands before every text, then the answer's end."""
        self.truncated += len(ids) > self._most
        kept = len(self._before) if ids[: len(self._before)] == self._before else 0
        gone = min(max(len(ids) - self._most, 0), max(start - max(kept, 1), 0))
        return [*ids[:kept], *ids[kept + gone :]][: self._most], [*mask[:kept], *mask[kept + gone :]][: self._most]

    def _classified(self, rows: Sequence[Record]) -> Iterator[list[Part] | BadRow]:
        room = self._most - self.around
        for row, text in zip(rows, encode_texts(self._tokenizer, [row.text for row in rows]), strict=True):
            ids = [*self._before, *self._cut(text, room), *self._after]
            targets = [IGNORE] * len(ids)
            if not ids:
                yield BadRow("its text has no token")
                continue
            targets[-1 if self._causal else 0] = self._numbers[row.labels[0]]
            yield [(ids, targets)]

    def _tagged(self, rows: Sequence[Record]) -> Iterator[list[Part] | BadRow]:
        room = self._most - self.around
        for row, words in zip(rows, encode_words(self._tokenizer, (row.tokens for row in rows)), strict=True):
            ids = [i for word in words for i in word]
            # A word of nothing but characters that the tokenizer drops has no token, so no tag either.
            targets = [
                self._numbers[tag] if n == 0 else IGNORE
                for word, tag in zip(words, row.labels, strict=True)
                for n in range(len(word))
            ]
            if all(target == IGNORE for target in targets[:room]):
                yield BadRow("none of its words has a token")
                continue
            cut = [*self._before, *self._cut(ids, room), *self._after]
            before = [IGNORE] * len(self._before)
            yield [(cut, [*before, *targets[:room], *[IGNORE] * len(self._after)])]

    def _paired(self, rows: Sequence[Record]) -> Iterator[list[Part] | BadRow]:
        before = self._tokenizer.prefix_ids
        room = self._most - len(before) - len(self._after)
        found = iter(encode_texts(self._tokenizer, [text for row in rows for text in row.texts]))
        for row in rows:
            texts = list(islice(found, len(row.texts)))
            if not all(texts):
                yield BadRow("one of its texts has no token")
                continue
            parts = [[*before, *self._cut(text, room), *self._after] for text in texts]
            yield [(ids, [0, *[IGNORE] * (len(ids) - 1)]) for ids in parts]
