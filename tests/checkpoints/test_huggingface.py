"""Hugging Face's folders: fields that are not understood, tensors that do not fit, models that cannot be written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scratchlm.checkpoints import (
    RunFolder,
    export_huggingface,
    load_huggingface,
    model_tensors,
    read_config,
    save_huggingface,
)
from scratchlm.checkpoints.files import write_tensors
from scratchlm.errors import UserError
from scratchlm.models import ModelConfig, build_model, model_preset
from scratchlm.tokenizers import train_tokenizer

from .folders import BERT, CONFIG, LLAMA, WEIGHTS, change, complaint, fields

# -- the config -------------------------------------------------------------------------------------------------------


LABELLED = {"architectures": ["LlamaForSequenceClassification"]}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "mamba"}, "model_type is 'mamba'"),
        ({"model_type": None}, "no 'model_type'|model_type is None"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling is .*yarn"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope_scaling is .*dynamic"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling has no 'factor'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": -1}}, "factor is -1"),
        ({"rope_scaling": [1]}, r"rope_scaling is \[1\]"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "rope_parameters is "),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"architectures": ["LlamaForQuestionAnswering"]}, "architectures is .*Answering"),
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            "config.*missing: score.weight; unknown: lm_head.weight",
        ),
        (LABELLED | {"architectures": ["LlamaForSequenceClassification", "LlamaModel"]}, "architectures is .*Llama"),
        (LABELLED | {"problem_type": "multi_label_classification"}, "problem_type is 'multi_label"),
        (
            LABELLED | {"id2label": {"0": "a"}, "problem_type": "single_label_classification"},
            "problem_type is .*do not",
        ),
        (LABELLED | {"id2label": {"0": "bad", "2": "good"}}, "id2label is .*, not an object with the keys 0, 1, 2"),
        (LABELLED | {"id2label": ["bad", "good"]}, "id2label is .*, not an object with the keys 0, 1, 2"),
        (LABELLED | {"id2label": {"0": 1, "1": 2}}, "id2label is .*, not names by numbers"),
        (LABELLED | {"id2label": {"0": "bad", "1": ""}}, "labels are .*none of them empty"),
        (LABELLED | {"id2label": {"0": "same", "1": "same"}}, "labels has 'same' twice"),
        (LABELLED | {"num_labels": 10**11}, "num_labels is 100000000000"),
        ({"architectures": "LlamaForCausalLM"}, "architectures is .*not a list"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes', not true or false"),
        ({"hidden_size": -16}, "hidden_size is -16"),
        ({"hidden_size": "16"}, "hidden_size is '16'"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": 16.0}, "hidden_size is 16.0"),
        ({"hidden_size": 2**60}, "hidden_size is 1152921504606846976"),
        ({"num_hidden_layers": None}, "num_hidden_layers is None"),
        ({"num_hidden_layers": 10**9}, "describes a model of"),
        ({"vocab_size": 10**11}, "describes a model of"),
        ({"intermediate_size": 10**10, "num_hidden_layers": 10**6}, "describes a model of"),
        ({"max_position_embeddings": 10**11}, "table of positions"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
        ({"num_key_value_heads": 3}, "heads 4 is not a multiple of kv_heads 3"),
        ({"attention_dropout": 1.5}, "attention_dropout is 1.5"),
        ({"rope_theta": 0.0}, "rope_theta is 0.0"),
        ({"sliding_window": 4}, "sliding_window is 4"),
    ],
)
def test_a_field_that_is_not_understood_is_named(values: dict[str, Any], words: str, folder: Path) -> None:
    change(folder, **values)
    line = complaint(folder)
    assert re.search(words, line), line
    assert CONFIG in line or "that its config describes" in line


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "add_cross_attention is True"),
        (
            {"model_type": "bert", "position_embedding_type": "relative_key"},
            "position_embedding_type is 'relative_key'",
        ),
        ({"model_type": "bert", "is_decoder": True}, "is_decoder is True"),
        ({"model_type": "bert", "architectures": ["BertForQuestionAnswering"]}, "architectures is"),
        ({"model_type": "roberta", "max_position_embeddings": 2}, "max_position_embeddings is 2"),
        (
            {"model_type": "roberta", "hidden_act": "relu", "architectures": ["RobertaForMaskedLM"]},
            "hidden_act is 'relu'",
        ),
        ({"model_type": "bert", "hidden_act": "mish"}, "hidden_act is 'mish'"),
        (
            {"model_type": "qwen3", "use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]},
            "layer_types is",
        ),
    ],
)
def test_features_that_our_models_lack_are_named(values: dict[str, Any], words: str) -> None:
    gpt2 = {"n_embd": 16, "n_head": 4, "n_layer": 2, "n_positions": 16}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    whole = gpt2 | sizes | {"vocab_size": 50, "intermediate_size": 24, "max_position_embeddings": 16, "head_dim": 4}
    with pytest.raises(UserError, match=words):
        read_config(whole | values)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"rope_theta": 5e5}, {"rope_theta": 5e5, "rope_type": "default"}),
        (
            {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0},
        ),
        ({"rope_theta": 10_000.0}, {"rope_type": "default"}),
    ],
)
def test_both_styles_of_rotary_settings_say_the_same(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    values = {key: value for key, value in fields(folder).items() if not key.startswith("rope")}
    assert read_config(values | old) == read_config(values | {"rope_parameters": new})


def test_a_config_is_enough_to_read_the_config(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    assert read_config(folder).layers == 2
    assert f"neither {WEIGHTS}" in complaint(folder)


# -- the tensors ------------------------------------------------------------------------------------------------------


def test_every_missing_unknown_and_misshapen_tensor_is_named(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.0.mlp.up_proj.weight"], tensors["model.layers.1.mlp.up_proj.weight"]
    del tensors["model.norm.weight"]
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(16)
    tensors["model.vision.weight"] = torch.zeros(2)
    tensors["model.layers.1.self_attn.k_proj.weight"] = torch.zeros(8, 17)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    line = complaint(folder)
    for words in (
        "missing: model.layers.{0-1}.mlp.up_proj.weight, model.norm.weight;",
        "unknown: model.layers.0.self_attn.q_proj.bias, model.vision.weight;",
        "of another shape: model.layers.1.self_attn.k_proj.weight is [8, 17] instead of [8, 16];",
    ):
        assert words in line, line


def test_a_tied_head_that_differs_is_refused_and_one_that_does_not_is_taken(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(folder, tie_word_embeddings=True)
    assert "lm_head.weight must equal model.embed_tokens.weight" in complaint(folder)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, folder / WEIGHTS)
    model = load_huggingface(folder)
    assert model.head.weight is model.embed.tokens.weight


def test_numbers_of_another_kind_are_refused(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors | {"model.norm.weight": torch.ones(16, dtype=torch.int8)}, folder / WEIGHTS)
    assert "'model.norm.weight' is stored as I8" in complaint(folder)


def test_what_is_done_to_a_loaded_model_does_not_reach_its_file(folder: Path) -> None:
    before = (folder / WEIGHTS).read_bytes()
    model = load_huggingface(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (folder / WEIGHTS).read_bytes() == before
    save_huggingface(model, folder)  # over the file that is mapped
    assert not load_huggingface(folder).norm.weight.any()  # type: ignore[union-attr]


# -- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (model_preset("tinybert", 50), "norm_placement is 'pre', and BERT in transformers has it 'post'"),
        (model_preset("transformer", 50), "architecture is 'seq2seq'"),
        (model_preset("modern", 50), "activation is 'relu2', and Qwen3 in transformers has it 'swiglu'"),
        (model_preset("tinygpt", 50, embedding_scale=2.0), "embedding_scale is 2.0"),
        (model_preset("tinygpt", 50, kv_heads=2), "key_value_heads is 2"),
        (model_preset("tinygpt", 50, positions="none"), "positions is 'none'"),
    ],
)
def test_a_model_that_transformers_lacks_gives_the_reason_and_no_files(
    config: ModelConfig, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        export_huggingface(build_model(config), train_tokenizer("char", ["abc"]), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_does_not_touch_what_is_there(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    tokenizer = train_tokenizer("char", ["abc"])
    with pytest.raises(UserError, match="is there already; choose a new folder"):
        export_huggingface(build_model(LLAMA), tokenizer, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    export_huggingface(build_model(LLAMA), tokenizer, folder.parent / "new")
    assert {CONFIG, WEIGHTS, "tokenizer.json"} <= {path.name for path in (folder.parent / "new").iterdir()}


def test_special_tokens_of_the_tokenizer_are_in_the_config(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("char", ["abc"], special_tokens=["[PAD]", "[BOS]", "[EOS]"])
    save_huggingface(build_model(LLAMA), tmp_path, tokenizer)
    assert [fields(tmp_path)[f"{role}_token_id"] for role in ("pad", "bos", "eos")] == [0, 1, 2]


def run_of(path: Path, config: ModelConfig) -> RunFolder:
    run = RunFolder(path)
    run.start(resume=False)
    train_tokenizer("char", ["abcde"]).save(path)
    run.write_description({"preset": "x", "model": config.to_dict(), "data": {"name": "letters"}})
    return run


@pytest.mark.parametrize(
    ("config", "opens"),
    [
        (LLAMA, True),
        (BERT, True),
        (model_preset("tinygpt", 5, layers=1), True),
        (model_preset("tinybert", 5, layers=1), False),
        (model_preset("transformer", 5, layers=1), False),
    ],
)
def test_a_run_has_hugging_faces_names_where_it_can(config: ModelConfig, opens: bool, tmp_path: Path) -> None:
    model = build_model(config)
    run = run_of(tmp_path / "run", config)
    run.save_weights(model)
    assert (run.path / CONFIG).exists() == opens
    names = set(load_file(run.path / WEIGHTS))
    assert names.isdisjoint(model_tensors(model)) == opens
    loaded, _ = run.load_model()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_a_run_of_an_older_version_still_opens(tmp_path: Path) -> None:
    config = model_preset("tinygpt", 5, layers=1)
    model = build_model(config)
    run = run_of(tmp_path / "run", config)
    write_tensors(run.path / WEIGHTS, model_tensors(model))
    loaded, _ = run.load_model()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_a_runs_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    config = model_preset("tinygpt", 5, layers=1)
    run = run_of(tmp_path / "run", config)
    run.save_weights(build_model(config))
    tensors = load_file(run.path / WEIGHTS)
    del tensors["transformer.wpe.weight"]
    write_tensors(run.path / WEIGHTS, tensors | {"more": torch.ones(1)})
    line = complaint(run.path, lambda _: run.load_model())
    assert "missing: transformer.wpe.weight; unknown: more" in line
    del tensors["scratchlm.norm.bias"]
    write_tensors(run.path / WEIGHTS, tensors)
    assert "missing" in complaint(run.path, lambda _: run.load_model())
