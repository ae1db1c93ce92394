"""Heads that give labels: what a config allows, what they compute, and putting one on a trunk."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from scratchlm.errors import UserError
from scratchlm.models import (
    Encoder,
    ModelConfig,
    build_model,
    empty_model,
    model_preset,
    parameter_count,
    with_head,
)

LABELS = ("bad", "fair", "good")
PRESETS = ("tinygpt", "tinybert")


def trunk(preset: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return build_model(model_preset(preset, 40, context=16, **changes)).eval()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": "classify"}, r"head is 'classify' and labels are \[\]; give at least two"),
        ({"head": "tag", "labels": ("O",)}, "give at least two"),
        ({"head": "tag", "labels": ("O", "O")}, "labels has 'O' twice"),
        ({"head": "tag", "labels": ("O", "")}, "none of them empty"),
        ({"head": "tag", "labels": ("O", 1)}, "give names in quotes"),
        ({"head": "tag", "labels": "O"}, "labels is 'O'; give a list"),
        ({"head": "tag", "labels": None}, "labels is None; give a list"),
        ({"head": "reward", "labels": LABELS}, "labels are for the heads classify and tag, not 'reward'"),
        ({"head": "reward", "tied_embeddings": True}, "head is 'reward', so there is nothing to tie"),
        ({"labels": LABELS}, "labels are for the heads classify and tag, not 'linear'"),
        ({"head": "tag", "labels": LABELS, "tied_embeddings": True}, "head is 'tag', so there is nothing to tie"),
        ({"head": "tag", "labels": LABELS, "architecture": "seq2seq"}, "head is 'tag'; an encoder-decoder needs"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ModelConfig(40, **changes)


def test_a_config_survives_json() -> None:
    config = ModelConfig(40, head="tag", labels=LABELS)
    fields = json.loads(json.dumps(config.to_dict()))
    assert fields == config.to_dict()
    assert ModelConfig.from_dict(fields) == config
    assert ModelConfig.from_dict({"vocab_size": 40}).labels == ()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("head", "labels"), [("classify", LABELS), ("tag", LABELS), ("reward", ())])
def test_a_head_is_put_on_the_same_trunk(preset: str, head: Any, labels: tuple[str, ...]) -> None:
    base = trunk(preset)
    model = with_head(base, head, labels, seed=1)
    ids = torch.randint(40, (2, 9))
    assert torch.equal(model.hidden(ids), base.hidden(ids))
    shared = {id(p) for p in base.parameters()}
    new = {name for name, p in model.named_parameters() if id(p) not in shared}
    assert {name.partition(".")[0] for name in new} == ({"head", "pooler"} if model.config.pooler else {"head"})
    assert not model.training
    assert not base.config.labels  # the old one is what it was
    assert model(ids).shape == (2, 9, len(labels) or 1)
    assert sum(p.numel() for p in model.parameters()) == parameter_count(model.config)
    assert {p.shape for p in empty_model(model.config).parameters()} == {p.shape for p in model.parameters()}


def test_the_new_numbers_depend_on_the_seed_alone_and_leave_the_generator() -> None:
    base = trunk("tinybert")
    before = torch.get_rng_state()
    one = with_head(base, "classify", LABELS, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    same, other = with_head(base, "classify", LABELS, seed=1), with_head(base, "classify", LABELS, seed=2)
    assert torch.equal(one.head.weight, same.head.weight)
    assert torch.equal(one.pooler.weight, same.pooler.weight)  # type: ignore[union-attr]
    assert not torch.equal(one.head.weight, other.head.weight)
    assert 0.015 < float(one.pooler.weight.std()) < 0.025  # type: ignore[union-attr]
    assert not one.head.bias.any()


def test_a_pooler_that_is_there_is_kept_and_no_tagger_has_one() -> None:
    base = trunk("tinybert", head="none", head_bias=False, pooler=True)
    assert with_head(base, "classify", LABELS).pooler is base.pooler
    assert with_head(base, "tag", LABELS).pooler is None
    assert with_head(with_head(base, "classify", LABELS), "none").head is None


def test_a_tied_model_gets_a_head_of_its_own() -> None:
    base = trunk("tinygpt", tied_embeddings=True, head_bias=False)
    model = with_head(base, "classify", LABELS)
    assert model.embed.tokens.weight is base.embed.tokens.weight
    assert model.head.weight.shape == (3, base.config.width)
    assert model.head.bias is None


def test_a_class_is_the_poolers_and_dropout_is_for_training_alone() -> None:
    for preset, head, drops in (
        ("tinybert", "reward", True),
        ("tinygpt", "reward", False),
        ("tinybert", "classify", True),
        ("tinybert", "tag", True),
        ("tinygpt", "classify", False),
        ("tinygpt", "tag", True),
    ):
        model: Any = with_head(trunk(preset, dropout=0.5), head, () if head == "reward" else LABELS)
        states = torch.randn(5, 7, model.config.width)
        ready = torch.tanh(model.pooler(states)) if head != "tag" and isinstance(model, Encoder) else states
        assert torch.equal(model.logits(states), model.head(ready))
        torch.testing.assert_close(model.logits(states[2, 3]), model.head(ready)[2, 3])
        model.train()
        assert torch.equal(model.logits(states), model.head(ready)) != drops


def test_what_has_no_such_head_is_refused() -> None:
    with pytest.raises(UserError, match="head 'tag' is for decoders and encoders"):
        with_head(build_model(model_preset("transformer", 40)), "tag", LABELS)
    with pytest.raises(UserError, match="give at least two"):
        with_head(trunk("tinygpt"), "tag", ("O",))
    with pytest.raises(ValueError, match="only labels' heads"):
        with_head(trunk("tinygpt"), "mlm")
