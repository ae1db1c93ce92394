"""The shape of a model. Everything that makes one architecture differ from another is a field here."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from scratchlm.errors import UserError
from scratchlm.ranges import check_choice

Architecture = Literal["decoder", "encoder", "seq2seq"]
Positions = Literal["learned", "sinusoidal", "rotary", "none"]
Norm = Literal["layernorm", "rmsnorm"]
NormPlacement = Literal["pre", "post"]
Activation = Literal["relu", "gelu", "gelu_tanh", "swiglu", "relu2"]
Head = Literal["linear", "mlm", "none", "classify", "tag", "reward"]
LABELLED: tuple[Head, ...] = ("classify", "tag")
"""The heads that give labels, not words."""
WHOLE: tuple[Head, ...] = ("classify", "reward")
"""The heads that tell of a whole text, at one of its tokens."""
TAUGHT: tuple[Head, ...] = (*LABELLED, "reward")
"""The heads that give no words and are put on a trunk when its words are learned."""
LARGEST_TABLE = 2**27
"""Numbers in a table of positions: half a GiB. A context that needs more is a mistake, or an attack."""


@dataclass(frozen=True)
class ModelConfig:
    """A transformer's shape.

    Raises:
        UserError: from ``__post_init__``, when fields contradict one another; the line names the field.
    """

    vocab_size: int
    architecture: Architecture = "decoder"
    context: int = 64
    """The longest sequence, in tokens. An encoder-decoder uses it for both sides."""
    width: int = 128
    """Size of the residual stream (d_model)."""
    layers: int = 4
    """Number of blocks; in an encoder-decoder, of the decoder's and of the encoder's each."""
    heads: int = 4
    kv_heads: int | None = None
    """Key/value heads for grouped-query attention (Ainslie et al. 2023); None for as many as ``heads``."""
    head_dim: int | None = None
    """Size of one head; None for ``width // heads``."""
    ffn_width: int | None = None
    """Inner size of the feed-forward layer; None for ``4 * width``."""
    positions: Positions = "learned"
    position_offset: int = 0
    """Learned positions: position p is served by row p + offset of context + offset rows (RoBERTa)."""
    rope_theta: float = 10_000.0
    rope_scaling: dict[str, Any] | None = None
    """Stretched rotary positions: ``{"type": "linear", "factor": f}``, every angle divided by f, or ``{"type":
    "llama3", "factor", "low_freq_factor", "high_freq_factor", "original_context"}``, only the slow ones."""
    sliding_window: int | None = None
    """Each token sees itself and the ``sliding_window - 1`` tokens before it; None for all before it."""
    window_from_layer: int = 0
    """Layers below this one see everything, whatever ``sliding_window`` is."""
    norm: Norm = "layernorm"
    norm_placement: NormPlacement = "pre"
    norm_eps: float = 1e-5
    qk_norm: bool = False
    """RMSNorm on each head's queries and keys before the rotation (Henry et al. 2020; Qwen3)."""
    activation: Activation = "gelu"
    qkv_bias: bool = False
    out_bias: bool = True
    """Bias on the attention's output projection."""
    ffn_bias: bool = True
    head: Head = "linear"
    """From states to the vocabulary: a ``linear`` layer; ``mlm``, BERT's, which transforms them first; or ``none``.
    From states to ``labels``: ``classify``, of a whole text, at one of its tokens; ``tag``, at each. From states to one
    number, how good a whole text is: ``reward`` (Ouyang et al. 2022, section 3.5)."""
    labels: tuple[str, ...] = ()
    """The names of the classes or tags, in the order of the logits; none with the other heads."""
    head_bias: bool = True
    """Bias on the final projection."""
    pooler: bool = False
    """An encoder's layer on the first token's state (Devlin et al. 2019, the next-sentence task's); with the heads
    ``classify`` and ``reward``, the layer before them."""
    norm_bias: bool = True
    """Bias of LayerNorm; RMSNorm has none."""
    tied_embeddings: bool = False
    embedding_scale: float = 1.0
    """Token embeddings are multiplied by this (sqrt(width) in the original Transformer, section 3.4)."""
    embedding_norm: bool = False
    """A norm right after the embeddings, as BERT has."""
    token_types: int = 0
    """Number of segment embeddings (BERT's two); 0 for none."""
    final_norm: bool = True
    """A norm after the last block; post-norm models have none."""
    dropout: float = 0.1
    """On each sub-layer's output (and on the embeddings where ``embedding_dropout``)."""
    attention_dropout: float | None = None
    """On the attention weights; None for the same as ``dropout``."""
    embedding_dropout: bool = False
    zero_residual_init: bool = False
    """Start the projections that end a residual branch at zero, so that each block begins as the identity."""
    init_std: float | None = None
    """Standard deviation of the initial weights; None keeps PyTorch's own initialisation, as the tutorial does."""

    def __post_init__(self) -> None:
        if not isinstance(self.labels, list | tuple):
            raise UserError(f"labels is {self.labels!r:.80}; give a list of names")
        object.__setattr__(self, "labels", tuple(self.labels))  # a list, where it comes from JSON
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name in ("vocab_size", "context", "width", "layers", "heads", "kv_heads", "head_dim", "ffn_width"):
            value = getattr(self, name)
            optional = name in ("kv_heads", "head_dim", "ffn_width")
            if not (value is None and optional) and (not isinstance(value, int) or value < 1):
                raise UserError(f"{name} is {value!r}; give a whole number of at least 1")
        if self.head_dim is None and self.width % self.heads:
            raise UserError(
                f"width {self.width} cannot be divided among {self.heads} heads; choose a multiple, or set head_dim"
            )
        if self.heads % self.key_value_heads:
            raise UserError(f"heads {self.heads} is not a multiple of kv_heads {self.key_value_heads}")
        if self.positions == "rotary" and self.head_size % 2:
            raise UserError(f"rotary positions turn pairs, so a head's size must be even, not {self.head_size}")
        for name in ("dropout", "attention_dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise UserError(f"{name} is {value!r}; give a share from 0 up to, but not including, 1")
        if self.positions == "sinusoidal" and self.width % 2:
            raise UserError(f"sinusoidal positions come in sine-cosine pairs, so width must be even, not {self.width}")
        self._check_positions()
        if self.sliding_window is not None:
            if not isinstance(self.sliding_window, int) or self.sliding_window < 1:
                raise UserError(f"sliding_window is {self.sliding_window!r}; give a whole number of at least 1")
            if self.architecture != "decoder":
                raise UserError("sliding_window is for decoders; leave it out")
        if self.head != "linear" and self.architecture == "seq2seq":
            raise UserError(f"head is {self.head!r}; an encoder-decoder needs 'linear'")
        if self.head == "mlm" and self.activation == "swiglu":
            raise UserError("head 'mlm' has no gate, so activation cannot be 'swiglu'")
        if self.head not in ("linear", "mlm") and self.tied_embeddings:
            raise UserError(f"head is {self.head!r}, so there is nothing to tie; leave tied_embeddings out")
        if self.pooler and self.architecture != "encoder":
            raise UserError("pooler is for encoders; leave it out")
        self._check_labels()

    def _check_labels(self) -> None:
        if self.head not in LABELLED:
            if self.labels:
                raise UserError(f"labels are for the heads {' and '.join(LABELLED)}, not {self.head!r}; leave them out")
            return
        if any(not isinstance(label, str) or not label for label in self.labels):
            raise UserError(f"labels are {list(self.labels)!r:.80}; give names in quotes, none of them empty")
        if len(set(self.labels)) < len(self.labels):
            twice = next(label for number, label in enumerate(self.labels) if label in self.labels[:number])
            raise UserError(f"labels has {twice!r:.40} twice; give each once")
        if len(self.labels) < 2:
            raise UserError(f"head is {self.head!r} and labels are {list(self.labels)!r:.80}; give at least two")

    def _check_positions(self) -> None:
        for name in ("position_offset", "window_from_layer"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise UserError(f"{name} is {value!r}; give a whole number of at least 0")
        if self.position_offset and self.positions != "learned":
            raise UserError(f"position_offset is for learned positions, not {self.positions!r}; leave it out")
        row = {"rotary": self.head_size, "sinusoidal": self.width}.get(self.positions, 0)
        if self.context * row > LARGEST_TABLE:
            raise UserError(
                f"context is {self.context}; its table of positions would take {self.context * row * 4 / 2**30:,.1f} "
                f"GiB; give at most {LARGEST_TABLE // row}"
            )
        if not (isinstance(self.rope_theta, int | float) and 0 < self.rope_theta < math.inf):
            raise UserError(f"rope_theta is {self.rope_theta!r}; give a number above 0")
        if self.rope_scaling is None:
            return
        kind = self.rope_scaling.get("type") if isinstance(self.rope_scaling, dict) else None
        if kind not in _ROPE_SCALINGS:
            raise UserError(
                f"rope_scaling is {self.rope_scaling!r}; its type must be one of: {', '.join(_ROPE_SCALINGS)}"
            )
        if set(self.rope_scaling) != {"type", *_ROPE_SCALINGS[kind]}:
            raise UserError(f"rope_scaling {kind!r} takes {', '.join(_ROPE_SCALINGS[kind])}, not {self.rope_scaling!r}")
        for name in _ROPE_SCALINGS[kind]:
            value = self.rope_scaling[name]
            if isinstance(value, bool) or not (isinstance(value, int | float) and 0 < value < math.inf):
                raise UserError(f"rope_scaling's {name} is {value!r}; give a number above 0")
        if kind == "llama3" and not self.rope_scaling["low_freq_factor"] < self.rope_scaling["high_freq_factor"]:
            raise UserError("rope_scaling's low_freq_factor must be below its high_freq_factor")

    @property
    def head_size(self) -> int:
        return self.head_dim if self.head_dim is not None else self.width // self.heads

    @property
    def key_value_heads(self) -> int:
        return self.kv_heads if self.kv_heads is not None else self.heads

    @property
    def ffn_size(self) -> int:
        return self.ffn_width if self.ffn_width is not None else 4 * self.width

    @property
    def attention_dropout_rate(self) -> float:
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @property
    def outputs(self) -> int:
        """How many numbers the head gives for a state; 0 without a head."""
        if self.head in LABELLED:
            return len(self.labels)
        return {"none": 0, "reward": 1}.get(self.head, self.vocab_size)

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return dataclasses.asdict(self) | {"labels": list(self.labels)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Rebuild a config from :meth:`to_dict`.

        Raises:
            UserError: a field is unknown or missing; the line names it.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UserError(f"the model settings have an unknown field {unknown[0]!r}; made by a newer version?")
        if "vocab_size" not in values:
            raise UserError("the model settings have no 'vocab_size'; the file is not a model's")
        return cls(**values)


_CHOICES: dict[str, tuple[str, ...]] = {
    "architecture": get_args(Architecture),
    "positions": get_args(Positions),
    "norm": get_args(Norm),
    "norm_placement": get_args(NormPlacement),
    "activation": get_args(Activation),
    "head": get_args(Head),
}
_ROPE_SCALINGS: dict[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_context"),
}
