"""What texts are told to be: the class of each, its reward, or the tags of its words and the entities they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scratchlm.data.batch import IGNORE
from scratchlm.data.examples import Part, RecordEncoder, encode_words
from scratchlm.data.judged import encode_judged
from scratchlm.data.record_rows import BadRow, Record
from scratchlm.data.records import Records
from scratchlm.data.tags import WordStyle, entities, has_entities, word_places
from scratchlm.errors import UserError
from scratchlm.generation.states import StateReader
from scratchlm.models import Decoder, Encoder, Model, Seq2Seq
from scratchlm.models.config import TAUGHT
from scratchlm.tokenizers import Tokenizer

LOOK_AHEAD, MOST_CHARACTERS = 1024, 1 << 20
"""Texts, and characters of them, that are read ahead to find others of their length."""
Ids = Sequence[int] | NDArray[Any]
_OVERLAP = 4
"""Two windows on a long text share one in so many tokens."""


@dataclass(frozen=True)
class ClassPrediction:
    """The class of a text."""

    text: str
    label: str | None
    """The likeliest; None for a text that has no token."""
    probability: float | None
    probabilities: dict[str, float]
    """Of all labels, in the model's order; they add up to 1."""
    truncated: bool
    """Whether the text is longer than the model reads, so that its end counts for nothing."""

    @property
    def silent(self) -> bool:
        """Whether there is no token to tell from."""
        return self.label is None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Span:
    """A piece of a text, ``text[start:end]``, with its label."""

    label: str
    start: int
    end: int
    text: str
    probability: float
    """Of its word's tag; of an entity, the mean of its words'."""


@dataclass(frozen=True)
class TagPrediction:
    """The tags of a text's words."""

    text: str
    words: tuple[Span, ...]
    """Each with its tag, in order; without those that have no token."""
    entities: tuple[Span, ...]
    """What the tags tell of; none where the model's tags are each of one word, without B- and I-."""

    @property
    def silent(self) -> bool:
        """Whether there is no token to tell from."""
        return not self.words

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class RewardPrediction:
    """How good a text is."""

    text: str
    reward: float | None
    """A number that has a meaning beside those of other texts only; None for a text that has no token."""
    truncated: bool
    """Whether the text is longer than the model reads, so that its end counts for nothing."""

    @property
    def silent(self) -> bool:
        """Whether there is no token to tell from."""
        return self.reward is None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


Prediction = ClassPrediction | TagPrediction | RewardPrediction


def predict_texts(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    words: WordStyle = "parts",
    max_length: int | None = None,
    name: str = "the model",
) -> list[Prediction]:
    """The predictions for texts, in their order; see :class:`Predictor`.

    Raises:
        UserError: as :class:`Predictor` and its :meth:`~Predictor.stream`.
    """
    return list(Predictor(model, tokenizer, words=words, max_length=max_length, name=name).stream(texts))


def label_probabilities(
    model: Decoder | Encoder, reader: StateReader, parts: Sequence[tuple[Ids, Ids]]
) -> list[NDArray[np.float32]]:
    """For each part, ids and targets as :mod:`scratchlm.data.examples` makes them, the probabilities of the labels
    (n, labels) at its n tokens that have a target, whatever it is."""
    places = [np.flatnonzero(np.asarray(targets) != IGNORE) for _, targets in parts]
    found = head_outputs(model, reader, [ids for ids, _ in parts], places)
    return [one.softmax(-1).numpy() for one in found]


def head_outputs(
    model: Decoder | Encoder, reader: StateReader, sequences: Sequence[Ids], places: Sequence[NDArray[np.int64]]
) -> list[Tensor]:
    """What the head gives at some tokens of each sequence: (n, outputs), float32, for the n ``places`` of each."""
    found: list[Tensor] = [torch.empty(0)] * len(sequences)
    for rows in reader.batches([len(ids) for ids in sequences]):
        with torch.inference_mode():
            states = reader.read([[int(one) for one in sequences[i]] for i in rows])
            chosen = torch.cat([one[torch.from_numpy(places[i])] for one, i in zip(states, rows, strict=True)])
            outputs = model.logits(chosen.to(model.embed.tokens.weight.dtype)).float().cpu()
        for i, output in zip(rows, torch.split(outputs, [len(places[i]) for i in rows]), strict=True):
            found[i] = output
    return found


class Predictor:
    """Tells the labels of texts, or their rewards.

    Texts are encoded as the rows of a training are, and computed together with others of their length. Of a text that
    is longer than ``max_length`` a class is told from the beginning; tags are told in windows that overlap, each word's
    from the one in which it is farther from the edge (a decoder's from the first, since it looks back alone).

    Args:
        model: put in evaluation mode.
        words: how texts are taken apart for tags; see :func:`~scratchlm.data.tags.word_style`.
        max_length: tokens that are read at a time; None for as many as the model and its tokenizer take.
        name: of the model, for messages.

    Raises:
        UserError: the model has no labels and no reward, or too short a ``max_length``.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        *,
        words: WordStyle = "parts",
        max_length: int | None = None,
        name: str = "the model",
    ) -> None:
        if isinstance(model, Seq2Seq) or model.config.head not in TAUGHT:
            raise UserError(
                f"{name} has no classes or tags to tell; teach it some with: scratchlm finetune {name} --data FILE "
                "--task classify --out RUN"
            )
        self.model, self.tokenizer = model, tokenizer
        self.labels = model.config.labels
        self.task = model.config.head
        self.spans = self.task == "tag" and has_entities(self.labels)
        """Whether the tags tell entities."""
        most = model.config.context
        self.max_length = min(most, tokenizer.max_length or most) if max_length is None else max_length
        least = self._encoder([]).least
        if not least <= self.max_length <= most:
            raise UserError(f"max_length is {self.max_length:,}; {name} can read from {least} to {most:,} tokens")
        self._words: WordStyle = words
        self._reader = StateReader(model)

    def stream(self, texts: Iterable[str], progress: Callable[[int], None] | None = None) -> Iterator[Prediction]:
        """The predictions for any number of texts, in their order and in little memory.

        Args:
            progress: hears how many texts are done.

        Raises:
            UserError: a text is not UTF-8, or not in the vocabulary where that matters; the line tells its number.
            ValueError: ``texts`` is one text.
        """
        if isinstance(texts, str):
            raise ValueError("texts are a list of texts, not one; put it into a list")
        done = 0
        for block in _blocks(texts):
            try:
                found = self._told_of(block)
            except UserError as error:
                raise self._told(error, block, done) from error
            done += len(block)
            if progress is not None:
                progress(done)
            yield from found

    def rewards(self, rows: Sequence[Record]) -> list[RewardPrediction]:
        """The rewards of completions; see :func:`~scratchlm.data.judged.encode_judged`.

        Raises:
            UserError, BadRow: as that does.
        """
        judged = encode_judged(rows, self.tokenizer, self.max_length, not self._causal)
        some = [n for n, one in enumerate(judged) if one.place >= 0]
        ids, places = [judged[n].ids for n in some], [np.array([judged[n].place]) for n in some]
        outputs = head_outputs(self.model, self._reader, ids, places)
        values = dict(zip(some, (float(one[0, 0]) for one in outputs), strict=True))
        return [
            RewardPrediction(row.texts[0], values.get(n), one.truncated)
            for n, (row, one) in enumerate(zip(rows, judged, strict=True))
        ]

    def _told_of(self, texts: Sequence[str]) -> Sequence[Prediction]:
        if self.task == "reward":
            return self.rewards([Record(texts=(text,)) for text in texts])
        return self._tagged(texts) if self.task == "tag" else self._classified(texts)

    @property
    def _causal(self) -> bool:
        return self.model.config.architecture == "decoder"

    def _encoder(self, rows: Sequence[Record]) -> RecordEncoder:
        """Of rows that have a label, any, since one is told at the places where a row's would be."""
        task: Any = "classify" if self.task == "reward" else self.task
        records = Records("", "", task, "", {}, rows, self.labels)
        return RecordEncoder(records, self.tokenizer, self.max_length, False, self._causal)

    def _told(self, error: UserError, block: Sequence[str], before: int) -> UserError:
        """The same with the text's number, found by encoding them one by one."""
        for number, text in enumerate(block, before + 1):
            try:
                self.tokenizer.encode(text)
            except UserError as found:
                return UserError(f"text {number:,}: {found}")
        return error

    def _classified(self, texts: Sequence[str]) -> list[Prediction]:
        encoder = self._encoder([Record(text=text, labels=(self.labels[0],)) for text in texts])
        parts: list[Part] = []
        places: dict[int, int] = {}
        truncated: set[int] = set()
        cut = 0
        for number, row in enumerate(encoder.rows()):
            if not isinstance(row, BadRow) and len(row[0][0]) > encoder.around:
                places[number] = len(parts)
                parts += row
            if encoder.truncated > cut:
                truncated.add(number)
            cut = encoder.truncated
        shares = label_probabilities(self.model, self._reader, parts)
        found: list[Prediction] = []
        for number, text in enumerate(texts):
            if number not in places:
                found.append(ClassPrediction(text, None, None, {}, False))
                continue
            share = shares[places[number]][0]
            best = int(share.argmax())
            by_label = dict(zip(self.labels, share.tolist(), strict=True))
            found.append(ClassPrediction(text, self.labels[best], float(share[best]), by_label, number in truncated))
        return found

    def _tagged(self, texts: Sequence[str]) -> list[Prediction]:
        places = [word_places(text, self._words) for text in texts]
        forms = [[text[a:b] for a, b in its] for text, its in zip(texts, places, strict=True)]
        lengths = [[len(ids) for ids in words] for words in encode_words(self.tokenizer, forms)]
        distinct = list(dict.fromkeys(word for words in forms for word in words))
        singly = encode_words(self.tokenizer, [[word] for word in distinct])
        alone = {word: len(ids) for word, (ids,) in zip(distinct, singly, strict=True)}
        rows: list[Record] = []
        windows: list[list[tuple[int, int]]] = []
        for number, its in enumerate(lengths):
            # A word without a token has no tag.
            kept = [n for n, length in enumerate(its) if length and alone[forms[number][n]]]
            places[number] = [places[number][n] for n in kept]
            words = [forms[number][n] for n in kept]
            windows.append(self._windows([its[n] for n in kept], [alone[word] for word in words]))
            rows += [Record(tokens=tuple(words[a:b]), labels=(self.labels[0],) * (b - a)) for a, b in windows[-1]]
        parts = [part for row in self._encoder(rows).rows() if not isinstance(row, BadRow) for part in row]
        shares = iter(label_probabilities(self.model, self._reader, parts))
        return [self._joined(text, its, mine, shares) for text, its, mine in zip(texts, places, windows, strict=True)]

    def _windows(self, lengths: Sequence[int], alone: Sequence[int]) -> list[tuple[int, int]]:
        """The windows on a text, as its words' numbers, such that the tokens of each fit. ``lengths`` are the words'
        tokens where they stand, ``alone`` those without a space before, as the first of a window has none."""
        found: list[tuple[int, int]] = []
        start = 0
        room = self.max_length - self._encoder([]).around
        while start < len(lengths):
            sums = accumulate(lengths[start + 1 : start + room], initial=alone[start])
            end = start + max(1, sum(total <= room for total in sums))
            found.append((start, end))
            if end == len(lengths):
                break
            start, shared = end, lengths[end - 1]
            while shared <= room // _OVERLAP and start - 1 > found[-1][0]:
                start -= 1
                shared += lengths[start - 1]
        return found

    def _joined(
        self,
        text: str,
        places: Sequence[tuple[int, int]],
        windows: Sequence[tuple[int, int]],
        shares: Iterator[NDArray[np.float32]],
    ) -> TagPrediction:
        """A text's prediction from its windows'."""
        words: list[Span] = []
        for number, (start, end) in enumerate(windows):
            share = next(shares)
            last = end
            if number + 1 < len(windows) and not self._causal:
                last = (windows[number + 1][0] + end + 1) // 2
            for n in range(len(words), last):
                best, (a, b) = int(share[n - start].argmax()), places[n]
                words.append(Span(self.labels[best], a, b, text[a:b], float(share[n - start, best])))
        spans = []
        for kind, first, last in entities([word.label for word in words]) if self.spans else ():
            a, b = words[first].start, words[last - 1].end
            mean = sum(word.probability for word in words[first:last]) / (last - first)
            spans.append(Span(kind, a, b, text[a:b], mean))
        return TagPrediction(text, tuple(words), tuple(spans))


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    characters = 0
    for number, text in enumerate(texts, 1):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"text {number:,} is not UTF-8 (character {error.start + 1:,}); leave it out") from error
        block.append(text)
        characters += len(text)
        if len(block) == LOOK_AHEAD or characters >= MOST_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block
