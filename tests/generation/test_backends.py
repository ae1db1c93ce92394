"""Ragged batches on a cache, in PyTorch and in native code, against whole sequences, for every option of a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scratchlm import kernels
from scratchlm.generation.backends import Backend, NativeBackend, TorchBackend, UncachedBackend
from scratchlm.generation.native import NativeModel, Segment
from scratchlm.generation.weights import ModuleWeights, supported
from scratchlm.models import Decoder, ModelConfig, build_model

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
    {"sliding_window": 5, "positions": "rotary"},
    {"sliding_window": 3, "window_from_layer": 1},
    {"positions": "rotary", "rope_scaling": {"type": "linear", "factor": 2.0}},
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


def native(model: Decoder, slots: int = 4, precision: str = "fp32") -> NativeBackend:
    return NativeBackend(NativeModel(ModuleWeights(model), precision), slots)  # type: ignore[arg-type]


def texts(*lengths: int) -> list[list[int]]:
    torch.manual_seed(1)
    return [torch.randint(0, 50, (length,)).tolist() for length in lengths]


def assert_ragged_equals_whole(model: Decoder, backend: Backend) -> None:
    """Four sequences grow side by side: prompts in pieces, single tokens, several tokens at once, a slot used again."""
    rows = texts(16, 3, 9, 16)
    whole = [model(torch.tensor([row]))[0] for row in rows]
    done = [0, 0, 0, 0]
    plan = [
        {0: 7, 1: 1},
        {0: 1, 1: 1, 2: 4},
        {0: 3, 2: 1, 3: 1},
        {0: 1, 1: 1, 2: 1, 3: 1},
        {0: 3, 3: 5},
        {0: 1, 2: 3, 3: 9},
    ]
    for pieces in plan:
        segments = []
        for row, count in pieces.items():
            ids = rows[row][done[row] : done[row] + count]
            segments.append(Segment(row, ids, done[row], prompt=count > 3, wanted="all"))
        found = iter(backend.logits(segments).split([len(segment.ids) for segment in segments]))
        for row, count in pieces.items():
            expected = whole[row][done[row] : done[row] + count]
            size = max(1.0, float(expected.abs().max()))
            assert float((next(found) - expected).abs().max()) <= 1e-5 * size
            done[row] += count
    assert done == [16, 3, 9, 16]
    again = backend.logits([Segment(1, rows[0], 0), Segment(0, rows[2], 0, wanted="none")])
    assert again.shape == (1, model.config.vocab_size)
    torch.testing.assert_close(again[0], whole[0][-1], atol=1e-4, rtol=1e-4)


@needs_native
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.inference_mode()
def test_native_code_gives_what_whole_sequences_give(options: dict[str, Any]) -> None:
    model = build(**options)
    assert supported(model)
    assert_ragged_equals_whole(model, native(model))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.inference_mode()
def test_the_cache_in_pytorch_gives_what_whole_sequences_give(options: dict[str, Any]) -> None:
    model = build(**options)
    with kernels.disabled():
        assert not supported(model)
        assert_ragged_equals_whole(model, TorchBackend(model, 4))


@pytest.mark.parametrize("kind", ["torch", "native"])
@torch.inference_mode()
def test_a_copied_slot_goes_on_like_the_original(kind: str) -> None:
    if kind == "native" and not kernels.available():
        pytest.skip("no C compiler here")
    model = build(positions="rotary")
    backend: Backend = native(model) if kind == "native" else TorchBackend(model, 4)
    (row,) = texts(12)
    backend.logits([Segment(2, row[:9], 0, wanted="none")])
    backend.copy(2, 0, 7)
    expected = model(torch.tensor([row]))[0, -1]
    torch.testing.assert_close(backend.logits([Segment(0, row[7:], 7)])[0], expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_without_a_cache_only_whole_sequences_are_taken() -> None:
    backend = UncachedBackend(build(), 2)
    with pytest.raises(ValueError, match="from its start"):
        backend.logits([Segment(0, [1], 3)])


@needs_native
@pytest.mark.parametrize("precision", ["int8", "int4"])
@torch.inference_mode()
def test_quantised_logits_are_the_same_bits_in_any_company_and_any_pieces(precision: str) -> None:
    model = build(positions="rotary", kv_heads=2, activation="swiglu", norm="rmsnorm")
    first, second = texts(15, 11)
    whole = native(model, precision=precision).logits([Segment(0, first, 0, wanted="all")]).clone()
    backend = native(model, precision=precision)
    backend.logits([Segment(1, second, 0), Segment(3, first[:4], 0)])
    found = backend.logits([Segment(2, second, 0), Segment(3, first[4:9], 4, wanted="all")])
    assert torch.equal(found[1:], whole[4:9])
    for place in range(9, 15):
        alone = backend.logits([Segment(3, first[place : place + 1], place, prompt=False)])
        assert torch.equal(alone[0], whole[place])


@needs_native
@torch.inference_mode()
def test_a_generated_tokens_logits_are_the_same_bits_whatever_its_neighbours() -> None:
    model = build()
    alone, among = native(model), native(model)
    first, second = texts(6, 9)
    for backend in (alone, among):
        backend.logits([Segment(0, first, 0)])
    among.logits([Segment(1, second, 0)])
    for place, token in enumerate((3, 1, 4), start=6):
        single = alone.logits([Segment(0, [token], place, prompt=False)]).clone()
        company = [
            Segment(2, second, 0),
            Segment(0, [token], place, prompt=False),
            Segment(1, [2], place + 3, prompt=False),
        ]
        assert torch.equal(single[0], among.logits(company)[1])


@needs_native
@pytest.mark.parametrize("ffn", [96, 70])
@torch.inference_mode()
def test_many_generated_tokens_are_each_the_same_bits_as_alone(ffn: int) -> None:
    """They are worked on in tiles of several tokens, and what is left one by one; 70 columns are no whole vectors."""
    model = build(ffn_width=ffn)
    many = native(model, slots=11)
    firsts = texts(*range(3, 14))
    for slot, ids in enumerate(firsts):
        many.logits([Segment(slot, ids, 0)])
    told = many.logits([Segment(slot, [slot], len(ids), prompt=False) for slot, ids in enumerate(firsts)]).clone()
    for slot, ids in enumerate(firsts):
        alone = native(model)
        alone.logits([Segment(0, ids, 0)])
        assert torch.equal(alone.logits([Segment(0, [slot], len(ids), prompt=False)])[0], told[slot])


@needs_native
@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@torch.inference_mode()
def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    model = build(vocab_size=1026, width=512, layers=1)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        backend = native(model, precision=precision)
        prompt = backend.logits([Segment(0, list(range(15)), 0)]).clone()
        token = backend.logits([Segment(0, [7], 15, prompt=False)]).clone()
        found.append(torch.cat([prompt, token]))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@needs_native
@torch.inference_mode()
def test_states_of_encoders_of_unequal_lengths_need_no_padding() -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        **{"vocab_size": 50, "context": 16, "width": 48, "layers": 2, "heads": 4, "architecture": "encoder"},
        **{
            "norm_placement": "post",
            "final_norm": False,
            "embedding_norm": True,
            "token_types": 2,
            "position_offset": 2,
        },
    )
    model = build_model(config).eval()
    rows = texts(1, 16, 7)
    found = NativeModel(ModuleWeights(model)).states(rows)  # type: ignore[arg-type]
    expected = torch.cat([model.hidden(torch.tensor([row]))[0] for row in rows])  # type: ignore[union-attr]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@needs_native
def test_what_the_native_code_does_not_know_is_left_to_pytorch() -> None:
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
    with pytest.raises(ValueError, match="supported"):
        ModuleWeights(model)
    model.blocks[0].attention.out = plain
    assert supported(model)

    assert not supported(model.train())
    assert not supported(build().double())
    assert not supported(build().bfloat16())
    with torch.device("meta"):
        assert not supported(Decoder(ModelConfig(vocab_size=50)).eval())


@needs_native
@torch.inference_mode()
def test_float_weights_changed_in_place_are_seen() -> None:
    model = build()
    backend = native(model)
    before = backend.logits([Segment(0, [3], 0)]).clone()
    model.head.weight.mul_(2)
    assert not torch.equal(backend.logits([Segment(0, [3], 0)]), before)


@needs_native
def test_the_native_code_refuses_what_would_reach_outside_its_memory() -> None:
    backend = native(build(), slots=2)
    for wrong in (
        Segment(0, [50], 0),
        Segment(0, [-1], 0),
        Segment(2, [1], 0),
        Segment(-1, [1], 0),
        Segment(0, [], 0),
        Segment(0, [1], 16),
        Segment(0, [1], -1),
    ):
        with pytest.raises(ValueError, match=r"token ids|segment|context"):
            backend.logits([wrong])


@torch.inference_mode()
def test_half_precision_is_decoded_by_pytorch() -> None:
    model = build().bfloat16()
    backend = TorchBackend(model, 1)
    backend.logits([Segment(0, [1, 1, 1], 0)])
    expected = model(torch.tensor([[1, 1, 1, 4]]))[:, -1].float()
    torch.testing.assert_close(backend.logits([Segment(0, [4], 3)]), expected, atol=0.1, rtol=0.1)
