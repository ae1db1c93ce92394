"""Which precision is chosen, and that quantised copies of models compute what they should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scratchlm import kernels
from scratchlm.adapters import LoraSettings, adapters_off, add_lora, trainable
from scratchlm.errors import UserError
from scratchlm.generation import precision as rooms
from scratchlm.generation.backends import TorchBackend
from scratchlm.generation.build import build_engine
from scratchlm.generation.engine import Request
from scratchlm.generation.native import NativeModel
from scratchlm.generation.precision import check_precision, choose_precision, perplexity
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.generation.weights import ModuleWeights
from scratchlm.models import Decoder, ModelConfig, build_model
from scratchlm.models.quantised import QuantisedLinear, quantise

needs_native = pytest.mark.skipif(not kernels.available(), reason="no C compiler here")


@pytest.fixture
def model() -> Decoder:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=60, context=32, width=64, layers=2, heads=4, positions="rotary", init_std=0.1)
    built = build_model(config).eval()
    assert isinstance(built, Decoder)
    return built


IDS = [(7 * i * i + 3 * i) % 60 for i in range(90)]


@needs_native
@torch.inference_mode()
def test_the_perplexity_is_that_of_the_models_own_windows(model: Decoder) -> None:
    weights = ModuleWeights(model)
    found = perplexity(NativeModel(weights), IDS, 32)
    total = 0.0
    for start in range(0, 89, 32):
        part = torch.tensor(IDS[start : start + 33])
        total += float(torch.nn.functional.cross_entropy(model(part[None, :-1])[0], part[1:], reduction="sum"))
    assert found == pytest.approx(float(torch.tensor(total / 89).exp()), rel=1e-4)
    with pytest.raises(ValueError, match="two tokens"):
        perplexity(NativeModel(weights), [1])


@needs_native
def test_the_fewest_bits_within_a_hundredth_are_chosen(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "SMALL", 0)
    found = {"fp32": 10.0, "int8": 10.05, "int4": 10.2}
    monkeypatch.setattr(rooms, "perplexity", lambda native, *_: found[native.precision])
    weights = ModuleWeights(model)
    assert choose_precision(weights, IDS, None) == "int8"
    found["int4"] = 10.09
    assert choose_precision(weights, IDS, None) == "int4"
    assert choose_precision(weights, IDS, None, adapted=True) == "int8"
    found |= {"int4": 11.0, "int8": 12.0}
    assert choose_precision(weights, IDS, None) == "fp32"


@needs_native
def test_small_models_and_models_without_a_text_stay_in_float32(model: Decoder) -> None:
    assert choose_precision(ModuleWeights(model), IDS, None) == "fp32"


@needs_native
def test_the_choice_is_remembered_for_the_file_as_it_is(
    model: Decoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rooms, "SMALL", 0)
    monkeypatch.setattr(rooms, "cache_folder", lambda: tmp_path / "cache")
    measured: list[str] = []

    def measure(native: NativeModel, *_: object) -> float:
        measured.append(native.precision)
        return 1.0

    monkeypatch.setattr(rooms, "perplexity", measure)
    file = tmp_path / "model.gguf"
    file.write_text("one")
    weights = ModuleWeights(model)
    assert choose_precision(weights, IDS, file) == "int4"
    assert choose_precision(weights, IDS, file) == "int4"
    assert measured == ["fp32", "int4"]
    file.write_text("another")
    choose_precision(weights, IDS, file)
    assert len(measured) == 4
    (tmp_path / "cache" / "precisions.json").write_text("{half a")
    assert choose_precision(weights, IDS, file) == "int4"
    assert len(json.loads((tmp_path / "cache" / "precisions.json").read_text())) == 1


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(UserError, match=r"'fp64'.*int4"):
        check_precision("fp64")


@pytest.mark.parametrize("kind", ["int8", "int4"])
@torch.inference_mode()
def test_a_quantised_copy_in_pytorch_computes_with_the_rounded_weights(model: Decoder, kind: str) -> None:
    with kernels.disabled():
        copied = quantise(model, kind)  # type: ignore[type-var]
        ids = torch.tensor([IDS[:20]])
        for one, other in zip(model.modules(), copied.modules(), strict=False):
            assert one is not other
        for name, module in copied.named_modules():
            if isinstance(module, QuantisedLinear):
                plain = model.get_submodule(name)
                assert torch.equal(
                    module(torch.eye(module.in_features)),
                    _unpacked(module).T + (module.bias if module.bias is not None else 0),
                )
                assert not torch.equal(_unpacked(module), plain.weight)
        difference = (copied(ids) - model(ids)).norm() / model(ids).norm()
    assert 0 < float(difference) < (0.05 if kind == "int8" else 0.4)


def _unpacked(module: QuantisedLinear) -> torch.Tensor:
    from scratchlm.kernels.quantised import unpack

    return unpack(module.packed)


@pytest.mark.parametrize("kind", ["fp32", "int8", "int4", "bf16"])
def test_every_precision_generates(model: Decoder, kind: str) -> None:
    for native in (True, False):
        if native and not kernels.available():
            continue
        with kernels.disabled() if not native else torch.no_grad():
            engine = build_engine(model, rows=2, precision=kind)  # type: ignore[arg-type]
            assert engine.backend.precision == kind
            assert isinstance(engine.backend, TorchBackend) == (not native or kind == "bf16")
            ticket = engine.run([Request([1, 2, 3], 5, SamplingConfig(greedy=True))])[0]
        assert len(ticket.tokens) == 5


@pytest.mark.parametrize("kind", ["fp32", "int8", "int4"])
@torch.inference_mode()
def test_adapters_are_heard_in_every_precision(model: Decoder, kind: str) -> None:
    request = Request([1, 2, 3], 12, SamplingConfig(greedy=True), log_probabilities=0)
    before = build_engine(model, rows=1, precision=kind).run([request])[0]  # type: ignore[arg-type]
    with torch.inference_mode(False):
        add_lora(model, LoraSettings(rank=4, alpha=64))
    torch.manual_seed(1)
    for parameter in trainable(model).values():
        parameter.normal_(std=0.1)
    model.eval()
    ids = torch.tensor([[1, 2, 3]])
    expected = model(ids)[0, -1].log_softmax(-1)
    adapted = build_engine(model, rows=1, precision=kind).run([request])[0]  # type: ignore[arg-type]
    found = adapted.tokens[0].log_probability
    assert found == pytest.approx(
        float(expected[adapted.tokens[0].id]), abs={"fp32": 1e-4, "int8": 0.05, "int4": 0.5}[kind]
    )
    assert [t.id for t in adapted.tokens] != [t.id for t in before.tokens]
    with adapters_off(model):
        off = build_engine(model, rows=1, precision="fp32").run([request])[0]
    assert off.tokens[0].log_probability == pytest.approx(before.tokens[0].log_probability, abs=0.5)
