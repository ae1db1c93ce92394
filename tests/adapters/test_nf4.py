"""NF4 against its published definition, written down here a second time, value by value."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scratchlm.adapters import FrozenLinear, dense_weight, quantise_base
from scratchlm.adapters.nf4 import LEVELS, dynamic_levels, pack_nf4, unpack_nf4
from scratchlm.kernels.quantised import pack, unpack
from scratchlm.models import ModelConfig, build_model

# The boundaries between neighbouring levels as bitsandbytes' kernels have them, from the largest down.
BOUNDARIES = (
    *(0.8614784181118011, 0.6427869200706482, 0.5016634166240692, 0.3893125355243683, 0.2920137718319893),
    *(0.2035212516784668, 0.1202552504837513, 0.03979014977812767, -0.045525018125772476, -0.13791173323988914),
    *(-0.23460740596055984, -0.33967943489551544, -0.4599952697753906, -0.6106329262256622, -0.8480964004993439),
)
# QLoRA's appendix E.
PUBLISHED = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def reference_code(value: float) -> int:
    for i, boundary in enumerate(BOUNDARIES):
        if value > boundary:
            return 15 - i
    return 0


def reference_dynamic() -> list[float]:
    """bitsandbytes' signed dynamic map: 2^i fractions for each of seven exponents, both signs, 0 and 1."""
    values = [0.0, 1.0]
    for i in range(7):
        bounds = torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float32)
        for low, high in itertools.pairwise(bounds):
            mean = float((low + high) / 2.0 * 10 ** (i - 6))
            values += [mean, -mean]
    return sorted(values)


def reference(weight: Tensor) -> tuple[list[int], Tensor]:
    """The codes one by one, and the values that they stand for under double quantisation."""
    flat = weight.flatten()
    blocks = [flat[i : i + 64] for i in range(0, len(flat), 64)]
    largest = torch.stack([block.abs().max() for block in blocks])
    codes = [reference_code(float(v)) for block, top in zip(blocks, largest, strict=True) for v in block * (1 / top)]
    offset = largest.mean()
    levels = torch.tensor(reference_dynamic())
    scales = torch.empty_like(largest)
    for i in range(0, len(largest), 256):
        group = largest[i : i + 256] - offset
        top = group.abs().max()
        for j, value in enumerate(group):
            nearest = (value * (1 / top) - levels).abs().argmin()
            scales[i + j] = levels[nearest] * top + offset
    values = torch.tensor([PUBLISHED[code] for code in codes]) * scales.repeat_interleave(64)[: len(flat)]
    return codes, values.view_as(weight)


def unpacked_codes(codes: Tensor) -> list[int]:
    return torch.stack([codes >> 4, codes & 15], dim=1).flatten().tolist()


@pytest.mark.parametrize("shape", [(64, 64), (96, 200), (3, 7), (300, 64), (1, 1)])
def test_codes_are_bit_equal_and_values_within_a_millionth_of_the_definition(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.05
    packed = pack_nf4(weight)
    codes, values = reference(weight)
    assert unpacked_codes(packed.codes)[: weight.numel()] == codes
    torch.testing.assert_close(unpack_nf4(packed), values, atol=1e-6, rtol=0.0)


def test_the_levels_are_the_published_ones() -> None:
    assert LEVELS == PUBLISHED
    assert dynamic_levels(torch.device("cpu")).tolist() == pytest.approx(reference_dynamic(), abs=1e-9)
    assert len(set(reference_dynamic())) == 256


def test_on_a_boundary_the_lower_level_is_taken() -> None:
    weight = torch.tensor([[1.0, *BOUNDARIES, -1.0]])
    assert unpacked_codes(pack_nf4(weight).codes)[:17] == [15, *range(14, -1, -1), 0]


def test_the_first_of_two_weights_is_in_the_upper_half_of_the_byte() -> None:
    assert pack_nf4(torch.tensor([[1.0, -1.0]])).codes.tolist() == [0xF0]


def test_zeros_stay_zeros_and_are_not_disturbed_by_the_scale_of_others() -> None:
    weight = torch.cat([torch.zeros(1, 64), torch.ones(1, 64)])
    assert torch.equal(unpack_nf4(pack_nf4(weight))[0], torch.zeros(64))
    assert torch.equal(unpack_nf4(pack_nf4(torch.zeros(2, 96))), torch.zeros(2, 96))


def test_a_weight_takes_little_more_than_four_bits() -> None:
    packed = pack_nf4(torch.randn(576, 1536))
    assert packed.bytes * 8 / (576 * 1536) < 4.13


def test_half_precision_weights_are_packed_as_their_float32_values() -> None:
    weight = torch.randn(8, 64).bfloat16()
    assert torch.equal(pack_nf4(weight).codes, pack_nf4(weight.float()).codes)


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(0, 4), torch.zeros(2, 2, 2)])
def test_only_matrices_are_packed(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="only matrices"):
        pack_nf4(bad)


@pytest.mark.parametrize("kind", ["nf4", "int8", "int4"])
def test_a_frozen_layer_multiplies_by_its_weight_and_gives_its_input_the_gradient(kind: str) -> None:
    linear = nn.Linear(96, 40)
    frozen = FrozenLinear(linear, kind)  # type: ignore[arg-type]
    weight = unpack_nf4(pack_nf4(linear.weight)) if kind == "nf4" else unpack(pack(linear.weight, kind))  # type: ignore[arg-type]
    assert torch.equal(dense_weight(frozen), weight)
    x = torch.randn(2, 5, 96, requires_grad=True)
    y = frozen(x)
    torch.testing.assert_close(y, F.linear(x, weight, linear.bias))
    grad = torch.randn_like(y)
    found = torch.autograd.grad(y, x, grad)[0]
    torch.testing.assert_close(found, grad @ weight)


def test_matrices_in_memory_that_is_used_again() -> None:
    """The same values, in one place whatever the matrix, also when the place was first asked for without gradients."""
    packed = [pack_nf4(torch.randn(40, 96)), pack_nf4(torch.randn(24, 64)), pack_nf4(torch.randn(3, 7))]
    with torch.inference_mode():
        first = unpack_nf4(packed[0], scratch=True).data_ptr()
    for one in packed:
        assert torch.equal(unpack_nf4(one, scratch=True), unpack_nf4(one))
    assert unpack_nf4(packed[1], scratch=True).data_ptr() == first
    assert unpack_nf4(packed[1]).data_ptr() != first


def test_a_frozen_layer_keeps_no_activations_and_no_dense_weight() -> None:
    frozen = FrozenLinear(nn.Linear(96, 40), "nf4").requires_grad_(False)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        frozen(torch.randn(7, 96, requires_grad=True))
    assert saved == []


def test_changing_the_models_type_leaves_the_bytes_alone() -> None:
    frozen = FrozenLinear(nn.Linear(64, 8), "nf4")
    before = dense_weight(frozen)
    assert torch.equal(dense_weight(frozen.to(torch.bfloat16)), before)
    assert frozen(torch.randn(2, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_quantised_base_has_no_linear_layer_left_but_the_head_and_takes_no_gradients() -> None:
    model = build_model(ModelConfig(vocab_size=20, width=64, layers=2, dropout=0.0))
    logits = model(torch.arange(6)[None])
    assert quantise_base(model, "int8") == 8
    assert [path for path, module in model.named_modules() if type(module) is nn.Linear] == ["head"]
    assert not any(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(model(torch.arange(6)[None]), logits, atol=0.05, rtol=0.0)
    assert not any("data" in name for name in model.state_dict())
