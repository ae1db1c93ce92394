"""Adapter files that are wrong, hostile or for another model: one line each, and the model as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scratchlm.adapters import LoraSettings, adapters_of, add_lora, load_adapter, save_adapter, trainable, use_adapter
from scratchlm.errors import UserError
from scratchlm.models import Decoder, ModelConfig, build_model

SHAPE: dict[str, Any] = {
    "vocab_size": 31,
    "width": 32,
    "layers": 2,
    "heads": 4,
    "ffn_width": 44,
    "positions": "rotary",
    "norm": "rmsnorm",
    "activation": "swiglu",
    "qkv_bias": False,
    "out_bias": False,
    "ffn_bias": False,
    "head_bias": False,
    "dropout": 0.0,
}
IDS = torch.arange(12)[None]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KEY = "base_model.model.model.layers.{}.self_attn.{}_proj.lora_{}.weight"


def base(**changes: Any) -> Decoder:
    torch.manual_seed(0)
    return build_model(ModelConfig(**(SHAPE | changes))).eval()  # type: ignore[return-value]


def tuned(**settings: Any) -> Decoder:
    model = base()
    add_lora(model, LoraSettings(**({"rank": 4, "targets": ("q_proj", "v_proj")} | settings)))
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_adapter(tuned(), tmp_path, base="somewhere/base")
    return tmp_path


def fields(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        values = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(values | changes))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        change(found)
        save_file(found, folder / WEIGHTS)

    return write


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


A, B = KEY.format(0, "q", "A"), KEY.format(1, "v", "B")
MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), "adapter_config.json is missing"),
    "config is no JSON": (lambda f: (f / CONFIG).write_text("{"), "is damaged"),
    "config is a list": (lambda f: (f / CONFIG).write_text("[]"), "holds no object"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "adapter_model.safetensors is missing"),
    "a pickle": (pickled, "is a pickle, which can run any code"),
    "weights cut short": (cut, "is damaged"),
    "weights are text": (lambda f: (f / WEIGHTS).write_text("no weights at all"), "is damaged"),
    "another method": (fields(peft_type="IA3"), "peft_type is 'IA3'"),
    "no method": (fields(peft_type=None), "peft_type is 'None'"),
    "a base that was changed": (fields(init_lora_weights="pissa"), "it changes the base"),
    "bias of B": (fields(lora_bias=True), "lora_bias is 'True'"),
    "layers doubled": (fields(layer_replication=[[0, 2]]), "layer_replication"),
    "trained tokens": (fields(trainable_token_indices=[3]), "trainable_token_indices"),
    "parameters": (fields(target_parameters=["x"]), "target_parameters"),
    "rank is a word": (fields(r="8"), "r is '8'"),
    "rank is true": (fields(r=True), "r is 'True'"),
    "rank is zero": (fields(r=0), "rank is 0"),
    "rank is another": (fields(r=8), r"q_proj.lora_A.weight is \[4, 32\] instead of \[8, 32\]"),
    "alpha is infinite": (lambda f: (f / CONFIG).write_text('{"lora_alpha": Infinity}'), "Infinity is no JSON"),
    "alpha is negative": (fields(lora_alpha=-1), "alpha is -1"),
    "dropout is all": (fields(lora_dropout=1.0), "dropout is 1.0"),
    "bias is odd": (fields(bias="some"), "bias is 'some'"),
    "targets are numbers": (fields(target_modules=[1]), "target_modules is"),
    "pattern is an expression": (fields(rank_pattern={"(a+)+b": 3}), "no regular expressions"),
    "pattern's rank": (fields(rank_pattern={"q_proj": 0}), "rank is 0"),
    "layers are words": (fields(layers_to_transform=["a"]), "layers is 'a'"),
    "layers beyond": (fields(layers_to_transform=[9]), "no linear layer in the blocks 9"),
    "extra module unknown": (fields(modules_to_save=["score"]), "no module matches 'score'"),
    "extra module missing": (fields(modules_to_save=["lm_head"]), "missing: lm_head.weight"),
    "a tensor missing": (tensors(lambda t: t.pop(B)), "missing: layers.1.self_attn.v_proj.lora_B.weight"),
    "a target missing": (fields(target_modules=["q_proj", "v_proj", "k_proj"]), "missing: layers.0.self_attn.k_proj"),
    "a tensor too many": (tensors(lambda t: t.update(x=torch.zeros(2))), "unknown: x"),
    "magnitudes without DoRA": (
        tensors(lambda t: t.update({A.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(32)})),
        "unknown: layers.0.self_attn.q_proj.lora_magnitude_vector",
    ),
    "DoRA without magnitudes": (fields(use_dora=True), "missing: layers.0.self_attn.q_proj.lora_magnitude_vector"),
    "another width": (tensors(lambda t: t.update({A: torch.zeros(4, 48)})), r"is \[4, 48\] instead of \[4, 32\]"),
    "one dimension": (tensors(lambda t: t.update({A: torch.zeros(128)})), r"is \[128\] instead of"),
    "whole numbers": (tensors(lambda t: t.update({A: torch.zeros(4, 32, dtype=torch.int64)})), "holds integers"),
    "no tensors": (tensors(lambda t: t.clear()), "adapts no module"),
    "another family's": (
        tensors(lambda t: [t.update({k.replace("self_attn.q", "attn.c"): t.pop(k)}) for k in list(t)]),
        "unknown: layers.0.attn.c_proj",
    ),
    "an embedding of its own": (
        tensors(lambda t: t.update({"base_model.model.lm_head.weight": torch.zeros(31, 32)})),
        "unknown: lm_head.weight",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_adapter_is_told_in_one_line_and_the_model_stays_as_it_was(mistake: str, folder: Path) -> None:
    spoil, said = MISTAKES[mistake]
    spoil(folder)
    model = base()
    parameters, logits = dict(model.named_parameters()), model(IDS)
    with pytest.raises(UserError, match=said) as found:
        load_adapter(model, folder)
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 600
    assert all(p is parameters[name] and p.requires_grad for name, p in model.named_parameters())
    assert torch.equal(model(IDS), logits)


@pytest.mark.parametrize("change", [{"width": 64}, {"kv_heads": 2}, {"layers": 1}, {"layers": 3}])
def test_another_base_is_told_apart(change: dict[str, Any], folder: Path) -> None:
    with pytest.raises(UserError, match="does not fit this model"):
        load_adapter(base(**change), folder)


def test_an_expression_in_a_strangers_config_is_never_run(folder: Path) -> None:
    fields(target_modules="(((a+)+)+)+$(q_proj)?")(folder)
    model = base()
    load_adapter(model, folder)
    torch.testing.assert_close(model(IDS), tuned()(IDS))


def test_a_failed_adapter_leaves_the_others_in_use_and_in_training(folder: Path) -> None:
    model = tuned()
    before, gradients = model(IDS), set(trainable(model))
    tensors(lambda t: t.pop(B))(folder)
    with pytest.raises(UserError, match="missing"):
        load_adapter(model, folder, "other")
    assert adapters_of(model).active == {"default": 1.0}
    assert set(trainable(model)) == gradients
    assert torch.equal(model(IDS), before)


def test_what_is_read_is_trained_only_if_asked(folder: Path) -> None:
    model = tuned()
    gradients = set(trainable(model))
    load_adapter(model, folder, "read")
    assert set(trainable(model)) == gradients
    load_adapter(model, folder, "trained", train=True)
    assert all(".trained." in name for name in trainable(model))
    assert adapters_of(model).active == {"trained": 1.0}


def test_each_of_several_adapters_has_a_file_of_its_own(folder: Path, tmp_path: Path) -> None:
    model = tuned()
    add_lora(model, LoraSettings(rank=2, targets=("down_proj",)), "second")
    save_adapter(model, tmp_path / "first", name="default")
    save_adapter(model, tmp_path / "second")
    assert load_file(tmp_path / "first" / WEIGHTS).keys() == load_file(folder / WEIGHTS).keys()
    assert all("down_proj" in key for key in load_file(tmp_path / "second" / WEIGHTS))
    use_adapter(model, None)
    with pytest.raises(UserError, match="no adapter '' to save; the model's: default, second"):
        save_adapter(model, tmp_path / "third")


def test_an_adapter_is_saved_over_an_older_one_and_names_its_base(folder: Path) -> None:
    save_adapter(tuned(rank=2), folder, base="another/base")
    values = json.loads((folder / CONFIG).read_text())
    assert (values["r"], values["base_model_name_or_path"], values["target_modules"]) == (
        2,
        "another/base",
        ["q_proj", "v_proj"],
    )


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the adapter"):
        save_adapter(tuned(), tmp_path / "file" / "adapter")
