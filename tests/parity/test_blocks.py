"""Our blocks against the reference implementation's, at toy size: the same weights must give the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from scratchlm.models import ModelConfig
from scratchlm.models.attention import AttentionMask
from scratchlm.models.block import Block
from scratchlm.models.layers import Rotary

transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")

WIDTH, HEADS, TOKENS = 32, 4, 7
EXACT = {"atol": 1e-5, "rtol": 1e-5}


def config(**changes: object) -> ModelConfig:
    base = {"vocab_size": 11, "width": WIDTH, "heads": HEADS, "layers": 1, "dropout": 0.0, "context": 16}
    return ModelConfig(**(base | changes))  # type: ignore[arg-type]


def randomise(module: nn.Module) -> None:
    """Weights, norms and biases all away from their trivial initial values."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)


def copy_linear(ours: nn.Linear, *theirs: nn.Linear) -> None:
    with torch.no_grad():
        ours.weight.copy_(torch.cat([layer.weight for layer in theirs]))
        if ours.bias is not None:
            ours.bias.copy_(torch.cat([layer.bias for layer in theirs]))


def copy_norm(ours: nn.Module, theirs: nn.Module) -> None:
    ours.load_state_dict(theirs.state_dict())


def states() -> Tensor:
    return torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(3))


def causal_bias() -> Tensor:
    return torch.full((1, 1, TOKENS, TOKENS), float("-inf")).triu(1)


def test_pre_norm_gelu_block_equals_gpt2() -> None:
    from transformers.models.gpt2.modeling_gpt2 import GPT2Block

    reference_config = transformers.GPT2Config(
        n_embd=WIDTH, n_head=HEADS, n_layer=1, resid_pdrop=0, attn_pdrop=0, attn_implementation="eager"
    )
    theirs = GPT2Block(reference_config, layer_idx=0).eval()
    randomise(theirs)
    ours = Block(config(activation="gelu_tanh", qkv_bias=True), 0).eval()
    with torch.no_grad():
        for mine, conv in (
            (ours.attention.qkv, theirs.attn.c_attn),
            (ours.attention.out, theirs.attn.c_proj),
            (ours.mlp.up, theirs.mlp.c_fc),
            (ours.mlp.down, theirs.mlp.c_proj),
        ):
            mine.weight.copy_(conv.weight.T)
            mine.bias.copy_(conv.bias)
    copy_norm(ours.norm1, theirs.ln_1)
    copy_norm(ours.norm2, theirs.ln_2)
    x = states()
    with torch.no_grad():
        expected = theirs(x, attention_mask=causal_bias())
        expected = expected[0] if isinstance(expected, tuple) else expected
        torch.testing.assert_close(ours(x, AttentionMask(True)), expected, **EXACT)


def test_post_norm_bidirectional_block_equals_bert() -> None:
    from transformers.models.bert.modeling_bert import BertLayer

    reference_config = transformers.BertConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
        attn_implementation="eager",
    )
    theirs = BertLayer(reference_config).eval()
    randomise(theirs)
    ours = Block(config(norm_placement="post", qkv_bias=True, norm_eps=1e-12), 0).eval()
    attention = theirs.attention.self
    copy_linear(ours.attention.qkv, attention.query, attention.key, attention.value)
    copy_linear(ours.attention.out, theirs.attention.output.dense)
    copy_linear(ours.mlp.up, theirs.intermediate.dense)
    copy_linear(ours.mlp.down, theirs.output.dense)
    copy_norm(ours.norm1, theirs.attention.output.LayerNorm)
    copy_norm(ours.norm2, theirs.output.LayerNorm)
    x = states()
    with torch.no_grad():
        torch.testing.assert_close(ours(x, AttentionMask(False)), theirs(x)[0], **EXACT)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_rotary_grouped_swiglu_block_equals_llama_and_qwen3(family: str) -> None:
    common = {
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "rope_theta": 10_000.0,
        "rms_norm_eps": 1e-6,
        "attn_implementation": "eager",
    }
    if family == "llama":
        from transformers.models.llama.modeling_llama import LlamaDecoderLayer as Layer
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding as ReferenceRotary

        reference_config = transformers.LlamaConfig(**common)
    else:
        from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer as Layer
        from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding as ReferenceRotary

        reference_config = transformers.Qwen3Config(**common, head_dim=8)
    theirs = Layer(reference_config, layer_idx=0).eval()
    randomise(theirs)
    ours = Block(
        config(
            positions="rotary",
            norm="rmsnorm",
            norm_eps=1e-6,
            activation="swiglu",
            kv_heads=2,
            ffn_width=48,
            out_bias=False,
            ffn_bias=False,
            qk_norm=family == "qwen3",
        ),
        0,
    ).eval()
    attention = theirs.self_attn
    copy_linear(ours.attention.qkv, attention.q_proj, attention.k_proj, attention.v_proj)
    copy_linear(ours.attention.out, attention.o_proj)
    copy_linear(ours.mlp.up, theirs.mlp.gate_proj, theirs.mlp.up_proj)
    copy_linear(ours.mlp.down, theirs.mlp.down_proj)
    copy_norm(ours.norm1, theirs.input_layernorm)
    copy_norm(ours.norm2, theirs.post_attention_layernorm)
    if family == "qwen3":
        copy_norm(ours.attention.q_norm, attention.q_norm)
        copy_norm(ours.attention.k_norm, attention.k_norm)
    x = states()
    positions = torch.arange(TOKENS)
    rope = Rotary(WIDTH // HEADS, 10_000.0, 16)(positions)
    reference_rope = ReferenceRotary(reference_config)(x, positions[None])
    with torch.no_grad():
        expected = theirs(x, attention_mask=causal_bias(), position_embeddings=reference_rope)
        expected = expected[0] if isinstance(expected, tuple) else expected
        torch.testing.assert_close(ours(x, AttentionMask(True), rope), expected, **EXACT)


def test_post_norm_relu_block_with_cross_attention_equals_bart() -> None:
    from transformers.models.bart.modeling_bart import BartDecoderLayer

    reference_config = transformers.BartConfig(
        d_model=WIDTH,
        decoder_attention_heads=HEADS,
        decoder_ffn_dim=4 * WIDTH,
        activation_function="relu",
        dropout=0,
        attention_dropout=0,
        activation_dropout=0,
        attn_implementation="eager",
    )
    theirs = BartDecoderLayer(reference_config, layer_idx=0).eval()
    randomise(theirs)
    ours = Block(config(norm_placement="post", activation="relu", qkv_bias=True), 0, cross=True).eval()
    own, other = theirs.self_attn, theirs.encoder_attn
    copy_linear(ours.attention.qkv, own.q_proj, own.k_proj, own.v_proj)
    copy_linear(ours.attention.out, own.out_proj)
    copy_linear(ours.cross.q, other.q_proj)
    copy_linear(ours.cross.kv, other.k_proj, other.v_proj)
    copy_linear(ours.cross.out, other.out_proj)
    copy_linear(ours.mlp.up, theirs.fc1)
    copy_linear(ours.mlp.down, theirs.fc2)
    copy_norm(ours.norm1, theirs.self_attn_layer_norm)
    copy_norm(ours.cross_norm, theirs.encoder_attn_layer_norm)
    copy_norm(ours.norm2, theirs.final_layer_norm)
    x = states()
    memory = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = theirs(x, attention_mask=causal_bias(), encoder_hidden_states=memory, use_cache=False)
        expected = expected[0] if isinstance(expected, tuple) else expected
        actual = ours(x, AttentionMask(True), memory=memory, memory_mask=AttentionMask(False))
        torch.testing.assert_close(actual, expected, **EXACT)


def test_the_original_transformers_blocks_equal_torchs_own() -> None:
    encoder = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True).eval()
    randomise(encoder)
    ours = Block(config(norm_placement="post", activation="relu", qkv_bias=True), 0).eval()
    with torch.no_grad():
        ours.attention.qkv.weight.copy_(encoder.self_attn.in_proj_weight)
        ours.attention.qkv.bias.copy_(encoder.self_attn.in_proj_bias)
    copy_linear(ours.attention.out, encoder.self_attn.out_proj)
    copy_linear(ours.mlp.up, encoder.linear1)
    copy_linear(ours.mlp.down, encoder.linear2)
    copy_norm(ours.norm1, encoder.norm1)
    copy_norm(ours.norm2, encoder.norm2)
    x = states()
    torch.testing.assert_close(ours(x, AttentionMask(False)), encoder(x), **EXACT)
