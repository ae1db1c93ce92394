"""Settings: what is allowed, where they come from, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scratchlm.errors import UserError
from scratchlm.models import PRESETS, model_preset
from scratchlm.training import RECIPES, TrainConfig, recipe
from scratchlm.training.settings import parse_assignments, read_settings, split_settings

WRONG = [
    ({"steps": 0}, "steps is 0; give a whole number of at least 1"),
    ({"steps": 2.5}, "steps is 2.5; give a whole number"),
    ({"steps": True}, "steps is True; give a whole number"),
    ({"batch_size": -1}, "batch_size is -1"),
    ({"accumulation": 0}, "accumulation is 0"),
    ({"log_every": 0}, "log_every is 0"),
    ({"learning_rate": 0.0}, "learning_rate is 0.0; give a number above 0"),
    ({"learning_rate": float("nan")}, "learning_rate is nan"),
    ({"learning_rate": float("inf")}, "learning_rate is inf"),
    ({"muon_learning_rate": -1.0}, "muon_learning_rate is -1.0"),
    ({"epsilon": 0.0}, "epsilon is 0.0"),
    ({"weight_decay": -0.1}, "weight_decay is -0.1; give 0 or more"),
    ({"clip_norm": -1.0}, "clip_norm is -1.0"),
    ({"beta1": 1.0}, "beta1 is 1.0; give a share from 0 up to, not including, 1"),
    ({"beta2": -0.1}, "beta2 is -0.1"),
    ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
    ({"final_learning_rate_ratio": 1.5}, "final_learning_rate_ratio is 1.5; give a share from 0 to 1"),
    ({"decay_fraction": -0.1}, "decay_fraction is -0.1"),
    ({"mask_probability": 0.0}, "mask_probability is 0.0; give a share above 0"),
    ({"optimizer": "sgd"}, "optimizer is 'sgd'; choose one of: adamw, muon"),
    ({"schedule": "step"}, "schedule is 'step'; choose one of: constant, cosine, linear, wsd"),
    ({"precision": "fp8"}, "precision is 'fp8'; choose one of: auto, fp32, bf16"),
    ({"tokenizer": "sentencepiece"}, "tokenizer is 'sentencepiece'; choose one of: char, word, bpe, wordpiece"),
    ({"unknown": "skip"}, "unknown is 'skip'; choose one of: error, token"),
    ({"seed": -1}, "seed is -1"),
    ({"patience": -1}, "patience is -1"),
    ({"tokenizer_vocab_size": 1}, "tokenizer_vocab_size is 1"),
    ({"steps": 10, "warmup_steps": 10}, "warmup_steps 10 leave nothing of 10 steps"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG, ids=[next(reversed(fields)) for fields, _ in WRONG])
def test_a_wrong_value_is_named_with_what_is_allowed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        TrainConfig(**fields)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_assignments_become_the_types_of_their_fields() -> None:
    texts = ["steps=200", "learning_rate=3e-4", "compile=true", "dropout=0", "tokenizer_vocab_size=none", "heads=2"]
    texts += ["attention_dropout=null", "qk_norm=false", "optimizer=muon", "steps=1_000", "device=cpu", "depth=3"]
    model, train = split_settings(parse_assignments(texts), "--set")
    assert train == {
        "steps": 1000,
        "learning_rate": 3e-4,
        "compile": True,
        "tokenizer_vocab_size": None,
        "optimizer": "muon",
        "device": "cpu",
    }
    assert model == {"dropout": 0.0, "heads": 2, "attention_dropout": None, "qk_norm": False, "depth": 3}
    assert isinstance(model["dropout"], float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat=1", "there is no setting 'learning_rat'; did you mean 'learning_rate'?"),
        ("widht=64", "did you mean 'width'?"),
        ("qqqq=64", "there is no setting 'qqqq'"),
        ("vocab_size=64", "there is no setting 'vocab_size'"),
        ("steps", "--set takes key=value, such as steps=200, not 'steps'"),
        ("=3", "--set takes key=value"),
        ("steps=many", "steps is 'many'; give a whole number"),
        ("steps=1.5", "steps is 1.5; give a whole number"),
        ("steps=", "steps is ''; give a whole number"),
        ("steps=true", "steps is True; give a whole number"),
        ("steps=none", "steps is"),
        ("learning_rate=fast", "learning_rate is 'fast'; give a number"),
        ("learning_rate=true", "learning_rate is True; give a number"),
        ("compile=maybe", "compile is 'maybe'; give true or false"),
        ("compile=1", "compile is 1; give true or false"),
        ("optimizer=[1, 2]", "optimizer is [1, 2]"),
    ],
)
def test_a_wrong_assignment_is_answered_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        split_settings(parse_assignments([text]), "--set")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_settings_file_holds_the_same_keys(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("steps: 20\nlearning_rate: 1e-3\n# a remark\nwidth: 64\n")
    model, train = split_settings(read_settings(file), str(file))
    assert (model, train) == ({"width": 64}, {"steps": 20, "learning_rate": 1e-3})
    file.write_text("")
    assert read_settings(file) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"steps: 20\nwarmup: [1,\n", "line 3 is not valid YAML"),
        (b"- steps\n", "does not hold settings"),
        (b"1: 2\n", "does not hold settings"),
        (b"steps: \xff\xfe\n", "is not UTF-8 text"),
        (b"stepz: 20\n", "there is no setting 'stepz'; did you mean 'steps'?"),
        (b"steps: soon\n", "steps is 'soon'; give a whole number"),
    ],
)
def test_a_wrong_settings_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        split_settings(read_settings(file), str(file))
    assert message in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_settings_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no settings file .*nowhere"):
        read_settings(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match=str(tmp_path)):
        read_settings(tmp_path)


def test_every_preset_has_a_recipe_and_the_tutorials_models_their_texts() -> None:
    corpora = {name: found.corpus for name, found in RECIPES.items()}
    assert corpora.keys() == PRESETS.keys()
    assert corpora["tinybert"] == "rumi-life"
    assert corpora["tinygpt"] == "rumi"
    assert corpora["transformer"] == "dates"
    with pytest.raises(UserError, match="no text of its own; name one with --data"):
        RECIPES["shakespeare"].data(None)
    for name in RECIPES:
        assert model_preset(name, 48).vocab_size == 48


def test_the_tutorials_two_models_train_a_thousand_steps_of_thirty_two_rows() -> None:
    for name in ("tinybert", "tinygpt"):
        train = RECIPES[name].train
        assert (train.steps, train.batch_size, train.accumulation) == (1000, 32, 1)


def test_a_recipe_changes_where_it_is_told_to() -> None:
    changed = recipe("tinygpt", steps=100, learning_rate=0.5).train
    assert (changed.steps, changed.learning_rate) == (100, 0.5)
    assert changed.warmup_steps == RECIPES["tinygpt"].train.warmup_steps // 10
    assert recipe("tinygpt", steps=3).train.steps == 3  # the warm-up shrinks with the run
    with pytest.raises(UserError, match="there is no preset 'tinygtp'; did you mean 'tinygpt'"):
        recipe("tinygtp")


def test_settings_survive_their_file(tmp_path: Path) -> None:
    from scratchlm.checkpoints import RunFolder

    run = RunFolder(tmp_path / "run")
    run.start(resume=False)
    settings = TrainConfig(learning_rate=1e-05, tokenizer_vocab_size=None, compile=True)
    run.write_settings(settings.to_dict())
    _, train = split_settings(run.settings(), "settings.yaml")
    assert TrainConfig(**train) == settings
