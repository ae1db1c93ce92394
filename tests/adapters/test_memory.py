"""What adapters and frozen layers keep of a forward pass for the backward pass: as little as can be."""

from __future__ import annotations

import torch
from torch import Tensor

from scratchlm.adapters import LoraSettings, add_lora, freeze
from scratchlm.models import Decoder, ModelConfig, build_model
from scratchlm.models.sublayer import project_out


def llama() -> Decoder:
    config = ModelConfig(
        vocab_size=31, width=32, heads=4, layers=1, positions="rotary", norm="rmsnorm", activation="swiglu", dropout=0.0
    )
    return build_model(config)  # type: ignore[return-value]


def test_a_layer_keeps_its_input_once_and_little_else_for_the_backward_pass() -> None:
    model = llama()
    add_lora(model, LoraSettings(rank=2))
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        model.blocks[0].attention.qkv(torch.randn(50, 32, requires_grad=True))
    activations = [t for t in saved if t.shape[0] == 50]
    assert sorted(t.shape[1] for t in activations) == [6, 32]


def test_an_adapter_that_is_not_trained_keeps_no_activations() -> None:
    model = llama()
    add_lora(model, LoraSettings(rank=2))
    freeze(model)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        model.blocks[0].attention.qkv(torch.randn(50, 32, requires_grad=True))
    assert not [t for t in saved if t.shape[0] == 50]


def test_a_frozen_layer_inside_a_sub_layer_keeps_no_activations() -> None:
    model = llama().requires_grad_(False)
    x = torch.randn(1, 300, 32, requires_grad=True)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        result = project_out(x, model.blocks[0].attention.out, torch.zeros(1, 300, 32), 0.0)
    assert not [t for t in saved if t.shape[-2] == 300]
    grad = torch.randn_like(result)
    found = torch.autograd.grad(result, x, grad)[0]
    torch.testing.assert_close(found, grad @ model.blocks[0].attention.out.weight, atol=1e-5, rtol=0.0)
