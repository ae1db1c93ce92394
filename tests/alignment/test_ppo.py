"""PPO: the loss is the textbook's, with values, advantages and what each token pays; it learns, and stops in time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from scratchlm.alignment.actor_critic import ActorCritic
from scratchlm.alignment.ppo import Ppo, PpoConfig
from scratchlm.errors import UserError
from scratchlm.models import Decoder, evaluating

from .test_grpo import whole_log_probabilities
from .tiny_policies import CPU, PROMPTS, Rewarded, gradients, letters, many_as, moved, plan, policy, prompts, trainer

ROWS = 10


def ppo(
    model: Decoder, rows: int = ROWS, rewards: Any = None, tokens: int = 48, texts: Any = PROMPTS, **more: Any
) -> Ppo:
    config = PpoConfig(**{"new_tokens": 8, "samples_every": 0, "updates": 2} | more)
    return Ppo(plan(rows, tokens, texts), prompts(texts), config, model, letters(), rewards or Rewarded(many_as), CPU)


def whole_values(critic: ActorCritic, task: Ppo) -> list[Tensor]:
    """Of each completion's tokens, one completion at a time; with gradients."""
    found = []
    with evaluating(critic):
        for one in task.scored.rollouts:
            states = critic.policy.hidden(torch.tensor([one.prompt + one.completion]))[0]
            found.append((states @ critic.value.weight[0] + critic.value.bias)[len(one.prompt) - 1 : -1])
    return found


def advantages_by_hand(task: Ppo, old: Any, reference: Any, values: Any) -> tuple[list[list[float]], list[list[float]]]:
    """Each from its definition: the sum of the discounted errors from the token on."""
    config, found, returns = task.config, [], []
    for number, one in enumerate(task.scored.rollouts):
        length = len(one.completion)
        rewards = [-config.kl_coefficient * float(old[number][t] - reference[number][t]) for t in range(length)]
        rewards = [r - config.entropy_bonus * float(old[number][t]) for t, r in enumerate(rewards)]
        rewards[-1] += float(task.scored.total[number]) - config.end_penalty * (not one.finished)
        guess = [*map(float, values[number]), 0.0]
        errors = [rewards[t] + config.gamma * guess[t + 1] - guess[t] for t in range(length)]
        each = [
            sum((config.gamma * config.lam) ** (later - t) * errors[later] for later in range(t, length))
            for t in range(length)
        ]
        found.append(each)
        returns.append([a + v for a, v in zip(each, guess, strict=False)])
    if config.whiten_advantages:
        flat = [a for each in found for a in each]
        mean = sum(flat) / len(flat)
        deviation = math.sqrt(sum((a - mean) ** 2 for a in flat) / len(flat))
        found = [[(a - mean) / deviation for a in each] for each in found]
    return found, returns


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"kl_coefficient": 0.5, "gamma": 0.9, "lam": 0.7, "whiten_advantages": False},
        {"entropy_bonus": 0.1, "end_penalty": 0.7, "value_clip": 0.01, "clip": 0.03, "value_coefficient": 0.5},
        {"value_leads": False, "value_clip": 0.0, "temperature": 0.7, "lam": 1.0},
    ],
)
@pytest.mark.parametrize("lora", [False, True])
def test_loss_and_gradients_of_later_steps_are_the_textbooks(more: dict[str, Any], lora: bool) -> None:
    """The second of two updates: neither policy nor values are what they were, nor what the reference is."""
    model = policy(lora=lora)
    task = ppo(model, **more)
    critic, config = task.critic, task.config
    moved(critic)
    generator = torch.Generator().manual_seed(0)
    task.work(0, ROWS, 1, CPU, generator)
    task.begin(critic, [], CPU)
    rollouts = task.scored.rollouts
    with torch.no_grad():
        old, values = whole_log_probabilities(model, rollouts, config.temperature), whole_values(critic, task)
        with task.reference() as before:
            reference = whole_log_probabilities(before, rollouts, config.temperature)
    advantages, returns = advantages_by_hand(task, old, reference, values)
    flat = [a for each in advantages for a in each]
    assert task.table.values["advantages"].tolist() == pytest.approx(flat, abs=1e-3)
    moved(critic, 0.03)
    work = task.work(1, ROWS, 1, CPU, generator)
    loss = torch.zeros(())
    for batch in work.batches:
        loss = loss + task.loss(critic, batch)[0] / work.labels
    new, guesses = whole_log_probabilities(model, rollouts, config.temperature), whole_values(critic, task)
    spoken, guessed = torch.zeros(()), torch.zeros(())
    for number, one in enumerate(rollouts):
        for t in range(len(one.completion)):
            advantage, ratio = advantages[number][t], (new[number][t] - old[number][t]).exp()
            bounded = ratio.clamp(1 - config.clip, 1 + config.clip)
            spoken = spoken - torch.minimum(ratio * advantage, bounded * advantage)
            wrong, was = (guesses[number][t] - returns[number][t]) ** 2, values[number][t]
            if config.value_clip:
                near = was + (guesses[number][t] - was).clamp(-config.value_clip, config.value_clip)
                wrong = torch.maximum(wrong, (near - returns[number][t]) ** 2)
            guessed = guessed + 0.5 * wrong
    assert work.labels == len(flat)
    wanted = (spoken + config.value_coefficient * guessed) / len(flat)
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), abs=1e-3)
    named = {name: parameter for name, parameter in critic.named_parameters() if parameter.requires_grad}
    heads = [name for name in named if name.startswith("value.")]
    assert len(heads) == 2
    found = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    leading = wanted if config.value_leads else spoken / len(flat)
    trunk = [name for name in named if name not in heads]
    for names, total in ((trunk, leading), (heads, wanted)):
        slopes = torch.autograd.grad(total, [named[name] for name in names], retain_graph=True)
        for name, slope in zip(names, slopes, strict=True):
            torch.testing.assert_close(
                found[name], slope, atol=1e-4, rtol=1e-2, msg=lambda text, n=name: f"{n}: {text}"
            )


@pytest.mark.parametrize("more", [{}, {"minibatches": 3}])
def test_a_step_does_not_depend_on_its_passes(more: dict[str, Any]) -> None:
    found = []
    for rows, passes, tokens in ((10, 1, 1000), (5, 2, 40), (1, 10, 24)):
        task = ppo(moved(policy(lora=True)), tokens=tokens, **more)
        moved(task.critic)
        found.append(gradients(task.model, task, rows, passes))
    for loss, slopes in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-5)
        assert slopes.keys() == found[0][1].keys()
        for name, slope in slopes.items():
            torch.testing.assert_close(slope, found[0][1][name], atol=1e-5, rtol=1e-3)


def test_a_policy_learns_what_is_rewarded_and_its_value_head_to_expect_it() -> None:
    model = policy(lora=True)
    task = ppo(model, rows=16, texts=["ab", "c"], updates=4, kl_coefficient=0.0, value_coefficient=0.5)
    made = trainer(model, task, 16, learning_rate=0.02)
    made.step()
    first = task.metrics()
    for _ in range(24):
        made.step()
    last = task.metrics()
    assert first["reward"] < 0.3
    assert last["reward"] > 0.7
    assert first["value"] == 0.0
    assert abs(last["value"] - last["reward"]) < 0.25
    assert last["value_loss"] < first["value_loss"]


def test_while_the_value_head_warms_up_the_policy_stays() -> None:
    model = policy()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    task = ppo(model, value_warmup=1)
    made = trainer(model, task, ROWS)
    for _ in range(2):
        made.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert bool(task.critic.value.weight.any())
    made.step()
    assert not all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_update_that_goes_too_far_is_the_last_of_its_rollout() -> None:
    for target, steps in ((1e-5, 2), (1e5, 4)):
        model = policy()
        task = ppo(model, updates=4, target_kl=target)
        made, changed = trainer(model, task, ROWS), 0
        for _ in range(4):
            before = model.embed.tokens.weight.clone()
            made.step()
            changed += not torch.equal(before, model.embed.tokens.weight)
        assert changed == steps  # after the second the policy is no longer the one that sampled
        made.step()
        assert task.rollout == 1
        assert not torch.equal(before, model.embed.tokens.weight)


def test_the_price_of_a_nat_adapts_and_is_kept() -> None:
    model = policy(lora=True)
    task = ppo(model, kl_target=0.001, kl_horizon=100, kl_coefficient=0.1, updates=1)
    made = trainer(model, task, ROWS)
    prices = []
    for _ in range(4):
        made.step()
        prices.append(task.metrics()["kl_coefficient"])
    assert prices[0] == 0.1
    assert prices[1] == pytest.approx(0.1 * (1 - 0.2 * ROWS / 100))  # at the start there is no distance
    assert prices[3] > prices[1]
    other = ppo(policy(lora=True), kl_target=0.001, kl_horizon=100, kl_coefficient=0.1)
    other.restore(task.state())
    assert other.kl.coefficient == task.kl.coefficient != 0.1


def test_the_value_head_is_no_part_of_what_a_run_leaves() -> None:
    model = policy(lora=True)
    task = ppo(model)
    learner = task.learner(model)
    assert isinstance(learner, ActorCritic)
    assert task.learner(learner) is learner
    assert task.product(learner) is model
    assert not any("value" in name for name in model.state_dict())
    with pytest.raises(ValueError, match="made for another model"):
        task.learner(policy())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.1}, "gamma is 1.1; give a number of at least 0, at most 1"),
        ({"lam": -0.1}, "lam is -0.1; give a number of at least 0, at most 1"),
        ({"clip": 0}, "clip is 0; give a number above 0"),
        ({"value_clip": -1}, "value_clip is -1; give a number of at least 0"),
        ({"value_coefficient": math.inf}, "value_coefficient is inf; give a number of at least 0"),
        ({"value_warmup": 1.5}, "value_warmup is 1.5; give a whole number of at least 0"),
        ({"kl_coefficient": "high"}, "kl_coefficient is 'high'; give a number of at least 0"),
        ({"kl_target": -6}, "kl_target is -6; give a number of at least 0"),
        ({"kl_horizon": 0}, "kl_horizon is 0; give a whole number of at least 1"),
        ({"target_kl": math.nan}, "target_kl is nan; give a number of at least 0"),
        ({"entropy_bonus": -1}, "entropy_bonus is -1; give a number of at least 0"),
        ({"end_penalty": -1}, "end_penalty is -1; give a number of at least 0"),
        ({"updates": 0}, "updates is 0; give a whole number of at least 1"),
    ],
)
def test_wrong_settings_are_told_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as told:
        PpoConfig(**settings)
    assert str(told.value) == message
