"""Small decoders of every kind that GGUF can hold, and the architecture each is written as."""

from __future__ import annotations

import torch

from scratchlm.models import Decoder, ModelConfig, build_model, model_preset

_LLAMA = {
    "width": 64,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "ffn_width": 96,
    "context": 64,
    "positions": "rotary",
    "norm": "rmsnorm",
    "activation": "swiglu",
    "dropout": 0.0,
    "init_std": 0.3,
    **dict.fromkeys(("qkv_bias", "out_bias", "ffn_bias", "head_bias"), False),
}
_GPT = {"width": 64, "layers": 2, "heads": 4, "context": 64, "dropout": 0.0, "init_std": 0.2}
_LAYERNORM = {"norm": "layernorm", "activation": "relu2"}
LLAMA3 = {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_context": 32}
MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("llama", _LLAMA),
    "llama, biases": ("llama", _LLAMA | dict.fromkeys(("qkv_bias", "out_bias", "ffn_bias"), True)),
    "llama, tied": ("llama", _LLAMA | {"tied_embeddings": True}),
    "llama, wide heads": ("llama", _LLAMA | {"head_dim": 32}),
    "llama, scaled embeddings": ("llama", _LLAMA | {"embedding_scale": 8.0, "tied_embeddings": True}),
    "llama, linear scaling": ("llama", _LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "llama 3": ("llama", _LLAMA | {"head_dim": 32, "rope_theta": 500_000.0, "rope_scaling": LLAMA3}),
    "qwen2": ("qwen2", _LLAMA | {"qkv_bias": True, "head_bias": True}),
    "a biased head": ("qwen2", _LLAMA | {"head_bias": True}),
    "qwen3": ("qwen3", _LLAMA | {"qk_norm": True, "head_dim": 32}),
    "squared relu": ("arcee", _LLAMA | {"activation": "relu2"}),
    "modern": ("apertus", _LLAMA | {"activation": "relu2", "qk_norm": True}),
    "layernorm": ("nemotron", _LLAMA | _LAYERNORM),
    "layernorm, biases": ("nemotron", _LLAMA | _LAYERNORM | {"out_bias": True, "head_bias": True}),
    "rotary gelu": ("starcoder2", _LLAMA | {"norm": "layernorm", "activation": "gelu_tanh", "norm_bias": False}),
    "gpt2": ("gpt2", _GPT | {"activation": "gelu_tanh", "qkv_bias": True, "head_bias": False, "tied_embeddings": True}),
    "gpt2, biased head": ("gpt2", _GPT | {"activation": "gelu_tanh", "head_bias": True, "tied_embeddings": True}),
    "gpt2, exact gelu": ("gpt2", _GPT | {"activation": "gelu"}),
    "sinusoids": ("gpt2", _GPT | {"activation": "gelu_tanh", "positions": "sinusoidal"}),
    "no positions": ("gpt2", _GPT | {"activation": "gelu_tanh", "positions": "none"}),
}


def small(name: str, vocabulary: int) -> Decoder:
    """The model of that name, or of one of our presets, all its parameters away from zero and exact in fp16."""
    fields = MODELS[name][1] if name in MODELS else None
    config = ModelConfig(vocab_size=vocabulary, **fields) if fields else model_preset(name, vocabulary, dropout=0.0)
    torch.manual_seed(0)
    model = build_model(config).eval()
    assert isinstance(model, Decoder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif not bool(parameter.any()):
                parameter.normal_(std=0.02)
            parameter.copy_(parameter.half())
    return model
