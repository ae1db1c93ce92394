"""A config refuses a shape that cannot be built, in one line that names the field."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from scratchlm.errors import UserError
from scratchlm.models import ModelConfig, build_model, empty_model, model_preset, parameter_count
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


LLAMA3 = {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_context": 8192}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_scaling": {"type": "yarn"}}, "type must be one of: linear, llama3"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'"),
        ({"rope_scaling": {"type": "linear"}}, "takes factor"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor is 0"),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, "must be below its high_freq_factor"),
        ({"rope_theta": float("inf")}, "rope_theta is inf"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"sliding_window": 4, "architecture": "encoder"}, "sliding_window is for decoders"),
        ({"window_from_layer": -1}, "window_from_layer is -1"),
        ({"position_offset": 2, "positions": "rotary"}, "position_offset is for learned positions"),
        ({"head": "deep"}, "choose one of: linear, mlm, none"),
        ({"head": "none", "architecture": "seq2seq"}, "an encoder-decoder needs 'linear'"),
        ({"head": "mlm", "activation": "swiglu"}, "cannot be 'swiglu'"),
        ({"head": "none", "tied_embeddings": True}, "nothing to tie"),
        ({"pooler": True}, "pooler is for encoders"),
        ({"positions": "rotary", "context": 10**9}, "context is 1000000000; its table of positions"),
    ],
)
def test_a_bad_option_of_a_real_model_is_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ModelConfig(**({"vocab_size": 10} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"architecture": "seq2seq", "tied_embeddings": True, "positions": "sinusoidal"},
        {"architecture": "seq2seq", "norm": "rmsnorm", "final_norm": False},
        {"architecture": "encoder", "head": "mlm", "pooler": True, "token_types": 2, "embedding_norm": True},
        {"head": "none", "position_offset": 2, "norm_bias": False},
        {"positions": "rotary", "qk_norm": True, "kv_heads": 2, "head_dim": 10, "activation": "swiglu"},
    ],
)
def test_parameters_are_counted_without_building_and_empty_models_hold_none(changes: dict[str, object]) -> None:
    config = ModelConfig(**({"vocab_size": 10, "width": 16, "layers": 2} | changes))  # type: ignore[arg-type]
    parameters = list(build_model(config).parameters())
    assert parameter_count(config) == sum(parameter.numel() for parameter in parameters)
    empty = empty_model(config)
    assert [p.shape for p in empty.parameters()] == [p.shape for p in parameters]
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert not any(buffer.is_meta for buffer in empty.buffers())


def test_a_model_without_a_head_gives_states_and_no_logits() -> None:
    model = build_model(ModelConfig(vocab_size=10, width=16, layers=1, head="none"))
    ids = torch.arange(4)[None]
    assert model.hidden(ids).shape == (1, 4, 16)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="no head"):
        model(ids)
    with pytest.raises(ValueError, match="no pooler"):
        model.pooled(model.hidden(ids))  # type: ignore[union-attr]


@pytest.mark.parametrize("documents", [False, True])
def test_a_window_hides_what_lies_before_it(documents: bool) -> None:
    """A change outside every later token's reach changes nothing there; one inside does."""
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=20, width=16, layers=2, heads=2, dropout=0.0, sliding_window=3, window_from_layer=1)
    plain = dataclasses.replace(config, layers=1, window_from_layer=0)
    model = build_model(plain).eval()
    ids = torch.arange(10)[None]
    changed = ids.clone()
    changed[0, 4] = 15
    rows = {"documents": torch.zeros_like(ids)} if documents else {}
    with torch.no_grad():
        moved = (model(ids, **rows) != model(changed, **rows)).any(dim=-1)[0]
    assert moved.tolist() == [False] * 4 + [True] * 3 + [False] * 3
    both = build_model(config).eval()  # its first layer sees everything
    with torch.no_grad():
        moved = (both(ids, **rows) != both(changed, **rows)).any(dim=-1)[0]
    assert moved.tolist() == [False] * 4 + [True] * 6
