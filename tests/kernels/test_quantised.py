"""Matrices in 8 and 4 bits: what they stand for, the same bytes with and without native code, and their products."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from scratchlm import kernels
from scratchlm.kernels.build import call
from scratchlm.kernels.quantised import KINDS, PackedMatrix, Precision, pack, pack_gguf, quantised_linear, unpack

needs_native = pytest.mark.skipif(not kernels.available(), reason="no C compiler here")
SHAPES = [(8, 32), (24, 96), (37, 100), (1, 1), (130, 33)]
BRIEF = 3
"""The native code's number for 8-bit weights with activations of 7 bits."""


def flags() -> str:
    """What the processor can, as Linux tells it."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def matrix(rows: int, columns: int) -> torch.Tensor:
    torch.manual_seed(rows * 1000 + columns)
    return torch.randn(rows, columns)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_packed_weight_is_within_half_a_step_of_its_own(shape: tuple[int, int], precision: Precision) -> None:
    weight = matrix(*shape)
    for native in (True, False):
        if native and not kernels.available():
            continue
        if native:
            found = unpack(pack(weight, precision))
        else:
            with kernels.disabled():
                found = unpack(pack(weight, precision))
        assert found.shape == weight.shape
        step = weight.abs().max() / 127 if precision == "int8" else (weight.max() - weight.min()) / 15
        assert float((found - weight).abs().max()) <= 0.6 * float(step) + 2e-3


@needs_native
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_native_and_plain_code_read_the_same_bytes_alike(shape: tuple[int, int], precision: Precision) -> None:
    native = pack(matrix(*shape), precision)
    with kernels.disabled():
        plain = pack(matrix(*shape), precision)
        read = unpack(native)
    assert torch.equal(unpack(native), read)
    # Where a weight lies midway between two steps, either may be taken.
    assert float((native.data != plain.data).float().mean()) < 0.01


def test_a_block_of_equal_weights_and_one_of_zeros_stay_what_they_are() -> None:
    weight = torch.zeros(8, 64)
    weight[:, :32] = 0.5
    for precision in ("int8", "int4"):
        torch.testing.assert_close(unpack(pack(weight, precision)), weight, atol=1e-3, rtol=0)


@needs_native
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_blocks_of_a_gguf_file_keep_their_very_numbers(kind: str) -> None:
    weight = matrix(24, 96).numpy()
    blocks = gguf.quants.quantize(weight, gguf.GGMLQuantizationType[kind])
    exact = torch.from_numpy(gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind]))
    order = torch.from_numpy(np.random.default_rng(0).permutation(24)[:11])
    first, second = torch.from_numpy(blocks), torch.from_numpy(blocks)[:11]
    packed = pack_gguf([(kind, first, None), (kind, second, order % 11)], 96)
    assert packed is not None
    found = unpack(packed)
    expected = torch.cat([exact, exact[:11][order % 11]])
    # Q4_0's minimum, -8 scales, is the one number that is worked out anew; it is exact in float16, too.
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_blocks_of_another_kind_or_of_two_are_not_taken() -> None:
    blocks = torch.zeros(8, 34, dtype=torch.uint8)
    assert pack_gguf([("Q6_K", blocks, None)], 32) is None
    assert pack_gguf([("Q8_0", blocks, None), ("Q4_1", blocks[:, :20].contiguous(), None)], 32) is None


@needs_native
@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 9, 15])
def test_a_product_is_that_of_the_weights_and_a_token_does_not_mind_its_neighbours(
    precision: Precision, tokens: int
) -> None:
    packed, x, bias = pack(matrix(37, 100), precision), matrix(tokens, 100), torch.arange(37.0)
    found = quantised_linear(x, packed, bias)
    expected = x @ unpack(packed).T + bias
    assert float((found - expected).norm() / (expected - bias).norm()) < 0.01
    for token in range(tokens):
        assert torch.equal(quantised_linear(x[token : token + 1], packed, bias)[0], found[token])
    with kernels.disabled():
        torch.testing.assert_close(quantised_linear(x, packed, bias), expected, atol=1e-4, rtol=1e-4)


@needs_native
def test_briefer_activations_give_the_product_a_little_less_exactly() -> None:
    packed, x = pack(matrix(48, 128), "int8"), matrix(5, 128) + 0.7  # not centred, so that the offset must be right
    errors = []
    expected = x @ unpack(packed).T
    for kind in (KINDS["int8"], BRIEF):
        found = torch.empty(5, 48)
        work = torch.empty(call("quantised_work", 5, 128), dtype=torch.uint8)
        call("quantised_linear", kind, 5, 48, 128, x, packed.data, found, work)
        errors.append(float((found - expected).norm() / expected.norm()))
    assert errors[0] < 0.008
    assert errors[0] < errors[1] < 0.016


@needs_native
def test_the_largest_products_of_both_roundings_fit_their_sums() -> None:
    weight = torch.full((8, 64), -1.0)
    for kind in (KINDS["int8"], BRIEF):
        for sign in (1.0, -1.0):
            x, found = torch.full((1, 64), sign), torch.empty(1, 8)
            work = torch.empty(call("quantised_work", 1, 64), dtype=torch.uint8)
            call("quantised_linear", kind, 1, 8, 64, x, pack(weight, "int8").data, found, work)
            torch.testing.assert_close(found, torch.full((1, 8), -64.0 * sign), atol=0.1, rtol=0)


PRODUCTS = """
import hashlib, torch
from scratchlm import kernels
from scratchlm.kernels.quantised import pack, quantised_linear
assert kernels.available(), kernels.status()
torch.manual_seed(0)
found = hashlib.sha256()
for rows, columns, tokens in ((37, 100, 15), (64, 96, 1), (8, 33, 6)):
    weight, x = torch.randn(rows, columns), torch.randn(tokens, columns) + 0.3
    for precision in ("int8", "int4"):
        found.update(quantised_linear(x, pack(weight, precision)).numpy().tobytes())
print(found.hexdigest())
"""


@needs_native
@pytest.mark.skipif(" avx512_vnni" not in flags() and " avx_vnni" not in flags(), reason="no such instruction here")
def test_the_instruction_for_bytes_gives_the_same_products_to_the_last_bit(tmp_path: Path) -> None:
    def products(compiler: str) -> str:
        environment = {**os.environ, "CC": compiler, "SCRATCHLM_CACHE": str(tmp_path)}
        command = [sys.executable, "-c", PRODUCTS]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    compiler = os.environ.get("CC", "cc")
    assert products(compiler) == products(f"{compiler} -U__AVX512VNNI__ -U__AVXVNNI__")
    assert len(list(tmp_path.glob("kernels-*.so"))) == 2


def test_only_matrices_are_packed_and_no_tokens_give_no_rows() -> None:
    with pytest.raises(ValueError, match="matrices"):
        pack(torch.zeros(3), "int8")
    empty = quantised_linear(torch.zeros(0, 32), pack(matrix(8, 32), "int4"))
    assert empty.shape == (0, 8)
    assert isinstance(pack(matrix(8, 32), "int4"), PackedMatrix)
