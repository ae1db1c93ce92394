from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from scratchlm.errors import UserError
from scratchlm.generation.sampling import (
    Dice,
    SamplingConfig,
    choose,
    filter_logits,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalise_counts,
    penalise_repetition,
    sample,
)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(6, 20, generator=torch.Generator().manual_seed(0)) * 2


def probabilities(row: list[float]) -> list[float]:
    top = max(row)
    weights = [math.exp(value - top) for value in row]
    return [weight / sum(weights) for weight in weights]


def kept(filtered: torch.Tensor) -> list[set[int]]:
    return [{i for i, value in enumerate(row) if value != -math.inf} for row in filtered.tolist()]


@pytest.mark.parametrize("k", [1, 3, 19])
def test_top_k_keeps_the_k_most_likely_tokens_and_does_not_change_them(logits: torch.Tensor, k: int) -> None:
    filtered = keep_top_k(logits, k)
    for row, tokens, values in zip(logits.tolist(), kept(filtered), filtered.tolist(), strict=True):
        assert tokens == set(sorted(range(20), key=lambda i: row[i], reverse=True)[:k])
        assert all(values[i] == row[i] for i in tokens)


@pytest.mark.parametrize("k", [0, 20, 50])
def test_top_k_of_nothing_or_everything_changes_nothing(logits: torch.Tensor, k: int) -> None:
    assert torch.equal(keep_top_k(logits, k), logits)


@pytest.mark.parametrize("p", [1e-9, 0.3, 0.9, 0.999])
def test_top_p_keeps_the_fewest_tokens_that_reach_p(logits: torch.Tensor, p: float) -> None:
    for row, tokens in zip(logits.tolist(), kept(keep_top_p(logits, p)), strict=True):
        shares = probabilities(row)
        nucleus, total = set(), 0.0
        for token in sorted(range(20), key=lambda i: shares[i], reverse=True):
            nucleus.add(token)
            total += shares[token]
            if total >= p:
                break
        assert tokens == nucleus


def test_top_p_of_one_keeps_even_what_rounds_to_nothing() -> None:
    logits = torch.tensor([[0.0, -200.0]])
    assert torch.equal(keep_top_p(logits, 1.0), logits)


@pytest.mark.parametrize("share", [0.01, 0.2, 1.0])
def test_min_p_keeps_tokens_with_that_share_of_the_best_ones_probability(logits: torch.Tensor, share: float) -> None:
    for row, tokens in zip(logits.tolist(), kept(keep_min_p(logits, share)), strict=True):
        shares = probabilities(row)
        assert tokens == {i for i in range(20) if shares[i] >= share * max(shares)}


def test_the_repetition_penalty_lowers_seen_tokens_whatever_their_sign(logits: torch.Tensor) -> None:
    seen = torch.rand(logits.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    penalised = penalise_repetition(logits, seen, 1.3).tolist()
    for row, flags, out in zip(logits.tolist(), seen.tolist(), penalised, strict=True):
        for value, was_seen, now in zip(row, flags, out, strict=True):
            expected = value if not was_seen else value / 1.3 if value > 0 else value * 1.3
            assert now == pytest.approx(expected, rel=1e-6)


def test_presence_counts_once_and_frequency_each_time() -> None:
    logits, counts = torch.tensor([[1.0, -1.0, 0.5]]), torch.tensor([[0.0, 1.0, 3.0]])
    assert penalise_counts(logits, counts, 0.5, 0.25).tolist() == [[1.0, -1.75, -0.75]]
    config = SamplingConfig(temperature=0.5, presence_penalty=0.5, frequency_penalty=0.25)
    assert filter_logits(logits, config, counts=counts).tolist() == [[2.0, -3.5, -1.5]]
    with pytest.raises(ValueError, match="counts"):
        filter_logits(logits, config)


def test_filters_apply_in_the_documented_order(logits: torch.Tensor) -> None:
    seen = torch.zeros(logits.shape, dtype=torch.bool)
    seen[:, :5] = True
    config = SamplingConfig(temperature=0.5, top_k=10, top_p=0.9, min_p=0.05, repetition_penalty=1.2)
    step = penalise_repetition(logits, seen, 1.2) / 0.5
    expected = keep_min_p(keep_top_p(keep_top_k(step, 10), 0.9), 0.05)
    assert torch.equal(filter_logits(logits, config, seen), expected)


def test_choose_takes_the_first_token_whose_cumulative_probability_exceeds_the_number(logits: torch.Tensor) -> None:
    numbers = random.Random(3)
    for _ in range(50):
        uniforms = [numbers.random() for _ in range(6)]
        ids = choose(logits, torch.tensor(uniforms, dtype=torch.float64)).tolist()
        for row, uniform, token in zip(logits.tolist(), uniforms, ids, strict=True):
            total, expected = 0.0, 19
            for i, share in enumerate(probabilities(row)):
                total += share
                if total > uniform:
                    expected = i
                    break
            assert token == expected


def test_choose_never_takes_a_dropped_token_even_at_the_ends() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]])
    for uniform in (0.0, 0.5, 1 - 2**-53):
        assert choose(logits, torch.tensor([uniform], dtype=torch.float64)).tolist() == [1]


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 0.5]])
    draws = 20_000
    uniforms = torch.from_numpy(np.random.default_rng(0).random(draws))
    counts = torch.bincount(choose(logits.expand(draws, -1), uniforms), minlength=5).double()
    expected = logits[0].double().softmax(0) * draws
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert chi_squared < 18.5  # 4 degrees of freedom: one correct sampler in a thousand fails, and the seed is fixed


def test_temperature_sharpens_and_flattens_as_the_formula_says() -> None:
    logits = torch.tensor([[0.0, 1.0]])
    for temperature in (0.5, 2.0):
        share = filter_logits(logits, SamplingConfig(temperature=temperature)).softmax(-1)[0, 1]
        assert float(share) == pytest.approx(1 / (1 + math.exp(-1 / temperature)), rel=1e-6)


@pytest.mark.parametrize("config", [SamplingConfig(greedy=True), SamplingConfig(temperature=0)])
def test_greedy_takes_the_most_likely_token_and_needs_no_numbers(logits: torch.Tensor, config: SamplingConfig) -> None:
    assert torch.equal(sample(logits, config), logits.argmax(-1))


def test_a_bias_is_added_before_all_else(logits: torch.Tensor) -> None:
    before = logits.clone()
    biased = SamplingConfig(temperature=2.0, logit_bias=((1, 3.5), (4, -100.0)))
    found = filter_logits(logits, biased)
    expected = before.clone()
    expected[:, 1] += 3.5
    expected[:, 4] -= 100
    torch.testing.assert_close(found, expected / 2, atol=0, rtol=0)
    assert torch.equal(logits, before)
    assert sample(logits, SamplingConfig(greedy=True, logit_bias=((3, 100.0),))).tolist() == [3] * len(logits)
    with pytest.raises(UserError, match=f"token {logits.shape[-1]}; this vocabulary ends at {logits.shape[-1] - 1}"):
        sample(logits, SamplingConfig(logit_bias=((logits.shape[-1], 1.0),)))
    for wrong in ((-1, 1.0), (0, 100.5), (0, math.nan)):
        with pytest.raises(UserError, match="logit_bias gives token"):
            SamplingConfig(logit_bias=(wrong,))


def test_greedy_respects_the_repetition_penalty() -> None:
    logits, seen = torch.tensor([[2.0, 1.9]]), torch.tensor([[True, False]])
    assert sample(logits, SamplingConfig(greedy=True, repetition_penalty=1.5), seen=seen).tolist() == [1]


@pytest.mark.parametrize("config", [SamplingConfig(), SamplingConfig(greedy=True), SamplingConfig(top_p=0.5)])
def test_logits_that_are_not_numbers_are_told(config: SamplingConfig) -> None:
    logits = torch.tensor([[0.0, math.nan, 1.0]])
    with pytest.raises(UserError, match="NaN"):
        sample(logits, config, torch.tensor([0.5], dtype=torch.float64))


def test_a_rows_numbers_do_not_depend_on_the_other_rows() -> None:
    cpu = torch.device("cpu")
    many, one = Dice(7, range(4), cpu), Dice(7, [2], cpu)
    rolled = [(float(many.roll()[2]), float(one.roll()[0])) for _ in range(600)]
    assert all(a == b for a, b in rolled)
    assert len(set(rolled)) == 600


def test_rows_that_go_on_keep_their_numbers() -> None:
    cpu = torch.device("cpu")
    whole, cut = Dice(7, range(3), cpu), Dice(7, range(3), cpu)
    for step in range(600):
        if step in (10, Dice.BLOCK):
            cut.keep([0, 2] if step == 10 else [1])
        rows = [0, 1, 2] if step < 10 else [0, 2] if step < Dice.BLOCK else [2]
        assert torch.equal(whole.roll()[rows], cut.roll())


def test_different_seeds_give_different_numbers() -> None:
    cpu = torch.device("cpu")
    assert float(Dice(1, [0], cpu).roll()) != float(Dice(2, [0], cpu).roll())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("seed", -1),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("frequency_penalty", math.nan),
    ],
)
def test_a_setting_out_of_range_is_named(setting: str, value: float) -> None:
    with pytest.raises(UserError, match=setting) as caught:
        SamplingConfig(**{setting: value})
    assert "\n" not in str(caught.value)


def test_without_a_seed_each_run_gets_its_own() -> None:
    assert SamplingConfig(seed=5).resolved_seed() == 5
    assert len({SamplingConfig().resolved_seed() for _ in range(20)}) > 1


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_a_large_vocabularys_nucleus_is_that_of_a_full_sort(p: float, spread: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5000) * spread
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(-1, dtype=torch.float64)
    dropped = torch.zeros(3, 5000, dtype=torch.bool).scatter(-1, order, probabilities.cumsum(-1) - probabilities >= p)
    assert torch.equal(keep_top_p(logits, p).isinf(), dropped)


def test_of_equally_likely_tokens_at_the_edge_of_a_large_nucleus_the_first_stay() -> None:
    logits = torch.full((1, 2000), -10.0)
    logits[0, [5, 70, 900, 1500]] = 5.0
    assert keep_top_p(logits, 0.4).isfinite().nonzero()[:, 1].tolist() == [5, 70]
