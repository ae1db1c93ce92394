"""The textbook path, the fast path, the cache and the masks must all compute the same function."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

from scratchlm import kernels
from scratchlm.data.batch import IGNORE, Batch
from scratchlm.models import KVCache, ModelConfig, build_model, cross_entropy_sum, model_preset, textbook

CONFIGS = {
    "tutorial": {},
    "relu-post": {"activation": "relu", "norm_placement": "post", "final_norm": False},
    "llama-like": {
        "positions": "rotary",
        "norm": "rmsnorm",
        "activation": "swiglu",
        "kv_heads": 2,
        "out_bias": False,
        "ffn_bias": False,
        "head_bias": False,
        "tied_embeddings": True,
    },
    "qwen-like": {"positions": "rotary", "norm": "rmsnorm", "qk_norm": True, "qkv_bias": True, "kv_heads": 1},
    "gpt2-like": {"activation": "gelu_tanh", "qkv_bias": True, "tied_embeddings": True, "embedding_dropout": True},
    "sinusoidal-wide-heads": {"positions": "sinusoidal", "head_dim": 16, "activation": "relu2"},
    "bert-like": {"norm_placement": "post", "embedding_norm": True, "token_types": 2, "final_norm": False},
}


def small(architecture: str = "decoder", **changes: object) -> ModelConfig:
    base = {"vocab_size": 23, "architecture": architecture, "context": 12, "width": 32, "layers": 2, "heads": 4}
    return ModelConfig(**(base | {"dropout": 0.0} | changes))  # type: ignore[arg-type]


def ids(rows: int, tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 23, (rows, tokens), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("architecture", "name"), list(itertools.product(("decoder", "encoder"), CONFIGS)), ids=lambda value: str(value)
)
def test_textbook_and_fast_path_give_the_same_outputs_and_gradients(architecture: str, name: str) -> None:
    torch.manual_seed(1)
    fast = build_model(small(architecture, **CONFIGS[name]))
    slow = copy.deepcopy(fast)
    x, labels = ids(3, 9), ids(3, 9, seed=5)
    fast_logits = fast(x)
    cross_entropy_sum(fast_logits, labels)[0].backward()
    with textbook(slow):
        slow_logits = slow(x)
        cross_entropy_sum(slow_logits, labels)[0].backward()
    torch.testing.assert_close(fast_logits, slow_logits, atol=1e-5, rtol=1e-5)
    for (key, ours), theirs in zip(fast.named_parameters(), slow.parameters(), strict=True):
        assert ours.grad is not None, key
        torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-5, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.skipif(not kernels.available(), reason=kernels.status())
@pytest.mark.parametrize(
    ("architecture", "name"), list(itertools.product(("decoder", "encoder"), CONFIGS)), ids=lambda value: str(value)
)
def test_native_kernels_and_plain_pytorch_give_the_same_outputs_and_gradients(architecture: str, name: str) -> None:
    torch.manual_seed(1)
    native = build_model(small(architecture, **CONFIGS[name]))
    plain = copy.deepcopy(native)
    x, labels = ids(16, 11), ids(16, 11, seed=5)  # enough rows for the fused products
    native_logits = native(x)
    cross_entropy_sum(native_logits, labels)[0].backward()
    with kernels.disabled(), textbook(plain):
        plain_logits = plain(x)
        cross_entropy_sum(plain_logits, labels)[0].backward()
    torch.testing.assert_close(native_logits, plain_logits, atol=1e-5, rtol=1e-5)
    for (key, ours), theirs in zip(native.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None, key
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


def test_a_replaced_linear_layer_is_never_bypassed_by_a_fused_operation() -> None:
    class Doubled(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    for path in ("attention.qkv", "attention.out", "mlp.up", "mlp.down"):
        model = build_model(small()).eval()
        block, name = model.blocks[0].get_submodule(path.split(".")[0]), path.split(".")[1]
        before = model(ids(8, 12))
        plain = getattr(block, name)
        doubled = Doubled(plain.in_features, plain.out_features, bias=plain.bias is not None)
        doubled.load_state_dict(plain.state_dict())
        setattr(block, name, doubled)
        assert not torch.allclose(model(ids(8, 12)), before), path


def test_textbook_and_fast_path_agree_in_the_encoder_decoder() -> None:
    torch.manual_seed(1)
    fast = build_model(small("seq2seq"))
    slow = copy.deepcopy(fast)
    source, target = ids(3, 7), ids(3, 5, seed=2)
    documents = torch.tensor([[0] * 7, [0] * 5 + [-1] * 2, [0] * 3 + [-1] * 4])
    fast_logits = fast(target, source_ids=source, source_documents=documents)
    fast_logits.square().sum().backward()
    with textbook(slow):
        slow_logits = slow(target, source_ids=source, source_documents=documents)
        slow_logits.square().sum().backward()
    torch.testing.assert_close(fast_logits, slow_logits, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(fast.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("pieces", [(9,), (4, 5), (1,) * 9, (3, 1, 5)])
def test_cached_decoding_equals_the_whole_sequence_at_once(name: str, pieces: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    model = build_model(small(**CONFIGS[name])).eval()
    x = ids(2, 9)
    cache = KVCache(model.config, rows=2, capacity=12)
    with torch.no_grad():
        whole = model(x)
        parts = [model(piece, cache=cache) for piece in x.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_the_textbook_path_uses_the_cache_too() -> None:
    model = build_model(small()).eval()
    x = ids(1, 8)
    cache = KVCache(model.config, rows=1, capacity=12)
    with torch.no_grad(), textbook(model):
        parts = [model(piece, cache=cache) for piece in x.split((5, 3), dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(x), atol=1e-5, rtol=1e-5)


def test_the_cache_refuses_more_than_it_holds() -> None:
    model = build_model(small()).eval()
    cache = KVCache(model.config, rows=1, capacity=4)
    with pytest.raises(ValueError, match="holds 4 tokens; 5"):
        model(ids(1, 5), cache=cache)


def test_a_sequence_beyond_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="context of 12"):
        build_model(small())(ids(1, 13))


@pytest.mark.parametrize("architecture", ["decoder", "encoder"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_padded_batch_equals_single_rows(architecture: str, name: str) -> None:
    torch.manual_seed(3)
    model = build_model(small(architecture, **CONFIGS[name])).eval()
    x = ids(3, 9)
    lengths = [9, 4, 6]
    documents = torch.tensor([[0] * n + [-1] * (9 - n) for n in lengths])
    with torch.no_grad():
        padded = model.forward_batch(Batch(ids=x, documents=documents))
        for row, length in enumerate(lengths):
            single = model(x[row : row + 1, :length])
            torch.testing.assert_close(padded[row, :length], single[0], atol=1e-5, rtol=1e-5)
    assert padded.isfinite().all()


@pytest.mark.parametrize("architecture", ["decoder", "encoder"])
@pytest.mark.parametrize("name", CONFIGS)
def test_packed_documents_equal_unpacked_ones_in_loss_and_gradients(architecture: str, name: str) -> None:
    torch.manual_seed(4)
    packed_model = build_model(small(architecture, **CONFIGS[name]))
    single_model = copy.deepcopy(packed_model)
    x, labels = ids(1, 11), ids(1, 11, seed=9)
    bounds = [(0, 4), (4, 9), (9, 11)]
    documents = torch.tensor([[0] * 4 + [1] * 5 + [2] * 2])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1]])
    logits = packed_model.forward_batch(Batch(ids=x, documents=documents, positions=positions))
    packed_loss = cross_entropy_sum(logits, labels)[0]
    packed_loss.backward()
    single_loss = torch.zeros(())
    for start, end in bounds:
        single_loss = single_loss + cross_entropy_sum(single_model(x[:, start:end]), labels[:, start:end])[0]
    single_loss.backward()
    torch.testing.assert_close(packed_loss, single_loss, atol=1e-5, rtol=1e-6)
    for ours, theirs in zip(packed_model.parameters(), single_model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-5, rtol=1e-4)


def test_a_decoder_never_sees_the_future_and_an_encoder_does() -> None:
    x = ids(1, 8)
    changed = x.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 23
    for architecture, leaks in (("decoder", False), ("encoder", True)):
        model = build_model(small(architecture)).eval()
        with torch.no_grad():
            same = torch.equal(model(x)[0, :5], model(changed)[0, :5])
        assert same is not leaks


@pytest.mark.parametrize("architecture", ["decoder", "encoder"])
def test_attention_maps_are_shares_that_sum_to_one_and_respect_the_mask(architecture: str) -> None:
    model = build_model(small(architecture)).eval()
    maps = model.attention_maps(ids(2, 6))
    assert len(maps) == 2
    assert maps[0].shape == (2, 4, 6, 6)
    torch.testing.assert_close(maps[1].sum(-1), torch.ones(2, 4, 6))
    if architecture == "decoder":
        assert maps[0].triu(1).abs().max() == 0
    assert not any(module.textbook for module in model.modules() if hasattr(module, "textbook"))


def test_cross_attention_maps_have_one_column_for_each_source_token() -> None:
    maps = build_model(small("seq2seq")).eval().attention_maps(ids(1, 4), source_ids=ids(1, 7))
    assert maps[0].shape == (1, 4, 4, 7)


def test_dropout_acts_in_training_only() -> None:
    model = build_model(small(dropout=0.3))
    x = ids(2, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_tied_models_share_one_matrix_and_untied_ones_do_not() -> None:
    tied = build_model(small(tied_embeddings=True))
    assert tied.head.weight is tied.embed.tokens.weight
    untied = build_model(small())
    assert untied.head.weight is not untied.embed.tokens.weight
    three = build_model(small("seq2seq", tied_embeddings=True))
    assert three.head.weight is three.encoder.embed.tokens.weight is three.decoder.embed.tokens.weight


def test_presets_have_the_tutorials_shape() -> None:
    for name, architecture, context in (("tinybert", "encoder", 8), ("tinygpt", "decoder", 64)):
        config = model_preset(name, 48)
        assert (config.architecture, config.context) == (architecture, context)
        assert (config.width, config.layers, config.heads, config.dropout) == (128, 4, 4, 0.1)
        assert (config.activation, config.norm, config.norm_placement) == ("gelu", "layernorm", "pre")
    # token and position tables, 4 blocks (qkv, out, up, down, two norms), the final norm and the head
    block = 3 * 128 * 128 + (128 * 128 + 128) + (128 * 512 + 512) + (512 * 128 + 128) + 4 * 128
    expected = 48 * 128 + 64 * 128 + 4 * block + 2 * 128 + (128 * 48 + 48)
    model = build_model(model_preset("tinygpt", 48))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_the_size_dial_grows_every_dimension_together() -> None:
    small_model, large = model_preset("modern", 100, depth=2), model_preset("modern", 100, depth=6)
    assert (small_model.width, small_model.layers) == (128, 2)
    assert (large.width, large.layers, large.heads) == (384, 6, 6)


def test_ignored_labels_take_no_part_in_the_loss() -> None:
    logits = torch.randn(2, 3, 5)
    labels = torch.tensor([[1, IGNORE, 2], [IGNORE, IGNORE, 4]])
    total, count = cross_entropy_sum(logits, labels)
    chosen = logits.log_softmax(-1)
    expected = -(chosen[0, 0, 1] + chosen[0, 2, 2] + chosen[1, 2, 4])
    assert count == 3
    torch.testing.assert_close(total, expected)
