"""How large a model of a config is, without building it."""

from __future__ import annotations

from scratchlm.models.config import TAUGHT, ModelConfig


def parameter_count(config: ModelConfig) -> int:
    """The number of parameters, tied ones once."""
    width, heads, head_size = config.width, config.heads, config.head_size
    norm = width * (2 if config.norm == "layernorm" and config.norm_bias else 1)
    q, kv = heads * head_size, 2 * config.key_value_heads * head_size

    def linear(inputs: int, outputs: int, bias: bool) -> int:
        return inputs * outputs + (outputs if bias else 0)

    attention = linear(width, q + kv, config.qkv_bias) + linear(q, width, config.out_bias)
    attention += 2 * head_size if config.qk_norm else 0
    gates = 2 if config.activation == "swiglu" else 1
    feed_forward = linear(width, gates * config.ffn_size, config.ffn_bias)
    feed_forward += linear(config.ffn_size, width, config.ffn_bias)
    block = attention + feed_forward + 2 * norm

    tokens = config.vocab_size * width
    positions = (config.context + config.position_offset) * width if config.positions == "learned" else 0
    around = positions + config.token_types * width
    around += (norm if config.embedding_norm else 0) + (norm if config.final_norm else 0)

    if config.architecture == "seq2seq":
        stacks = config.layers * (2 * block + attention + norm) + 2 * around
        stacks += tokens if config.tied_embeddings else 2 * tokens
    else:
        stacks = config.layers * block + around + tokens
    head = 0
    if config.head in TAUGHT:
        head = linear(width, config.outputs, config.head_bias)
    elif config.head != "none":
        head = (0 if config.tied_embeddings else tokens) + (config.vocab_size if config.head_bias else 0)
    if config.head == "mlm":
        head += linear(width, width, True) + norm
    return stacks + head + (linear(width, width, True) if config.pooler else 0)
