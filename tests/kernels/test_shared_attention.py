"""Texts that share beginnings: the same results and gradients as each text by itself."""

from __future__ import annotations

import itertools

import pytest
import torch

from scratchlm.kernels import Text, attention, available, disabled, shared_attention, sharing_pays
from scratchlm.models.sharing import Sharing

HEADS = [(1, 1), (4, 4), (6, 2), (4, 1)]
OPENED = [0, 1, 2, 3, 0, 1, 4, 5, 6, 7, 0, 1, 4, 5, 8]
"""Of nine tokens: a text of four, one that shares two with it and has two of its own, a text by itself, and one that
shares what two before it have."""
BOUNDS = [0, 4, 8, 10, 15]


def texts_of(opened: list[int], bounds: list[int], tokens: int) -> list[Text] | None:
    return Sharing(torch.tensor([opened]), tokens).texts(torch.tensor(bounds))


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize("scale", [None, 0.7])
def test_results_and_gradients_are_those_of_whole_texts(heads: int, kv_heads: int, scale: float | None) -> None:
    torch.manual_seed(heads)
    qkv = torch.randn(9, (heads + 2 * kv_heads) * 8, dtype=torch.float32, requires_grad=True)
    texts = texts_of(OPENED, BOUNDS, 9)
    assert texts is not None
    assert [(one.start, one.end, len(one.tokens)) for one in texts] == [(0, 4, 4), (4, 6, 4), (6, 8, 2), (8, 9, 5)]
    found = shared_attention(qkv, texts, heads, kv_heads, scale=scale)
    whole = []
    for text in texts:
        alone = attention(qkv[text.tokens][None], heads, kv_heads, causal=True, scale=scale)[0]
        whole.append(alone[len(text.tokens) - (text.end - text.start) :])
    wanted = torch.cat(whole)
    torch.testing.assert_close(found, wanted)
    weights = torch.randn_like(found)
    (mine,) = torch.autograd.grad((found * weights).sum(), qkv)
    (theirs,) = torch.autograd.grad((wanted * weights).sum(), qkv)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(shared_attention(qkv, texts, heads, kv_heads, scale=scale), found)


@pytest.mark.skipif(not available(), reason="no C compiler here")
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(9, 3, 64), (2, 1, 24)])
def test_native_and_plain_code_agree_whatever_the_lengths(heads: int, kv_heads: int, size: int) -> None:
    torch.manual_seed(size)
    first, tails = 70, (1, 23, 24, 50)  # about the rows that are worked on at a time, and the width of a vector
    opened, bounds, tokens = [*range(first)], [0, first], first
    for n, tail in enumerate(tails):
        opened += [*range(first - 7 * n), *range(tokens, tokens + tail)]
        bounds.append(len(opened))
        tokens += tail
    texts = texts_of(opened, bounds, tokens)
    assert texts is not None
    qkv = (2 * torch.randn(tokens, (heads + 2 * kv_heads) * size)).requires_grad_()
    weights = torch.randn(tokens, heads * size)

    def found() -> tuple[torch.Tensor, torch.Tensor]:
        out = shared_attention(qkv, texts, heads, kv_heads)
        return out.detach(), torch.autograd.grad((out * weights).sum(), qkv)[0]

    ours = found()
    with disabled():
        torch.testing.assert_close(ours, found(), rtol=1e-4, atol=1e-4)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - threads if threads < 3 else 1)
        assert all(torch.equal(*pair) for pair in zip(ours, found(), strict=True))
    finally:
        torch.set_num_threads(threads)


def test_half_the_bits_go_in_and_come_out_and_the_products_are_whole() -> None:
    torch.manual_seed(0)
    qkv = torch.randn(9, 6 * 8).bfloat16()
    texts = texts_of(OPENED, BOUNDS, 9)
    assert texts is not None
    exact = shared_attention(qkv.float(), texts, 4, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        leaf = qkv.clone().requires_grad_()
        found = shared_attention(leaf, texts, 4, 1)
        found.sum().backward()
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("opened", "bounds", "tokens"),
    [
        pytest.param([0, 1, 2, 0, 3, 1], [0, 3, 6], 4, id="what it shares comes after its own"),
        pytest.param([0, 1, 3, 2, 0, 1], [0, 4, 6], 4, id="its own are in another order"),
        pytest.param([0, 2, 1], [0, 2, 3], 3, id="another's is between its own"),
    ],
)
def test_texts_of_another_build_have_to_be_opened(opened: list[int], bounds: list[int], tokens: int) -> None:
    assert texts_of(opened, bounds, tokens) is None


def test_a_text_without_a_token_of_its_own_asks_nothing() -> None:
    texts = texts_of([0, 1, 2, 0, 1, 3, 4], [0, 3, 5, 7], 5)
    assert texts is not None
    assert [(one.start, one.end) for one in texts] == [(0, 3), (3, 5)]
    spans = sorted((one.start, one.end) for one in texts)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))


def test_it_is_chosen_where_it_is_faster() -> None:
    much = texts_of([*range(10), *range(8), 10, 11, *range(8), 12, 13, *range(9), 14], [0, 10, 20, 30, 40], 15)
    little = texts_of([*range(10), 0, *range(10, 19)], [0, 10, 20], 19)
    assert much is not None
    assert little is not None
    native = torch.randn(19, 24)
    assert sharing_pays(native, [*much[1:]])
    assert sharing_pays(native, little) != available()
    assert sharing_pays(native.bfloat16(), little)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sharing_pays(native, little)
