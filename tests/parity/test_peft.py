"""Adapters that PEFT wrote, read here, and ours read by PEFT: the same logits, and the same steps of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scratchlm.adapters import (
    LoraSettings,
    adapters_off,
    add_lora,
    load_adapter,
    merge,
    quantise_base,
    save_adapter,
    trainable,
    unload,
)
from scratchlm.checkpoints import load_huggingface

transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")
peft = pytest.importorskip("peft", reason="the reference implementation is not installed")

VOCABULARY, WIDTH = 61, 32
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
GPT2 = {"n_embd": WIDTH, "n_head": 4, "n_layer": 2, "n_positions": 48, "bos_token_id": 0, "eos_token_id": 0}
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "resid_pdrop", "attn_pdrop", "embd_pdrop")
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2 without head": ("GPT2Model", GPT2),
    "llama": ("LlamaForCausalLM", GATED),
    "llama tied": ("LlamaForCausalLM", GATED | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "qwen2": ("Qwen2ForCausalLM", GATED),
    "bert": ("BertForMaskedLM", BERT),
    "bert without head": ("BertModel", BERT),
    "roberta": ("RobertaForMaskedLM", BERT | {"pad_token_id": 1}),
}
LLAMA_ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2 by default": ("gpt2", {}),
    "gpt2 all": ("gpt2", {"target_modules": "all-linear"}),
    "gpt2 one c_proj": ("gpt2", {"target_modules": ["attn.c_proj"], "use_rslora": True}),
    "gpt2 dora": ("gpt2", {"target_modules": ["c_attn", "c_fc", "c_proj"], "use_dora": True}),
    "gpt2 biases": ("gpt2", {"bias": "all"}),
    "gpt2 own biases": ("gpt2", {"bias": "lora_only", "target_modules": ["c_attn"]}),
    "gpt2 extra": ("gpt2", {"modules_to_save": ["ln_f", "mlp.c_fc"]}),
    "gpt2 without head": ("gpt2 without head", {"target_modules": ["c_attn", "c_proj"]}),
    "llama by default": ("llama", {}),
    "llama all": ("llama", {"target_modules": "all-linear"}),
    "llama up alone": ("llama", {"target_modules": ["up_proj", "k_proj"]}),
    "llama rslora": ("llama", {"target_modules": list(LLAMA_ALL), "use_rslora": True}),
    "llama dora": ("llama", {"target_modules": ["k_proj", "gate_proj", "down_proj"], "use_dora": True}),
    "llama head": ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    "llama extra": ("llama", {"modules_to_save": ["lm_head", "embed_tokens", "input_layernorm"]}),
    "llama layers": ("llama", {"layers_to_transform": [1]}),
    "llama ranks": (
        "llama",
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {r"^model\.layers\.0\.self_attn\.q_proj": 7, "down_proj": 2},
            "alpha_pattern": {"v_proj": 24},
        },
    ),
    "llama expression": ("llama", {"target_modules": r".*\.1\..*(q_proj|up_proj)"}),
    "llama excluded": ("llama", {"exclude_modules": ["0.self_attn.q_proj"]}),
    "tied biases": ("llama tied", {"target_modules": ["q_proj", "up_proj"], "bias": "all"}),
    "tied own biases, dora": ("llama tied", {"target_modules": ["v_proj"], "bias": "lora_only", "use_dora": True}),
    "qwen2 by default": ("qwen2", {}),
    "qwen2 all, dora, rslora": ("qwen2", {"target_modules": "all-linear", "use_dora": True, "use_rslora": True}),
    "qwen2 biases": ("qwen2", {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"}),
    "bert by default": ("bert", {}),
    "bert all": ("bert", {"target_modules": "all-linear"}),
    "bert biases": ("bert", {"target_modules": ["query", "output.dense"], "bias": "all"}),
    "bert extra": ("bert", {"modules_to_save": ["cls.predictions.transform", "cls.predictions.decoder"]}),
    "bert without head": ("bert without head", {"target_modules": ["key", "intermediate.dense"], "use_dora": True}),
    "roberta": ("roberta", {"target_modules": ["query", "dense"], "bias": "lora_only"}),
}
CLOSE = {"atol": 1e-5, "rtol": 0.0}


def reference(kind: str) -> Any:
    """A model of theirs with random weights, in evaluation mode, without dropout."""
    torch.manual_seed(0)
    name, fields = MODELS[kind]
    cls = getattr(transformers, name)
    config = cls.config_class(vocab_size=VOCABULARY, **fields)
    for field in DROPOUTS:
        if hasattr(config, field):
            setattr(config, field, 0.0)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def random_ids() -> Tensor:
    return torch.randint(5, VOCABULARY, (3, 17), generator=torch.Generator().manual_seed(1))


def theirs(model: Any) -> Tensor:
    output = model(random_ids())
    found: Tensor = output.logits if hasattr(output, "logits") else output.last_hidden_state
    return found


def ours(model: Any) -> Tensor:
    found: Tensor = model.hidden(random_ids()) if model.head is None else model(random_ids())
    return found


def disturb(model: nn.Module, scale: float = 0.2) -> None:
    """Training, in one step: every parameter that takes gradients is moved."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for kind in MODELS:
        folders[kind] = tmp_path_factory.mktemp("base")
        reference(kind).save_pretrained(folders[kind])
    return folders


def peft_config(options: dict[str, Any]) -> Any:
    return peft.LoraConfig(**({"r": 4, "lora_alpha": 8} | options))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_an_adapter_goes_from_peft_to_us_and_back(case: str, bases: dict[str, Path], tmp_path: Path) -> None:
    kind, options = CASES[case]
    tuned = peft.get_peft_model(reference(kind), peft_config(options)).eval()
    disturb(tuned)
    tuned.save_pretrained(tmp_path / "theirs")

    model = load_huggingface(bases[kind])
    with torch.no_grad():
        before, wanted = ours(model), theirs(tuned)
        assert not torch.allclose(before, wanted, atol=1e-2)
        load_adapter(model, tmp_path / "theirs")
        torch.testing.assert_close(ours(model), wanted, **CLOSE)
        with adapters_off(model):
            torch.testing.assert_close(ours(model), before, **CLOSE)

        save_adapter(model, tmp_path / "ours", base=str(bases[kind]))
        again = peft.PeftModel.from_pretrained(reference(kind), tmp_path / "ours").eval()
        torch.testing.assert_close(theirs(again), wanted, **CLOSE)

        merge(model)
        torch.testing.assert_close(ours(model), wanted, **CLOSE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gpt2", LoraSettings(rank=3)),
        ("gpt2", LoraSettings(rank=3, targets=("mlp.c_proj",), layers=(1,), dora=True, bias="lora_only")),
        ("llama", LoraSettings(rank=3, alpha=5, rslora=True, extra=("lm_head",))),
        ("llama", LoraSettings(rank=3, targets="peft", ranks={"layers.1.self_attn.v_proj": 5}, alphas={"q_proj": 1})),
        ("qwen2", LoraSettings(rank=3, bias="all", layers=(0,))),
        ("bert", LoraSettings(rank=3, bias="all")),
        ("bert", LoraSettings(rank=3, targets=("attention.qkv",), extra=("cls",))),
    ],
)
def test_an_adapter_trained_here_gives_the_same_logits_in_peft(
    kind: str, settings: LoraSettings, bases: dict[str, Path], tmp_path: Path
) -> None:
    model = load_huggingface(bases[kind])
    add_lora(model, settings)
    disturb(model, 0.05)
    save_adapter(model, tmp_path, base=str(bases[kind]))
    tuned = peft.PeftModel.from_pretrained(reference(kind), tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(tuned), ours(model), **CLOSE)


@pytest.mark.filterwarnings("ignore")
def test_what_peft_adapts_by_default_is_what_peft_means_here(bases: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("gpt2", "llama", "qwen2", "bert", "roberta"):
        for ours_said, theirs_said in (("peft", None), ("all-linear", "all-linear")):
            model = load_huggingface(bases[kind])
            add_lora(model, LoraSettings(rank=2, targets=ours_said))
            tuned = peft.get_peft_model(reference(kind), peft.LoraConfig(r=2, target_modules=theirs_said))
            save_adapter(model, tmp_path / "ours")
            tuned.save_pretrained(tmp_path / "theirs")
            names = [sorted(shapes(tmp_path / folder)) for folder in ("ours", "theirs")]
            assert names[0] == names[1]


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    from safetensors.torch import load_file

    return {name: tuple(tensor.shape) for name, tensor in load_file(folder / "adapter_model.safetensors").items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"bias": "all", "use_rslora": True}])
def test_twenty_steps_of_training_equal_pefts(options: dict[str, Any], bases: dict[str, Path], tmp_path: Path) -> None:
    config = peft_config({"target_modules": list(LLAMA_ALL)} | options)
    tuned = peft.get_peft_model(reference("llama tied"), config)
    tuned.save_pretrained(tmp_path)
    model = load_huggingface(bases["llama tied"])
    load_adapter(model, tmp_path, train=True)
    losses: dict[str, list[float]] = {}
    for name, module, forward in (("theirs", tuned, theirs), ("ours", model, ours)):
        module.train()
        optimizer = torch.optim.AdamW(trainable(module).values(), lr=1e-2, weight_decay=0.1)
        for _ in range(20):
            logits = forward(module)[:, :-1]
            loss = F.cross_entropy(logits.reshape(-1, VOCABULARY), random_ids()[:, 1:].reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trainable(module).values(), 1.0)
            optimizer.step()
            losses.setdefault(name, []).append(loss.item())
    assert losses["ours"][-1] < 0.8 * losses["ours"][0]
    torch.testing.assert_close(losses["ours"], losses["theirs"], atol=1e-4, rtol=0.0)


def test_an_adapter_for_a_quantised_base_is_pefts_file_all_the_same(bases: dict[str, Path], tmp_path: Path) -> None:
    model = load_huggingface(bases["llama"])
    quantise_base(model, "nf4")
    add_lora(model, LoraSettings(rank=2))
    disturb(model)
    save_adapter(model, tmp_path)
    with torch.no_grad():
        wanted = ours(model)
        unload(model)
        load_adapter(model, tmp_path)
        torch.testing.assert_close(ours(model), wanted, **CLOSE)
