"""LoRA beside our layers: the same as the dense product, in one row of a fused matrix as in all; switching, merging."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scratchlm.adapters import (
    LoraSettings,
    adapters_of,
    adapters_off,
    add_lora,
    drop_adapter,
    merge,
    merged_weight,
    quantise_base,
    trainable,
    unload,
    use_adapter,
)
from scratchlm.errors import UserError
from scratchlm.models import Decoder, ModelConfig, build_model
from scratchlm.models.quantised import quantise

LLAMA: dict[str, Any] = {
    "vocab_size": 31,
    "width": 32,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "ffn_width": 44,
    "positions": "rotary",
    "norm": "rmsnorm",
    "activation": "swiglu",
    "qkv_bias": True,
    "out_bias": False,
    "ffn_bias": False,
    "head_bias": False,
    "dropout": 0.0,
}
GPT2: dict[str, Any] = {"vocab_size": 31, "width": 32, "layers": 2, "dropout": 0.0, "qkv_bias": True}
IDS = torch.arange(24).view(2, 12) % 31
CLOSE = {"atol": 1e-5, "rtol": 0.0}


def llama(**changes: Any) -> Decoder:
    torch.manual_seed(0)
    return build_model(ModelConfig(**(LLAMA | changes))).eval()  # type: ignore[return-value]


def stirred(model: nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


def dense_twin(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """The same model with plain layers that have these weights."""
    twin = copy.deepcopy(model)
    unload(twin)
    for path, weight in weights.items():
        twin.get_submodule(path).weight = nn.Parameter(weight)  # type: ignore[assignment]
    return twin


def test_a_fresh_adapter_changes_nothing() -> None:
    model = llama()
    before = model(IDS)
    add_lora(model, LoraSettings())
    torch.testing.assert_close(model(IDS), before)


def test_an_adapter_on_query_and_value_touches_their_rows_only() -> None:
    model = llama()
    base = model.blocks[0].attention.qkv.weight.clone()
    add_lora(model, LoraSettings(rank=4, alpha=6, targets=("q_proj", "v_proj")))
    stirred(model)
    layer = model.blocks[0].attention.qkv
    own = layer.adapters["default"]
    assert [tuple(b.shape) for b in own.b] == [(32, 4), (16, 4)]
    change = merged_weight(layer) - base
    torch.testing.assert_close(change[:32], 1.5 * own.b[0] @ own.a[:4])
    assert torch.equal(change[32:48], torch.zeros(16, 32))
    torch.testing.assert_close(change[48:], 1.5 * own.b[1] @ own.a[4:])


def test_gate_and_up_are_the_halves_of_one_matrix() -> None:
    for target, rows in (("gate_proj", slice(0, 44)), ("up_proj", slice(44, 88))):
        model = llama()
        base = model.blocks[1].mlp.up.weight.clone()
        add_lora(model, LoraSettings(rank=4, targets=(target,)))
        stirred(model)
        changed = (merged_weight(model.blocks[1].mlp.up) != base).any(dim=1)
        assert changed[rows].all()
        assert changed.sum() == 44


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("kind", [None, "nf4", "int8"])
def test_outputs_and_gradients_are_those_of_the_dense_matrix(dora: bool, kind: str | None) -> None:
    model = llama()
    if kind is not None:
        quantise_base(model, kind)  # type: ignore[arg-type]
    add_lora(model, LoraSettings(rank=3, dora=dora, rslora=True, bias="lora_only"))
    stirred(model)
    layer = model.blocks[0].attention.qkv
    own, x = layer.adapters["default"], torch.randn(2, 5, 32, requires_grad=True)
    base, bias = layer.base, torch.cat(list(own.biases.values()))
    weight = merged_weight(base)
    change = torch.cat([32 / 3**0.5 * b @ a for b, a in zip(own.b, own.a.split(3), strict=True)])
    whole = weight + change
    if dora:
        whole = whole * (torch.cat(list(own.magnitudes)) / whole.norm(dim=1).detach())[:, None]
    wanted, found = F.linear(x, whole, bias), layer(x)
    torch.testing.assert_close(found, wanted, **CLOSE)
    grad, leaves = torch.randn_like(found), [x, *own.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(found, leaves, grad), torch.autograd.grad(wanted, leaves, grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        LoraSettings(rank=2),
        LoraSettings(rank=2, targets="peft", bias="all", extra=("lm_head",)),
        LoraSettings(rank=2, dora=True, dropout=0.2, layers=(1,)),
    ],
)
@pytest.mark.parametrize("shape", [LLAMA, GPT2])
def test_every_trainable_tensor_moves_and_no_frozen_one(settings: LoraSettings, shape: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(**shape))
    add_lora(model, settings)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(IDS).flatten(0, 1), IDS.roll(-1, 1).flatten()).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
        assert (parameter.grad is None) != parameter.requires_grad, name


def test_what_is_trained_is_the_adapter_alone() -> None:
    model = llama()
    add_lora(model, LoraSettings(rank=2, targets=("o_proj",)))
    assert all(".adapters.default." in name for name in trainable(model))
    assert sum(p.numel() for p in trainable(model).values()) == 2 * 2 * (32 + 32)


def test_dropout_acts_in_training_only_and_on_the_adapter_only() -> None:
    model = llama()
    add_lora(model, LoraSettings(rank=4, dropout=0.5))
    model.train()
    before = model(IDS)
    torch.testing.assert_close(model(IDS), before)  # B is zero: what is dropped does not matter yet
    stirred(model)
    assert not torch.allclose(model(IDS), model(IDS))
    model.eval()
    assert torch.equal(model(IDS), model(IDS))


def test_autocast_computes_in_bfloat16_and_differentiates() -> None:
    model = llama()
    add_lora(model, LoraSettings(rank=4))
    stirred(model)
    exact = model(IDS)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(IDS)
    torch.testing.assert_close(found.float(), exact, atol=0.2, rtol=0.1)
    found.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in trainable(model).values())


def test_adapters_are_switched_weighted_added_and_turned_off() -> None:
    model = llama()
    base = model(IDS)
    weight = model.blocks[0].mlp.down.weight.clone()
    add_lora(model, LoraSettings(rank=2), "one")
    stirred(model, 1)
    one, change_one = model(IDS), merged_weight(model.blocks[0].mlp.down) - weight
    add_lora(model, LoraSettings(rank=3, targets=("down_proj", "q_proj")), "two")
    stirred(model, 2)
    two, change_two = model(IDS), merged_weight(model.blocks[0].mlp.down) - weight
    assert not torch.allclose(one, two, atol=1e-3)
    use_adapter(model, "one")
    torch.testing.assert_close(model(IDS), one)
    with adapters_off(model):
        torch.testing.assert_close(model(IDS), base)
    torch.testing.assert_close(model(IDS), one)
    use_adapter(model, {"one": 0.5, "two": -1.0})
    torch.testing.assert_close(merged_weight(model.blocks[0].mlp.down), weight + 0.5 * change_one - change_two)
    both = model(IDS)
    use_adapter(model, None)
    torch.testing.assert_close(model(IDS), base)
    use_adapter(model, {"one": 0.5, "two": -1.0})
    merge(model)
    torch.testing.assert_close(model(IDS), both, **CLOSE)


def test_the_adapters_return_after_an_error_in_the_block_without_them() -> None:
    model = llama()
    add_lora(model, LoraSettings(rank=2))
    with pytest.raises(RuntimeError), adapters_off(model):
        raise RuntimeError
    assert adapters_of(model).active == {"default": 1.0}


def test_training_goes_on_with_the_adapter_that_is_named() -> None:
    model = llama()
    add_lora(model, LoraSettings(rank=2), "one")
    add_lora(model, LoraSettings(rank=2), "two")
    assert all(".two." in name for name in trainable(model))
    use_adapter(model, "one", train=True)
    assert trainable(model)
    assert all(".one." in name for name in trainable(model))


def test_unloading_gives_the_very_base_back() -> None:
    model = llama()
    before, logits = dict(model.named_parameters()), model(IDS)
    add_lora(model, LoraSettings(rank=2, extra=("lm_head",), bias="all"))
    stirred(model)
    unload(model)
    assert dict(model.named_parameters()).keys() == before.keys()
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    torch.testing.assert_close(model(IDS), logits)


def test_dropping_one_adapter_leaves_the_other() -> None:
    model = llama()
    add_lora(model, LoraSettings(rank=2, targets=("q_proj",)), "one")
    add_lora(model, LoraSettings(rank=2, targets=("down_proj",)), "two")
    drop_adapter(model, "one")
    assert type(model.blocks[0].attention.qkv) is nn.Linear
    assert list(adapters_of(model).settings) == list(adapters_of(model).active) == ["two"]


@pytest.mark.parametrize("dora", [False, True])
def test_merging_is_exact_and_says_what_it_did(dora: bool) -> None:
    model = llama()
    add_lora(model, LoraSettings(rank=4, dora=dora, bias="lora_only", extra=("norm",)))
    stirred(model)
    wanted = model(IDS)
    assert merge(model) == "merged into 9 layers"
    assert type(model.blocks[0].attention.qkv) is nn.Linear
    torch.testing.assert_close(model(IDS), wanted, **CLOSE)


def test_merging_into_few_bits_says_so_and_loses_nothing() -> None:
    model = llama()
    quantise_base(model, "nf4")
    add_lora(model, LoraSettings(rank=4))
    stirred(model)
    wanted = model(IDS)
    assert merge(model) == "merged into 8 layers; 8 of them were kept in few bits and are float32 now"
    torch.testing.assert_close(model(IDS), wanted, **CLOSE)


def test_the_models_own_quantised_layers_can_be_adapted_too() -> None:
    model = quantise(llama(), "int8")
    add_lora(model, LoraSettings(rank=4))
    stirred(model)
    wanted = model(IDS)
    assert merge(model).startswith("merged into 8 layers; 8 of them")
    torch.testing.assert_close(model(IDS), wanted, atol=0.05, rtol=0.0)  # the head's input is rounded to 8 bits


def test_a_tied_head_is_tied_no_longer_once_an_adapter_is_merged_into_it() -> None:
    model = llama(tied_embeddings=True)
    embedding = model.embed.tokens.weight.clone()
    add_lora(model, LoraSettings(rank=4, targets=("lm_head",)))
    stirred(model)
    wanted = model(IDS)
    merge(model)
    assert not model.config.tied_embeddings
    assert torch.equal(model.embed.tokens.weight, embedding)
    torch.testing.assert_close(model(IDS), wanted, **CLOSE)


def test_a_copied_model_has_adapters_of_its_own() -> None:
    model = llama()
    add_lora(model, LoraSettings(rank=2))
    stirred(model)
    twin = copy.deepcopy(model)
    use_adapter(twin, None)
    assert adapters_of(model).active == {"default": 1.0}
    assert not torch.allclose(model(IDS), twin(IDS))


def test_a_base_that_takes_gradients_is_a_mistake_and_not_passed_over() -> None:
    model = llama()
    add_lora(model, LoraSettings(rank=2))
    model.requires_grad_(True)
    with pytest.raises(ValueError, match="takes no gradient"):
        model(IDS)


def test_an_encoder_decoder_is_adapted_by_its_own_names() -> None:
    model = build_model(ModelConfig(vocab_size=31, width=32, layers=1, architecture="seq2seq", dropout=0.0))
    before = model(IDS, source_ids=IDS)
    add_lora(model, LoraSettings(rank=2, targets=("cross.kv",)))
    stirred(model)
    assert not torch.allclose(model(IDS, source_ids=IDS), before)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": True}, "rank is True"),
        ({"ranks": {"q_proj": -1}}, "rank is -1"),
        ({"alpha": 0}, "alpha is 0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"targets": "everything"}, "targets is 'everything'"),
        ({"targets": ()}, "targets is empty"),
        ({"targets": ("q_proj", "wq")}, "no linear layer matches 'wq'; there are down_proj"),
        ({"targets": ("c_attn",)}, "matches 'c_attn'"),
        ({"layers": (7,)}, "no linear layer to adapt in the blocks 7"),
        ({"layers": (-1,)}, "layers is -1"),
        ({"extra": ("classifier",)}, "no module matches 'classifier'"),
        ({"extra": ("q_proj",)}, "q_proj is a part of blocks.0.attention.qkv"),
        ({"targets": ("lm_head",), "extra": ("lm_head",)}, "no linear layer matches 'lm_head'"),
    ],
)
def test_a_setting_that_cannot_be_is_told_in_one_line_and_changes_nothing(settings: dict[str, Any], said: str) -> None:
    model = llama()
    with pytest.raises(UserError, match=said) as found:
        add_lora(model, LoraSettings(**settings))
    assert "\n" not in str(found.value)
    assert not adapters_of(model).settings
    assert type(model.head) is nn.Linear


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (("one", {}), ("one", {}), "there is an adapter 'one' already"),
        (("one", {}), ("a.b", {}), "cannot be an adapter's name"),
        (("one", {}), ("pop", {}), "cannot be an adapter's name"),
        (("one", {"bias": "all"}), ("two", {}), "trains biases must be the model's only one"),
        (("one", {}), ("two", {"bias": "lora_only"}), "trains biases must be the model's only one"),
        (("one", {"extra": ("lm_head",)}), ("two", {"targets": ("lm_head",)}), "head is changed by another adapter"),
    ],
)
def test_two_adapters_that_cannot_share_a_base(first: Any, second: Any, said: str) -> None:
    model = llama()
    add_lora(model, LoraSettings(rank=2, **first[1]), first[0])
    with pytest.raises(UserError, match=said):
        add_lora(model, LoraSettings(rank=2, **second[1]), second[0])
    assert list(adapters_of(model).settings) == ["one"]


@pytest.mark.parametrize("settings", [{"dora": True}, {"extra": ("lm_head",)}])
def test_what_cannot_be_weighted_is_not(settings: dict[str, Any]) -> None:
    model = llama()
    add_lora(model, LoraSettings(rank=2, **settings), "one")
    add_lora(model, LoraSettings(rank=2), "two")
    for which in ({"one": 0.5}, {"one": 1.0, "two": 1.0}):
        with pytest.raises(UserError, match="works alone only"):
            use_adapter(model, which)
    with pytest.raises(UserError, match="no adapter 'three'; the model's: one, two"):
        use_adapter(model, "three")
