"""GGUF files: a model, its tokenizer and its chat template in one file, as llama.cpp writes and reads them.

:class:`GGUFFile` opens one without touching the weights; they are read where they lie, block by block, when asked for.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scratchlm.checkpoints.dequantise import dequantise
from scratchlm.checkpoints.gguf_config import family_of, read_gguf_config
from scratchlm.checkpoints.gguf_container import Container, TensorInfo, read_container
from scratchlm.checkpoints.gguf_names import Source, known_extras, source_of
from scratchlm.checkpoints.weights import model_tensors
from scratchlm.errors import UserError
from scratchlm.models import Decoder, Encoder, ModelConfig, Seq2Seq, empty_model


class Raw(NamedTuple):
    """A tensor as it lies in the file.

    ``blocks`` (rows, bytes of a row) uint8 is a view of the mapped file; what is written to it does not reach the disk.
    """

    type: str
    shape: tuple[int, ...]
    blocks: NDArray[np.uint8]


class Piece(NamedTuple):
    """Some rows of one of our tensors, as they lie in the file.

    Row r of the piece is ``blocks[order[r]]`` (``blocks[r]`` where ``order`` is None). A vector counts as one column.
    """

    name: str
    """What the file calls it."""
    type: str
    shape: tuple[int, int]
    blocks: NDArray[np.uint8]
    order: NDArray[np.int64] | None

    def ordered(self) -> NDArray[np.uint8]:
        """(rows, bytes of a row) in our order; a copy only where there is an order."""
        return self.blocks if self.order is None else self.blocks[self.order]


class GGUFFile:
    """One GGUF file, opened and checked.

    Raises:
        UserError: from the constructor, when the file is missing, damaged, or holds types that are not read here.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._container: Container = read_container(self.path)
        self.metadata: dict[str, Any] = self._container.metadata
        """Key -> number, boolean, string, list of strings, or numpy array of numbers."""

    def names(self) -> list[str]:
        """The tensors' names, in the file's order."""
        return list(self._container.tensors)

    def info(self, name: str) -> TensorInfo:
        """A tensor's type, shape (outermost dimension first) and place.

        Raises:
            UserError: there is none of that name.
        """
        found = self._container.tensors.get(name)
        if found is None:
            raise UserError(f"{self.path} lacks the tensor {name!r}; it is no complete model, fetch it again")
        return found

    def raw(self, name: str) -> Raw:
        """A tensor's bytes, row by row.

        Raises:
            UserError: there is none of that name.
        """
        info = self.info(name)
        flat = self._container.data[info.start : info.start + info.nbytes]
        return Raw(info.type, info.shape, flat.reshape(-1, info.row_bytes))

    def dequantise(self, name: str) -> Tensor:
        """A tensor's numbers, float32, in its shape.

        Raises:
            UserError: there is none of that name.
        """
        raw = self.raw(name)
        return dequantise(raw.type, raw.blocks).view(raw.shape)

    @cached_property
    def _config(self) -> ModelConfig:
        shapes = {name: info.shape for name, info in self._container.tensors.items()}
        factors = self.dequantise("rope_freqs.weight").flatten() if "rope_freqs.weight" in shapes else None
        try:
            return read_gguf_config(self.metadata, shapes, factors)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None

    def config(self) -> ModelConfig:
        """The model's config.

        Raises:
            UserError: an architecture or feature that is not supported, or settings that contradict the tensors.
        """
        return self._config

    @cached_property
    def _sources(self) -> dict[str, tuple[Source, tuple[int, ...]]]:
        """Our tensors' names -> where each comes from, and its shape; all of them checked."""
        config, family = self.config(), family_of(self.metadata)
        # The tables of computed positions take time and have no part in this.
        brief = config if config.positions == "learned" else replace(config, context=1, sliding_window=None)
        wanted = {name: tuple(tensor.shape) for name, tensor in model_tensors(empty_model(brief)).items()}
        found: dict[str, tuple[Source, tuple[int, ...]]] = {}
        used = known_extras(self.names())
        for ours, shape in wanted.items():
            source = source_of(family, config, ours)
            if source is None:
                raise UserError(f"{self.path}: a {family.name} file has no place for {ours!r}; it cannot be read")
            shapes = [self.info(name).shape for name in source.names]
            if sum(one[0] for one in shapes) != shape[0] or any(one[1:] != shape[1:] for one in shapes):
                named = ", ".join(f"{name} {list(one)}" for name, one in zip(source.names, shapes, strict=True))
                raise UserError(f"{self.path}: {named} cannot make {ours} {list(shape)}; the file is damaged")
            if any(o is not None and o.size != s[0] for o, s in zip(source.orders, shapes, strict=True)):
                raise UserError(f"{self.path}: {source.names[0]} does not have its heads' rows; the file is damaged")
            found[ours] = source, shape
            used.update(source.names)
        extra = sorted(set(self.names()) - used)
        if extra:
            raise UserError(f"{self.path} has a tensor {extra[0]!r} that a {family.name} model lacks; not supported")
        if config.tied_embeddings:
            found["head.weight"] = found["embed.tokens.weight"]
        return found

    def our_names(self) -> list[str]:
        """The tensors that the file makes, by our names.

        Raises:
            UserError: as :meth:`pieces`.
        """
        return list(self._sources)

    def pieces(self, name: str) -> list[Piece]:
        """The row blocks that, one after the other, make our tensor ``name``, such as "blocks.0.mlp.up.weight".

        With tied embeddings "head.weight" gives the token embeddings' blocks.

        Raises:
            UserError: the file does not hold the model that its settings describe; the line names the tensor.
            ValueError: the model has no tensor of that name.
        """
        if name not in self._sources:
            raise ValueError(f"the model has no tensor {name!r}")
        source, _ = self._sources[name]
        return [self._piece(theirs, order) for theirs, order in zip(source.names, source.orders, strict=True)]

    def _piece(self, theirs: str, order: NDArray[np.int64] | None) -> Piece:
        raw = self.raw(theirs)
        if len(raw.shape) == 2:
            return Piece(theirs, raw.type, (raw.shape[0], raw.shape[1]), raw.blocks, order)
        if raw.type not in ("F32", "F16", "BF16"):
            raise UserError(f"{self.path}: the vector {theirs!r} is stored as {raw.type}; convert the model again")
        return Piece(theirs, raw.type, (raw.shape[0], 1), raw.blocks.reshape(raw.shape[0], -1), order)

    def tensor(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """Our tensor ``name``, dequantised.

        Raises:
            UserError, ValueError: as :meth:`pieces`.
        """
        pieces = self.pieces(name)
        _, shape = self._sources[name]
        out = torch.empty(shape, dtype=dtype)
        start = 0
        for piece in pieces:
            rows = out[start : start + piece.shape[0]]
            rows.copy_(dequantise(piece.type, piece.ordered()).view(rows.shape))
            start += piece.shape[0]
        return out


def load_gguf(path: str | Path, dtype: torch.dtype = torch.float32) -> Decoder | Encoder:
    """The model in a GGUF file, dequantised to ``dtype``, in evaluation mode.

    Raises:
        UserError: the file is missing, damaged, or holds something that is not supported; the line says what.
    """
    file = GGUFFile(path)
    model = empty_model(file.config())
    assert not isinstance(model, Seq2Seq)  # no family of GGUF's is one
    for name in model_tensors(model):
        place, _, last = name.rpartition(".")
        setattr(model.get_submodule(place), last, nn.Parameter(file.tensor(name, dtype)))
    if file.config().tied_embeddings:
        model.head.weight = model.embed.tokens.weight
    return model
