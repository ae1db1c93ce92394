"""One process of policies that learn; the environment says which, as it does under torchrun, or that it is alone.

python policy_processes.py '["grpo", "ppo"]' prints one JSON object: of each, what became of it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from scratchlm.alignment.grpo import Grpo, GrpoConfig
from scratchlm.alignment.ppo import Ppo, PpoConfig
from scratchlm.training import TrainConfig
from scratchlm.training.distributed import World, world
from scratchlm.training.loop import Trainer
from scratchlm.training.progress import Reporter

if __package__:
    from .tiny_policies import PROMPTS, Rewarded, letters, many_as, plan, policy, prompts
else:  # started as a program
    from tiny_policies import PROMPTS, Rewarded, letters, many_as, plan, policy, prompts

SETTINGS: dict[str, Any] = {"batch_size": 12, "learning_rate": 1e-2, "epsilon": 1e-3, "steps": 4, "device": "cpu"}


def build(kind: str, place: World) -> dict[str, Any]:
    """Four steps of two rollouts, and what there is to compare."""
    model = policy(lora=True)
    given: Any = (plan(SETTINGS["batch_size"]), prompts(PROMPTS))
    rewards = Rewarded(many_as)
    more: dict[str, Any] = {"new_tokens": 6, "updates": 2, "samples_every": 0}
    last: Any = (model, letters(), rewards, place)
    task: Any
    if kind == "grpo":
        task = Grpo(*given, GrpoConfig(completions=4, beta=0.1, **more), *last)
    else:
        task = Ppo(*given, PpoConfig(target_kl=10.0, **more), *last)
    trainer = Trainer(model, task, TrainConfig(**SETTINGS), None, place, Reporter(quiet=True))
    labels = []
    work = task.work

    def noting(*asked: Any) -> Any:
        found = work(*asked)
        labels.append(found.labels)
        return found

    task.work = noting
    for _ in range(4):
        trainer.step()
    weights = [float(value) for p in model.parameters() if p.requires_grad for value in p.detach().flatten()[:5]]
    own = sum(len(one["number"]) for one in rewards.seen)
    return {
        "loss": trainer.state.loss,
        "rewards": task.scored.total.tolist(),
        "weights": weights,
        "labels": labels,
        "own": own,
    }


if __name__ == "__main__":
    with world("cpu") as here:
        print(json.dumps({kind: build(kind, here) for kind in json.loads(sys.argv[1])}))
