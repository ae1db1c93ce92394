"""Blocks that compute their activations again: the same bits, for less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scratchlm.adapters import LoraSettings, add_lora, quantise_base
from scratchlm.data import Batch
from scratchlm.models import KVCache, build_model, cross_entropy_sum, model_preset
from scratchlm.models.block import Block, recompute_blocks

SHAPE: dict[str, Any] = {"width": 64, "heads": 4, "layers": 3, "context": 48, "dropout": 0.2}


def packed(documents: bool) -> Batch:
    """Two rows of 48 tokens, of several documents each where that is asked for."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 30, (2, 48), generator=generator)
    if not documents:
        return Batch(ids, ids.roll(-1, 1))
    where = torch.tensor([[0] * 20 + [1] * 28, [0] * 7 + [1] * 33 + [2] * 8])
    starts = torch.tensor([[*range(20), *range(28)], [*range(7), *range(33), *range(8)]])
    return Batch(ids, ids.roll(-1, 1), starts, where.int())


def plain(model: Any) -> None:
    assert model is not None


def lora(model: Any) -> None:
    add_lora(model, LoraSettings(rank=4, dropout=0.1))


def qlora(model: Any) -> None:
    quantise_base(model, "nf4")
    lora(model)


def learned(model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor], int]:
    """The loss, the gradients, and how many bytes were kept for the backward pass beside the parameters."""
    model.zero_grad()
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(7)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        assert batch.labels is not None
        loss, _ = cross_entropy_sum(model.forward_batch(batch), batch.labels)
        count = sum(kept.values())
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, count


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("change", [plain, lora, qlora])
@pytest.mark.parametrize("preset", ["tinygpt", "modern", "tinybert"])
def test_loss_and_gradients_are_the_same_bits_and_less_is_kept(
    preset: str, change: Callable[[Any], None], documents: bool
) -> None:
    torch.manual_seed(0)
    model = build_model(model_preset(preset, 30, **SHAPE))
    change(model)
    batch = packed(documents)
    loss, gradients, kept = learned(model, batch)
    recompute_blocks(model, True)
    again, others, less = learned(model, batch)
    assert torch.equal(again, loss)
    assert others.keys() == gradients.keys() != set()
    assert all(torch.equal(others[name], gradient) for name, gradient in gradients.items())
    # What a block keeps is its input; the logits and the embeddings are no part of any block.
    assert less < (0.5 if change is plain else 0.7) * kept


def test_an_encoder_decoder_computes_again_too() -> None:
    torch.manual_seed(0)
    model = build_model(model_preset("transformer", 30, **SHAPE))
    ids = packed(False).ids
    batch = Batch(ids, ids.roll(-1, 1), source_ids=ids.flip(1))
    loss, gradients, kept = learned(model, batch)
    recompute_blocks(model, True)
    again, others, less = learned(model, batch)
    assert torch.equal(again, loss)
    assert all(torch.equal(others[name], gradient) for name, gradient in gradients.items())
    assert less < 0.5 * kept


def test_nothing_is_computed_twice_in_use_or_with_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[nn.Module] = []
    compute = Block._layers
    monkeypatch.setattr(Block, "_layers", lambda self, *inputs: calls.append(self) or compute(self, *inputs))
    monkeypatch.setattr("scratchlm.models.block.checkpoint", lambda *_a, **_k: pytest.fail("computed to be repeated"))
    model = build_model(model_preset("tinygpt", 30, **SHAPE))
    recompute_blocks(model, True)
    ids = packed(False).ids
    with torch.no_grad():
        model(ids)
    model.eval()(ids).sum().backward()
    model.train()(ids, cache=KVCache(model.config, 2, 48))
    assert len(calls) == 9
