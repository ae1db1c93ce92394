"""What GGUF files hold, against what ``transformers`` reads from them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from scratchlm.checkpoints.gguf import load_gguf
from scratchlm.checkpoints.gguf_write import write_gguf
from scratchlm.checkpoints.huggingface import load_huggingface
from scratchlm.tokenizers import train_tokenizer, with_end

transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")

SHAPE = {
    "vocab_size": 301,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "eos_token_id": 300,
    "bos_token_id": 300,
    "pad_token_id": 300,
}
GPT2 = {
    "vocab_size": 301, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.2,
    "eos_token_id": 300, "bos_token_id": 300,
}  # fmt: skip


def _config(kind: str) -> object:
    if kind == "llama":
        return transformers.LlamaConfig(**SHAPE, rope_theta=50_000.0)
    if kind == "llama, tied":
        return transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True)
    if kind == "mistral":
        return transformers.MistralConfig(**SHAPE, sliding_window=None)
    if kind == "qwen2":
        return transformers.Qwen2Config(**SHAPE)
    if kind == "qwen3":
        return transformers.Qwen3Config(**SHAPE, head_dim=32)
    return transformers.GPT2Config(**GPT2)


def read_by_transformers(path: Path, model: object) -> object:
    """The file's weights, dequantised and named by ``transformers``' own reader (whose ``from_pretrained`` would want
    another package) in a model of its own."""
    reader = pytest.importorskip("transformers.modeling_gguf_pytorch_utils")
    tensors = reader.load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    model.tie_weights()
    assert unexpected == []
    assert set(missing) <= {"lm_head.weight"}
    return model.eval()


@pytest.mark.parametrize("kind", ["llama", "llama, tied", "mistral", "qwen2", "qwen3", "gpt2"])
def test_transformers_reads_what_we_write_and_finds_its_own_model_again(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(_config(kind)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
            parameter.copy_(parameter.half())
    theirs.save_pretrained(tmp_path / "hf")
    tokenizer = with_end(train_tokenizer("bpe", ["the quick brown fox " * 30], vocab_size=300))
    write_gguf(load_huggingface(tmp_path / "hf"), tokenizer, tmp_path / "m.gguf")
    ids = torch.randint(300, (2, 40))
    ours = load_gguf(tmp_path / "m.gguf")
    # A Mistral within its window is a Llama, and GGUF calls it one.
    config = transformers.LlamaConfig(**SHAPE) if kind == "mistral" else _config(kind)
    read = read_by_transformers(tmp_path / "m.gguf", transformers.AutoModelForCausalLM.from_config(config))
    with torch.no_grad():
        # In float64: in float32 theirs alone are 1.2e-5 away from the truth on a processor with AVX-512.
        expected = theirs.double()(ids).logits
        assert torch.allclose(ours.double()(ids), expected, atol=1e-5, rtol=1e-5)
        assert torch.allclose(read.double()(ids).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_smollm2_gives_the_logits_of_transformers() -> None:
    folder = os.environ.get("SCRATCHLM_TEST_MODELS")
    files = list(Path(folder).glob("**/SmolLM2*.gguf")) if folder else []
    if not files:
        pytest.skip("SCRATCHLM_TEST_MODELS names no folder with SmolLM2's GGUF file")
    torch.manual_seed(0)
    ids = torch.randint(49_152, (1, 64))
    reader = pytest.importorskip("transformers.modeling_gguf_pytorch_utils")
    config = transformers.LlamaConfig(**reader.load_gguf_checkpoint(str(files[0]))["config"])
    config.tie_word_embeddings = True
    reference = read_by_transformers(files[0], transformers.LlamaForCausalLM(config))
    with torch.no_grad():
        expected, found = reference(ids).logits, load_gguf(files[0])(ids)
    assert float((found - expected).abs().max()) < 1e-3
