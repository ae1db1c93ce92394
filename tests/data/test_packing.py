"""Packing: what several examples in one row teach is what each teaches alone, and no step depends on another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from scratchlm.data import IGNORE, Batch, Examples, Plan
from scratchlm.data.packing import epoch_order, pack, packed_batch
from scratchlm.data.records import Skipped
from scratchlm.errors import UserError
from scratchlm.models import ModelConfig, build_model, textbook

from .teaching import assert_taught_alike

SMALL: dict[str, Any] = {"vocab_size": 23, "context": 16, "width": 16, "layers": 2, "heads": 2, "dropout": 0.0}
DECODERS = {
    "learned positions": {},
    "rotary positions and grouped heads": {
        "positions": "rotary",
        "kv_heads": 1,
        "norm": "rmsnorm",
        "activation": "swiglu",
    },
    "a sliding window": {"positions": "rotary", "sliding_window": 3},
    "sinusoidal positions": {"positions": "sinusoidal"},
}
ENCODERS = {
    "as BERT": {"norm_placement": "post", "final_norm": False, "embedding_norm": True, "token_types": 2},
    "as RoBERTa": {"norm_placement": "post", "final_norm": False, "position_offset": 2, "embedding_norm": True},
}


def examples_of(lengths: Iterable[int], *, seed: int = 0, in_place: bool = False) -> Examples:
    """Random ids. Two thirds of them are supervised: by the next ids, or in place as tags are."""
    generator = np.random.default_rng(seed)
    sizes = list(lengths)
    offsets = np.cumsum([0, *sizes])
    ids = generator.integers(1, 23, offsets[-1]).astype(np.uint32)
    targets = ids.astype(np.int32) if in_place else np.append(ids[1:], 0).astype(np.int32)
    targets[generator.random(len(ids)) < 1 / 3] = IGNORE
    if not in_place:
        targets[offsets[1:] - 1] = IGNORE
    return Examples("tag", ids, targets, offsets, np.arange(len(sizes)), (), 16, 0, Skipped())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        *(pytest.param("decoder", settings, id=f"a decoder with {name}") for name, settings in DECODERS.items()),
        *(pytest.param("encoder", settings, id=f"an encoder {name}") for name, settings in ENCODERS.items()),
    ],
)
def test_packed_and_padded_rows_teach_what_single_rows_do(
    architecture: Any, settings: dict[str, Any], seed: int
) -> None:
    torch.manual_seed(seed)
    model = build_model(ModelConfig(architecture=architecture, **{**SMALL, **settings}))
    examples = examples_of([5, 1, 16, 9, 2, 7, 7, 3], seed=seed, in_place=architecture == "encoder")
    single = [packed_batch(examples, [[n]]) for n in range(len(examples))]
    packed = [packed_batch(examples, pack(examples.lengths, 20), 24)]
    assert packed[0].rows < len(examples)
    assert_taught_alike(model, packed, single)
    assert_taught_alike(model, [packed_batch(examples, [[n] for n in range(len(examples))])], single)
    with textbook(model):
        assert_taught_alike(model, packed, single)
    for method in ("auto", "pack", "length"):
        steps = Plan(examples, rows=3, tokens=20, method=method)
        assert_taught_alike(
            model, [batch for step in range(steps.steps_per_epoch) for batch in steps.step(step)], single
        )
        assert_taught_alike(model, list(steps.in_order()), single)


def test_a_packed_row_says_which_document_and_position_each_token_is() -> None:
    examples = examples_of([2, 3, 1], in_place=True)
    batch = packed_batch(examples, [[1, 0], [2]], block=6)
    assert batch.documents is not None
    assert batch.positions is not None
    assert batch.labels is not None
    assert batch.documents.tolist() == [[0, 0, 0, 1, 1, -1], [0, -1, -1, -1, -1, -1]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 0, 0, 0, 0]]
    assert batch.ids[0, :5].tolist() == [*examples[1][0], *examples[0][0]]
    assert batch.labels[0, :5].tolist() == [*examples[1][1], *examples[0][1]]
    assert (batch.labels[batch.documents < 0] == IGNORE).all()


def test_rows_without_padding_need_no_documents_at_all() -> None:
    batch = packed_batch(examples_of([4, 4]), [[0], [1]])
    assert (batch.documents, batch.positions) == (None, None)


def test_padding_is_told_by_its_document_and_not_by_its_id() -> None:
    examples = examples_of([1, 3])
    examples.ids[:] = 0  # the id that padding has, as where EOS or a word has the number 0
    examples.targets[1] = 0
    batch = packed_batch(examples, [[0], [1]])
    assert batch.labels is not None
    assert batch.labels[1, 0] == 0
    assert batch.labels[0].tolist() == [IGNORE] * 3


def test_a_bin_or_an_example_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="an example has 9 tokens, a block 8"):
        pack([9], 8)
    with pytest.raises(ValueError, match="a bin has 9 tokens, a block 8"):
        packed_batch(examples_of([4, 5]), [[0, 1]], 8)


def test_bins_hold_every_example_once_and_are_nearly_full() -> None:
    lengths = np.random.default_rng(0).geometric(1 / 23, 5000).clip(1, 128)
    bins = pack(lengths, 256, seed=1)
    assert sorted(np.concatenate(bins).tolist()) == list(range(5000))
    fill = [int(lengths[one].sum()) for one in bins]
    assert max(fill) <= 256
    assert len(bins) <= -(-int(lengths.sum()) // 256) * 1.01


def test_bins_depend_on_seed_and_epoch_alone_and_their_number_on_neither() -> None:
    lengths = np.random.default_rng(0).integers(1, 30, 300)
    first, again = (pack(lengths, 64, seed=1, epoch=2) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    others = [pack(lengths, 64, seed=seed, epoch=epoch) for seed, epoch in ((1, 3), (2, 2))]
    assert {len(other) for other in others} == {len(first)}
    assert all([one.tolist() for one in other] != [one.tolist() for one in first] for other in others)


@pytest.mark.parametrize("method", ["auto", "pack", "length"])
def test_an_epoch_takes_every_example_once_in_an_order_of_its_own(method: Any) -> None:
    plan = Plan(examples_of(np.random.default_rng(0).integers(1, 16, 103)), rows=4, tokens=32, seed=5, method=method)
    assert plan.steps_per_epoch == 26
    epochs = [[plan.indices(step).tolist() for step in range(26 * e, 26 * (e + 1))] for e in range(2)]
    for steps in epochs:
        assert sorted(n for step in steps for n in step) == list(range(103))
        assert [len(step) for step in steps] == [4] * 25 + [3]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("method", ["auto", "pack", "length"])
def test_a_step_is_the_same_whatever_steps_went_before(method: Any) -> None:
    examples = examples_of(np.random.default_rng(0).integers(1, 16, 50))
    plan, other = (Plan(examples, rows=8, tokens=32, seed=5, method=method) for _ in range(2))
    for step in range(20):
        plan.step(step)
    for ours, theirs in zip(plan.step(13), other.step(13), strict=True):
        assert torch.equal(ours.ids, theirs.ids)
    assert not np.array_equal(epoch_order(50, 0, 0), epoch_order(50, 0, 1))


def test_the_parts_of_two_processes_are_a_step() -> None:
    plan = Plan(examples_of(range(1, 10)), rows=5, tokens=32)
    tokens = [sum(int((batch.ids > 0).sum()) for batch in plan.step(0, part, 2)) for part in range(2)]
    assert sum(tokens) == sum(int((batch.ids > 0).sum()) for batch in plan.step(0))
    assert min(tokens) > 0
    assert Plan(examples_of([3]), rows=5, tokens=32).step(0, 1, 2) == []


@pytest.mark.parametrize("method", ["auto", "pack", "length"])
def test_a_batch_has_an_eighth_more_tokens_than_were_asked_for_at_most(method: Any) -> None:
    plan = Plan(examples_of([16, *range(1, 15)] * 10), rows=40, tokens=48, method=method)
    batches = [batch for step in range(plan.steps_per_epoch) for batch in plan.step(step)]
    assert max(batch.ids.numel() for batch in batches) <= 48 * 1.125
    alone = Plan(examples_of([16]), rows=1, tokens=8, method=method)
    assert alone.step(0)[0].ids.shape == (1, 16)


def test_the_passes_of_a_step_are_alike() -> None:
    plan = Plan(examples_of([5, 7, 9, 11] * 20), rows=40, tokens=64, method="pack")  # 320 tokens: five passes of 64
    for step in range(plan.steps_per_epoch):
        sizes = [batch.ids.numel() for batch in plan.step(step)]
        assert len(sizes) == 5
        assert min(sizes) >= 56


def test_rows_of_like_length_take_as_few_passes_as_may_be_and_passes_of_like_size() -> None:
    (whole,) = Plan(examples_of([35] * 8), 8, 256, method="length").step(0)
    assert whole.ids.shape == (8, 35)
    uneven = Plan(examples_of([10] * 7), 7, 48, method="length").step(0)
    assert sorted(batch.rows for batch in uneven) == [3, 4]  # and not 5 and 2


def test_packing_is_chosen_where_lengths_differ_and_not_where_they_do_not() -> None:
    mixed = examples_of(np.random.default_rng(0).geometric(1 / 23, 500).clip(2, 128))
    plan = Plan(mixed, 8, 512)
    assert all(batch.rows == 1 for batch in plan.step(0))
    assert plan.waste() < 0.01
    assert 0 < Plan(mixed, 8, 512, method="length").waste() < 0.2
    (batch,) = Plan(examples_of([64] * 100), 8, 512).step(0)
    assert (batch.rows, batch.documents, batch.positions) == (8, None, None)


@pytest.mark.parametrize("options", [{"rows": 0}, {"tokens": 0}, {"method": "pad"}])
def test_a_plan_of_nothing_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Plan(examples_of([3]), **{"rows": 1, "tokens": 8, **options})


def pairs_of(lengths: Iterable[int]) -> Examples:
    """Two examples after each other are one record."""
    found = examples_of(lengths)
    return replace(found, task="preference", rows=np.arange(len(found)) // 2)


def texts_in(examples: Examples, batch: Batch) -> list[int]:
    """The numbers of a batch's examples, by their ids, which are all different."""
    assert batch.ids is not None
    documents = torch.zeros_like(batch.ids) if batch.documents is None else batch.documents
    known = {tuple(examples[n][0].tolist()): n for n in range(len(examples))}
    found = []
    for row, owners in zip(batch.ids, documents, strict=True):
        found += [known[tuple(row[owners == d].tolist())] for d in range(int(owners.max()) + 1)]
    return found


@pytest.mark.parametrize("method", ["auto", "pack", "length"])
def test_the_texts_of_a_pair_are_in_one_pass_of_one_process(method: Any) -> None:
    lengths = np.random.default_rng(1).integers(4, 16, 62)
    examples = pairs_of(lengths)
    plan = Plan(examples, rows=5, tokens=48, seed=2, method=method)
    assert plan.steps_per_epoch == 7
    for parts in (1, 2, 3):
        seen = []
        for step in range(plan.steps_per_epoch):
            passes = [batch for part in range(parts) for batch in plan.step(step, part, parts)]
            for batch in passes:
                numbers = sorted(texts_in(examples, batch))
                assert [n // 2 for n in numbers[0::2]] == [n // 2 for n in numbers[1::2]]
                seen += numbers
            assert sorted(n for batch in passes for n in texts_in(examples, batch)) == sorted(plan.indices(step))
        assert sorted(seen) == list(range(62))
    assert sorted(n for batch in plan.in_order() for n in texts_in(examples, batch)) == list(range(62))
    assert all(len(texts_in(examples, batch)) % 2 == 0 for batch in plan.in_order())
    assert max(batch.ids.numel() for step in range(7) for batch in plan.step(step)) <= 48 * 1.125


def test_a_pair_teaches_the_same_however_it_is_laid_out() -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(architecture="decoder", **SMALL))
    examples = pairs_of([5, 4, 16, 9, 6, 7, 7, 8])
    single = [packed_batch(examples, [[n]]) for n in range(len(examples))]
    for method in ("auto", "pack", "length"):
        steps = Plan(examples, rows=3, tokens=20, method=method)
        assert_taught_alike(model, [b for step in range(steps.steps_per_epoch) for b in steps.step(step)], single)
        halves = [b for step in range(steps.steps_per_epoch) for part in (0, 1) for b in steps.step(step, part, 2)]
        assert_taught_alike(model, halves, single)


def test_texts_to_embed_may_be_parted() -> None:
    examples = replace(pairs_of([8] * 8), task="embed")
    plan = Plan(examples, rows=2, tokens=8, method="pack")
    assert [batch.ids.numel() for batch in plan.step(0)] == [8] * 4
    assert [batch.ids.numel() for batch in replace(plan, examples=pairs_of([8] * 8)).step(0)] == [16] * 2
