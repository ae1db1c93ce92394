"""Writing a model as ONNX, with the inputs and outputs by the names that ONNX's runtimes for language models know.

A decoder takes and gives its key-value cache: ``input_ids`` (B, T), ``attention_mask`` (B, P + T), ``position_ids``
(B, T) and each layer's ``past_key_values.N.key`` and ``.value`` (B, K, P, D), with P = 0 at the start; it gives
``logits`` (B, T, V) and ``present.N.key`` and ``.value`` (B, K, P + T, D). A model that gives no words, and an encoder,
take ``input_ids`` and ``attention_mask`` (B, T) and, where the model knows segments, ``token_type_ids``.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from scratchlm import kernels
from scratchlm.checkpoints.files import disk_errors, write_folder_atomically, write_text
from scratchlm.checkpoints.huggingface import CONFIG, config_text, huggingface_form
from scratchlm.errors import UserError, missing_package
from scratchlm.models import Decoder, Encoder, KVCache, Model
from scratchlm.models.config import WHOLE
from scratchlm.tokenizers import Tokenizer

MODEL = "model.onnx"
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_WITHIN_ONE_FILE = 3 * 2**29
"""Bytes of weights up to which they lie in the model's own file; protobuf ends at 2 GiB."""
_ATOL = 1e-3
"""By how much a written model may differ from ours, in the unit of its logits, before the writing counts as failed."""


class _Passed:
    """In the place of a :class:`KVCache`: takes what was before as tensors, and holds what is to be given out."""

    length = 0  # positions and masks are told, so that nothing is counted from here

    def __init__(self, past: Sequence[Tensor]) -> None:
        self.past, self.present = past, list[Tensor]()

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.past:
            keys = torch.cat((self.past[2 * layer], keys), dim=2)
            values = torch.cat((self.past[2 * layer + 1], values), dim=2)
            self.present += [keys, values]
        return keys, values

    def advance(self, tokens: int) -> None:
        pass


class _Writing(nn.Module):
    """A decoder that continues text: with its cache as inputs and outputs."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor, positions: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        passed = _Passed(past)
        passed.length = past[0].shape[2]
        logits = self.model(ids, positions=positions, documents=mask - 1, cache=cast(KVCache, passed))
        return logits, *passed.present


class _Reading(nn.Module):
    """A model that reads whole texts: gives states, labels, rewards or the vocabulary at each token."""

    def __init__(self, model: Decoder | Encoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> tuple[Tensor, ...]:
        places = torch.arange(ids.shape[1], device=ids.device)
        passed = cast(KVCache, _Passed(()))
        states = self.model.hidden(ids, positions=places, documents=mask - 1, types=types, cache=passed)
        if self.model.config.head == "none":
            return (states,) if self.model.pooler is None else (states, self.model.pooled(states))
        if self.model.config.head in WHOLE:
            at = torch.zeros_like(mask[:, 0]) if not self.model.causal else (mask * places).argmax(1)
            states = states.gather(1, at[:, None, None].expand(-1, 1, states.shape[-1])).squeeze(1)
        return (self.model.logits(states),)


def write_onnx(model: Model, tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write ``model.onnx`` (fp32), the tokenizer's files and, where Hugging Face has such a model, config.json into a
    new folder, which appears whole or not at all. Batch and length are free. What was written is run by onnxruntime on
    two shapes and compared with ours before it appears.

    Raises:
        UserError: a package is missing, the model has a part that cannot be written, or the disk refuses.
        RuntimeError: what was written gives other numbers than ours.
    """
    folder = Path(folder)
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise missing_package("ONNX files need", package, "onnx")
    _check(model)
    assert isinstance(model, Decoder | Encoder)
    was_training = model.training
    model.eval()

    def write(partial: Path) -> None:
        partial.mkdir(parents=True, exist_ok=True)
        tokenizer.save(partial)
        with contextlib.suppress(UserError):  # a model of our own kind, which nobody else's config.json describes
            write_text(partial / CONFIG, config_text(huggingface_form(model)[0], tokenizer))
        _trace(model, partial / MODEL)
        _compare(model, partial / MODEL)

    try:
        with disk_errors(f"the model in {folder}", "choose a folder that you may write to, or free some space"):
            write_folder_atomically(folder, write)
    finally:
        model.train(was_training)


def _check(model: Model) -> None:
    config = model.config
    if config.architecture == "seq2seq":
        raise UserError("an encoder-decoder cannot be written as ONNX yet; export a decoder or an encoder")
    if config.sliding_window is not None and config.sliding_window < config.context:
        raise UserError(
            f"sliding_window {config.sliding_window} is shorter than the context, which cannot be written as ONNX yet; "
            "export it with --to huggingface or --to gguf"
        )


def _given(model: Decoder | Encoder, rows: int, tokens: int, before: int) -> tuple[list[str], tuple[Any, ...]]:
    """Inputs by name, and an example of each: random tokens, the first row padded where that may be."""
    config, draw = model.config, torch.Generator().manual_seed(rows)
    ids = torch.randint(config.vocab_size, (rows, tokens), generator=draw)
    if not _writes(model):
        before = 0  # which reads whole texts
    mask = torch.ones(rows, before + tokens, dtype=torch.int64)
    if _writes(model):
        mask[0, : before // 2] = 0
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, before:]
        shape = (rows, config.key_value_heads, before, config.head_size)
        past = [torch.randn(shape, generator=draw) for _ in range(2 * config.layers)]
        held = [f"past_key_values.{layer}.{part}" for layer in range(config.layers) for part in ("key", "value")]
        return ["input_ids", "attention_mask", "position_ids", *held], (ids, mask, positions, past)
    mask[0, tokens - tokens // 3 :] = 0
    if config.token_types:
        return ["input_ids", "attention_mask", "token_type_ids"], (ids, mask, torch.zeros_like(ids))
    return ["input_ids", "attention_mask"], (ids, mask)


def _writes(model: Decoder | Encoder) -> bool:
    return isinstance(model, Decoder) and model.config.head == "linear"


def _outputs(model: Decoder | Encoder) -> list[str]:
    if _writes(model):
        layers = range(model.config.layers)
        return ["logits", *(f"present.{layer}.{part}" for layer in layers for part in ("key", "value"))]
    if model.config.head != "none":
        return ["logits"]
    return ["last_hidden_state"] if model.pooler is None else ["last_hidden_state", "pooler_output"]


def _trace(model: Decoder | Encoder, path: Path) -> None:
    free = torch.export.Dim.DYNAMIC
    names, example = _given(model, 2, 5, 3)
    told = {0: free, 1: free}
    shapes: tuple[Any, ...]
    if _writes(model):
        wrapped: nn.Module = _Writing(cast(Decoder, model))
        shapes = (told, told, told, [{0: free, 2: free}] * len(example[3]))
    else:
        wrapped = _Reading(model)
        shapes = (told,) * len(example)
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    with kernels.disabled(), torch.no_grad(), _quiet():
        torch.onnx.export(
            wrapped,
            example,
            str(path),
            input_names=names,
            output_names=_outputs(model),
            dynamic_shapes=shapes,
            external_data=size > _WITHIN_ONE_FILE,
            dynamo=True,
            verbose=False,
        )


def _compare(model: Decoder | Encoder, path: Path) -> None:
    """Run the file on shapes that it was not traced with.

    Raises:
        RuntimeError: its numbers are not ours.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wrapped = _Writing(cast(Decoder, model)) if _writes(model) else _Reading(model)
    longest = min(model.config.context, 16)
    for rows, tokens, before in ((1, longest, 0), (3, 1, longest - 1)):
        names, example = _given(model, rows, tokens, before)
        flat = [*example[:3], *example[3]] if _writes(model) else example
        with torch.no_grad():
            ours = wrapped(*example)
        theirs = session.run(None, {name: value.numpy() for name, value in zip(names, flat, strict=True)})
        for name, mine, other in zip(_outputs(model), ours, theirs, strict=True):
            apart = float((mine - torch.from_numpy(other)).abs().max())
            if not apart <= _ATOL:
                raise RuntimeError(f"the ONNX file's {name} differs from ours by {apart:.2g}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells programmers of its steps on both streams; who exports a model wants to hear of the result."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
