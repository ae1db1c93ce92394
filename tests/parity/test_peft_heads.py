"""Adapters of models with labels: the head is trained whole and travels with the adapter, to PEFT and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scratchlm.adapters import LoraSettings, add_lora, load_adapter, save_adapter
from scratchlm.checkpoints import load_huggingface
from scratchlm.models import Encoder

from .test_heads import CASES, CLOSE, of_ours, of_theirs, reference

peft = pytest.importorskip("peft", reason="the reference implementation is not installed")

KINDS = [name for name in CASES if not name.startswith(("Mistral", "Qwen3"))]


def shifted(model: nn.Module) -> None:
    """Every trainable number away from its start."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


def task(name: str) -> str:
    return "TOKEN_CLS" if name.endswith("ForTokenClassification") else "SEQ_CLS"


@pytest.mark.parametrize("targets", ["all-linear", "peft"])
@pytest.mark.parametrize("name", KINDS)
def test_an_adapter_trained_here_gives_the_same_logits_in_peft(name: str, targets: str, tmp_path: Path) -> None:
    reference(name).save_pretrained(tmp_path / "base")
    model = load_huggingface(tmp_path / "base")
    pooled = ("pooler",) if isinstance(model, Encoder) and model.config.pooler else ()
    add_lora(model, LoraSettings(rank=3, targets=targets, extra=("head", *pooled)))
    shifted(model)
    save_adapter(model, tmp_path / "adapter", base=str(tmp_path / "base"))
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["task_type"] == task(name)
    theirs = peft.PeftModel.from_pretrained(reference(name), tmp_path / "adapter").eval()
    expected = of_theirs(reference(name))
    actual = of_ours(model.eval())
    assert not torch.allclose(actual, expected, atol=1e-2)
    torch.testing.assert_close(of_theirs(theirs), actual, **CLOSE)

    again = load_huggingface(tmp_path / "base")
    load_adapter(again, tmp_path / "adapter")
    torch.testing.assert_close(of_ours(again.eval()), actual, **CLOSE)


# PEFT itself cannot adapt all linear layers of a tagger: it adapts its classifier, and then cannot keep that whole.
@pytest.mark.parametrize(
    ("name", "targets"),
    [*((name, None) for name in KINDS), *((name, "all-linear") for name in KINDS if task(name) == "SEQ_CLS")],
)
def test_an_adapter_trained_with_peft_gives_the_same_logits_here(name: str, targets: Any, tmp_path: Path) -> None:
    """PEFT saves the classifier of its own accord, under whatever name it knows for one."""
    base = reference(name)
    base.save_pretrained(tmp_path / "base")
    theirs = peft.get_peft_model(base, peft.LoraConfig(task_type=task(name), r=3, target_modules=targets)).eval()
    shifted(theirs)
    theirs.save_pretrained(tmp_path / "adapter")
    model = load_huggingface(tmp_path / "base")
    load_adapter(model, tmp_path / "adapter")
    expected: Tensor = of_theirs(theirs)
    torch.testing.assert_close(of_ours(model.eval()), expected, **CLOSE)


def test_a_part_of_a_classifier_is_read_by_peft_as_it_is(tmp_path: Path) -> None:
    """Without the task's name, which would have PEFT look for the rest of it."""
    name = "RobertaForSequenceClassification"
    reference(name).save_pretrained(tmp_path / "base")
    for extra in ((), ("head",)):
        model = load_huggingface(tmp_path / "base")
        add_lora(model, LoraSettings(rank=3, extra=extra))
        shifted(model)
        save_adapter(model, tmp_path / f"adapter{len(extra)}")
        theirs = peft.PeftModel.from_pretrained(reference(name), tmp_path / f"adapter{len(extra)}").eval()
        torch.testing.assert_close(of_theirs(theirs), of_ours(model.eval()), **CLOSE)
