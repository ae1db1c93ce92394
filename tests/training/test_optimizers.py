"""Muon against its formula, and which parameters go where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scratchlm.errors import UserError
from scratchlm.training.optimizers import (
    Muon,
    build_optimizers,
    load_optimizer_tensors,
    optimizer_tensors,
    orthogonalise,
)

Make = Callable[..., Any]


@pytest.mark.parametrize("shape", [(12, 12), (8, 20), (20, 8)])
def test_orthogonalised_matrices_keep_their_directions_and_lose_their_lengths(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    gradients = torch.randn(3, *shape) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    for before, after in zip(gradients, orthogonalise(gradients), strict=True):
        left, lengths, right = torch.linalg.svd(before, full_matrices=False)
        inner = left.T @ after @ right.T
        kept = lengths > 0.05 * lengths[0]
        diagonal = inner.diagonal()[kept]
        assert bool(((diagonal > 0.6) & (diagonal < 1.3)).all())
        assert float((inner - inner.diagonal().diag()).abs().max()) < 1e-3


def muon_reference(weight: Tensor, gradients: list[Tensor], lr: float, momentum: float, decay: float) -> Tensor:
    """Jordan et al. 2024, one matrix, one step after the other."""
    average = torch.zeros_like(weight)
    for gradient in gradients:
        average = momentum * average + (1 - momentum) * gradient
        x = (1 - momentum) * gradient + momentum * average
        wide = x.T if x.shape[0] > x.shape[1] else x
        wide = wide / wide.norm()
        for _ in range(5):
            gram = wide @ wide.T
            wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
        update = wide.T if x.shape[0] > x.shape[1] else wide
        scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
        weight = weight * (1 - lr * decay) - lr * scale * update
    return weight


def test_muon_takes_the_steps_of_its_paper_and_cuts_fused_projections_apart() -> None:
    torch.manual_seed(1)
    plain, fused = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(12, 4))
    starts = [plain.detach().clone(), fused.detach().clone()]
    optimizer = Muon([plain, fused], lr=0.1, momentum=0.8, weight_decay=0.5, pieces={fused: [6, 3, 3]})
    gradients = [(torch.randn(6, 4), torch.randn(12, 4)) for _ in range(3)]
    for one, other in gradients:
        plain.grad, fused.grad = one.clone(), other.clone()
        optimizer.step()
    expected = muon_reference(starts[0], [one for one, _ in gradients], 0.1, 0.8, 0.5)
    torch.testing.assert_close(plain.detach(), expected, rtol=1e-4, atol=1e-5)
    pieces = [
        muon_reference(starts[1][rows], [other[rows] for _, other in gradients], 0.1, 0.8, 0.5)
        for rows in (slice(0, 6), slice(6, 9), slice(9, 12))
    ]
    torch.testing.assert_close(fused.detach(), torch.cat(pieces), rtol=1e-4, atol=1e-5)


def groups(model: nn.Module, config: Any) -> dict[str, tuple[str, float]]:
    """Each parameter's optimizer and weight decay; a parameter in two groups fails."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, tuple[str, float]] = {}
    for optimizer in build_optimizers(model, config):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                assert names[id(parameter)] not in found
                found[names[id(parameter)]] = (type(optimizer).__name__, group["weight_decay"])
    return found


def test_weight_decay_falls_on_matrices_and_not_on_norms_biases_and_embeddings(
    tiny_model: Make, tiny_config: Make
) -> None:
    model = tiny_model("tinybert", embedding_norm=True, token_types=2)
    found = groups(model, tiny_config(weight_decay=0.3))
    decayed = {name for name, (_, decay) in found.items() if decay}
    assert found.keys() == dict(model.named_parameters()).keys()
    parts = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    assert decayed == {f"blocks.0.{part}.weight" for part in parts} | {"head.weight"}


def test_muon_takes_the_matrices_inside_the_blocks_alone(tiny_model: Make, tiny_config: Make) -> None:
    for preset, tied in (("tinygpt", False), ("modern", True), ("transformer", True)):
        model = tiny_model(preset, tied_embeddings=tied)
        found = groups(model, tiny_config(optimizer="muon"))
        assert found.keys() == dict(model.named_parameters()).keys()
        muon = {name for name, (optimizer, _) in found.items() if optimizer == "Muon"}
        expected = {name for name, p in model.named_parameters() if "blocks." in name and p.dim() == 2}
        assert muon == expected


def test_a_tied_head_is_an_embedding_and_is_not_decayed(tiny_model: Make, tiny_config: Make) -> None:
    found = groups(tiny_model(tied_embeddings=True), tiny_config(weight_decay=0.3))
    assert found["embed.tokens.weight"] == ("AdamW", 0.0)
    assert "head.weight" not in found


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_state_goes_to_tensors_and_back(optimizer: str, tiny_model: Make, tiny_config: Make) -> None:
    def step(model: Any, optimizers: list[torch.optim.Optimizer], seed: int) -> None:
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        for one in optimizers:
            one.step()

    config = tiny_config(optimizer=optimizer)
    whole, cut = tiny_model(), tiny_model()
    first, second = build_optimizers(whole, config), build_optimizers(cut, config)
    for seed in (1, 2):
        step(whole, first, seed)
    step(cut, second, 1)
    fresh = build_optimizers(cut, config)
    load_optimizer_tensors(cut, fresh, optimizer_tensors(cut, second), "here")
    step(cut, fresh, 2)
    for one, other in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_state_of_another_model_is_refused_by_name(tiny_model: Make, tiny_config: Make) -> None:
    model = tiny_model()
    optimizers = build_optimizers(model, tiny_config())
    with pytest.raises(UserError, match=r"'blocks\.7\.mlp\.up\.weight/exp_avg'"):
        load_optimizer_tensors(model, optimizers, {"blocks.7.mlp.up.weight/exp_avg": torch.zeros(2)}, "a checkpoint")


def test_a_model_with_nothing_to_train_is_a_programmers_mistake(tiny_model: Make, tiny_config: Make) -> None:
    with pytest.raises(ValueError, match="no trainable parameters"):
        build_optimizers(tiny_model().requires_grad_(False), tiny_config())
