"""Vectors of texts: a model's states at each token, made one vector as the checkpoint says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scratchlm.checkpoints.catalogue import Located
from scratchlm.checkpoints.pooling import PoolingSettings, read_pooling
from scratchlm.errors import UserError
from scratchlm.generation.states import StatePrecision, StateReader
from scratchlm.models import Model, Seq2Seq
from scratchlm.models.config import TAUGHT
from scratchlm.opening import Opened, open_model
from scratchlm.tokenizers import Tokenizer
from scratchlm.training.distributed import choose_device

EmbedPrecision = Literal["auto", "fp32", "int8"]
Progress = Callable[[int], None]
"""Hears how many texts are done."""

LOOK_AHEAD = 4096
"""Texts that are read ahead to find others of their length, and the number of vectors that come at once."""
MOST_TOKENS, MOST_CHARACTERS = 1 << 20, 16 << 20
"""Of the texts that are held at a time; with these no more are read ahead."""
_TOKEN_CHARACTERS, _MARGIN = 8, 128


@dataclass(frozen=True)
class Embeddings:
    """Vectors of texts, in the texts' order."""

    vectors: NDArray[np.float32]
    """(n, C)."""
    truncated: int
    """How many of the texts were longer than the model reads, so that their ends count for nothing."""


@dataclass(frozen=True)
class _Read:
    """A text's tokens, as the model reads them."""

    number: int
    """The text's place, from 1."""
    ids: list[int]
    truncated: bool


class Embedder:
    """Makes vectors of texts.

    Encoders are meant for it. A decoder's vector is the mean over its tokens, of which the last ones alone have seen
    the whole text: it works, and worse than a model that was trained for it.

    On the CPU texts of different lengths are computed together without padding, in native code. Where that is not to
    be had, PyTorch computes them in batches of similar lengths. A text's vector does not depend on what other texts it
    is computed with (PyTorch's differ in the last digit).

    Args:
        model: put in evaluation mode. Later changes to its weights in place count, but not with "int8".
        tokenizer: the model's.
        pooling: how the tokens' states become a vector, and of how many tokens.
        precision: "fp32"; "int8", which is faster on the CPU and moves vectors a little (MiniLM's cosine to fp32 stays
            above 0.995); or "auto", which is "fp32": vectors that are kept should not depend on the machine.
        name: of the model, for messages.

    Raises:
        UserError: an encoder-decoder, an unknown precision, "int8" on a GPU, weights that are no numbers, or a model
            that reads too few tokens to read any of a text.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        pooling: PoolingSettings | None = None,
        *,
        precision: EmbedPrecision = "auto",
        name: str = "the model",
    ) -> None:
        if isinstance(model, Seq2Seq):
            raise UserError(f"{name} is an encoder-decoder, which gives no vectors; use an encoder or a decoder")
        if model.config.head in TAUGHT:
            gives = "rewards" if model.config.head == "reward" else "labels"
            raise UserError(f"{name} gives {gives}, no vectors; use: scratchlm predict {name} --text TEXT")
        if precision not in get_args(EmbedPrecision):
            raise UserError(f"there is no precision {precision!r} for vectors; choose auto, fp32 or int8")
        self.tokenizer, self.pooling, self.name = tokenizer, pooling or PoolingSettings(), name
        self.precision: StatePrecision = "int8" if precision == "int8" else "fp32"
        _check_weights(model, name)
        longest = self.pooling.max_length or tokenizer.max_length or model.config.context
        self.max_length = min(longest, model.config.context)
        """Tokens that are read of a text, those around it included."""
        self._room = self.max_length - len(tokenizer.prefix_ids) - len(tokenizer.suffix_ids)
        if self._room < 1:
            raise UserError(f"{name} reads {self.max_length} tokens, none of them a text's; raise its max_seq_length")
        self.dimensions: int = model.config.width
        """The vectors' length, C."""
        self._model = model
        self._reader = StateReader(model, self.precision)
        self.device = self._reader.device

    @classmethod
    def open(
        cls,
        name: str | Path | Located | Opened,
        precision: EmbedPrecision = "auto",
        *,
        device: str = "auto",
    ) -> Embedder:
        """The embedder of a model by its name (see :func:`~scratchlm.checkpoints.catalogue.resolve`), pooled as
        sentence-transformers' files in its folder say.

        Raises:
            UserError: there is no such model on this machine, a file of it is damaged, or it gives no vectors.
        """
        place = choose_device(device)
        opened = name if isinstance(name, Opened) else open_model(name)
        folder = opened.located.path
        pooling = read_pooling(folder) if folder.is_dir() else PoolingSettings()
        model = opened.model.to(place)
        return cls(model, opened.tokenizer, pooling, precision=precision, name=opened.located.name)

    @cached_property
    def fingerprint(self) -> str:
        """A sha256 over everything but the precision that decides the vectors: weights, tokenizer and pooling."""
        found = sha256(f"{self.tokenizer.fingerprint} {self.pooling} {self.max_length}".encode())
        for name, weight in self._model.named_parameters():
            found.update(f"{name} {tuple(weight.shape)}".encode())
            found.update(weight.detach().float().cpu().contiguous().numpy().data)
        return found.hexdigest()

    def embed(self, texts: Iterable[str], progress: Progress | None = None) -> Embeddings:
        """The vectors of ``texts``, (n, C).

        An empty text is the tokens around it ([CLS] and [SEP]); a model that has none cannot read it.

        Raises:
            UserError: a text has unknown characters, or is empty where it must not be; the line tells its number.
        """
        parts = list(self.stream(texts, progress))
        vectors = [np.empty((0, self.dimensions), np.float32), *(part.vectors for part in parts)]
        return Embeddings(np.concatenate(vectors), sum(part.truncated for part in parts))

    def stream(self, texts: Iterable[str], progress: Progress | None = None) -> Iterator[Embeddings]:
        """The same for any number of texts: some thousand vectors at a time, in little memory.

        Raises:
            UserError: as :meth:`embed`.
            ValueError: ``texts`` is one text.
        """
        if isinstance(texts, str):
            raise ValueError("texts are a list of texts, not one; put it into a list")
        done = 0
        for block in self._blocks(texts):
            vectors = np.empty((len(block), self.dimensions), np.float32)
            for rows in self._reader.batches([len(one.ids) for one in block]):
                vectors[rows] = self._vectors([block[i] for i in rows])
                done += len(rows)
                if progress is not None:
                    progress(done)
            yield Embeddings(vectors, sum(one.truncated for one in block))

    @torch.inference_mode()
    def token_states(self, texts: Sequence[str]) -> list[tuple[list[int], Tensor]]:
        """Of each text its tokens and their states, (tokens, C), float32, on the CPU: those that its vector is made of.

        Raises:
            UserError: as :meth:`embed`.
        """
        read = [self._read(number, text) for number, text in enumerate(texts, 1)]
        found = [(one.ids, torch.empty(0)) for one in read]
        for rows in self._reader.batches([len(one.ids) for one in read]):
            for row, states in zip(rows, self._reader.read([read[i].ids for i in rows]), strict=True):
                found[row] = read[row].ids, states.cpu()
        return found

    def _blocks(self, texts: Iterable[str]) -> Iterator[list[_Read]]:
        block: list[_Read] = []
        tokens = characters = 0
        for number, text in enumerate(texts, 1):
            block.append(self._read(number, text))
            tokens += len(block[-1].ids)
            characters += len(text)
            if len(block) == LOOK_AHEAD or tokens >= MOST_TOKENS or characters >= MOST_CHARACTERS:
                yield block
                block, tokens, characters = [], 0, 0
        if block:
            yield block

    def _read(self, number: int, text: str) -> _Read:
        if self.pooling.lower_case:
            text = text.lower()
        try:
            ids = self._encode(text)
        except UserError as error:
            raise UserError(f"text {number:,}: {error}") from error
        kept = [*self.tokenizer.prefix_ids, *ids[: self._room], *self.tokenizer.suffix_ids]
        if not kept:
            raise UserError(f"text {number:,} is empty, and {self.name} puts no token of its own there; leave it out")
        return _Read(number, kept, len(ids) > self._room)

    def _encode(self, text: str) -> list[int]:
        """The text's tokens; of a long text so many that the ones to keep do not depend on where it was cut."""
        enough = self._room + _MARGIN
        if len(text) > enough * _TOKEN_CHARACTERS:
            ids = self.tokenizer.encode(text[: enough * _TOKEN_CHARACTERS])
            if len(ids) > enough:
                return ids
        return self.tokenizer.encode(text)

    @torch.inference_mode()
    def _vectors(self, batch: Sequence[_Read]) -> NDArray[np.float32]:
        """(rows, C)."""
        pooled = self.pooling.vectors(self._reader.read([one.ids for one in batch]))
        whole = torch.isfinite(pooled).all(1)
        if not bool(whole.all()):
            number = batch[int(whole.int().argmin())].number
            raise UserError(f"{self.name}: the vector of text {number:,} has no finite numbers; use another model")
        found: NDArray[np.float32] = pooled.cpu().numpy()
        return found


def _check_weights(model: Model, name: str) -> None:
    for tensor, weight in model.named_parameters():
        if not bool(torch.isfinite(weight.detach()).all()):
            raise UserError(f"{name}: {tensor} holds something that is no number; fetch the model or train it again")
