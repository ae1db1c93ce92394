"""Cached decoding, in PyTorch and in C, against computing each window anew, for every option that a model has."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scratchlm import kernels
from scratchlm.generation.decode import Decoding
from scratchlm.generation.native import NativeStep, supported
from scratchlm.models import Decoder, KVCache, ModelConfig, build_model

OPTIONS: list[dict[str, Any]] = [
    {},
    {"positions": "sinusoidal"},
    {"positions": "rotary"},
    {"positions": "none"},
    {"kv_heads": 2},
    {"kv_heads": 1, "head_dim": 10, "positions": "rotary"},
    {"norm": "rmsnorm"},
    {"norm_placement": "post"},
    {"norm_placement": "post", "final_norm": False, "norm": "rmsnorm"},
    {"qk_norm": True, "positions": "rotary", "kv_heads": 2},
    {"activation": "relu"},
    {"activation": "gelu_tanh"},
    {"activation": "swiglu"},
    {"activation": "relu2"},
    {"qkv_bias": True, "out_bias": False, "ffn_bias": False, "head_bias": False},
    {"qkv_bias": True, "qk_norm": True, "norm_bias": False},
    {"tied_embeddings": True, "embedding_scale": 2.0},
    {"embedding_norm": True, "token_types": 2},
    {"embedding_dropout": True, "dropout": 0.5},
    # Sizes that are no multiple of a vector's width or of four.
    {"width": 36, "ffn_width": 37},
    {"vocab_size": 51, "width": 44, "ffn_width": 50, "heads": 2},
    {"context": 2},
    {"context": 1},
]


def build(**options: Any) -> Decoder:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "context": 16, "width": 48, "layers": 2, "heads": 4}
    model = build_model(ModelConfig(**(sizes | options)))
    assert isinstance(model, Decoder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model.eval()


needs_native = pytest.mark.skipif(not kernels.available(), reason="no C compiler here")


def assert_same_decoding(model: Decoder, prompt: torch.Tensor, steps: int = 40) -> None:
    """Greedy tokens equal and logits within 1e-5 of the uncached ones at every step, past the context too."""
    cached, uncached = Decoding(model, prompt), Decoding(model, prompt, use_cache=False)
    for _ in range(steps):
        size = max(1.0, float(uncached.logits.abs().max()))
        assert float((cached.logits - uncached.logits).abs().max()) <= 1e-5 * size
        tokens = uncached.logits.argmax(-1).tolist()
        assert cached.logits.argmax(-1).tolist() == tokens
        cached.push(tokens)
        uncached.push(tokens)


@needs_native
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.inference_mode()
def test_the_step_in_c_gives_what_no_cache_gives(options: dict[str, Any]) -> None:
    model = build(**options)
    assert supported(model)
    assert_same_decoding(model, torch.randint(0, 50, (3, 5)))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.inference_mode()
def test_the_cache_in_pytorch_gives_what_no_cache_gives(options: dict[str, Any]) -> None:
    model = build(**options)
    with kernels.disabled():
        assert not supported(model)
        assert_same_decoding(model, torch.randint(0, 50, (3, 5)))


@torch.inference_mode()
def test_a_full_window_keeps_its_last_half_and_counts_positions_anew() -> None:
    model, prompt = build(), torch.randint(0, 50, (1, 16))
    decoding = Decoding(model, prompt)
    text = prompt[0].tolist()
    for token in range(20, 32):
        text.append(token)
        decoding.push([token])
        seen = 8 + (token - 20) % 9  # 16 full, then 8, 9, ... 16, and 8 again
        window = torch.tensor([text[-seen:]])
        torch.testing.assert_close(decoding.logits, model(window)[:, -1], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_of_a_prompt_longer_than_the_context_the_end_is_seen() -> None:
    model, prompt = build(), torch.randint(0, 50, (1, 40))
    torch.testing.assert_close(Decoding(model, prompt).logits, model(prompt[:, -16:])[:, -1], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_rows_can_be_dropped_and_doubled_on_the_way() -> None:
    model, prompt = build(), torch.randint(0, 50, (3, 5))
    cached, uncached = Decoding(model, prompt), Decoding(model, prompt, use_cache=False)
    for decoding in (cached, uncached):
        decoding.push([1, 2, 3])
        decoding.keep([2, 0, 2])
        decoding.push([4, 5, 6])
        decoding.keep([1])
        for token in range(14):
            decoding.push([token])
    torch.testing.assert_close(cached.logits, uncached.logits, atol=1e-5, rtol=0)


@needs_native
@torch.inference_mode()
def test_a_rows_logits_are_the_same_bits_whatever_its_neighbours() -> None:
    model = build()
    alone, among = Decoding(model, torch.ones(1, 3, dtype=torch.long)), Decoding(model, torch.ones(1, 3).long())
    among.keep([0, 0, 0])
    for token in range(8):
        alone.push([token])
        among.push([7, token, 9])
    assert torch.equal(alone.logits[0], among.logits[1])


@needs_native
def test_what_the_c_step_does_not_know_is_left_to_pytorch() -> None:
    model = build()
    assert supported(model)
    handle = model.blocks[0].register_forward_hook(lambda *_: None)
    assert not supported(model)
    handle.remove()

    class Adapted(torch.nn.Linear):
        pass

    plain = model.blocks[0].attention.out
    model.blocks[0].attention.out = Adapted(48, 48)
    model.eval()
    assert not supported(model)
    model.blocks[0].attention.out = plain
    assert supported(model)

    assert not supported(model.train())
    assert not supported(build().double())
    assert not supported(build().bfloat16())
    assert not supported(build_model(ModelConfig(vocab_size=50, architecture="encoder")).eval())
    with torch.device("meta"):
        assert not supported(Decoder(ModelConfig(vocab_size=50)).eval())


@needs_native
@torch.inference_mode()
def test_a_matrix_that_threads_share_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(vocab_size=1026, width=512, layers=1)
    logits = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        logits.append(NativeStep(model)([3, 4], KVCache(model.config, 2, 16)).clone())
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    expected = model(torch.tensor([[3], [4]]))[:, -1]
    torch.testing.assert_close(logits[0], expected, atol=1e-4, rtol=1e-5)


@needs_native
@torch.inference_mode()
def test_weights_changed_in_place_are_seen() -> None:
    model = build()
    step, cache = NativeStep(model), KVCache(model.config, 1, 16)
    before = step([3], cache).clone()
    model.head.weight.mul_(2)
    cache.reset()
    assert not torch.equal(step([3], cache), before)


@needs_native
def test_the_c_step_refuses_what_would_reach_outside_its_memory() -> None:
    model = build()
    step, cache = NativeStep(model), KVCache(model.config, 1, 2)
    for tokens in ([50], [-1]):
        with pytest.raises(ValueError, match="below 50"):
            step(tokens, cache)
    with pytest.raises(ValueError, match="rows"):
        step([1, 2], cache)
    step([1], cache)
    step([1], cache)
    with pytest.raises(ValueError, match="full"):
        step([1], cache)


@torch.inference_mode()
def test_half_precision_is_decoded_by_pytorch() -> None:
    model = build().bfloat16()
    cached = Decoding(model, torch.ones(1, 3, dtype=torch.long))
    cached.push([4])
    expected = model(torch.tensor([[1, 1, 1, 4]]))[:, -1].float()
    torch.testing.assert_close(cached.logits, expected, atol=0.1, rtol=0.1)
