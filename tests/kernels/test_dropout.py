"""Dropout as a function of a seed: rates, scales, and the same mask in both directions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scratchlm import kernels

pytestmark = pytest.mark.skipif(not kernels.available(), reason=kernels.status())


def drop(x: Tensor, p: float) -> Tensor:
    return kernels.dropout_add(x, None, p)


def eye_linear(x: Tensor, p: float) -> Tensor:
    return kernels.linear_dropout_add(x, torch.eye(x.shape[-1]), None, torch.zeros_like(x), p)


def attend(x: Tensor, p: float) -> Tensor:
    """Uniform attention over T tokens whose values are T times the unit vectors: shows the mask itself."""
    rows, length, _ = x.shape
    values = length * torch.eye(length).expand(rows, length, length)
    qk = torch.zeros(rows, length, 2 * length)
    return kernels.attention(torch.cat([qk, values], dim=-1), 1, 1, causal=False, dropout=p)


@pytest.mark.parametrize("draw", [drop, eye_linear, attend])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.013])
def test_the_share_dropped_and_the_scale_are_those_asked_for(draw: Callable[[Tensor, float], Tensor], p: float) -> None:
    torch.manual_seed(0)
    out = draw(torch.ones(30, 200, 200), p)
    kept = out[out != 0]
    spread = (p * (1 - p) / out.numel()) ** 0.5
    assert abs(1 - kept.numel() / out.numel() - p) < 5 * spread + 1e-5
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), atol=3e-5, rtol=3e-5)


def test_the_mask_looks_random_in_every_direction() -> None:
    """Rows, columns, neighbours and pairs at the distances of the hash's own steps are uncorrelated."""
    torch.manual_seed(0)
    mask = (drop(torch.ones(2048, 256), 0.3) == 0).float() - 0.3
    sigma = 0.3 * 0.7
    assert float((mask.mean(0) / (sigma / 2048) ** 0.5).abs().max()) < 5
    assert float((mask.mean(1) / (sigma / 256) ** 0.5).abs().max()) < 5
    flat = mask.flatten()
    for distance in (1, 2, 8, 15, 16, 17, 31, 32, 64, 256, 512, 4096):
        product = flat[:-distance] * flat[distance:]
        assert abs(float(product.mean())) < 5 * sigma / product.numel() ** 0.5, distance


@pytest.mark.parametrize("draw", [drop, eye_linear, attend])
def test_manual_seed_repeats_a_mask_and_every_call_has_its_own(draw: Callable[[Tensor, float], Tensor]) -> None:
    x = torch.ones(2, 80, 80)
    torch.manual_seed(7)
    first, second = draw(x, 0.4), draw(x, 0.4)
    torch.manual_seed(7)
    again = draw(x, 0.4)
    torch.manual_seed(8)
    other = draw(x, 0.4)
    assert torch.equal(first, again)
    agreement = [float(((first == 0) == (mask == 0)).float().mean()) for mask in (second, other)]
    assert agreement == pytest.approx([0.52, 0.52], abs=0.03)


@pytest.mark.parametrize("name", ["dropout_add", "linear_dropout_add", "gelu_mlp", "attention"])
def test_the_backward_pass_uses_the_forward_passs_mask(name: str) -> None:
    """Finite differences at a fixed seed: a mask drawn anew in the backward pass would be far off."""
    generator = torch.Generator().manual_seed(0)
    rows, width = 66, 24

    def made(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    weight, bias, up, down, inner_bias = made(width, width), made(width), made(40, width), made(width, 40), made(40)
    residual = made(rows, width)
    operations: dict[str, Callable[[Tensor], Tensor]] = {
        "dropout_add": lambda x: kernels.dropout_add(x, residual, 0.3),
        "linear_dropout_add": lambda x: kernels.linear_dropout_add(x, weight, bias, residual, 0.3),
        "gelu_mlp": lambda x: kernels.gelu_mlp(x, bias, bias, up, inner_bias, down, bias, 0.3),
        "attention": lambda x: kernels.attention(x.view(3, 22, 24), 2, 1, causal=True, dropout=0.3),
    }
    direction = torch.randn(rows * width, generator=generator)

    def loss(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        out = operations[name](x).flatten()
        return (out * direction[: out.numel()]).sum()

    x = made(rows, width)
    leaves = {"x": x, "weight": weight, "bias": bias, "up": up, "down": down, "inner": inner_bias, "residual": residual}
    gradients = torch.autograd.grad(loss(x), list(leaves.values()), allow_unused=True)
    for (leaf, tensor), gradient in zip(leaves.items(), gradients, strict=True):
        if gradient is None:
            continue
        step = torch.randn(tensor.shape, generator=generator)
        with torch.no_grad():
            tensor += 1e-3 * step
            above = loss(x).double()
            tensor -= 2e-3 * step
            below = loss(x).double()
            tensor += 1e-3 * step
        slope = float(above - below) / 2e-3
        predicted = float((gradient * step).sum())
        size = float(gradient.norm() * step.norm()) / gradient.numel() ** 0.5
        assert abs(slope - predicted) < 0.02 * size + 0.02 * abs(predicted), (leaf, slope, predicted)


def test_no_dropout_is_no_dropout() -> None:
    x, residual = torch.randn(5, 7), torch.randn(5, 7)
    state = torch.get_rng_state()
    assert torch.equal(kernels.dropout_add(x, residual, 0.0), x + residual)
    assert torch.equal(kernels.dropout_add(x, None, 0.0), x)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_forward_pass_can_be_differentiated_twice_over() -> None:
    x = torch.randn(70, 16, requires_grad=True)
    weights = [torch.randn(shape, requires_grad=True) for shape in ((16,), (16,), (32, 16), (32,), (16, 32), (16,))]
    out = kernels.gelu_mlp(x, *weights, 0.2)
    first = torch.autograd.grad(out.sum(), [x, *weights], retain_graph=True)
    second = torch.autograd.grad(out.sum(), [x, *weights])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
