"""What is to be tuned on what, and the rows of it: read, held out, encoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scratchlm.adapters.run import TUNING
from scratchlm.checkpoints import RunFolder
from scratchlm.checkpoints.datasets import data_file
from scratchlm.data import Examples, Records, Splits, encode_records, join_validation, read_records, split_records
from scratchlm.data.rated_pairs import Pairing
from scratchlm.data.records import Bad
from scratchlm.errors import UserError
from scratchlm.training.config import TrainConfig
from scratchlm.training.contrast import lower_texts
from scratchlm.training.progress import Reporter
from scratchlm.training.starting import Start
from scratchlm.training.tuning_config import Method, TuningConfig

SHOWN = 600
"""Characters of the example that is shown before training."""
MAX_LENGTH = 1024


@dataclass(frozen=True)
class Question:
    """What is to be tuned on what: the arguments of :func:`finetune`, as they were given."""

    model: str
    data: str
    task: str | None = None
    method: Method = "lora"
    validation: str | None = None
    """A share below 1, a number of rows, or a file; None for the setting ``validation_fraction``."""
    columns: Mapping[str, str] | None = None
    bad: Bad = "stop"
    split: str = "train"

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "columns": dict(self.columns or {})}


def read_splits(question: Question, config: TrainConfig, pairing: Pairing | None = None) -> Splits:
    """The rows to train on, and those held out; ``pairing`` says how pairs are made of rated texts.

    Raises:
        UserError: they cannot be read, or too few are left.
    """
    rows = _read(question, question.data, pairing)
    text = str(config.validation_fraction) if question.validation is None else question.validation
    try:
        share = float(text)
    except ValueError:
        return join_validation(rows, _read(question, text, pairing, rows))
    return split_records(rows, share, seed=config.seed)


def held_out_rows(run: RunFolder) -> Records | None:
    """The rows that a run has held out, read again; None where there are none.

    Raises:
        UserError: they cannot be read.
    """
    known, settings = run.description()[TUNING], run.settings()
    asked = {field.name: known.get(field.name, field.default) for field in dataclasses.fields(Question)}
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    config = TrainConfig(**{name: value for name, value in settings.items() if name in fields})
    return read_splits(Question(**asked), config).validation


def encode_splits(
    splits: Splits, start: Start, tuning: TuningConfig, causal: bool, reporter: Reporter
) -> tuple[Examples, Examples | None]:
    """Both parts as token ids; says what the model will see, and shows one example.

    Raises:
        UserError: a row cannot be encoded, or nothing is left to learn.
    """
    longest = start.longest
    most = tuning.max_length or min(longest, MAX_LENGTH)
    if most > longest:
        raise UserError(f"max_length is {most}, and the model reads {longest} tokens; lower max_length")
    lower = start.pooling is not None and start.pooling.lower_case
    train, *others = (
        encode_records(
            lower_texts(part) if lower else part,
            start.tokenizer,
            max_length=most,
            loss_on=tuning.loss_on,
            causal=causal,
        )
        for part in (splits.train, splits.validation)
        if part is not None
    )
    reporter.note(train.description())
    reporter.note(train.histogram())
    shown = train.show(start.tokenizer)
    reporter.note(f"the first example: {shown[:SHOWN]}{' ...' if len(shown) > SHOWN else ''}")
    return train, others[0] if others else None


def _read(question: Question, source: str, pairing: Pairing | None, train: Records | None = None) -> Records:
    task: Any = question.task
    columns = question.columns if train is None else train.columns
    named = data_file(source)
    return read_records(
        source if named is None else named,
        task=task,
        columns=columns,
        bad=question.bad,
        split=question.split,
        pairing=pairing,
    )
