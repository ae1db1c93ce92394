from __future__ import annotations

import pytest
import torch

from scratchlm.data import IGNORE, mask_tokens

PAD, UNK, MASK = 0, 1, 2
OPTIONS = {"mask_id": MASK, "vocab_size": 100, "special_ids": {PAD, UNK, MASK}}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ordinary(rows: int, length: int) -> torch.Tensor:
    return torch.randint(3, 100, (rows, length), generator=generator(99))


def z_score(count: int, total: int, share: float) -> float:
    """How many standard deviations a binomial count lies from its mean."""
    return abs(count - total * share) / (total * share * (1 - share)) ** 0.5


def test_labels_are_the_hidden_tokens_in_place_and_ignored_elsewhere():
    ids = ordinary(64, 32)
    inputs, labels = mask_tokens(ids, generator=generator(), **OPTIONS)
    chosen = labels != IGNORE
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(inputs[~chosen], ids[~chosen])


def test_proportions_are_fifteen_percent_and_of_those_80_10_10():
    ids = ordinary(2000, 128)
    inputs, labels = mask_tokens(ids, generator=generator(1), **OPTIONS)
    chosen = labels != IGNORE
    total = int(chosen.sum())
    assert z_score(total, ids.numel(), 0.15) < 4
    masked = int((inputs[chosen] == MASK).sum())
    kept = int((inputs[chosen] == ids[chosen]).sum())
    # A random token is the token itself once in 97 times.
    assert z_score(masked, total, 0.8) < 4
    assert z_score(kept, total, 0.1 + 0.1 / 97) < 4
    assert z_score(total - masked - kept, total, 0.1 * 96 / 97) < 4


def test_random_tokens_are_drawn_evenly_and_never_special():
    ids = torch.full((4000, 64), 50)
    inputs, labels = mask_tokens(ids, generator=generator(2), **OPTIONS)
    drawn = inputs[(labels != IGNORE) & (inputs != MASK) & (inputs != 50)]
    counts = torch.bincount(drawn, minlength=100)
    assert counts[[PAD, UNK, MASK]].sum() == 0
    others = torch.cat([counts[3:50], counts[51:]]).double()
    chi_square = float(((others - others.mean()) ** 2 / others.mean()).sum())
    assert chi_square < 95 + 4 * (2 * 95) ** 0.5  # 96 tokens, 95 degrees of freedom


def test_special_tokens_are_never_chosen_even_at_probability_one():
    ids = ordinary(50, 16)
    ids[:, ::4] = PAD
    ids[:, 1::8] = UNK
    inputs, labels = mask_tokens(ids, generator=generator(), probability=1.0, **OPTIONS)
    special = ids < 3
    assert torch.equal(inputs[special], ids[special])
    assert bool((labels[special] == IGNORE).all())
    assert bool((labels[~special] != IGNORE).all())


def test_every_row_with_an_ordinary_token_has_at_least_one_label():
    ids = ordinary(500, 8)
    ids[0] = PAD
    ids[1, 1:] = PAD
    _, labels = mask_tokens(ids, generator=generator(), probability=1e-9, **OPTIONS)
    per_row = (labels != IGNORE).sum(dim=1)
    assert per_row.tolist() == [0] + [1] * 499
    assert labels[1, 0] != IGNORE
    places = torch.bincount((labels[2:] != IGNORE).int().argmax(dim=1), minlength=8)
    assert int(places.min()) > 30  # 62 expected: the forced place is random


def test_masking_is_pure():
    ids = ordinary(8, 8)
    before = ids.clone()
    first, second, other = (mask_tokens(ids, generator=generator(seed), **OPTIONS) for seed in (5, 5, 6))
    assert torch.equal(ids, before)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probability": 0.0}, "probability"),
        ({"probability": 1.5}, "probability"),
        ({"mask_id": 7}, "not among the special ids"),
        ({"vocab_size": 3}, "none to draw"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        mask_tokens(torch.full((2, 4), 2), generator=generator(), **(OPTIONS | change))
