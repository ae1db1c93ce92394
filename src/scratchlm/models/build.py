"""The three architectures: decoder, encoder, encoder-decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from scratchlm.data.batch import Batch
from scratchlm.errors import UserError
from scratchlm.models.attention import Attention, textbook
from scratchlm.models.block import Stack, initialise
from scratchlm.models.cache import KVCache
from scratchlm.models.config import TAUGHT, WHOLE, Head, ModelConfig
from scratchlm.models.heads import HeadTransform, build_head
from scratchlm.models.sublayer import project_in


class _SingleStack(Stack):
    """What a decoder and an encoder share: one stack and a projection to the vocabulary, to labels or to a reward."""

    head: Any
    """nn.Linear, or what has taken its place (an adapter); None with ``head="none"``."""

    def __init__(self, config: ModelConfig, *, causal: bool) -> None:
        super().__init__(config, causal=causal)
        self.head = build_head(config)
        if config.tied_embeddings:
            self.head.weight = self.embed.tokens.weight
        self.head_transform = HeadTransform(config) if config.head == "mlm" else None
        self.pooler = nn.Linear(config.width, config.width) if config.pooler else None
        initialise(self, config)

    def forward(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        types: Tensor | None = None,
        cache: KVCache | None = None,
        opened: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V) for token ids (B, T); see :meth:`Stack.hidden` for the rest. A model with labels gives
        theirs at each token, one with a reward (B, T, 1); a whole text's are at an encoder's first token, at a
        decoder's last.

        Raises:
            ValueError: the model has no head; its states are at :meth:`hidden`.
        """
        if self.config.head != "linear":
            told = {"positions": positions, "documents": documents, "types": types, "opened": opened}
            return self.logits(self.hidden(ids, **told, cache=cache))
        return project_in(self.stream(ids, positions, documents, types, cache, opened=opened), self.norm, self.head)[0]

    def logits(self, states: Tensor) -> Tensor:
        """From the states that :meth:`hidden` gives, any of them, to the vocabulary or labels. (..., C) -> (..., V).

        A class, or a reward, is told from the state of one token of its text, an encoder's through the pooler (Devlin
        et al. 2019, section 4.1), where there is one; in training dropout comes before the labels' projection.

        Raises:
            ValueError: the model has no head.
        """
        if self.head is None:
            raise ValueError("this model has no head and gives no logits; use hidden()")
        if self.head_transform is not None:
            states = self.head_transform(states)
        if self.config.head in WHOLE and self.pooler is not None:
            states = torch.tanh(self.pooler(states))
        if self.config.head == "tag" or (self.config.head in WHOLE and not self.causal):
            states = F.dropout(states, self.config.dropout, self.training)
        logits: Tensor = self.head(states)
        return logits

    def pooled(self, states: Tensor) -> Tensor:
        """The pooler's reading of the first token's state. (B, T, C) -> (B, C).

        Raises:
            ValueError: the model has no pooler.
        """
        if self.pooler is None:
            raise ValueError("this model has no pooler")
        return torch.tanh(self.pooler(states[:, 0]))

    def forward_batch(self, batch: Batch) -> Tensor:
        """Logits (B, T, V) for a batch, as :meth:`forward`'s."""
        logits: Tensor = self(batch.ids, **batch.places)
        return logits

    def attention_maps(self, ids: Tensor, *, documents: Tensor | None = None) -> list[Tensor]:
        """Each layer's attention weights, (B, H, T, T): who looks at whom. Taken from the textbook path."""
        with textbook(self), torch.no_grad():
            self.hidden(ids, documents=documents)
            return _recorded(self, cross=False)

    def streams(self, ids: Tensor) -> list[Tensor]:
        """What goes up from layer to layer, before the final norm: the embeddings, then each block's result, L + 1 of
        (B, T, C) for token ids (B, T)."""
        found: list[Tensor] = []

        def keep(_module: nn.Module, _given: Any, result: Tensor) -> None:
            found.append(result)

        kept = [module.register_forward_hook(keep) for module in (self.embed, *self.blocks)]
        try:
            with torch.no_grad():
                self.stream(ids)
        finally:
            for one in kept:
                one.remove()
        return found

    def lens(self, stream: Tensor) -> Tensor:
        """What the head makes of one of :meth:`streams`, as if it were the last: the logit lens (nostalgebraist 2020).
        (..., C) -> (..., V); of the last stream these are the model's own logits.

        Raises:
            ValueError: the model has no head.
        """
        with torch.no_grad():
            return self.logits(stream if self.norm is None else self.norm(stream))


class Decoder(_SingleStack):
    """A decoder-only model (Radford et al. 2018): each token sees itself and those before it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, causal=True)


class Encoder(_SingleStack):
    """An encoder-only model (Devlin et al. 2019): each token sees the whole sequence; the head is the MLM head, or one
    for labels."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, causal=False)


class Seq2Seq(nn.Module):
    """The original Transformer (Vaswani et al. 2017, figure 1): an encoder, and a decoder that also looks at it.

    With tied embeddings the encoder's, the decoder's and the output projection's matrices are one (section 3.4).
    """

    head: Any

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Stack(config, causal=False)
        self.decoder = Stack(config, causal=True, cross=True)
        self.head = build_head(config)
        if config.tied_embeddings:
            self.decoder.embed.tokens.weight = self.encoder.embed.tokens.weight
            self.head.weight = self.encoder.embed.tokens.weight
        initialise(self, config)

    def encode(self, source_ids: Tensor, *, source_documents: Tensor | None = None) -> Tensor:
        """The encoder's states (B, S, C) for source ids (B, S)."""
        return self.encoder.hidden(source_ids, documents=source_documents)

    def forward(
        self,
        ids: Tensor,
        *,
        source_ids: Tensor | None = None,
        source_documents: Tensor | None = None,
        memory: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of target ids (B, T), given the source (or ``memory``, its states from :meth:`encode`)."""
        if memory is None:
            if source_ids is None:
                raise ValueError("an encoder-decoder needs source_ids, or memory from encode()")
            memory = self.encode(source_ids, source_documents=source_documents)
        return self.logits(self.decoder.hidden(ids, cache=cache, memory=memory, memory_documents=source_documents))

    def logits(self, states: Tensor) -> Tensor:
        """From the decoder's states to the vocabulary. (..., C) -> (..., V)."""
        logits: Tensor = self.head(states)
        return logits

    def forward_batch(self, batch: Batch) -> Tensor:
        """Logits (B, T, V) for a batch with ``source_ids``."""
        logits: Tensor = self(batch.ids, source_ids=batch.source_ids, source_documents=batch.source_documents)
        return logits

    def attention_maps(self, ids: Tensor, *, source_ids: Tensor) -> list[Tensor]:
        """Each layer's cross-attention weights, (B, H, T, S): where each target token looks in the source."""
        with textbook(self), torch.no_grad():
            self(ids, source_ids=source_ids)
            return _recorded(self.decoder, cross=True)


Model = Decoder | Encoder | Seq2Seq


def build_model(config: ModelConfig) -> Model:
    """A freshly initialised model of the config's architecture, in training mode."""
    classes: dict[str, type[Decoder] | type[Encoder] | type[Seq2Seq]]
    classes = {"decoder": Decoder, "encoder": Encoder, "seq2seq": Seq2Seq}
    return classes[config.architecture](config)


class _Unset(TorchFunctionMode):
    """Within it parameters are made on the "meta" device and left as they are; what is computed is computed.

    ``torch.device("meta")`` alone would do, but initialising and computing there loads PyTorch's compiler, for seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if func in (torch.empty, torch.ones, torch.zeros):
            kwargs = kwargs | {"device": "meta"}
        return func(*args, **kwargs)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a block; then the mode that the model was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def empty_model(config: ModelConfig) -> Model:
    """A model in evaluation mode whose weights are yet to be set, and take no memory until then.

    They lie on PyTorch's "meta" device: shapes without numbers. Set each by assignment, not by copying into it; tied
    ones are one parameter. The tables of positions are in place, on the default device.
    """
    with _Unset():
        return build_model(config).eval()


def with_head(model: nn.Module, head: Head, labels: Sequence[str] = (), seed: int = 0) -> Decoder | Encoder:
    """A model with another head on the same trunk: its modules are shared, not copied. The new head is drawn by
    ``seed``, with a standard deviation of ``init_std`` or 0.02 and biases of zero, whatever has been drawn before.

    An encoder's heads ``classify`` and ``reward`` have a pooler before them: the model's own, or a new one. As in
    ``transformers``, a decoder's have no bias.

    Args:
        model: a decoder or an encoder.
        head: "classify" or "tag", with ``labels``; "reward"; or "none".

    Raises:
        UserError: labels that a config refuses, or an encoder-decoder.
        ValueError: another head.
    """
    config: ModelConfig = model.config  # type: ignore[assignment]
    if not isinstance(model, _SingleStack):
        raise UserError(f"head {head!r} is for decoders and encoders; this model is of the kind {config.architecture}")
    if head not in (*TAUGHT, "none"):
        raise ValueError(
            f"the head {head!r} is a part of its trunk's training; only labels' heads and rewards' come later"
        )
    encodes = config.architecture == "encoder"
    changed = replace(
        config,
        head=head,
        labels=tuple(labels),
        head_bias=head == "tag" or (head in WHOLE and encodes),
        pooler=head in WHOLE and encodes,
        tied_embeddings=False,
    )
    with _Unset():
        built = build_model(changed)
    assert isinstance(built, Decoder | Encoder)
    weight = model.embed.tokens.weight
    generator = torch.Generator().manual_seed(seed)
    if changed.pooler:
        built.pooler = model.pooler if model.pooler is not None else _drawn(built.pooler, config, generator, weight)
    if built.head is not None:
        built.head = _drawn(built.head, config, generator, weight)
    for name, module in model.named_children():
        if name not in ("head", "head_transform", "pooler"):
            setattr(built, name, module)
    return built.train(model.training)


def _drawn(empty: Any, config: ModelConfig, generator: torch.Generator, like: Tensor) -> nn.Linear:
    """``empty``, a linear layer without numbers, with new ones, on the device and of the type of ``like``."""
    linear: nn.Linear = empty.to_empty(device="cpu")
    with torch.no_grad():
        linear.weight.normal_(0.0, config.init_std or 0.02, generator=generator)
        if linear.bias is not None:
            linear.bias.zero_()
    return linear.to(like.device, like.dtype if like.is_floating_point() else torch.float32)


def _recorded(model: nn.Module, *, cross: bool) -> list[Tensor]:
    """The weights that each layer's textbook pass has just recorded."""
    layers = [module for module in model.modules() if isinstance(module, Attention) and module.cross == cross]
    return [layer.weights for layer in layers if layer.weights is not None]
