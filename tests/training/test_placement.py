"""What a training keeps and computes twice, and how it is spread: the settings, seen from one process."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scratchlm.adapters import LoraSettings, add_lora
from scratchlm.checkpoints import RunFolder
from scratchlm.errors import UserError
from scratchlm.models.block import Block
from scratchlm.training import Reporter, TrainConfig, fit
from scratchlm.training.distributed import World
from scratchlm.training.placement import Spread
from scratchlm.training.settings import split_settings

Make = Callable[..., Any]


def started(path: Path) -> RunFolder:
    run = RunFolder(path)
    run.start(resume=path.exists())
    return run


def last_checkpoint(path: Path) -> Any:
    checkpoint = RunFolder(path).latest_checkpoint()
    assert checkpoint is not None
    return checkpoint


def halved(model: Any) -> set[str]:
    """Freeze a part of the model; the names of what is left."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("mlp" in name)
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_a_checkpoint_holds_what_is_trained_and_nothing_else(
    tmp_path: Path, tiny_model: Make, tiny_task: Make, tiny_config: Make
) -> None:
    model = tiny_model()
    names = halved(model)
    fit(model, tiny_task(), tiny_config(), started(tmp_path / "run"))
    checkpoint = last_checkpoint(tmp_path / "run")
    assert set(checkpoint.model_tensors()) == names
    assert {name.partition("/")[0] for name in checkpoint.optimizer_tensors()} == names
    assert set(checkpoint.path.iterdir()) == {
        checkpoint.path / name for name in ("model.safetensors", "optimizer.safetensors", "state.json")
    }


def test_a_checkpoint_of_other_frozen_parts_is_refused_by_the_tensors_name(
    tmp_path: Path, tiny_model: Make, tiny_task: Make, tiny_config: Make
) -> None:
    model = tiny_model()
    halved(model)
    fit(model, tiny_task(), tiny_config(), started(tmp_path / "run"))
    with pytest.raises(UserError, match=r"lacks the tensor 'embed\.tokens\.weight'"):
        fit(tiny_model(), tiny_task(), tiny_config(), RunFolder(tmp_path / "run"), resume=True)
    adapted = tiny_model()
    add_lora(adapted, LoraSettings(rank=2))
    with pytest.raises(UserError, match=r"lacks the tensor 'blocks\.0\.attention\.qkv\.adapters\.default\.a'"):
        fit(adapted, tiny_task(), tiny_config(), RunFolder(tmp_path / "run"), resume=True)


@pytest.mark.parametrize("preset", ["tinygpt", "tinybert", "transformer"])
def test_computing_twice_learns_the_same_bits(
    preset: str, tiny_model: Make, tiny_task: Make, tiny_config: Make, weights: Make
) -> None:
    results = []
    for recompute in (False, True):
        model = tiny_model(preset, dropout=0.3)
        result = fit(model, tiny_task(preset), tiny_config(recompute=recompute, accumulation=2))
        assert {block.recompute for block in model.modules() if isinstance(block, Block)} == {recompute}
        results.append((result.loss, result.best_loss, {n: a.tobytes() for n, a in weights(model).items()}))
    assert results[0] == results[1]


def test_one_process_says_that_it_has_nothing_to_share_and_trains(
    tiny_model: Make, tiny_task: Make, tiny_config: Make
) -> None:
    said = io.StringIO()
    spread = fit(tiny_model(), tiny_task(), tiny_config(sharding="full"), reporter=Reporter(stream=said))
    assert "sharding=full has no effect: there is one process" in said.getvalue()
    assert spread.loss == fit(tiny_model(), tiny_task(), tiny_config()).loss


def test_what_cannot_be_spread_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Make, tiny_task: Make
) -> None:
    with pytest.raises(UserError, match="works on cpu and cuda, not on mps; use sharding=none"):
        Spread(tiny_model(), tiny_task(), World(torch.device("mps"), 0, 2))
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.8.1"))
    with pytest.raises(UserError, match=r"need PyTorch 2\.9, this is 2\.8\.1"):
        Spread(tiny_model(), tiny_task(), World(torch.device("cpu"), 0, 2))


def test_the_settings_are_checked() -> None:
    assert split_settings({"sharding": "none", "recompute": True}, "--set")[1] == {
        "sharding": "none",
        "recompute": True,
    }
    with pytest.raises(UserError, match="sharding is 'half'; choose one of: none, full"):
        TrainConfig(sharding="half")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="compile and sharding do not go together"):
        TrainConfig(sharding="full", compile=True)
