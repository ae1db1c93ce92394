"""GRPO: the loss is the textbook's, however completions lie in passes; only sampled tokens are learned; it learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from scratchlm.alignment.grpo import Grpo, GrpoConfig
from scratchlm.alignment.rollouts import Rollout, Scored
from scratchlm.alignment.sampled import SampledTokens
from scratchlm.errors import UserError
from scratchlm.models import Decoder, evaluating

from .tiny_policies import CPU, PROMPTS, Rewarded, gradients, letters, many_as, moved, plan, policy, prompts, trainer

ROWS = 12


def grpo(
    model: Decoder, rows: int = ROWS, rewards: Any = None, tokens: int = 48, texts: Any = PROMPTS, **more: Any
) -> Grpo:
    config = GrpoConfig(**{"completions": 4, "new_tokens": 8, "samples_every": 0} | more)
    rewards = rewards or Rewarded(many_as)
    return Grpo(plan(rows, tokens, texts), prompts(texts), config, model, letters(), rewards, CPU)


def whole_log_probabilities(model: Decoder, rollouts: Sequence[Rollout], temperature: float = 1.0) -> list[Tensor]:
    """Of each completion's tokens, one completion at a time and all logits whole; with gradients."""
    found = []
    with evaluating(model):
        for one in rollouts:
            spread = (model(torch.tensor([one.prompt + one.completion]))[0] / temperature).log_softmax(-1)
            at = spread[len(one.prompt) - 1 : -1]
            found.append(at[torch.arange(len(one.completion)), torch.tensor(one.completion)])
    return found


def textbook(
    config: GrpoConfig, rollouts: Sequence[Rollout], rewards: Sequence[float], new: Any, old: Any, reference: Any
) -> Tensor:
    """The loss of a step on all these completions, token by token."""
    size, sums, counts = config.completions, list[Tensor](), list[int]()
    for number, one in enumerate(rollouts):
        group = rewards[number // size * size : number // size * size + size]
        mean = sum(group) / size
        deviation = math.sqrt(sum((r - mean) ** 2 for r in group) / (size - 1))
        advantage = {
            "grpo": (rewards[number] - mean) / (deviation + 1e-4),
            "dr_grpo": rewards[number] - mean,
            "rloo": rewards[number] - (sum(group) - rewards[number]) / (size - 1),
        }[config.advantages]
        if config.overlong == "mask" and not one.finished:
            continue
        ratios = [math.e ** (new[number][t] - float(old[number][t])) for t in range(len(one.completion))]
        if config.level == "sequence":
            whole = math.e ** ((new[number] - old[number].detach()).sum() / len(one.completion))
            ratios = [whole] * len(one.completion)
        total = torch.zeros(())
        for t, ratio in enumerate(ratios):
            bounded = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
            total = total - torch.minimum(ratio * advantage, bounded * advantage)
            gap = reference[number][t].detach() - new[number][t]
            total = total + config.beta * (gap.exp() - gap - 1)
        sums.append(total)
        counts.append(len(one.completion))
    if config.loss == "token":
        return torch.stack(sums).sum() / sum(counts)
    if config.loss == "sequence":
        return sum((one / count for one, count in zip(sums, counts, strict=True)), torch.zeros(())) / len(sums)
    return torch.stack(sums).sum() / (len(sums) * config.new_tokens)


CASES: list[dict[str, Any]] = [
    {},
    {"beta": 0.3},
    {"advantages": "dr_grpo", "loss": "constant"},
    {"advantages": "rloo", "loss": "sequence", "beta": 0.1},
    {"level": "sequence", "loss": "sequence", "clip_low": 0.01, "clip_high": 0.02},
    {"overlong": "mask", "temperature": 0.7},
    {"overlong": "mask", "loss": "sequence", "temperature": 1.3, "beta": 0.2},
    {"clip_low": 0.02, "clip_high": 0.05, "temperature": 0.9},
]


@pytest.mark.parametrize("more", CASES)
@pytest.mark.parametrize("lora", [False, True])
def test_loss_and_gradients_of_later_steps_are_the_textbooks(more: dict[str, Any], lora: bool) -> None:
    """The second of two updates: the policy is no longer what it was, nor what the reference is."""
    model = policy(lora=lora)
    task = grpo(model, updates=2, **more)
    assert isinstance(task.settings, GrpoConfig)
    moved(model)  # from the reference
    generator = torch.Generator().manual_seed(0)
    task.work(0, ROWS, 1, CPU, generator)
    task.begin(model, [], CPU)
    rollouts, temperature = task.scored.rollouts, task.settings.temperature
    old = [one.detach() for one in whole_log_probabilities(model, rollouts, temperature)]
    moved(model)
    work = task.work(1, ROWS, 1, CPU, generator)
    loss = torch.zeros(())
    for batch in work.batches:
        loss = loss + task.loss(model, batch)[0] / work.labels
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    with task.reference() as before, torch.no_grad():
        reference = whole_log_probabilities(before, rollouts, temperature) if task.needs_reference else old
    new = whole_log_probabilities(model, rollouts, temperature)
    wanted = textbook(task.settings, rollouts, task.scored.total.tolist(), new, old, reference)
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), abs=1e-5)
    for one, other in zip(found, torch.autograd.grad(wanted, parameters, allow_unused=True), strict=True):
        if one is None or other is None:
            assert one is other
        else:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_the_cases_clip_and_mask_and_differ() -> None:
    """Whether the test above tests what it says."""
    model = policy()
    task = grpo(model, updates=2, clip_low=0.02, clip_high=0.05)
    made = trainer(model, task, ROWS)
    made.step()
    made.step()
    assert 0 < task.metrics()["clip_fraction"] < 1
    assert task.metrics()["ratio_most"] > 1.05
    assert 0 < task.metrics()["finished"] < 1


@pytest.mark.parametrize("more", [{}, {"beta": 0.2, "loss": "sequence"}, {"minibatches": 2}])
def test_a_step_does_not_depend_on_its_passes(more: dict[str, Any]) -> None:
    found = []
    for rows, passes, tokens in ((12, 1, 1000), (6, 2, 40), (1, 12, 24)):
        model = moved(policy(lora=True))
        found.append(gradients(model, grpo(model, tokens=tokens, **more), rows, passes))
    for loss, slopes in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-6)
        assert slopes.keys() == found[0][1].keys()
        for name, slope in slopes.items():
            torch.testing.assert_close(slope, found[0][1][name], atol=1e-6, rtol=1e-4)


def test_one_update_needs_no_log_probabilities_from_before() -> None:
    losses = []
    for updates in (1, 2):
        model = moved(policy(lora=True))
        task = grpo(model, updates=updates)
        losses.append(gradients(model, task, ROWS))
        assert ("old" in task.table.values) == (updates == 2)
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-6)
    for name, slope in losses[0][1].items():
        torch.testing.assert_close(slope, losses[1][1][name], atol=1e-6, rtol=1e-4)


def test_a_group_computes_its_prompt_once() -> None:
    prompt = list(range(1, 8))
    group = [Rollout(0, prompt, [n, 2], [True] * 2, [0.0] * 2, "length", "") for n in (1, 2, 3)]
    table = SampledTokens.of(group, CPU.device)
    numbers = torch.arange(3).numpy()
    (batch,) = table.batches(numbers, grpo(policy()).train, CPU)
    assert table.tokens(numbers) == 3 * (len(prompt) + 1)
    assert batch.ids.numel() == len(prompt) - 1 + 3 * 2


def test_forced_tokens_are_not_learned() -> None:
    """A tool's output in the midst of a completion is read and not trained."""
    model = policy()
    task = grpo(model)
    task.work(0, ROWS, 1, CPU, torch.Generator().manual_seed(0))
    rollouts = [replace(one, sampled=[n % 3 != 1 for n in range(len(one.completion))]) for one in task.scored.rollouts]
    table = SampledTokens.of(rollouts, CPU.device)
    assert table.ids.tolist() == [
        token for one in rollouts for token, own in zip(one.completion, one.sampled, strict=True) if own
    ]
    task.table = table
    task.value(Scored(rollouts, task.scored.rewards, task.scored.total), table)
    batches = table.batches(torch.arange(ROWS).numpy(), task.train, CPU)
    loss = sum((task.loss(model, batch)[0] for batch in batches), torch.zeros(()))
    new = whole_log_probabilities(model, rollouts)
    advantages = table.values["advantages"]
    firsts = [0, *table.lengths.cumsum(0).tolist()]
    wanted = torch.zeros(())
    for number, one in enumerate(rollouts):
        own = torch.tensor(one.sampled)
        ratio = (new[number] - new[number].detach()).exp()
        if firsts[number] < firsts[number + 1]:
            wanted = wanted - (ratio[own] * advantages[firsts[number]]).sum()
    parameters = list(model.parameters())
    for one, other in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(wanted, parameters), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_groups_without_a_signal_are_left_out_and_counted() -> None:
    def only_for_c(prompt: str, completion: str) -> float:
        return many_as(prompt, completion) if prompt == "c" else 1.0

    passed = []
    for reward in (only_for_c, many_as):
        model = policy()
        task = grpo(model, rows=20, rewards=Rewarded(reward))
        work = task.work(0, 20, 1, CPU, torch.Generator().manual_seed(0))
        assert work.labels == int(task.table.lengths.sum())
        passed.append(sum(batch.label_count() for batch in work.batches))
        prompts_of_it = {one.source for one, kept in zip(task.scored.rollouts, task.kept.tolist(), strict=True) if kept}
        assert (len(prompts_of_it) == 1) == (reward is only_for_c)
    assert 0 < passed[0] < passed[1]


def test_a_rollout_whose_rewards_are_all_equal_changes_nothing() -> None:
    model = policy()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = trainer(model, grpo(model, rewards=Rewarded(lambda _p, _c: 0.1)), ROWS)
    for _ in range(2):
        made.step()
    assert made.state.step == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_what_few_bits_have_sampled_is_weighted_by_what_the_policy_thinks_of_it(precision: Any) -> None:
    model = policy(width=32)
    task = grpo(model, sampling_precision=precision, importance_cap=1.1)
    work = task.work(0, ROWS, 1, CPU, torch.Generator().manual_seed(0))
    task.begin(model, work.batches, CPU)
    loss = sum((task.loss(model, batch)[0] for batch in work.batches), torch.zeros(()))
    new, wanted, capped = whole_log_probabilities(model, task.scored.rollouts), torch.zeros(()), 0
    advantages = task.table.values["advantages"]
    at = 0
    for number, one in enumerate(task.scored.rollouts):
        for t, sampler in enumerate(one.log_probabilities):
            weight = math.exp(float(new[number][t]) - sampler)
            capped += weight > 1.1
            wanted = wanted - min(weight, 1.1) * advantages[at] * (new[number][t] - new[number][t].detach()).exp()
            at += 1
    assert float(loss.detach()) == pytest.approx(float(wanted), abs=1e-3)
    assert capped


def test_only_what_is_trained_moves_and_all_of_it() -> None:
    model = policy(lora=True)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    made = trainer(model, grpo(model, rows=20, updates=2), 20)
    for _ in range(4):
        made.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


def test_dropout_is_off() -> None:
    """The first update's ratio is 1 everywhere, whatever is trained with."""
    model = policy(lora=True, dropout=0.3)
    task = grpo(model, updates=2)
    trainer(model, task, ROWS).step()
    assert task.metrics()["ratio_most"] == pytest.approx(1.0, abs=1e-4)
    assert task.metrics()["clip_fraction"] == 0.0


def test_rewards_are_told_the_prompts_columns() -> None:
    rewards, model = Rewarded(many_as, lambda prompt, _c: float(len(prompt))), policy()
    task = grpo(model, rows=20, rewards=rewards)
    task.work(0, 20, 1, CPU, torch.Generator().manual_seed(0))
    assert sorted(rewards.seen[0]["number"]) == sorted([*range(5)] * 4)
    texts = [letters().decode(one.prompt) for one in task.scored.rollouts]
    assert task.scored.rewards[1].tolist() == [float(len(text)) for text in texts]
    assert [PROMPTS[n] for n in rewards.seen[0]["number"]] == texts
    figures = task.metrics()
    assert figures["reward"] == pytest.approx(float(task.scored.total.mean()))
    assert figures["reward/reward-1"] == pytest.approx(sum(map(len, PROMPTS)) / 5)


def test_each_prompt_comes_once_in_an_epoch_whatever_a_rollouts_size() -> None:
    task = grpo(policy(), rows=12)
    met = [number for rollout in range(5) for number in task._prompts(rollout)]
    assert [sorted(met[first : first + 5]) for first in (0, 5, 10)] == [[*range(5)]] * 3
    assert met[:5] != met[5:10]


@pytest.mark.parametrize("lora", [False, True])
def test_a_policy_learns_what_is_rewarded(lora: bool) -> None:
    model = policy(lora=lora)
    task = grpo(model, rows=32, texts=["ab", "c"], completions=8)
    made = trainer(model, task, 32, learning_rate=0.03 if lora else 0.01)
    made.step()
    first = task.metrics()["reward"]
    for _ in range(30):
        made.step()
    assert first < 0.3
    assert task.metrics()["reward"] > 0.8


def test_minibatches_meet_each_completion_once_an_update() -> None:
    task = grpo(policy(), minibatches=3, updates=2)
    assert task.period == 6
    task.work(0, ROWS, 1, CPU, torch.Generator().manual_seed(0))
    for update in range(2):
        parts = [task._minibatch(0, 3 * update + part).tolist() for part in range(3)]
        assert sorted(number for part in parts for number in part) == [*range(ROWS)]
    assert task._minibatch(0, 0).tolist() != task._minibatch(0, 3).tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"completions": 1}, "completions is 1; give a whole number of at least 2"),
        ({"new_tokens": 0}, "new_tokens is 0; give a whole number of at least 1"),
        ({"updates": 0}, "updates is 0; give a whole number of at least 1"),
        ({"minibatches": True}, "minibatches is True; give a whole number of at least 1"),
        ({"temperature": 0.0}, "temperature is 0.0; give a number above 0"),
        ({"temperature": math.nan}, "temperature is nan; give a number above 0"),
        ({"beta": -0.1}, "beta is -0.1; give a number of at least 0"),
        ({"clip_low": 1.5}, "clip_low is 1.5; give a number above 0, at most 1"),
        ({"kl": "k4"}, "kl is 'k4'; choose one of: k2, k3"),
        ({"advantages": "gae"}, "advantages is 'gae'; choose one of: grpo, dr_grpo, rloo"),
        ({"loss": "sum"}, "loss is 'sum'; choose one of: token, sequence, constant"),
        ({"level": "word"}, "level is 'word'; choose one of: token, sequence"),
        ({"overlong": "drop"}, "overlong is 'drop'; choose one of: keep, mask"),
        ({"sampling_precision": "nf4"}, "sampling_precision is 'nf4'; choose one of: fp32, bf16, int8, int4"),
        ({"importance_cap": 0}, "importance_cap is 0; give a number above 0"),
        ({"samples_every": -1}, "samples_every is -1; give a whole number of at least 0"),
    ],
)
def test_wrong_settings_are_told_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as told:
        GrpoConfig(**settings)
    assert str(told.value) == message


def test_rows_prompts_and_models_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"^a rollout of 10 completions cannot .* multiple of 4$"):
        grpo(policy(), rows=10)
    with pytest.raises(UserError, match=r"^a prompt of 3 tokens and 22 new_tokens do not fit .* 24; lower new_tokens"):
        grpo(policy(), new_tokens=22)
    with pytest.raises(UserError, match=r"^only a decoder that says words has a policy; choose one$"):
        grpo(policy(head="none", tied_embeddings=False))
