"""Random tiny checkpoints that transformers wrote: the same logits from ours, and the same tensors back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from scratchlm.checkpoints import RunFolder, export_huggingface, load_huggingface, read_config, save_huggingface
from scratchlm.models import Decoder, Encoder, KVCache, build_model, model_preset, parameter_count, textbook
from scratchlm.tokenizers import train_tokenizer

transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")

VOCABULARY, WIDTH, TOKENS = 61, 32, 24
CLOSE = {"atol": 1e-5, "rtol": 0.0}

GPT2 = {"n_embd": WIDTH, "n_head": 4, "n_layer": 2, "n_positions": 48, "bos_token_id": 0, "eos_token_id": 0}
GATED = {
    "hidden_size": WIDTH,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 48,
}
BERT = {
    "hidden_size": WIDTH,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 50,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
WINDOW = {"use_sliding_window": True, "sliding_window": 5}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2 untied, relu, narrow": (
        "GPT2LMHeadModel",
        GPT2 | {"tie_word_embeddings": False, "n_inner": 20} | {"activation_function": "relu"},
    ),
    "gpt2 exact gelu": ("GPT2LMHeadModel", GPT2 | {"activation_function": "gelu"}),
    "gpt2 without head": ("GPT2Model", GPT2),
    "llama": ("LlamaForCausalLM", GATED),
    "llama all heads": ("LlamaForCausalLM", GATED | {"num_key_value_heads": 4}),
    "llama biases": ("LlamaForCausalLM", GATED | {"attention_bias": True, "mlp_bias": True}),
    "llama tied": ("LlamaForCausalLM", GATED | {"tie_word_embeddings": True, "rope_theta": 100_000.0}),
    "llama wide heads": ("LlamaForCausalLM", GATED | {"head_dim": 12}),
    "llama linear": ("LlamaForCausalLM", GATED | {"rope_scaling": {"rope_type": "linear", "factor": 2.5}}),
    "llama 3": ("LlamaForCausalLM", GATED | {"rope_scaling": LLAMA3, "head_dim": 16, "rope_theta": 500.0}),
    "llama without head": ("LlamaModel", GATED),
    "mistral": ("MistralForCausalLM", GATED | {"sliding_window": 5}),
    "mistral without window": ("MistralForCausalLM", GATED | {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("Qwen2ForCausalLM", GATED),
    "qwen2 tied, window": ("Qwen2ForCausalLM", GATED | WINDOW | {"max_window_layers": 0, "tie_word_embeddings": True}),
    "qwen2 window above": ("Qwen2ForCausalLM", GATED | WINDOW | {"max_window_layers": 1}),
    "qwen3": ("Qwen3ForCausalLM", GATED | {"head_dim": 12}),
    "qwen3 biases, window": (
        "Qwen3ForCausalLM",
        GATED | WINDOW | {"attention_bias": True, "max_window_layers": 1} | {"head_dim": 8},
    ),
    "bert": ("BertModel", BERT),
    "bert without pooler": ("BertModel", BERT | {"add_pooling_layer": False}),
    "bert masked": ("BertForMaskedLM", BERT),
    "bert masked, untied": ("BertForMaskedLM", BERT | {"tie_word_embeddings": False, "hidden_act": "gelu_new"}),
    "roberta": ("RobertaModel", BERT | {"type_vocab_size": 1}),
    "roberta masked": ("RobertaForMaskedLM", BERT | {"type_vocab_size": 1}),
    "roberta masked, untied": ("RobertaForMaskedLM", BERT | {"tie_word_embeddings": False, "pad_token_id": 4}),
}


def reference(name: str) -> Any:
    """A model of transformers with every weight, norms and biases too, away from its trivial start."""
    kind, settings = CASES[name]
    cls = getattr(transformers, kind)
    options = {"add_pooling_layer": False} if settings.get("add_pooling_layer") is False else {}
    settings = {key: value for key, value in settings.items() if key not in options}
    torch.manual_seed(len(name))
    config = cls.config_class(vocab_size=VOCABULARY, attn_implementation="eager", **settings)
    model = cls(config, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0 if parameter.dim() == 1 else 5.0).add_(torch.randn_like(parameter), alpha=0.1)
    return model


def words(rows: int = 2, tokens: int = TOKENS) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(5, VOCABULARY, (rows, tokens), generator=generator)


def outcome(theirs: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        out = theirs(ids)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def ours_on(model: Decoder | Encoder, ids: Tensor, **more: Any) -> Tensor:
    with torch.no_grad():
        return model.hidden(ids, **more) if model.head is None else model(ids, **more)


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_on_every_path_and_saving_gives_the_same_checkpoint(name: str, tmp_path: Path) -> None:
    theirs, ids = reference(name), words()
    theirs.save_pretrained(tmp_path / "theirs")
    model = load_huggingface(tmp_path / "theirs")
    expected = outcome(theirs, ids)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(ours_on(model, ids), expected, **CLOSE)
    with textbook(model):
        torch.testing.assert_close(ours_on(model, ids), expected, **CLOSE)
    if isinstance(model, Decoder):
        for sizes in ([1] * TOKENS, [9, 1, 1, 8, 5]):
            cache = KVCache(model.config, len(ids), TOKENS)
            steps = [ours_on(model, part, cache=cache) for part in ids.split(sizes, dim=1)]
            torch.testing.assert_close(torch.cat(steps, dim=1), expected, **CLOSE)
    assert parameter_count(model.config) == sum(parameter.numel() for parameter in model.parameters())
    assert read_config(tmp_path / "theirs") == model.config

    save_huggingface(model, tmp_path / "ours")
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("theirs", "ours"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    again, told = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True, attn_implementation="eager")
    pooler = {"pooler.dense.weight", "pooler.dense.bias"} if name == "bert without pooler" else set()
    assert {key: set(value) - pooler for key, value in told.items() if value} in ({}, {"missing_keys": set()})
    assert torch.equal(outcome(again.eval(), ids), expected)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_the_pooler_and_segments_equal_the_references(name: str, tmp_path: Path) -> None:
    theirs, ids = reference(name), words()
    theirs.save_pretrained(tmp_path)
    model = load_huggingface(tmp_path)
    assert isinstance(model, Encoder)
    types = None if name == "roberta" else (torch.arange(TOKENS) >= 9).long().expand_as(ids)
    with torch.no_grad():
        expected = theirs(ids, token_type_ids=types)
        states = model.hidden(ids, types=types)
        torch.testing.assert_close(states, expected.last_hidden_state, **CLOSE)
        torch.testing.assert_close(model.pooled(states), expected.pooler_output, **CLOSE)


@pytest.mark.parametrize("name", ["bert", "roberta masked"])
def test_padding_changes_nothing(name: str, tmp_path: Path) -> None:
    theirs, ids = reference(name), words()
    theirs.save_pretrained(tmp_path)
    model = load_huggingface(tmp_path)
    pad = theirs.config.pad_token_id
    padded = ids.clone()
    padded[1, 10:] = pad
    seen = (padded != pad).long()
    with torch.no_grad():
        out = theirs(padded, attention_mask=seen)
    expected = out.logits if hasattr(out, "logits") else out.last_hidden_state
    actual = ours_on(model, padded, documents=seen - 1)
    torch.testing.assert_close(actual[1, :10], expected[1, :10], **CLOSE)
    torch.testing.assert_close(actual[0], expected[0], **CLOSE)


def test_a_window_counts_within_documents_of_a_packed_row(tmp_path: Path) -> None:
    theirs = reference("mistral")
    theirs.save_pretrained(tmp_path)
    model = load_huggingface(tmp_path)
    first, second = words(1, 14), words(1, 10)
    packed = torch.cat([first, second], dim=1)
    documents = torch.tensor([[0] * 14 + [1] * 10])
    positions = torch.cat([torch.arange(14), torch.arange(10)])
    actual = ours_on(model, packed, documents=documents, positions=positions)
    torch.testing.assert_close(actual, torch.cat([outcome(theirs, first), outcome(theirs, second)], dim=1), **CLOSE)


def test_shards_and_dtypes(tmp_path: Path) -> None:
    theirs, ids = reference("llama tied"), words()
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    torch.testing.assert_close(ours_on(load_huggingface(tmp_path / "shards"), ids), outcome(theirs, ids), **CLOSE)
    theirs.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    model = load_huggingface(tmp_path / "half", torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.head.weight is model.embed.tokens.weight
    wide = load_huggingface(tmp_path / "half")
    reference_wide = type(theirs).from_pretrained(tmp_path / "half", dtype=torch.float32).eval()
    torch.testing.assert_close(ours_on(wide, ids), outcome(reference_wide, ids), **CLOSE)
    save_huggingface(model, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("half", "again"))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_old_names_prefixes_and_leftovers_are_understood(tmp_path: Path) -> None:
    """bert-base-uncased's gamma and beta and next-sentence head; gpt2's missing prefix and stored masks."""
    from safetensors.torch import save_file

    bert, ids = reference("bert masked"), words()
    bert.save_pretrained(tmp_path / "bert")
    file = tmp_path / "bert" / "model.safetensors"
    tensors = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for key, tensor in load_file(file).items()
    }
    tensors |= {"cls.seq_relationship.weight": torch.ones(2, WIDTH), "cls.seq_relationship.bias": torch.ones(2)}
    tensors |= {"bert.embeddings.position_ids": torch.arange(50)[None]}
    tensors |= {"cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"].clone()}
    save_file(tensors, file, {"format": "pt"})
    torch.testing.assert_close(ours_on(load_huggingface(tmp_path / "bert"), ids), outcome(bert, ids), **CLOSE)

    gpt2 = reference("gpt2")
    gpt2.save_pretrained(tmp_path / "gpt2")
    file = tmp_path / "gpt2" / "model.safetensors"
    tensors = {key.removeprefix("transformer."): tensor for key, tensor in load_file(file).items()}
    tensors |= {"h.0.attn.bias": torch.ones(1, 1, 48, 48).tril(), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    save_file(tensors, file, {"format": "pt"})
    torch.testing.assert_close(ours_on(load_huggingface(tmp_path / "gpt2"), ids), outcome(gpt2, ids), **CLOSE)


def alphabet() -> Any:
    return train_tokenizer("char", ["abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ.,"])


@pytest.mark.parametrize(
    "settings", [{}, {"tied_embeddings": True}, {"norm_bias": False}, {"head_bias": False}, {"width": 16, "heads": 2}]
)
def test_tinygpt_opens_in_transformers_as_a_gpt2_with_its_heads_bias(settings: dict[str, Any], tmp_path: Path) -> None:
    """Also where there are more tokens than channels, so that no shift of the norm could stand for the bias."""
    tokenizer, ids = alphabet(), torch.arange(40).view(2, 20)
    model = build_model(model_preset("tinygpt", tokenizer.vocab_size, init_std=0.1, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    expected = ours_on(model, ids)  # type: ignore[arg-type]
    export_huggingface(model, tokenizer, tmp_path / "export")
    theirs, told = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "export", output_loading_info=True)
    assert not any(told.values())
    assert type(theirs).__name__ == "GPT2LMHeadModel"
    torch.testing.assert_close(outcome(theirs.eval(), ids), expected, **CLOSE)
    torch.testing.assert_close(ours_on(load_huggingface(tmp_path / "export"), ids), expected, **CLOSE)
    spelled = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    assert spelled("Tea, please").input_ids == tokenizer.encode("Tea, please")

    run = RunFolder(tmp_path / "run")
    run.start(resume=False)
    tokenizer.save(run.path)
    run.write_description({"preset": "tinygpt", "model": model.config.to_dict(), "data": {"name": "letters"}})
    run.save_weights(model)
    run.close()
    loaded, _ = RunFolder.open(run.path).load_model()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(run.path).eval()
    torch.testing.assert_close(outcome(theirs, ids), expected, **CLOSE)


def test_minilm_gives_the_references_states() -> None:
    root = os.environ.get("SCRATCHLM_TEST_MODELS")
    found = sorted(Path(root).glob("**/1_Pooling")) if root else []
    if not found:
        pytest.skip("set SCRATCHLM_TEST_MODELS to a folder that holds all-MiniLM-L6-v2")
    folder = found[0].parent
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    model = load_huggingface(folder)
    ids = torch.randint(1000, 30_000, (3, 60), generator=torch.Generator().manual_seed(1))
    documents = torch.zeros_like(ids)
    documents[1, 35:] = -1
    with torch.no_grad():
        expected = theirs(ids, attention_mask=documents + 1).last_hidden_state
        actual = model.hidden(ids, documents=documents)
    torch.testing.assert_close(actual[documents == 0], expected[documents == 0], **CLOSE)
