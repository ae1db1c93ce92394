"""Runs of policies: one that was cut off goes on to the same bits; two processes learn what one does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from scratchlm.adapters.run import AdapterRun
from scratchlm.alignment.grpo import Grpo, GrpoConfig
from scratchlm.alignment.policy import PolicyTask
from scratchlm.alignment.ppo import Ppo, PpoConfig
from scratchlm.checkpoints import RunFolder
from scratchlm.models import Decoder
from scratchlm.training import TrainConfig, fit

from ..training.launching import launch
from .policy_processes import build
from .tiny_policies import CPU, Rewarded, letters, many_as, plan, policy, prompts

TIMES = ("seconds", "tokens_per_second")


class PowerCutError(Exception):
    """It is cut."""


class Cut(Rewarded):
    """Rewards whose every answer may be the last."""

    left = 10**9

    def score(self, *given: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise PowerCutError
        return super().score(*given)


def task_of(kind: str, model: Decoder, rewards: Rewarded, folder: Path) -> PolicyTask:
    more: dict[str, Any] = {"new_tokens": 6, "updates": 2, "minibatches": 2, "samples_every": 1}
    given: Any = (plan(8), prompts())
    last: Any = (model, letters(), rewards, CPU)
    if kind == "grpo":
        return Grpo(*given, GrpoConfig(completions=4, beta=0.1, **more), *last, folder=folder)
    adaptive = {"kl_target": 0.01, "kl_horizon": 50, "target_kl": 0.02}
    return Ppo(*given, PpoConfig(**more, **adaptive), *last, folder=folder)


def run_of(kind: str, out: Path, *, resume: bool = False, left: int = 10**9) -> dict[str, torch.Tensor]:
    """Of five rollouts and four steps each, with a checkpoint after every second rollout."""
    lora = kind == "ppo"
    model = policy(lora=lora)
    folder = AdapterRun(out, "a base") if lora else RunFolder(out)
    rewards = Cut(many_as)
    rewards.left = left
    folder.start(resume=resume)
    settings: dict[str, Any] = {"steps": 20, "batch_size": 8, "learning_rate": 1e-2, "save_every": 7, "log_every": 1}
    try:
        fit(model, task_of(kind, model, rewards, out), TrainConfig(**settings, device="cpu"), folder, resume=resume)
    finally:
        folder.close()
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def logged(out: Path) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_a_run_that_was_cut_off_goes_on_to_the_same_bits(kind: str, tmp_path: Path) -> None:
    whole = run_of(kind, tmp_path / "whole")
    for left, kept in ((1, 0), (3, 8)):
        out = tmp_path / f"cut-{left}"
        with pytest.raises(PowerCutError):
            run_of(kind, out, left=left)
        assert [path.name for path in out.glob("checkpoints/step-*")] == ([f"step-{kept:08}"] if kept else [])
        again = run_of(kind, out, resume=True)
        assert all(torch.equal(tensor, whole[name]) for name, tensor in again.items())
        assert logged(out) == logged(tmp_path / "whole")
        samples = [(folder / "samples.jsonl").read_text(encoding="utf-8") for folder in (out, tmp_path / "whole")]
        assert samples[0] == samples[1]
        assert {path.name for path in out.glob("*.safetensors")} == {
            "adapter_model.safetensors" if kind == "ppo" else "model.safetensors"
        }
    figures = logged(tmp_path / "whole")
    assert len(figures) == 20
    assert {"reward", "reward_std", "length", "finished", "entropy", "clip_fraction", "ratio_most", "kl"} <= {
        *figures[0]
    }
    if kind == "ppo":
        assert {"value_loss", "explained_variance", "kl_coefficient", "kl_of_updates"} <= {*figures[0]}


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_two_processes_learn_what_one_does(kind: str, both: list[dict[str, Any]]) -> None:
    alone = build(kind, CPU)
    for found in (one[kind] for one in both):
        assert found["loss"] == pytest.approx(alone["loss"], abs=1e-4)
        assert found["rewards"] == alone["rewards"]
        assert found["weights"] == pytest.approx(alone["weights"], abs=1e-3)
        assert found["labels"] == alone["labels"]
    assert both[0][kind]["own"] + both[1][kind]["own"] == alone["own"]


@pytest.fixture(scope="module")
def both() -> list[dict[str, Any]]:
    ends = launch(str(Path(__file__).with_name("policy_processes.py")), 2, ["grpo", "ppo"])
    assert [status for status, _, _ in ends] == [0, 0], ends
    return [json.loads(text.splitlines()[-1]) for _, text, _ in ends]
