"""Hugging Face's config.json, family by family: their fields -> our config.

Only fields decide, ``model_type`` among them; a model's name never does. A field that would change the numbers in a way
that our models have no setting for is an error that names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from scratchlm.errors import UserError
from scratchlm.models import ModelConfig
from scratchlm.models.config import WHOLE

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}
"""Their names of the activations without a gate -> ours. The first name of each is the one that is written."""
_LARGEST, _MOST_LABELS = 2**40, 2**16
_LABELLED = {"ForSequenceClassification": "classify", "ForTokenClassification": "tag"}
"""How their classes' names end -> our heads."""


class Fields:
    """The fields of a config.json; every complaint names the field.

    Args:
        values: what the file holds.
        origin: how the file is called in complaints.
        names: the checkpoint's tensor names, where they are known.
    """

    def __init__(self, values: Mapping[str, Any], origin: str, names: Collection[str] | None = None) -> None:
        self.values, self.origin, self.names = values, origin, names

    def whole(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number; without a default it must be there."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _LARGEST:
            raise self.wrong(name, f"a whole number of at least {least}")
        return value

    def optional(self, name: str, default: int | None = None) -> int | None:
        """A whole number, or null."""
        value = self.values.get(name, default)
        return None if value is None else self.whole(name, default)

    def number(self, name: str, default: float) -> float:
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise self.wrong(name, "a number of at least 0")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def word(self, name: str, default: str | None = None) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a word")
        return value

    def must_be(self, name: str, *allowed: Any) -> None:
        """Refuse a feature that changes the numbers and that our models lack; an absent field is fine."""
        value = self.values.get(name)
        if value is not None and not any(type(value) is type(good) and value == good for good in allowed):
            raise self.unsupported(name)

    def unsupported(self, name: str) -> UserError:
        shown = repr(self.values.get(name))[:80]
        return UserError(f"{self.origin}: {name} is {shown}, which scratchlm's models do not have; use another model")

    def wrong(self, name: str, wanted: str) -> UserError:
        if name not in self.values:
            return UserError(f"{self.origin} has no {name!r}; it is not a whole model's config, fetch it again")
        return UserError(
            f"{self.origin}: {name} is {repr(self.values[name])[:80]}, not {wanted}; mend or fetch it again"
        )

    def _value(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        return default if value is None else value

    # -- what several families share ----------------------------------------------------------------------------------

    def labelled_head(self) -> dict[str, Any] | None:
        """The head for labels, or for a reward, that the class has, and the labels; None where it has none."""
        heads = [head for name in self.architectures() for end, head in _LABELLED.items() if name.endswith(end)]
        if not heads:
            return None
        if len(self.architectures()) > 1:
            raise self.unsupported("architectures")
        labels = self._labels()
        if len(labels) == 1 and heads[0] == "classify":  # a number to be told, not a class
            self.must_be("problem_type", "regression")
            return {"head": "reward"}
        self.must_be("problem_type", "single_label_classification")
        if len(labels) < 2:
            raise self.unsupported("id2label" if "id2label" in self.values else "num_labels")
        return {"head": heads[0], "labels": labels}

    def _labels(self) -> tuple[str, ...]:
        """In the order of the logits. Two without a name are not written by transformers."""
        names = self.values.get("id2label")
        if names is None:
            count = self.whole("num_labels", 2)
            names = {str(number): f"LABEL_{number}" for number in range(min(count, _MOST_LABELS + 1))}
        elif not isinstance(names, dict) or set(names) != {str(number) for number in range(len(names))}:
            raise self.wrong("id2label", "an object with the keys 0, 1, 2, ...")
        elif not all(isinstance(name, str) for name in names.values()):
            raise self.wrong("id2label", "names by numbers")
        if not 1 <= len(names) <= _MOST_LABELS:
            raise self.unsupported("id2label" if "id2label" in self.values else "num_labels")
        return tuple(names[str(number)] for number in range(len(names)))

    def architectures(self) -> list[str]:
        """The classes that the checkpoint was saved from."""
        value = self.values.get("architectures") or []
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self.wrong("architectures", "a list of class names")
        return value

    def activation(self, name: str, default: str) -> str:
        word = self.word(name, default)
        if word not in ACTIVATIONS:
            raise self.unsupported(name)
        return ACTIVATIONS[word]

    def has(self, *endings: str) -> bool:
        """Whether a tensor's name is, or ends in, one of these; False where the names are not known."""
        return any(name.endswith(endings) for name in self.names or ())

    def share(self, name: str, default: float = 0.0) -> float:
        value = self.number(name, default)
        if value >= 1:
            raise self.wrong(name, "a share below 1")
        return value


def config_from_fields(fields: Fields) -> ModelConfig:
    """Our config.

    Raises:
        UserError: a model type or a feature that our models do not have, a field that is missing or of the wrong kind.
    """
    kind = fields.word("model_type")
    if kind not in _READERS:
        raise UserError(
            f"{fields.origin}: model_type is {kind[:40]!r}; scratchlm reads {', '.join(_READERS)}, use one of those"
        )
    if fields.values.get("quantization_config") is not None:
        raise UserError(f"{fields.origin}: quantization_config is set; fetch the model in float32, float16 or bfloat16")
    if fields.values.get("auto_map") is not None and not fields.architectures():
        raise fields.unsupported("auto_map")
    settings = _READERS[kind](fields)
    try:
        return ModelConfig(**settings)
    except UserError as error:
        raise UserError(f"{fields.origin}: {error}") from None


def _gpt2(fields: Fields) -> dict[str, Any]:
    fields.must_be("scale_attn_weights", True)
    fields.must_be("scale_attn_by_inverse_layer_idx", False)
    fields.must_be("add_cross_attention", False)
    width = fields.whole("n_embd")
    return {
        "architecture": "decoder",
        "vocab_size": fields.whole("vocab_size"),
        "context": fields.whole("n_positions"),
        "width": width,
        "layers": fields.whole("n_layer"),
        "heads": fields.whole("n_head"),
        "ffn_width": fields.whole("n_inner", 4 * width),
        "positions": "learned",
        "norm_eps": fields.number("layer_norm_epsilon", 1e-5),
        "activation": fields.activation("activation_function", "gelu_new"),
        "qkv_bias": True,
        "dropout": fields.share("resid_pdrop", 0.1),
        "attention_dropout": fields.share("attn_pdrop", 0.1),
        "embedding_dropout": fields.number("embd_pdrop", 0.1) > 0,
        "init_std": fields.number("initializer_range", 0.02),
        **_causal_head(fields, tied=True),
    }


def _causal_head(fields: Fields, *, tied: bool) -> dict[str, Any]:
    """``tied`` is the family's default."""
    labelled = fields.labelled_head()
    if labelled is not None:
        return labelled | {"head_bias": labelled["head"] == "tag"}
    for name in fields.architectures():
        if not name.endswith(("ForCausalLM", "LMHeadModel", "Model")):
            raise fields.unsupported("architectures")
    classes = fields.architectures()
    bare = classes and not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in classes)
    if bare and not fields.has("lm_head.weight"):
        return {"head": "none", "head_bias": False}
    return {"head_bias": False, "tied_embeddings": fields.flag("tie_word_embeddings", tied)}


def _rotary(fields: Fields) -> dict[str, Any]:
    """Both styles: ``rope_theta`` with ``rope_scaling``, and ``rope_parameters``, which holds all."""
    name = "rope_parameters" if fields.values.get("rope_parameters") is not None else "rope_scaling"
    fields.must_be("partial_rotary_factor", 1.0, 1)
    value = fields.values.get(name)
    if value is None:
        return {"rope_theta": fields.number("rope_theta", 10_000.0)}
    if not isinstance(value, dict):
        raise fields.wrong(name, "an object")
    inner = Fields(value, f"{fields.origin}, {name}")
    inner.must_be("partial_rotary_factor", 1.0, 1)
    if any(isinstance(one, dict) for one in value.values()):  # one rotation for each kind of layer
        raise fields.unsupported(name)
    settings: dict[str, Any] = {"rope_theta": inner.number("rope_theta", fields.number("rope_theta", 10_000.0))}
    kind = value.get("rope_type", value.get("type", "default"))
    if kind == "default":
        return settings
    if kind not in ("linear", "llama3"):
        raise fields.unsupported(name)
    needed = {"factor": "factor"}
    if kind == "llama3":
        needed |= {"low_freq_factor": "low_freq_factor", "high_freq_factor": "high_freq_factor"}
        needed |= {"original_context": "original_max_position_embeddings"}
    scaling: dict[str, Any] = {"type": kind}
    for ours, theirs in needed.items():
        if theirs not in value:
            raise inner.wrong(theirs, "a number")
        inner.number(theirs, 0.0)
        scaling[ours] = value[theirs]
    return settings | {"rope_scaling": scaling}


def _gated(fields: Fields) -> dict[str, Any]:
    """What Llama, Mistral and Qwen share."""
    fields.must_be("hidden_act", "silu", "swish")
    return {
        "architecture": "decoder",
        "vocab_size": fields.whole("vocab_size"),
        "context": fields.whole("max_position_embeddings"),
        "width": fields.whole("hidden_size"),
        "layers": fields.whole("num_hidden_layers"),
        "heads": fields.whole("num_attention_heads"),
        "kv_heads": fields.whole("num_key_value_heads"),
        "head_dim": fields.optional("head_dim"),
        "ffn_width": fields.whole("intermediate_size"),
        "positions": "rotary",
        "norm": "rmsnorm",
        "norm_eps": fields.number("rms_norm_eps", 1e-6),
        "activation": "swiglu",
        "qkv_bias": False,
        "out_bias": False,
        "ffn_bias": False,
        "dropout": 0.0,
        "attention_dropout": fields.share("attention_dropout"),
        "init_std": fields.number("initializer_range", 0.02),
        **_rotary(fields),
        **_causal_head(fields, tied=False),
    }


def _llama(fields: Fields) -> dict[str, Any]:
    if fields.values.get("num_key_value_heads") is None:  # Llama's first generation had no such field
        values = {**fields.values, "num_key_value_heads": fields.whole("num_attention_heads")}
        fields = Fields(values, fields.origin, fields.names)
    fields.must_be("sliding_window")
    biased = fields.flag("attention_bias", False)
    return _gated(fields) | {"qkv_bias": biased, "out_bias": biased, "ffn_bias": fields.flag("mlp_bias", False)}


def _mistral(fields: Fields) -> dict[str, Any]:
    return _gated(fields) | {"sliding_window": fields.optional("sliding_window", 4096)}


def _windowed(fields: Fields) -> dict[str, Any]:
    """Qwen's window, which may begin above the first layers."""
    if not fields.flag("use_sliding_window", False):
        return {}
    window, layers = fields.optional("sliding_window", 4096), fields.whole("num_hidden_layers")
    if window is None:
        return {}
    first = min(fields.whole("max_window_layers", 28, least=0), layers)
    kinds = fields.values.get("layer_types")
    if kinds is not None:
        first = kinds.count("full_attention") if isinstance(kinds, list) else 0
        if kinds != ["full_attention"] * first + ["sliding_attention"] * (layers - first):
            raise fields.unsupported("layer_types")
    return {"sliding_window": window, "window_from_layer": first} if first < layers else {}


def _qwen2(fields: Fields) -> dict[str, Any]:
    return _gated(fields) | {"qkv_bias": True, **_windowed(fields)}


def _qwen3(fields: Fields) -> dict[str, Any]:
    biased = fields.flag("attention_bias", False)
    own = {"head_dim": fields.whole("head_dim", 128), "qk_norm": True, "qkv_bias": biased, "out_bias": biased}
    return _gated(fields) | own | _windowed(fields)


def _bert(fields: Fields) -> dict[str, Any]:
    fields.must_be("position_embedding_type", "absolute")
    fields.must_be("is_decoder", False)
    fields.must_be("add_cross_attention", False)
    context = fields.whole("max_position_embeddings")
    return {
        "architecture": "encoder",
        "vocab_size": fields.whole("vocab_size"),
        "context": context,
        "width": fields.whole("hidden_size"),
        "layers": fields.whole("num_hidden_layers"),
        "heads": fields.whole("num_attention_heads"),
        "ffn_width": fields.whole("intermediate_size"),
        "positions": "learned",
        "norm_placement": "post",
        "norm_eps": fields.number("layer_norm_eps", 1e-12),
        "activation": fields.activation("hidden_act", "gelu"),
        "qkv_bias": True,
        "embedding_norm": True,
        "token_types": fields.whole("type_vocab_size", 2),
        "final_norm": False,
        "dropout": fields.share("hidden_dropout_prob", 0.1),
        "attention_dropout": fields.share("attention_probs_dropout_prob", 0.1),
        "embedding_dropout": True,
        "init_std": fields.number("initializer_range", 0.02),
        **_masked_head(fields),
    }


def _masked_head(fields: Fields) -> dict[str, Any]:
    """The masked model's head and the pooler are there if their tensors are, or else if the class has them."""
    classes, labelled = fields.architectures(), fields.labelled_head()
    if labelled is not None:
        return labelled | {"pooler": labelled["head"] in WHOLE}
    if not all(name.endswith(("ForMaskedLM", "ForPreTraining", "Model")) for name in classes):
        raise fields.unsupported("architectures")
    if fields.names is None:
        masked = any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in classes)
        pooler = any(name.endswith(("ForPreTraining", "Model")) for name in classes)
    else:
        masked = fields.has("cls.predictions.transform.dense.weight", "lm_head.dense.weight")
        pooler = fields.has("pooler.dense.weight")
    if not masked:
        return {"head": "none", "head_bias": False, "pooler": pooler}
    return {"head": "mlm", "pooler": pooler, "tied_embeddings": fields.flag("tie_word_embeddings", True)}


def _roberta(fields: Fields) -> dict[str, Any]:
    settings = _bert(fields)
    if settings["head"] == "mlm":
        fields.must_be("hidden_act", "gelu")  # its head has this activation, whatever the blocks have
    offset = fields.whole("pad_token_id", 1, least=0) + 1
    if settings["context"] <= offset:
        raise fields.wrong("max_position_embeddings", f"more than {offset}, the rows kept for padding")
    return settings | {"context": settings["context"] - offset, "position_offset": offset}


_READERS: dict[str, Callable[[Fields], dict[str, Any]]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "bert": _bert,
    "roberta": _roberta,
}
