"""What each layer would say, and where heads look: ``transformers``' hidden states and attentions, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scratchlm.checkpoints import load_huggingface
from scratchlm.models import Decoder, Encoder

from .test_huggingface import CLOSE, reference, words


def heads_of(theirs: Any, name: str) -> tuple[Any, Any]:
    """The final norm, nothing in an encoder, and what makes words of states."""
    if name.startswith("gpt2"):
        return theirs.transformer.ln_f, theirs.lm_head
    if name.startswith("bert"):
        return torch.nn.Identity(), theirs.cls
    if name.startswith("roberta"):
        return torch.nn.Identity(), theirs.lm_head
    return theirs.model.norm, theirs.lm_head


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "qwen3", "bert masked", "roberta masked"])
def test_each_layer_is_read_as_the_last_one_would_be(name: str, tmp_path: Path) -> None:
    theirs = reference(name)
    theirs.save_pretrained(tmp_path)
    ours = load_huggingface(tmp_path).eval()
    assert isinstance(ours, Decoder | Encoder)
    ids = words()
    with torch.no_grad():
        out = theirs(ids, output_hidden_states=True, output_attentions=True)
    norm, head = heads_of(theirs, name)
    streams = ours.streams(ids)
    assert len(streams) == len(out.hidden_states) == 3
    for layer, (stream, state) in enumerate(zip(streams, out.hidden_states, strict=True)):
        with torch.no_grad():
            last = layer == len(streams) - 1  # theirs is behind the final norm already
            expected: Tensor = head(state if last else norm(state))
        torch.testing.assert_close(ours.lens(stream), expected, **CLOSE)
    torch.testing.assert_close(ours.lens(streams[-1]), out.logits, **CLOSE)
    for mine, their in zip(ours.attention_maps(ids), out.attentions, strict=True):
        torch.testing.assert_close(mine, their, **CLOSE)
