"""Our config -> the config.json of the Hugging Face family that can hold the model, or the reason why none can."""

from __future__ import annotations

from typing import Any

from scratchlm.checkpoints.dialects import ACTIVATIONS
from scratchlm.errors import UserError
from scratchlm.models import ModelConfig
from scratchlm.models.config import LABELLED, TAUGHT

_ACTIVATIONS = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
_NO_GATE = tuple(_ACTIVATIONS)


class InexpressibleError(UserError):
    """No Hugging Face family can hold this model."""


def fields_from_config(config: ModelConfig) -> dict[str, Any]:
    """The fields of a config.json that describes the model; ``model_type`` says the family.

    Raises:
        InexpressibleError: no family has this model; the line names the field that stands in the way.
    """
    if config.architecture == "seq2seq":
        raise InexpressibleError(
            "transformers has no encoder-decoder like this one (architecture is 'seq2seq'); only decoders and encoders "
            "can be written as its checkpoints"
        )
    if config.architecture == "encoder":
        return _encoder(config)
    return _gated(config) if config.positions == "rotary" else _gpt2(config)


def _demand(config: ModelConfig, family: str, **wanted: Any) -> None:
    """Refuse the first field that the family does not have so. A tuple names several values that it has."""
    for name, value in {"embedding_scale": 1.0, **wanted}.items():
        found, allowed = getattr(config, name), value if isinstance(value, tuple) else (value,)
        if found not in allowed:
            needed = " or ".join(repr(one) for one in allowed)
            raise InexpressibleError(
                f"{name} is {found!r}, and {family} in transformers has it {needed}; the model can be written in "
                "scratchlm's own form only"
            )


def _gpt2(config: ModelConfig) -> dict[str, Any]:
    _demand(
        config,
        "GPT-2",
        positions="learned",
        position_offset=0,
        norm="layernorm",
        norm_placement="pre",
        activation=_NO_GATE,
        final_norm=True,
        embedding_norm=False,
        token_types=0,
        qk_norm=False,
        sliding_window=None,
        key_value_heads=config.heads,
        head_size=config.width // config.heads,
    )
    _demand(config, "GPT-2", head_bias=config.head == "tag")
    return {
        "architectures": [_class("GPT2", config, "LMHeadModel")],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.ffn_size,
        "activation_function": _ACTIVATIONS[config.activation],
        "layer_norm_epsilon": config.norm_eps,
        "resid_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout_rate,
        "embd_pdrop": config.dropout if config.embedding_dropout else 0.0,
        **_shared(config),
    }


def _gated(config: ModelConfig) -> dict[str, Any]:
    """Llama, or the one of its descendants that has what the config asks for."""
    kind, name = _descendant(config)
    _demand(
        config,
        name,
        norm="rmsnorm",
        norm_placement="pre",
        activation="swiglu",
        final_norm=True,
        embedding_norm=False,
        token_types=0,
        head_bias=config.head == "tag",
    )
    fields: dict[str, Any] = {
        "architectures": [_class(name, config, "ForCausalLM")],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.ffn_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "attention_dropout": config.attention_dropout_rate,
        "rope_theta": config.rope_theta,
        "rope_scaling": _scaling(config),
        **_shared(config),
    }
    if kind == "llama":
        _demand(config, name, out_bias=config.qkv_bias, sliding_window=None, qk_norm=False)
        return fields | {"attention_bias": config.qkv_bias, "mlp_bias": config.ffn_bias}
    _demand(config, name, ffn_bias=False)
    if kind == "mistral":
        _demand(config, name, qkv_bias=False, out_bias=False, window_from_layer=0)
        return fields | {"sliding_window": config.sliding_window}
    if config.sliding_window is not None:
        fields |= {
            "use_sliding_window": True,
            "sliding_window": config.sliding_window,
            "max_window_layers": config.window_from_layer,
        }
    if kind == "qwen2":
        _demand(config, name, qkv_bias=True, out_bias=False)
        return fields
    _demand(config, name, out_bias=config.qkv_bias)
    return fields | {"attention_bias": config.qkv_bias}


def _descendant(config: ModelConfig) -> tuple[str, str]:
    """The ``model_type``, and what the classes' names begin with."""
    if config.qk_norm:
        return "qwen3", "Qwen3"
    if config.qkv_bias and not config.out_bias:
        return "qwen2", "Qwen2"
    return ("llama", "Llama") if config.sliding_window is None else ("mistral", "Mistral")


def _scaling(config: ModelConfig) -> dict[str, Any] | None:
    if config.rope_scaling is None:
        return None
    names = {"type": "rope_type", "original_context": "original_max_position_embeddings"}
    return {names.get(name, name): value for name, value in config.rope_scaling.items()}


def _encoder(config: ModelConfig) -> dict[str, Any]:
    kind, name = ("roberta", "RoBERTa") if config.position_offset else ("bert", "BERT")
    _demand(
        config,
        name,
        norm="layernorm",
        norm_placement="post",
        positions="learned",
        embedding_norm=True,
        final_norm=False,
        activation=_NO_GATE if config.head != "mlm" or kind == "bert" else ("gelu",),
        head=("mlm", "none", *TAUGHT),
        head_bias=config.head != "none",
        pooler={"classify": True, "reward": True, "tag": False}.get(config.head, config.pooler),
        qk_norm=False,
        key_value_heads=config.heads,
        head_size=config.width // config.heads,
    )
    if config.token_types == 0:
        raise InexpressibleError(f"token_types is 0, and {name} in transformers has at least 1; set it and train again")
    fields = {
        "architectures": [_class({"bert": "Bert", "roberta": "Roberta"}[kind], config, "ForMaskedLM")],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context + config.position_offset,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn_size,
        "hidden_act": _ACTIVATIONS[config.activation],
        "layer_norm_eps": config.norm_eps,
        "type_vocab_size": config.token_types,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout_rate,
        "position_embedding_type": "absolute",
        **_shared(config),
    }
    if kind == "roberta":
        fields["pad_token_id"] = config.position_offset - 1  # which is how it knows its positions' offset
    return fields


_CLASSES = {
    "none": "Model",
    "classify": "ForSequenceClassification",
    "reward": "ForSequenceClassification",
    "tag": "ForTokenClassification",
}


def _class(family: str, config: ModelConfig, words: str) -> str:
    """The class of a family's model with the config's head; ``words`` ends the name of the one whose head is words'."""
    return family + _CLASSES.get(config.head, words)


def _shared(config: ModelConfig) -> dict[str, Any]:
    labels: dict[str, Any] = {}
    if config.head in TAUGHT:
        # A reward is what they call a regression: one label, which has a number and no probability.
        names = config.labels if config.head in LABELLED else ("reward",)
        labels["id2label"] = {str(number): label for number, label in enumerate(names)}
        labels["label2id"] = {label: number for number, label in enumerate(names)}
        if config.head == "reward":
            labels["problem_type"] = "regression"
        if config.architecture == "decoder":
            labels["classifier_dropout"] = config.dropout if config.head == "tag" else 0.0
    return {
        **labels,
        "tie_word_embeddings": config.tied_embeddings,
        "initializer_range": 0.02 if config.init_std is None else config.init_std,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
