"""Models with labels that transformers wrote: the same logits from ours, the same checkpoint back, and the reverse."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scratchlm.checkpoints import RunFolder, load_huggingface, read_config, save_huggingface
from scratchlm.checkpoints.express import fields_from_config
from scratchlm.checkpoints.huggingface import config_text
from scratchlm.errors import UserError
from scratchlm.models import Decoder, Encoder, ModelConfig, build_model, model_preset, parameter_count, with_head
from scratchlm.tokenizers import Tokenizer, train_tokenizer

transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")

VOCABULARY, PAD = 61, 3
CLOSE = {"atol": 1e-5, "rtol": 0.0}
LABELS = ("bad", "fair", "good")
GPT2 = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 48}
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 48,
}
GATED = SHAPE | {"num_key_value_heads": 2}
CASES: dict[str, dict[str, Any]] = {
    "BertForSequenceClassification": SHAPE,
    "BertForTokenClassification": SHAPE,
    "RobertaForSequenceClassification": SHAPE | {"hidden_act": "relu"},
    "RobertaForTokenClassification": SHAPE,
    "GPT2ForSequenceClassification": GPT2,
    "GPT2ForTokenClassification": GPT2,
    "LlamaForSequenceClassification": GATED,
    "LlamaForTokenClassification": GATED,
    "MistralForSequenceClassification": GATED,
    "Qwen2ForSequenceClassification": GATED | {"tie_word_embeddings": True},
    "Qwen2ForTokenClassification": GATED,
    "Qwen3ForSequenceClassification": GATED,
}

REWARDS = [name for name in CASES if name.endswith("ForSequenceClassification")]


def reference(name: str, **more: Any) -> Any:
    """A model of transformers with every weight, norms and biases too, away from its trivial start."""
    cls = getattr(transformers, name)
    torch.manual_seed(len(name))
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: n for n, label in enumerate(LABELS)}}
    settings = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "attn_implementation": "eager", **labels, **CASES[name]}
    model = cls(cls.config_class(**settings | more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0 if parameter.dim() == 1 else 5.0).add_(torch.randn_like(parameter), alpha=0.1)
    return model


def padded() -> tuple[Tensor, Tensor]:
    """Two rows of ids, the second one shorter, and which of them are seen (B, T)."""
    ids = torch.randint(5, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(7))
    ids[1, 13:] = PAD
    return ids, (ids != PAD).long()


def rewarded(name: str) -> Any:
    """A model of theirs with one number to tell."""
    return reference(name, id2label={0: "LABEL_0"}, label2id={"LABEL_0": 0})


def of_theirs(model: Any) -> Tensor:
    """(B, labels), or (tokens, labels)."""
    ids, seen = padded()
    with torch.no_grad():
        logits: Tensor = model(ids, attention_mask=seen).logits
    return logits if logits.dim() == 2 else logits[seen == 1]


def of_ours(model: Decoder | Encoder) -> Tensor:
    ids, seen = padded()
    with torch.no_grad():
        states = model.hidden(ids, documents=seen - 1)
        if model.config.head == "tag":
            return model.logits(states[seen == 1])
        ends = torch.zeros(2, dtype=torch.int64) if isinstance(model, Encoder) else seen.sum(1) - 1
        return model.logits(states[torch.arange(2), ends])


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_of_theirs_gives_their_logits_and_is_saved_as_it_was(name: str, tmp_path: Path) -> None:
    theirs = reference(name)
    theirs.save_pretrained(tmp_path / "theirs")
    model = load_huggingface(tmp_path / "theirs")
    assert model.config.labels == LABELS
    assert model.config.head == ("tag" if name.endswith("ForTokenClassification") else "classify")
    assert parameter_count(model.config) == sum(p.numel() for p in theirs.parameters())
    torch.testing.assert_close(of_ours(model), of_theirs(theirs), **CLOSE)

    save_huggingface(model, tmp_path / "ours")
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("theirs", "ours"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    again = read_config(tmp_path / "ours")
    assert (again.head, again.labels, again.pooler) == (model.config.head, model.config.labels, model.config.pooler)


@pytest.mark.parametrize("name", CASES)
def test_a_head_put_on_here_opens_there(name: str, tmp_path: Path) -> None:
    """With the labels' names, and with padded rows, for which a decoder's config must name the padding."""
    kind = "ForTokenClassification" if name.endswith("ForTokenClassification") else "ForSequenceClassification"
    reference(name).save_pretrained(tmp_path / "theirs")
    trunk = load_huggingface(tmp_path / "theirs")
    labels = ("O", "B-person", "I-person", "B-place")
    model = with_head(trunk, "tag" if kind == "ForTokenClassification" else "classify", labels, seed=2)
    model.head.weight.data.mul_(20)
    save_huggingface(model, tmp_path / "ours")
    opened, told = getattr(transformers, f"AutoModel{kind}").from_pretrained(
        tmp_path / "ours", output_loading_info=True, pad_token_id=PAD
    )
    assert type(opened).__name__ == name
    assert not any(told.values())
    assert tuple(opened.config.id2label[n] for n in range(4)) == labels
    torch.testing.assert_close(of_theirs(opened.eval()), of_ours(model), **CLOSE)


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_model_of_theirs_gives_their_numbers_and_is_saved_as_it_was(name: str, tmp_path: Path) -> None:
    theirs = rewarded(name)
    theirs.save_pretrained(tmp_path / "theirs")
    model = load_huggingface(tmp_path / "theirs")
    assert (model.config.head, model.config.labels) == ("reward", ())
    assert parameter_count(model.config) == sum(p.numel() for p in theirs.parameters())
    assert of_ours(model).shape == (2, 1)
    torch.testing.assert_close(of_ours(model), of_theirs(theirs), **CLOSE)
    save_huggingface(model, tmp_path / "ours")
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("theirs", "ours"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert read_config(tmp_path / "ours").head == "reward"


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_put_on_here_opens_there(name: str, tmp_path: Path) -> None:
    reference(name).save_pretrained(tmp_path / "theirs")
    model = with_head(load_huggingface(tmp_path / "theirs"), "reward", seed=2)
    model.head.weight.data.mul_(20)
    save_huggingface(model, tmp_path / "ours")
    opened, told = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True, pad_token_id=PAD
    )
    assert type(opened).__name__ == name
    assert not any(told.values())
    assert (opened.config.num_labels, opened.config.problem_type) == (1, "regression")
    torch.testing.assert_close(of_theirs(opened.eval()), of_ours(model), **CLOSE)


def test_one_label_is_a_reward_of_a_whole_text_alone(tmp_path: Path) -> None:
    for name, more, field in (
        ("BertForTokenClassification", {}, "id2label"),
        ("BertForSequenceClassification", {"problem_type": "multi_label_classification"}, "problem_type"),
    ):
        reference(name, id2label={0: "x"}, label2id={"x": 0}, **more).save_pretrained(tmp_path / name)
        with pytest.raises(UserError, match=f"{field} is "):
            read_config(tmp_path / name)


@pytest.mark.parametrize("preset", ["tinygpt", "bert"])
@pytest.mark.parametrize("head", ["classify", "tag"])
def test_a_run_with_labels_opens_here_to_the_bit_and_there(preset: str, head: Any, tmp_path: Path) -> None:
    tokenizer = train_tokenizer("wordpiece", ["a run of words for a tokenizer of words"] * 3, vocab_size=60)
    if preset == "bert":
        reference("BertForTokenClassification", vocab_size=tokenizer.vocab_size).save_pretrained(tmp_path / "base")
        base = load_huggingface(tmp_path / "base")
    else:
        base = build_model(model_preset(preset, tokenizer.vocab_size))  # type: ignore[assignment]
    model = with_head(base, head, LABELS, seed=1).eval()
    run = labelled_run(tmp_path / "run", model, tokenizer)
    loaded, _ = run.load_model()
    assert loaded.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    kind = "ForTokenClassification" if head == "tag" else "ForSequenceClassification"
    opened = getattr(transformers, f"AutoModel{kind}").from_pretrained(run.path).eval()
    assert opened.config.pad_token_id == tokenizer.pad_id
    ids = torch.arange(4, 24)[None]
    with torch.no_grad():
        logits, theirs = model(ids), opened(ids).logits
    expected = logits if head == "tag" else logits[:, 0 if preset == "bert" else -1]
    torch.testing.assert_close(theirs, expected, **CLOSE)


def labelled_run(folder: Path, model: Any, tokenizer: Tokenizer) -> RunFolder:
    run = RunFolder(folder)
    run.start(resume=False)
    tokenizer.save(run.path)
    run.write_description({"preset": "own", "model": model.config.to_dict(), "data": {"name": "letters"}})
    run.save_weights(model)
    run.close()
    return RunFolder.open(folder)


def test_a_run_that_no_class_of_theirs_can_hold_keeps_our_names(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("wordpiece", ["a run of words for a tokenizer of words"] * 3, vocab_size=60)
    model = with_head(build_model(model_preset("tinybert", tokenizer.vocab_size)), "classify", LABELS).eval()
    run = labelled_run(tmp_path / "run", model, tokenizer)
    loaded, _ = run.load_model()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    assert not (run.path / "config.json").exists()


def test_two_classes_without_names_and_an_unused_pooler_are_understood(tmp_path: Path) -> None:
    """transformers does not write the names of two classes that have none; old taggers hold a pooler unused."""
    theirs = reference("BertForTokenClassification", id2label={0: "LABEL_0", 1: "LABEL_1"}, label2id={})
    theirs.save_pretrained(tmp_path)
    assert "id2label" not in json.loads((tmp_path / "config.json").read_text())
    file = tmp_path / "model.safetensors"
    pooler = {"bert.pooler.dense.weight": torch.zeros(32, 32), "bert.pooler.dense.bias": torch.zeros(32)}
    save_file(load_file(file) | pooler, file, {"format": "pt"})
    model = load_huggingface(tmp_path)
    assert model.config.labels == ("LABEL_0", "LABEL_1")
    torch.testing.assert_close(of_ours(model), of_theirs(theirs), **CLOSE)


def test_a_decoders_config_names_a_padding_that_ends_no_text() -> None:
    """The end token stands in for a padding token that the vocabulary lacks, unless texts end in it."""
    fields = fields_from_config(ModelConfig(9, head="classify", labels=("no", "yes"), qkv_bias=True, head_bias=False))
    ends: dict[str, Any] = {"eos_ids": {7}, "eos_id": 7, "bos_id": None}
    for pad, suffix, expected in ((4, (), 4), (None, (), 7), (None, (7,), None)):
        tokenizer: Any = SimpleNamespace(pad_id=pad, suffix_ids=suffix, **ends)
        assert json.loads(config_text(fields, tokenizer))["pad_token_id"] == expected
    words = fields_from_config(ModelConfig(9, qkv_bias=True, head_bias=False))
    words_only: Any = SimpleNamespace(pad_id=None, suffix_ids=(), **ends)
    assert json.loads(config_text(words, words_only))["pad_token_id"] is None
