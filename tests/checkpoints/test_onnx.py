"""What is written as ONNX gives our numbers in onnxruntime, whatever the batch and the length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scratchlm.checkpoints import onnx_write
from scratchlm.checkpoints.onnx_write import write_onnx
from scratchlm.errors import UserError
from scratchlm.models import KVCache, ModelConfig, build_model
from scratchlm.tokenizers import Tokenizer, train_tokenizer

SHAPE: dict[str, Any] = {"vocab_size": 24, "context": 32, "width": 16, "layers": 2, "heads": 4}
LLAMA = {
    **{"positions": "rotary", "norm": "rmsnorm", "kv_heads": 2, "activation": "swiglu", "qk_norm": True},
    **{"ffn_bias": False, "out_bias": False, "tied_embeddings": True, "head_bias": False},
}
BERT = {
    **{"architecture": "encoder", "norm_placement": "post", "embedding_norm": True, "token_types": 2},
    **{"final_norm": False, "qkv_bias": True},
}
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    return train_tokenizer("char", ["abc"])


def opened(folder: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize("parts", [LLAMA, {"qkv_bias": True, "activation": "gelu_tanh"}], ids=["llama", "gpt2"])
def test_a_decoder_reads_at_once_and_goes_on_token_by_token(
    parts: dict[str, Any], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    model = build_model(ModelConfig(**SHAPE, **parts)).eval()
    write_onnx(model, tokenizer, tmp_path / "out")
    session, config = opened(tmp_path / "out"), model.config
    ids = torch.randint(24, (3, 9))
    with torch.no_grad():
        whole = model(ids)
        cache = KVCache(config, 3, 16)
        model(ids, cache=cache)
    held = {
        name: np.zeros((3, config.key_value_heads, 0, config.head_size), np.float32)
        for name in (one.name for one in session.get_inputs())
        if name.startswith("past_key_values.")
    }
    read, logits = 0, []
    for tokens in (6, 1, 1, 1):
        places = np.arange(read, read + tokens)[None].repeat(3, 0)
        given = {"input_ids": ids[:, read : read + tokens].numpy(), "position_ids": places}
        mask = np.ones((3, read + tokens), np.int64)
        first, *present = session.run(None, {**given, "attention_mask": mask, **held})
        logits.append(first)
        held, read = dict(zip(held, present, strict=True)), read + tokens
    torch.testing.assert_close(torch.from_numpy(np.concatenate(logits, 1)), whole, **CLOSE)
    keys = torch.from_numpy(held["past_key_values.1.key"])
    torch.testing.assert_close(keys, cache.keys[1, :, :, :9], **CLOSE)
    assert (tmp_path / "out" / "tokenizer.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "shape"),
    [
        ({**BERT, "head": "mlm"}, (2, 7, 24)),
        ({**BERT, "head": "none"}, (2, 7, 16)),
        ({**BERT, "head": "classify", "labels": ("a", "b", "c"), "pooler": True}, (2, 3)),
        ({**BERT, "head": "tag", "labels": ("O", "B-x")}, (2, 7, 2)),
        ({**LLAMA, "tied_embeddings": False, "head": "reward"}, (2, 1)),
    ],
    ids=["mlm", "none", "classify", "tag", "reward"],
)
def test_a_model_that_reads_whole_texts(
    parts: dict[str, Any], shape: tuple[int, ...], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    model = build_model(ModelConfig(**SHAPE, **parts)).eval()
    write_onnx(model, tokenizer, tmp_path / "out")
    session = opened(tmp_path / "out")
    ids, mask = torch.randint(24, (2, 7)), torch.ones(2, 7, dtype=torch.int64)
    mask[1, 4:] = 0
    given = {"input_ids": ids.numpy(), "attention_mask": mask.numpy(), "token_type_ids": np.zeros((2, 7), np.int64)}
    told = session.run(None, {one.name: given[one.name] for one in session.get_inputs()})[0]
    assert told.shape == shape
    for row, length in enumerate((7, 4)):  # each text alone, without padding
        with torch.no_grad():
            states = model.hidden(ids[row : row + 1, :length])
            ours = states if model.config.head == "none" else model.logits(states)
        if len(shape) == 2:
            torch.testing.assert_close(torch.from_numpy(told[row]), ours[0, -1 if model.causal else 0], **CLOSE)
        else:
            torch.testing.assert_close(torch.from_numpy(told[row, :length]), ours[0], **CLOSE)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"architecture": "seq2seq"}, "an encoder-decoder cannot be written as ONNX yet"),
        ({"sliding_window": 8}, "sliding_window 8 is shorter than the context"),
    ],
)
def test_what_cannot_be_written_is_told_and_nothing_is_left(
    parts: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_write, "find_spec", lambda _: object())
    with pytest.raises(UserError, match=said):
        write_onnx(build_model(ModelConfig(**SHAPE, **parts)), train_tokenizer("char", ["abc"]), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_write, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(UserError, match=rf"ONNX files need {package}, .* pip install 'scratchlm\[onnx\]'"):
        write_onnx(build_model(ModelConfig(**SHAPE)), train_tokenizer("char", ["abc"]), tmp_path / "out")
