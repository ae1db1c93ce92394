"""Beginnings that are computed once: the same losses and gradients, in fewer tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from scratchlm.data import IGNORE, Examples, Plan
from scratchlm.data.packing import packed_batch
from scratchlm.data.records import Skipped
from scratchlm.data.sharing import LEAST, common_beginnings, shared_batch, shared_tokens, usual_beginning
from scratchlm.models import ModelConfig, build_model, textbook
from scratchlm.models.attention import AttentionMask
from scratchlm.models.block import recompute_blocks
from scratchlm.models.sharing import Sharing

from .teaching import assert_taught_alike, taught

SMALL: dict[str, Any] = {"vocab_size": 23, "context": 40, "width": 16, "layers": 2, "heads": 2, "dropout": 0.0}
DECODERS: dict[str, dict[str, Any]] = {
    "learned positions": {},
    "grouped heads": {"positions": "rotary", "norm": "rmsnorm", "kv_heads": 1, "activation": "swiglu"},
    "normed queries": {"positions": "rotary", "norm": "rmsnorm", "qk_norm": True},
    "a window": {"positions": "rotary", "sliding_window": 5},
    "norms behind": {"positions": "sinusoidal", "norm_placement": "post", "final_norm": False},
}


def examples_of(texts: list[tuple[list[int], list[int]]], task: Any = "lm") -> Examples:
    """Of prompts with their completions: all that follows the prompt is learned."""
    ids, targets = [], []
    for prompt, completion in texts:
        whole = [*prompt, *completion]
        ids.append(np.array(whole[:-1], np.uint32))
        targets.append(np.array([IGNORE] * (len(prompt) - 1) + completion, np.int32))
    rows = np.arange(len(texts)) // (2 if task == "preference" else 1)
    offsets = np.cumsum([0, *map(len, ids)])
    return Examples(task, np.concatenate(ids), np.concatenate(targets), offsets, rows, (), 40, 0, Skipped())


def groups(seed: int = 0, prompts: int = 3, each: int = 4, task: Any = "lm") -> Examples:
    random = np.random.default_rng(seed)
    texts = []
    for _ in range(prompts):
        prompt = random.integers(1, 23, random.integers(6, 14)).tolist()
        texts += [(prompt, random.integers(1, 23, random.integers(1, 9)).tolist()) for _ in range(each)]
    return examples_of(texts, task)


@pytest.mark.parametrize("settings", [pytest.param(one, id=name) for name, one in DECODERS.items()])
@pytest.mark.parametrize("opened", [True, False])
def test_what_is_shared_teaches_what_single_rows_do(
    settings: dict[str, Any], opened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the texts are opened, or attend from their own tokens where they can."""
    monkeypatch.setattr("scratchlm.kernels.sharing_pays", lambda *_: not opened)
    torch.manual_seed(0)
    model = build_model(ModelConfig(architecture="decoder", **{**SMALL, **settings}))
    examples = groups()
    single = [packed_batch(examples, [[n]]) for n in range(len(examples))]
    for method in ("auto", "pack", "length"):
        for tokens in (24, 60, 500):
            plan = Plan(examples, rows=len(examples), tokens=tokens, method=method, shares=True)  # type: ignore[arg-type]
            batches = plan.step(0)
            assert any(batch.opened is not None for batch in batches)
            assert_taught_alike(model, batches, single)
    plan = Plan(examples, rows=len(examples), tokens=60, shares=True)
    assert_taught_alike(model, [b for part in range(3) for b in plan.step(0, part, 3)], single)
    assert_taught_alike(model, list(plan.in_order()), single)


def test_the_textbook_and_the_blocks_that_are_computed_again_agree() -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(architecture="decoder", **SMALL, **DECODERS["grouped heads"])).train()
    examples = groups(1)
    batches = Plan(examples, rows=len(examples), tokens=100, shares=True).step(0)
    with torch.no_grad(), textbook(model):
        slow = [model.forward_batch(batch) for batch in batches]
    for batch, logits in zip(batches, slow, strict=True):
        torch.testing.assert_close(model.forward_batch(batch), logits)
    loss, gradients = taught(model, batches)
    recompute_blocks(model, True)
    again, same = taught(model, batches)
    assert torch.equal(loss, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))


def test_a_shared_row_says_of_which_tokens_each_text_consists() -> None:
    prompt = [1, 2, 3, 4, 5, 6]
    examples = examples_of([(prompt, [7, 8]), (prompt, [9]), ([1, 2, 3, 4, 5, 7], [10, 11])])
    begun = common_beginnings(examples)
    assert begun.tolist() == [0, 5, 5]  # at the prompt's last token something else is learned in each
    batch = shared_batch(examples, [[0, 1, 2]], begun)
    assert batch is not None
    assert batch.ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 6, 7, 10]]
    assert batch.labels is not None
    assert batch.labels.tolist() == [[IGNORE] * 5 + [7, 8, 9, 10, 11]]
    assert batch.positions is not None
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 5, 5, 6]]
    assert batch.opened is not None
    assert batch.opened.tolist() == [[0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 7, 0, 1, 2, 3, 4, 8, 9]]
    assert batch.documents is not None
    assert batch.documents.tolist() == [[0] * 7 + [1] * 6 + [2] * 7]


def test_later_ones_alone_share_and_not_for_a_token_or_two() -> None:
    prompt = list(range(1, 7))
    examples = examples_of([(prompt, [7]), (prompt, [8]), (prompt, [9])])
    begun = common_beginnings(examples)
    assert shared_batch(examples, [[2, 0]], begun) is None
    assert shared_batch(examples, [[0], [2]], begun) is None
    assert shared_batch(examples, [[0, 2]], begun) is not None
    assert shared_batch(examples, [[1], [0]], begun) is None
    few = examples_of([(list(range(1, LEAST + 1)), [7]), (list(range(1, LEAST + 1)), [8])])
    assert common_beginnings(few).tolist() == [0, 0]
    assert common_beginnings(examples_of([(list(range(1, LEAST + 2)), [7])] * 2)).tolist() == [0, LEAST]


def test_a_group_that_fits_a_pass_is_one() -> None:
    random = np.random.default_rng(0)
    prompt = random.integers(1, 23, 12).tolist()
    examples = examples_of([(prompt, random.integers(1, 23, 4).tolist()) for _ in range(8)])
    whole = Plan(examples, rows=8, tokens=48)
    shared = replace(whole, shares=True, _orders={})
    assert sum(batch.ids.numel() for batch in whole.step(0)) == 8 * 15
    assert [batch.ids.numel() for batch in shared.step(0)] == [11 + 8 * 4]
    assert shared.sizes(0) == whole.sizes(0)


def test_a_group_that_does_not_fit_a_pass_is_parted() -> None:
    random = np.random.default_rng(0)
    prompt = random.integers(1, 23, 12).tolist()
    examples = examples_of([(prompt, random.integers(1, 23, 4).tolist()) for _ in range(8)])
    for method in ("auto", "pack", "length"):
        batches = Plan(examples, rows=8, tokens=24, method=method, shares=True).step(0)  # type: ignore[arg-type]
        assert max(batch.ids.numel() for batch in batches) <= 24 * 1.125
        assert sum(batch.ids.numel() for batch in batches) < 8 * 15


def test_pairs_stay_together_and_share_their_prompts() -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(architecture="decoder", **SMALL))
    examples = groups(2, prompts=6, each=2, task="preference")
    whole = Plan(examples, rows=3, tokens=40)
    shared = replace(whole, shares=True, _orders={})
    for step in range(2):
        assert_taught_alike(model, shared.step(step), whole.step(step))
        saved = [sum(batch.ids.numel() for batch in plan.step(step)) for plan in (shared, whole)]
        assert saved[0] < saved[1]


def test_what_cannot_share_is_refused() -> None:
    batch = Plan(groups(), rows=12, tokens=500, shares=True).step(0)[0]
    assert batch.positions is not None
    encoder = build_model(ModelConfig(architecture="encoder", **SMALL))
    with pytest.raises(ValueError, match="causal"):
        encoder.forward_batch(batch)
    decoder = build_model(ModelConfig(architecture="decoder", **SMALL))
    with pytest.raises(ValueError, match="told positions"):
        decoder.forward_batch(replace(batch, positions=batch.positions[0]))
    with pytest.raises(ValueError, match="from 0 to 2"):
        Sharing(torch.tensor([[0, 1, 3]]), 3)
    with pytest.raises(ValueError, match="in none of its texts"):
        Sharing(torch.tensor([[0, 1, 1]]), 3)


def test_rows_that_are_padded_attend_from_their_own_tokens_as_well() -> None:
    rows = 0
    for seed in range(4):
        for batch in Plan(groups(seed), rows=12, tokens=500, method="length", shares=True).step(0):
            assert batch.opened is not None
            count = batch.opened.shape[1]
            mask = AttentionMask(True, queries=count, keys=count, documents=batch.documents)
            assert mask.bounds is not None
            texts = Sharing(batch.opened, batch.ids.shape[1]).texts(mask.bounds)
            assert texts is not None
            own = [token for text in texts for token in range(text.start, text.end)]
            assert sorted(own) == list(range(batch.ids.numel()))
            rows = max(rows, len(batch.ids))
    assert rows > 1


def one_prompt_for_all(count: int = 24) -> Examples:
    """Texts that all begin alike, some of them for longer."""
    random = np.random.default_rng(3)
    prompt = random.integers(1, 23, 12).tolist()
    more = [random.integers(1, 23, 3).tolist() for _ in range(3)]
    return examples_of(
        [(prompt + more[n * 3 // count], random.integers(1, 23, random.integers(1, 9)).tolist()) for n in range(count)]
    )


def test_what_examples_far_apart_have_in_common() -> None:
    examples = one_prompt_for_all()
    begun = common_beginnings(examples)
    for earlier in range(len(examples)):
        for later in range(len(examples)):
            found = shared_tokens(begun, earlier, later)
            (a, _), (b, _) = examples[earlier], examples[later]
            assert (found == 0) == (later <= earlier)
            assert (a[:found] == b[:found]).all()
    assert shared_tokens(begun, 0, 7) == 14  # the last token of a prompt is learned from
    assert shared_tokens(begun, 0, 8) == 12
    assert shared_tokens(np.array([0, 9, 0, 9]), 0, 3) == 0


def test_rows_that_are_far_apart_share_what_all_between_them_begin_with() -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(architecture="decoder", **SMALL, **DECODERS["grouped heads"]))
    examples = one_prompt_for_all()
    for step in range(4):
        plan = Plan(examples, rows=6, tokens=500, shares=True, seed=1)
        batches, taken = plan.step(step), plan.indices(step)
        assert sum(batch.ids.numel() for batch in batches) <= examples.lengths[taken].sum() - 5 * 12
        assert_taught_alike(model, batches, [packed_batch(examples, [[n]]) for n in taken])
    whole = [packed_batch(examples, [[n]]) for n in range(len(examples))]
    assert_taught_alike(model, list(Plan(examples, rows=6, tokens=500, shares=True).in_order()), whole)


def test_what_is_asked_about_one_text_is_learned_in_one_step() -> None:
    examples = groups(prompts=6, each=4)
    begun = common_beginnings(examples)
    plan = Plan(examples, rows=8, tokens=500, shares=True, seed=3)
    taken = [plan.indices(step) for step in range(6)]
    assert all(len(set((one // 4).tolist())) == 2 for one in taken)  # two texts a step, with all that is asked
    for epoch in (taken[:3], taken[3:]):
        assert sorted(np.concatenate(epoch).tolist()) == list(range(24))
    assert [set(one) for one in taken[:3]] != [set(one) for one in taken[3:]]
    assert int((begun == 0).sum()) == 6
    apart = replace(plan, shares=False, _orders={})
    assert any(len(set((apart.indices(step) // 4).tolist())) > 2 for step in range(3))


def test_what_all_begin_with_ties_none_of_them_together() -> None:
    examples = one_prompt_for_all()
    for rows in (2, len(examples) - 1):
        plan = Plan(examples, rows=rows, tokens=500, shares=True, seed=1)
        free = replace(plan, shares=False, _orders={})
        assert all(np.array_equal(plan.indices(step), free.indices(step)) for step in range(4))


def test_whether_sharing_pays() -> None:
    assert usual_beginning(one_prompt_for_all()) == 14
    random = np.random.default_rng(0)
    apart = [(random.integers(1, 23, 9).tolist(), random.integers(1, 23, 9).tolist()) for _ in range(20)]
    assert usual_beginning(examples_of(apart)) == 0
    little = [([1, 2, 3, 4, 5, *random.integers(1, 23, 40).tolist()], [7]) for _ in range(20)]
    assert usual_beginning(examples_of(little)) == 0
