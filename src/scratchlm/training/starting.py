"""What a fine-tuning starts from: a model of any kind with the head that its task needs, or a preset made anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scratchlm.checkpoints import PoolingSettings, read_pooling
from scratchlm.data import ALIGNED, Records, Splits
from scratchlm.errors import UserError
from scratchlm.models import PRESETS, Head, Model, ModelConfig, build_model, model_preset, with_head
from scratchlm.models.config import TAUGHT
from scratchlm.opening import open_model
from scratchlm.tokenizers import Tokenizer, train_tokenizer
from scratchlm.training.config import TrainConfig
from scratchlm.training.tuning_config import Method, TuningConfig

HEADS: dict[str, Head] = {"classify": "classify", "tag": "tag", "embed": "none"}
"""Tasks whose answers are not words of the vocabulary."""
DECIDED = {"head", "labels", "pooler"}
"""Fields of a preset's config that the task decides."""
NEW_CONTEXT = 128
"""Tokens that a preset made anew sees, unless told otherwise."""


@dataclass(frozen=True)
class Start:
    """A model that is about to be tuned."""

    config: ModelConfig
    tokenizer: Tokenizer
    model: Callable[[], Model]
    """Reads, or makes, it."""
    whole: tuple[str, ...] = ()
    """Modules that start from nothing, so that an adapter of the model has to bring them."""
    folder: Path | None = None
    """Where it comes from, if that is a folder."""
    pooling: PoolingSettings | None = None
    """For the task ``embed``: how a text's states become a vector, as it will be when the model is used."""

    @property
    def longest(self) -> int:
        """Tokens of a row that the model can read; to embed, those that it will."""
        if self.pooling is None:
            return self.config.context
        return min(self.pooling.max_length or self.tokenizer.max_length or self.config.context, self.config.context)


def is_preset(name: str) -> bool:
    """Whether a name is of a model that is made anew, and of no folder here."""
    return name in PRESETS and not Path(name).exists()


def start_from(
    name: str,
    method: Method,
    splits: Splits,
    model_settings: Mapping[str, Any],
    tuning: TuningConfig,
    config: TrainConfig,
    head: Head | None,
) -> Start:
    """The model of a name, with another head than its words where one is given. New parameters are drawn by the
    config's seed.

    Raises:
        UserError: there is no such model, it cannot do the task, or the settings do not fit.
    """
    records = splits.train
    if is_preset(name):
        if method != "full":
            raise UserError(
                f"{name} is a preset, which has learned nothing yet, so all of it is trained: --method full"
            )
        return _anew(name, records, model_settings, tuning, config, head)
    if model_settings:
        raise UserError(f"{min(model_settings)} is fixed by {name}; leave it out, or tune a preset made anew")
    opened = open_model(name, weights=False)
    if opened.config.architecture == "seq2seq":
        raise UserError(
            f"{name} is an encoder-decoder, which is trained on pairs: scratchlm train transformer --data FILE"
        )
    folder = opened.located.path if opened.located.path.is_dir() else None
    pooling = None
    if records.task == "embed":
        pooling = PoolingSettings() if folder is None else read_pooling(folder)
    if head is None or (opened.config.head == head and opened.config.labels == records.labels):
        if head is None and opened.config.head in (*TAUGHT, "none"):
            aligned = records.task in ALIGNED
            cure = "align a decoder" if aligned else f"tune its base on the task {records.task}"
            raise UserError(f"{name} gives no words; {cure}")
        return Start(opened.config, opened.tokenizer, lambda: opened.model, (), folder, pooling)

    def read() -> Model:
        return with_head(opened.model, head, records.labels, config.seed)

    new = {"none": (), "tag": ("head",)}.get(head, ("head", "pooler"))
    if opened.config.pooler or opened.config.architecture == "decoder":
        new = tuple(name for name in new if name != "pooler")
    return Start(opened.config, opened.tokenizer, read, new, folder, pooling)


def _anew(
    name: str,
    records: Records,
    model_settings: Mapping[str, Any],
    tuning: TuningConfig,
    config: TrainConfig,
    head: Head | None,
) -> Start:
    """A preset, and a vocabulary made from the training rows."""
    if decided := sorted(DECIDED & set(model_settings)):
        raise UserError(f"{decided[0]} is decided by the rows and their task; leave it out")
    settings = {"context": tuning.max_length or NEW_CONTEXT} | dict(model_settings)
    probe = model_preset(name, 2, **settings)
    if probe.architecture == "seq2seq":
        raise UserError(f"{name} is trained on pairs: scratchlm train {name} --data FILE")
    encoder = probe.architecture == "encoder"
    if records.task == "chat":
        raise UserError(f"{name} has no chat template; tune a chat model such as smollm2-135m-instruct")
    specials = ("[PAD]", "[UNK]", "[MASK]", "[BOS]") if encoder else ("<|endoftext|>",)
    tokenizer = train_tokenizer(
        config.tokenizer if config.tokenizer != "char" else ("wordpiece" if encoder else "bpe"),
        _texts(records),
        vocab_size=config.tokenizer_vocab_size,
        special_tokens=specials,
        unknown="token" if encoder else config.unknown,
    )
    if head is not None:
        settings |= {"head": head, "labels": records.labels, "pooler": encoder and head in ("classify", "reward")}
    shape = model_preset(name, tokenizer.vocab_size, **settings)

    def make() -> Model:
        torch.manual_seed(config.seed)
        return build_model(shape)

    return Start(shape, tokenizer, make, pooling=PoolingSettings() if head == "none" else None)


def _texts(records: Records) -> Iterator[str]:
    for row in records.rows:
        yield " ".join(part for part in (row.prompt, row.text, *row.tokens, *row.texts) if part) + "\n"
