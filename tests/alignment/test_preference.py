"""Learning from pairs: any layout, the textbook's loss, the reference, and the whole command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scratchlm.alignment.preference import Preference, PreferenceConfig
from scratchlm.alignment.sequences import judge_examples, number_tokens, sequence_log_probabilities
from scratchlm.data import IGNORE, Examples, Plan, encode_records, read_records
from scratchlm.errors import UserError
from scratchlm.training.distributed import World

from .tiny_policies import CPU, letters, moved, policy, trainer

PAIRS = [("ab", "cd", "efg"), ("", "abc", "h"), ("gfed", "a", "bcdefg"), ("c", "dd", "ee"), ("h", "abab", "ba")]


@pytest.fixture
def pairs(tmp_path: Path) -> Examples:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in PAIRS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return encode_records(read_records(path, task="preference"), letters(), max_length=24)


def plan(examples: Examples, tokens: int = 64, layout: Any = "auto", rows: int = 5) -> Plan:
    return Plan(examples, rows, tokens, 0, layout, 16)


def textbook(model: Any, examples: Examples) -> Tensor:
    """The log-probability of each completion, one at a time, from whole logits."""
    found = []
    for number in range(len(examples)):
        ids, targets = examples[number]
        spread = model(torch.tensor(ids.astype("int64"))[None])[0].log_softmax(-1)
        found.append(sum(spread[n, t] for n, t in enumerate(targets.tolist()) if t != IGNORE))
    return torch.stack(found)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["pack", "length", "auto"])
@pytest.mark.parametrize("tokens", [12, 64])
def test_log_probabilities_in_any_layout(pairs: Examples, layout: str, tokens: int) -> None:
    model = policy()
    table, (numbered,) = number_tokens([pairs])
    sums, counts = judge_examples(model, [plan(numbered, tokens, layout)], table, CPU)
    torch.testing.assert_close(sums, textbook(model, pairs).detach())
    assert counts.tolist() == [float((pairs[n][1] != IGNORE).sum()) for n in range(len(pairs))]
    assert model.training


@pytest.mark.parametrize("kind", ["dpo", "ipo", "hinge", "orpo", "simpo"])
def test_a_step_is_the_mean_over_its_pairs(pairs: Examples, kind: Any) -> None:
    """Loss and gradient of one large pass, of many small ones, and of the textbook's formula are one."""
    before = textbook(policy(), pairs).detach()
    found = []
    for tokens in (200, 14):
        model = policy()
        task = Preference(plan(pairs, tokens), None, PreferenceConfig(loss=kind, beta=0.3), model, CPU)
        moved(model)
        made = trainer(model, task, 5)
        grads: dict[str, Tensor] = {}
        made.update = lambda m=model, g=grads: g.update(  # type: ignore[method-assign, misc]
            {name: p.grad.clone() for name, p in m.named_parameters() if p.grad is not None}
        )
        made.step()
        found.append((made.state.loss, grads, len(task.train.step(0))))
    assert found[0][2] < found[1][2]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, grad in found[0][1].items():
        torch.testing.assert_close(grad, found[1][1][name], rtol=1e-3, atol=1e-6)
    now = textbook(moved(policy()), pairs).detach()
    lengths = [float((pairs[n][1] != IGNORE).sum()) for n in range(len(pairs))]
    losses = []
    for n in range(0, len(pairs), 2):
        gap = float((now[n] - before[n]) - (now[n + 1] - before[n + 1]))
        w, other = float(now[n]) / lengths[n], float(now[n + 1]) / lengths[n + 1]
        each = gap and float((now[n] - before[n]) / lengths[n] - (now[n + 1] - before[n + 1]) / lengths[n + 1])
        odds = w - math.log1p(-math.exp(w)) - other + math.log1p(-math.exp(other))
        losses.append(
            {
                "dpo": math.log1p(math.exp(-0.3 * gap)),
                "ipo": (each - 1 / 0.6) ** 2,
                "hinge": max(0.0, 1 - 0.3 * gap),
                "orpo": -w + 0.3 * math.log1p(math.exp(-odds)),
                "simpo": math.log1p(math.exp(-(0.3 * (w - other) - 0.5))),
            }[kind]
        )
    assert found[0][0] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_pairs_stay_whole_in_every_process(pairs: Examples) -> None:
    task = Preference(plan(pairs, 14), None, PreferenceConfig(), policy(), CPU)
    seen = []
    for rank in range(2):
        place = World(torch.device("cpu"), rank, 2)
        work = task.work(0, 5, 1, place, torch.Generator())
        assert work.labels == 5
        for batch in work.batches:
            found = sequence_log_probabilities(policy(), batch, task.table)
            assert (found.numbers[1::2] == found.numbers[0::2] + 1).all()
            seen += found.numbers.tolist()
    assert sorted(seen) == list(range(10))


def test_a_pair_that_is_not_whole_is_refused(pairs: Examples) -> None:
    model = policy()
    task = Preference(plan(pairs, 200), None, PreferenceConfig(), model, CPU)
    (batch,) = task.train.step(0)
    assert batch.labels is not None
    owners = task.table.owners[batch.labels.clamp(min=0)]
    batch.labels[owners == 3] = IGNORE
    with pytest.raises(ValueError, match="in one pass"):
        task.loss(model, batch)


def test_adapters_begin_at_the_reference(pairs: Examples) -> None:
    """At the start the policy prefers nothing: the loss is log 2, and every trained tensor but A moves."""
    model = policy(lora=True)
    task = Preference(plan(pairs), None, PreferenceConfig(), model, CPU)
    made = trainer(model, task, 5)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    made.step()
    assert made.state.loss == pytest.approx(math.log(2), rel=1e-5)
    assert task.metrics()["reward_margin"] == pytest.approx(0.0, abs=1e-5)
    made.step()
    assert task.metrics()["reward_margin"] > 0
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in frozen.items())
    assert all(not torch.equal(parameters[name], value) for name, value in trained.items())


def test_a_policy_learns_what_is_chosen(pairs: Examples) -> None:
    model = policy()
    task = Preference(plan(pairs), plan(pairs), PreferenceConfig(beta=0.5), model, CPU)
    made = trainer(model, task, 5)
    for _ in range(30):
        made.step()
    assert task.metrics()["accuracy"] == 1.0
    batches = task.validation()
    assert batches is not None
    with torch.no_grad():
        losses, count = zip(*(task.loss(model, batch) for batch in batches), strict=True)
    assert sum(map(int, count)) == 5
    assert float(sum(losses)) / 5 < 0.2


def test_more_of_the_chosen_one_with_sft_weight(pairs: Examples) -> None:
    model = policy()
    plain, more = (
        Preference(plan(pairs, 200), None, PreferenceConfig(sft_weight=weight), model, CPU) for weight in (0.0, 2.0)
    )
    (batch,) = plain.train.step(0)
    lengths = torch.tensor([float((pairs[n][1] != IGNORE).sum()) for n in range(0, len(pairs), 2)])
    expected = -2.0 * (textbook(model, pairs)[0::2] / lengths).sum()
    difference = more.loss(model, batch)[0] - plain.loss(model, batch)[0]
    torch.testing.assert_close(difference.detach(), expected.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"loss": "dopo"}, "loss is 'dopo'; choose one of: dpo, ipo, hinge, orpo, simpo, kto"),
        ({"beta": 0.0}, "beta is 0.0; give a number above 0"),
        ({"beta": math.nan}, "beta is nan; give a number above 0"),
        ({"beta": -1.0}, "beta is -1.0; give a number above 0"),
        ({"label_smoothing": 0.5}, "label_smoothing is 0.5; give a number of at least 0, below 0.5"),
        ({"label_smoothing": 0.1, "loss": "ipo"}, "label_smoothing is for loss=dpo, not ipo; leave it out"),
        ({"gamma": -0.1}, "gamma is -0.1; give a number of at least 0"),
        ({"sft_weight": math.inf}, "sft_weight is inf; give a number of at least 0"),
        ({"pair_margin": -1.0}, "pair_margin is -1.0; give a number of at least 0"),
        ({"pairs_per_text": 0}, "pairs_per_text is 0; give a whole number of at least 1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        PreferenceConfig(**settings)
    assert str(caught.value) == line


def test_the_reference_looks_only_at_what_will_be_learned(pairs: Examples) -> None:
    model = policy()
    whole = Preference(plan(pairs, rows=2), None, PreferenceConfig(), model, CPU)
    some = Preference(plan(pairs, rows=2), None, PreferenceConfig(), model, CPU, steps=1)
    chosen = some.train.indices(0)
    assert len(chosen) == 4
    torch.testing.assert_close(some.reference[chosen], whole.reference[chosen])
    left = sorted(set(range(len(pairs))) - set(chosen.tolist()))
    assert not some.reference[left].any()
    (loss, _), (other, _) = (task.loss(model, task.train.step(0)[0]) for task in (whole, some))
    torch.testing.assert_close(loss, other)
