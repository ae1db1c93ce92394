"""A config refuses a shape that cannot be built, in one line that names the field."""

from __future__ import annotations

import pytest
import torch

from scratchlm.errors import UserError
from scratchlm.models import ModelConfig, model_preset
from scratchlm.models.layers import sinusoidal_table


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 130}, "130 cannot be divided among 4 heads"),
        ({"heads": 4, "kv_heads": 3}, "not a multiple of kv_heads 3"),
        ({"layers": 0}, "layers is 0"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"context": 2.5}, "context is 2.5"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"attention_dropout": -0.1}, "attention_dropout is -0.1"),
        ({"activation": "gelo"}, "choose one of: relu, gelu"),
        ({"positions": "rotary", "head_dim": 7}, "must be even, not 7"),
        ({"architecture": "both"}, "decoder, encoder, seq2seq"),
    ],
)
def test_a_bad_field_is_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ModelConfig(**({"vocab_size": 10} | changes))  # type: ignore[arg-type]


def test_a_config_survives_its_dictionary() -> None:
    config = model_preset("modern", 77, depth=3)
    assert ModelConfig.from_dict(config.to_dict()) == config


def test_unknown_and_missing_fields_are_named() -> None:
    with pytest.raises(UserError, match="unknown field 'widht'"):
        ModelConfig.from_dict({"vocab_size": 5, "widht": 3})
    with pytest.raises(UserError, match="no 'vocab_size'"):
        ModelConfig.from_dict({})


def test_unknown_presets_get_a_suggestion() -> None:
    with pytest.raises(UserError, match="did you mean 'tinygpt'"):
        model_preset("tinygtp", 10)
    with pytest.raises(UserError, match="takes layers and width"):
        model_preset("tinygpt", 10, depth=3)


def test_the_sinusoidal_table_follows_the_paper_not_the_tutorials_first_line() -> None:
    table = sinusoidal_table(10, 8)
    for position in range(10):
        for i in range(4):
            angle = torch.tensor(position / 10_000 ** (2 * i / 8))
            torch.testing.assert_close(table[position, 2 * i], angle.sin())
            torch.testing.assert_close(table[position, 2 * i + 1], angle.cos())
