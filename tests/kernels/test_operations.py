"""Every operation against plain PyTorch in double precision, forward and backward, and with the native code off."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scratchlm import kernels


def tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def check(ours: Callable[..., Tensor], reference: Callable[..., Tensor], inputs: list[Tensor], atol: float) -> None:
    """``ours`` in float32 against ``reference`` in float64: value, and gradients to 1e-4 of their largest entry."""
    doubles = [tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in inputs]
    value, expected = ours(*inputs), reference(*doubles)
    torch.testing.assert_close(value.double(), expected, atol=atol, rtol=1e-5)
    direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    wanted = [i for i, tensor in enumerate(inputs) if tensor.requires_grad]
    got = torch.autograd.grad(value, [inputs[i] for i in wanted], direction)
    right = torch.autograd.grad(expected, [doubles[i] for i in wanted], direction.double())
    for i, ours_gradient, true_gradient in zip(wanted, got, right, strict=True):
        scale = max(float(true_gradient.abs().max()), 1e-6)
        error = float((ours_gradient.double() - true_gradient).abs().max()) / scale
        assert error < 1e-4, f"the gradient of input {i} is off by {error:.1e} of its size"


def textbook_attention(qkv: Tensor, heads: int, kv_heads: int, causal: bool) -> Tensor:
    rows, length, size = qkv.shape
    d = size // (heads + 2 * kv_heads)
    parts = qkv.view(rows, length, heads + 2 * kv_heads, d).transpose(1, 2)
    q, k, v = parts.split([heads, kv_heads, kv_heads], dim=1)
    k, v = (part.repeat_interleave(heads // kv_heads, dim=1) for part in (k, v))
    scores = q @ k.mT / d**0.5
    if causal:
        scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, length, heads * d)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("rows", "length", "heads", "kv_heads", "size"),
    [
        (2, 64, 4, 4, 32),
        (3, 37, 2, 2, 5),
        (1, 1, 3, 1, 8),
        (2, 129, 6, 2, 24),
        (1, 256, 2, 1, 16),
        (1, 300, 2, 1, 16),
        (2, 8, 4, 1, 33),
    ],
)
def test_attention_is_the_textbooks(rows: int, length: int, heads: int, kv_heads: int, size: int, causal: bool) -> None:
    (qkv,) = tensors((rows, length, (heads + 2 * kv_heads) * size))
    check(
        lambda x: kernels.attention(x, heads, kv_heads, causal=causal),
        lambda x: textbook_attention(x, heads, kv_heads, causal),
        [qkv],
        1e-5,
    )


def test_attention_keeps_its_precision_with_large_scores() -> None:
    (qkv,) = tensors((1, 40, 3 * 16))
    with torch.no_grad():
        qkv *= 12
    check(lambda x: kernels.attention(x, 1, 1, causal=True), lambda x: textbook_attention(x, 1, 1, True), [qkv], 1e-4)


def test_gelu_is_exact_over_its_whole_range() -> None:
    x = torch.cat([torch.linspace(-30, 30, 20_011), torch.tensor([0.0, -0.0, 1e-20, -1e-20, 200.0, -200.0])])
    x.requires_grad_()
    value = kernels.gelu(x)
    torch.testing.assert_close(value.double(), F.gelu(x.double()), atol=1e-6, rtol=1e-6)
    (slope,) = torch.autograd.grad(value.sum(), x)
    exact = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(F.gelu(exact).sum(), exact)
    torch.testing.assert_close(slope.double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shape", [(5, 3, 128), (7, 5), (1, 77), (200, 33)])
def test_norms_are_pytorchs(shape: tuple[int, ...]) -> None:
    x, weight, bias = tensors(shape, shape[-1:], shape[-1:])
    size = shape[-1:]
    check(kernels.layer_norm, lambda x, w, b: F.layer_norm(x, size, w, b, 1e-5), [x, weight, bias], 1e-5)
    check(
        lambda x, w: kernels.layer_norm(x, w, None),
        lambda x, w: F.layer_norm(x, size, w, None, 1e-5),
        [x, weight],
        1e-5,
    )
    check(kernels.rms_norm, lambda x, w: F.rms_norm(x, size, w, 1e-5), [x, weight], 1e-5)


SIZES = [(64, 128, 384), (100, 24, 37), (67, 7, 1), (130, 300, 129), (1030, 16, 48)]


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_norm_linear_is_a_norm_and_a_linear_layer(rows: int, inputs: int, outputs: int) -> None:
    x, norm, shift, weight, bias = tensors((rows, inputs), (inputs,), (inputs,), (outputs, inputs), (outputs,))

    def plain(x: Tensor, norm: Tensor, shift: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(F.layer_norm(x, (inputs,), norm, shift, 1e-5), weight, bias)

    check(kernels.norm_linear, plain, [x, norm, shift, weight, bias], 1e-4)
    check(
        lambda x, norm, weight: kernels.norm_linear(x, norm, None, weight, None, rms=True),
        lambda x, norm, weight: F.linear(F.rms_norm(x, (inputs,), norm, 1e-5), weight),
        [x, norm, weight],
        1e-4,
    )


@pytest.mark.parametrize("used", ["both", "result", "residual"])
def test_the_residual_beside_norm_linear_carries_its_gradient(used: str) -> None:
    def outcome(y: Tensor, x: Tensor) -> Tensor:
        return {"both": y.sum(-1) + x.square().sum(-1), "result": y.sum(-1), "residual": x.square().sum(-1)}[used]

    inputs = tensors((90, 12), (12,), (12,), (9, 12), (9,))
    if used == "residual":
        inputs = [inputs[0], *(tensor.detach() for tensor in inputs[1:])]
    check(
        lambda *inputs: outcome(*kernels.norm_linear_residual(*inputs)),
        lambda x, norm, shift, w, b: outcome(F.linear(F.layer_norm(x, (12,), norm, shift, 1e-5), w, b), x),
        inputs,
        1e-4,
    )


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_linear_dropout_add_without_dropout_is_a_linear_layer_and_a_sum(rows: int, inputs: int, outputs: int) -> None:
    x, weight, bias, residual = tensors((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))
    check(kernels.linear_dropout_add, lambda x, w, b, r: r + F.linear(x, w, b), [x, weight, bias, residual], 1e-4)
    check(lambda x, w: kernels.linear_dropout_add(x, w, None, None), F.linear, [x, weight], 1e-4)


@pytest.mark.parametrize(("rows", "width", "inner"), [(64, 128, 512), (90, 20, 70), (129, 33, 259), (600, 8, 3)])
def test_gelu_mlp_is_the_feed_forward_sub_layer(rows: int, width: int, inner: int) -> None:
    shapes = [(rows, width), (width,), (width,), (inner, width), (inner,), (width, inner), (width,)]

    def plain(x: Tensor, norm: Tensor, shift: Tensor, up: Tensor, up_b: Tensor, down: Tensor, down_b: Tensor) -> Tensor:
        hidden = F.gelu(F.linear(F.layer_norm(x, (width,), norm, shift, 1e-5), up, up_b))
        return x + F.linear(hidden, down, down_b)

    check(kernels.gelu_mlp, plain, tensors(*shapes), 2e-4)
    x, norm, up, down = tensors(shapes[0], shapes[1], shapes[3], shapes[5])
    check(
        lambda x, norm, up, down: kernels.gelu_mlp(x, norm, None, up, None, down, None, rms=True),
        lambda x, norm, up, down: x + F.linear(F.gelu(F.linear(F.rms_norm(x, (width,), norm, 1e-5), up)), down),
        [x, norm, up, down],
        2e-4,
    )


def every_operation() -> dict[str, tuple[Callable[..., Tensor], list[Tensor]]]:
    return {
        "attention": (lambda x: kernels.attention(x, 2, 1, causal=True), tensors((3, 30, 4 * 8))),
        "dropout_add": (lambda x, r: kernels.dropout_add(x, r, 0.0), tensors((9, 13), (9, 13))),
        "gelu": (kernels.gelu, tensors((9, 13))),
        "layer_norm": (kernels.layer_norm, tensors((9, 13), (13,), (13,))),
        "rms_norm": (kernels.rms_norm, tensors((9, 13), (13,))),
        "norm_linear": (kernels.norm_linear, tensors((70, 12), (12,), (12,), (9, 12), (9,))),
        "linear_dropout_add": (kernels.linear_dropout_add, tensors((70, 12), (9, 12), (9,), (70, 9))),
        "gelu_mlp": (kernels.gelu_mlp, tensors((70, 12), (12,), (12,), (20, 12), (20,), (12, 20), (12,))),
    }


OPERATIONS = sorted(every_operation())


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_fallback_gives_what_the_native_code_gives(name: str) -> None:
    operation, inputs = every_operation()[name]
    native = operation(*inputs)
    gradients = torch.autograd.grad(native.sin().sum(), inputs)
    with kernels.disabled():
        plain = operation(*inputs)
        expected = torch.autograd.grad(plain.sin().sum(), inputs)
    torch.testing.assert_close(native, plain, atol=1e-5, rtol=1e-5)
    for gradient, right in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, right, atol=1e-4 * float(right.abs().max()), rtol=0)


@pytest.mark.parametrize("name", OPERATIONS)
def test_doubles_are_computed_as_doubles(name: str) -> None:
    operation, inputs = every_operation()[name]
    doubles = [tensor.detach().double() for tensor in inputs]
    value = operation(*doubles)
    assert value.dtype == torch.float64
    with kernels.disabled():
        torch.testing.assert_close(value, operation(*doubles), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_gradient_is_kept_in_inference(name: str) -> None:
    operation, inputs = every_operation()[name]
    with_gradient = operation(*inputs)
    with torch.inference_mode():
        value = operation(*inputs)
    assert not value.requires_grad
    torch.testing.assert_close(value, with_gradient.detach(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", OPERATIONS)
def test_frozen_weights_get_no_gradient_and_change_nothing_else(name: str) -> None:
    operation, inputs = every_operation()[name]
    (expected,) = torch.autograd.grad(operation(*inputs).sum(), inputs[:1])
    frozen = [inputs[0], *(tensor.detach() for tensor in inputs[1:])]
    (gradient,) = torch.autograd.grad(operation(*frozen).sum(), frozen[:1])
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_step_repeated_and_split_over_threads_gives_the_same_bits(name: str) -> None:
    operation, inputs = every_operation()[name]
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            value = operation(*inputs)
            results.append([value, *torch.autograd.grad(value.square().sum(), inputs)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_rows_that_do_not_lie_side_by_side_are_understood() -> None:
    x, weight, bias = tensors((12, 70), (9, 12), (9,))
    torch.testing.assert_close(
        kernels.linear_dropout_add(x.t(), weight, bias, None), F.linear(x.t(), weight, bias), atol=1e-5, rtol=1e-5
    )
    (wide,) = tensors((2, 20, 2 * 24))
    part = wide[..., ::2]
    torch.testing.assert_close(
        kernels.attention(part, 1, 1, causal=True), textbook_attention(part, 1, 1, True), atol=1e-5, rtol=1e-5
    )


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, weight, short, bias = tensors((70, 12), (9, 12), (9, 11), (8,))
    with pytest.raises(RuntimeError):
        kernels.linear_dropout_add(x, short, None, None)
    with pytest.raises(RuntimeError):
        kernels.linear_dropout_add(x, weight, bias, None)
    with pytest.raises(RuntimeError):
        kernels.norm_linear(x, bias, None, weight, None)
    with pytest.raises(ValueError, match="3 query"):
        kernels.attention(x[None], 3, 2, causal=True)
    with pytest.raises(ValueError, match="residual"):
        kernels.dropout_add(x, weight, 0.1)
    with pytest.raises(ValueError, match="probability"):
        kernels.dropout_add(x, x, 1.0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("native", [True, False])
def test_texts_of_any_length_attend_each_to_itself(causal: bool, native: bool) -> None:
    torch.manual_seed(0)
    lengths = [5, 1, 33, 9, 16]
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    qkv = torch.randn(1, 64, 8 * 6, requires_grad=True)
    with nullcontext() if native else kernels.disabled():
        together = kernels.attention(qkv, 4, 2, causal=causal, bounds=bounds)
        parts = [kernels.attention(p[None], 4, 2, causal=causal) for p in qkv[0].split(lengths)]
    expected = torch.cat(parts, dim=1)
    torch.testing.assert_close(together, expected, atol=1e-6, rtol=1e-6)
    weight = torch.randn_like(together)
    (ours,) = torch.autograd.grad((together * weight).sum(), qkv)
    (theirs,) = torch.autograd.grad((expected * weight).sum(), qkv)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("each_row", [True, False])
def test_heads_turn_as_the_plain_formula_says(each_row: bool) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(2, 7, 5 * 12, requires_grad=True)
    angles = torch.randn(2, 7, 6) if each_row else torch.randn(7, 6)
    found = kernels.rotate_heads(qkv, angles.cos(), angles.sin(), 5, 4)
    with kernels.disabled():
        expected = kernels.rotate_heads(qkv, angles.cos(), angles.sin(), 5, 4)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(found[..., 48:], qkv[..., 48:])
    weight = torch.randn_like(found)
    (ours,) = torch.autograd.grad((found * weight).sum(), qkv)
    (theirs,) = torch.autograd.grad((expected * weight).sum(), qkv)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_swiglu_and_its_gradient_are_those_of_its_formula() -> None:
    torch.manual_seed(0)
    x = (4 * torch.randn(3, 5, 14)).requires_grad_()
    again = x.detach().clone().requires_grad_()
    grad = torch.randn(3, 5, 7)
    kernels.swiglu(x).backward(grad)
    gate, up = again.chunk(2, dim=-1)
    (torch.nn.functional.silu(gate) * up).backward(grad)
    torch.testing.assert_close(kernels.swiglu(x), torch.nn.functional.silu(gate) * up)
    torch.testing.assert_close(x.grad, again.grad)
