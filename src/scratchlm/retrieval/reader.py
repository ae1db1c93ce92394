"""A decoder that was taught to answer from a passage or to say that it has no answer, as a judge of passages.

After a passage and a question it says the span that answers, or "none" (Rajpurkar et al. 2018 has such questions). Only
the first token is looked at: the log-odds that it begins an answer. ``scratchlm teach-reader`` teaches one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from scratchlm.errors import UserError
from scratchlm.generation.states import StatePrecision, StateReader
from scratchlm.models import Decoder, Model
from scratchlm.opening import open_model
from scratchlm.retrieval.calibration import READING
from scratchlm.retrieval.evidence import Judged
from scratchlm.retrieval.wording import sentence_spans
from scratchlm.tokenizers import Tokenizer

NONE = " none"
"""What is said where the passage has no answer."""
MODEL, READER = "model", "reader.json"
"""In a reader's folder: the run, and what was measured when it had been taught."""
MOST_PASSAGE = 320
"""Tokens that are read of a passage with its headings."""
_SURE = 30.0


def asked_of(headings: str, passage: str, question: str) -> str:
    """What a reader reads."""
    return f"{headings}\n{passage}\nQuestion: {question}\nAnswer:"


class Reader:
    """Judges whether passages answer a question.

    Args:
        model: a decoder that ``teach-reader`` taught, put in evaluation mode.
        tokenizer: of the model.
        precision: that it is read in on the CPU.

    Raises:
        UserError: the model gives no words.
    """

    judgement, of_passages = READING, True

    def __init__(self, model: Model, tokenizer: Tokenizer, precision: StatePrecision = "int8") -> None:
        if not isinstance(model, Decoder) or model.config.head != "linear":
            raise UserError("a reader is a decoder, such as smollm2-135m-instruct; give one")
        self._model, self._tokenizer = model, tokenizer
        self._none = tokenizer.encode(NONE)[0]
        on_cpu = model.embed.tokens.weight.device.type == "cpu"
        self._states = StateReader(model, precision if on_cpu else "fp32")

    @classmethod
    def open(cls, folder: str | Path) -> Reader:
        """The reader that :func:`~scratchlm.retrieval.teaching.recipe.teach_reader` left.

        Raises:
            UserError: the folder holds none, or it cannot be opened.
        """
        if not (Path(folder) / READER).is_file():
            raise UserError(f"{folder} is no reader; teach one with: scratchlm teach-reader MODEL --out FOLDER")
        opened = open_model(str(Path(folder) / MODEL))
        return cls(opened.model, opened.tokenizer)

    def gains(self, question: str, sentences: Sequence[Judged]) -> list[float]:
        """For each sentence the log-odds, in nats, that its passage answers.

        Raises:
            UserError: the question is too long for the model.
        """
        parts = [(one.headings, self._around(one)) for one in sentences]
        distinct = list(dict.fromkeys(parts))
        known = dict(zip(distinct, self.odds(question, distinct), strict=True))
        return [known[part] for part in parts]

    @torch.inference_mode()
    def odds(self, question: str, passages: Sequence[tuple[str, str]]) -> list[float]:
        """The log-odds, in nats, that passages below their headings answer a question.

        Raises:
            UserError: the question is too long for the model.
        """
        rows = [self._tokenizer.encode(asked_of(*part, question)) for part in passages]
        longest, most = max(map(len, rows), default=0), self._model.config.context
        if longest > most:
            raise UserError(
                f"the question and a passage have {longest:,} tokens; the model reads {most:,}; ask shorter"
            )
        found = [0.0] * len(rows)
        for some in self._states.batches([len(row) for row in rows]):
            for i, states in zip(some, self._states.read([rows[i] for i in some]), strict=True):
                none = float(self._model.logits(states[-1:]).float().log_softmax(-1)[0, self._none])
                yes = math.log(max(-math.expm1(min(none, 0.0)), math.exp(-_SURE)))
                found[i] = max(-_SURE, min(_SURE, yes - none))
        return found

    def _around(self, one: Judged) -> str:
        """The passage, or as many of its sentences around the judged one as are read."""
        room = MOST_PASSAGE - len(self._tokenizer.encode(one.headings))
        if len(self._tokenizer.encode(one.passage)) <= room:
            return one.passage
        spans = sentence_spans(one.passage)
        at = one.passage.find(one.sentence)
        middle = next((n for n, (_, end) in enumerate(spans) if end > at), 0)
        first, last = middle, middle + 1
        sizes = [len(self._tokenizer.encode(one.passage[start:end])) + 1 for start, end in spans]
        left = room - sizes[middle]
        while left > 0 and (first > 0 or last < len(spans)):
            before = first > 0 and (middle - first <= last - 1 - middle or last == len(spans))
            n = first - 1 if before else last
            left -= sizes[n]
            if left >= 0:
                first, last = (n, last) if before else (first, n + 1)
        return one.passage[spans[first][0] : spans[last - 1][1]]
