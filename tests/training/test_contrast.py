"""Learning vectors: the loss is the textbook's, however a step's texts lie in passes, and pairs are found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scratchlm.checkpoints import PoolingSettings
from scratchlm.data import Examples, Plan
from scratchlm.data.records import Skipped
from scratchlm.generation.states import StateReader
from scratchlm.models import Encoder, ModelConfig, build_model
from scratchlm.training import TrainConfig, fit
from scratchlm.training.contrast import Contrast, Texts, contrast_losses, pooled
from scratchlm.training.distributed import World
from scratchlm.training.loop import Trainer
from scratchlm.training.progress import Reporter

CPU = World(torch.device("cpu"))
SHAPE: dict[str, Any] = {
    **{"vocab_size": 23, "architecture": "encoder", "context": 12, "width": 16, "layers": 2, "heads": 2},
    **{"norm_placement": "post", "final_norm": False, "embedding_norm": True, "head": "none", "init_std": 0.2},
}


def examples(rows: Sequence[Sequence[Sequence[int]]]) -> Examples:
    """Of rows of texts of ids."""
    texts = [text for row in rows for text in row]
    offsets = np.cumsum([0, *map(len, texts)])
    targets = np.full(offsets[-1], -100, np.int32)
    targets[offsets[:-1]] = np.arange(len(texts))
    numbers = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return Examples("embed", np.concatenate(texts).astype(np.uint32), targets, offsets, numbers, (), 12, 0, Skipped())


def random_rows(count: int, negatives: int = 0, seed: int = 0) -> list[list[list[int]]]:
    generator = np.random.default_rng(seed)
    return [
        [generator.integers(1, 23, generator.integers(2, 9)).tolist() for _ in range(2 + negatives * (n % 2))]
        for n in range(count)
    ]


def model(dropout: float = 0.0, **fields: Any) -> Encoder:
    torch.manual_seed(1)
    built = build_model(ModelConfig(**SHAPE | {"dropout": dropout} | fields))
    assert isinstance(built, Encoder)
    return built


def task(rows: list[list[list[int]]], step_rows: int, pass_tokens: int, layout: Any = "pack", **more: Any) -> Contrast:
    return Contrast(Plan(examples(rows), step_rows, pass_tokens, 0, layout, 16), None, **more)


def gradients(built: Encoder, learned: Contrast, rows: int) -> tuple[float, dict[str, Tensor]]:
    """The loss and the gradients of the first step."""
    config = TrainConfig(steps=1, batch_size=rows, device="cpu", clip_norm=0.0, learning_rate=1e-9)
    trainer = Trainer(built, learned, config, None, CPU, Reporter(quiet=True))
    found: dict[str, Tensor] = {}

    def update() -> float:
        found.update({name: p.grad.clone() for name, p in built.named_parameters() if p.grad is not None})
        return 0.0

    trainer.update = update  # type: ignore[method-assign]
    trainer.step()
    return trainer.state.loss, found


def by_hand(vectors: np.ndarray, rows: Sequence[Sequence[Sequence[int]]]) -> list[float]:
    """The losses of the rows' first texts, each candidate looked at by itself."""
    texts = [text for row in rows for text in row]
    units = dict(enumerate(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)))
    starts = np.cumsum([0, *map(len, rows)])
    losses = []
    for n, row in enumerate(rows):
        above = below = 0.0
        for other, candidates in enumerate(rows):
            for part in range(1, len(candidates)):
                number = starts[other] + part
                share = math.exp(20 * float(units[starts[n]] @ units[number]))
                mine = other == n and part == 1
                same = texts[number] in (row[0], row[1]) or (part == 1 and candidates[0] == row[0])
                above += share * mine
                below += share * (mine or not same)
        losses.append(math.log(below / above))
    return losses


AMBIGUOUS = [[[1, 2], [3, 4], [5]], [[1, 2], [6, 7]], [[8], [3, 4]], [[9, 9], [1, 2], [6, 7], [4]], [[7], [7]]]
"""Two rows look with one text; two texts have one answer; one row's answer is another's question; one is its own."""


@pytest.mark.parametrize("rows", [random_rows(6), random_rows(5, negatives=2), AMBIGUOUS])
def test_the_loss_is_what_each_candidate_by_itself_makes_it(rows: list[list[list[int]]]) -> None:
    vectors = torch.randn(sum(map(len, rows)), 8, generator=torch.Generator().manual_seed(0))
    texts = Texts.of(examples(rows))
    losses = contrast_losses(vectors, texts)
    assert losses[texts.parts == 0].tolist() == pytest.approx(by_hand(vectors.numpy(), rows), abs=1e-5)
    assert not losses[texts.parts > 0].any()


def test_the_loss_does_not_depend_on_the_order_of_the_texts() -> None:
    rows = random_rows(6, negatives=1)
    texts = Texts.of(examples(rows))
    vectors = torch.randn(len(texts.rows), 8, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(len(texts.rows), generator=torch.Generator().manual_seed(1))
    mixed = contrast_losses(vectors[order], texts.take(order))
    torch.testing.assert_close(mixed, contrast_losses(vectors, texts)[order])


def test_a_row_in_pieces_is_refused() -> None:
    texts = Texts.of(examples(random_rows(3, negatives=1)))
    for left_out in (0, 1):
        kept = torch.tensor([n for n in range(len(texts.rows)) if n != left_out])
        with pytest.raises(ValueError, match="texts of a row are missing"):
            contrast_losses(torch.randn(len(kept), 4), texts.take(kept))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("layout", ["pack", "length"])
def test_vectors_of_packed_texts_are_those_that_are_made_of_each(pooling: Any, layout: Any) -> None:
    rows, built = random_rows(5, negatives=1), model().eval()
    learned = task(rows, 5, 1000, layout, pooling=pooling)
    (batch,) = learned.train.step(0)
    with torch.no_grad():
        numbers, vectors = learned._vectors(built, batch)
    texts = [learned.train.examples[int(n)][0].tolist() for n in numbers]
    torch.testing.assert_close(
        vectors, PoolingSettings(pooling).vectors(StateReader(built).read(texts)), atol=1e-5, rtol=1e-5
    )


def test_padding_counts_for_nothing() -> None:
    learned = task(random_rows(6), 6, 60, "length")
    padded = [batch for batch in learned.train.step(0) if batch.documents is not None]
    assert padded
    for batch in padded:
        states = torch.randn(*batch.ids.shape, 4)
        assert batch.documents is not None
        spoilt = states.masked_fill((batch.documents < 0)[..., None], torch.nan)
        assert torch.equal(pooled(states, batch, "mean"), pooled(spoilt, batch, "mean"))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_several_passes_teach_what_one_does(pooling: Any) -> None:
    rows = random_rows(8, negatives=1)
    many, alone = task(rows, 8, 24, pooling=pooling), task(rows, 8, 1, "length", pooling=pooling)
    assert len(many.train.step(0)) > 3
    assert len(alone.train.step(0)) == 20  # each text is a pass
    direct, whole = gradients(model(), task(rows, 8, 1000, pooling=pooling), 8)
    for learned in (many, alone, task(rows, 8, 40, "length", pooling=pooling)):
        loss, found = gradients(model(), learned, 8)
        assert loss == pytest.approx(direct, abs=1e-5)
        assert whole.keys() == found.keys()
        for name, expected in whole.items():
            torch.testing.assert_close(found[name], expected, atol=2e-5, rtol=1e-3)


def test_the_second_pass_drops_out_what_the_first_did() -> None:
    learned, built = task(random_rows(8), 8, 24), model(0.3)
    work = learned.work(0, 8, 1, CPU, torch.Generator())
    learned.begin(built, work.batches, CPU)
    assert learned._known is not None
    firsts = []
    for batch, states in zip(work.batches, list(learned._random), strict=True):
        torch.set_rng_state(states[0])
        firsts.append(learned._vectors(built, batch)[1].detach())
    seen: list[Tensor] = []
    inner = learned._vectors
    learned._vectors = lambda *args: seen.append((found := inner(*args))[1].detach()) or found  # type: ignore[func-returns-value,method-assign]
    for batch in work.batches:
        learned.loss(built, batch)
        torch.rand(3)  # others draw numbers in between
    assert all(torch.equal(one, other) for one, other in zip(firsts, seen, strict=True))


def test_a_loss_is_of_every_row_that_looks() -> None:
    learned = task(random_rows(7, negatives=1), 3, 1000)
    assert [learned.work(step, 3, 1, CPU, torch.Generator()).labels for step in range(3)] == [3, 3, 1]


def test_held_out_rows_are_judged_in_groups_of_a_step() -> None:
    rows = random_rows(13, negatives=1)
    built = model().eval()
    learned = Contrast(Plan(examples(rows[:6]), 4, 24, 0, "pack", 16), Plan(examples(rows[6:]), 4, 24, 0, "pack", 16))
    judged = learned.validation()
    assert judged is not None
    with torch.no_grad():
        sums = [learned.loss(built, batch) for batch in judged]
    assert [int(count) for _, count in sums] == [4, 3]
    alone = task(rows[6:], 4, 1000)
    with torch.no_grad():
        expected = [learned.loss(built, batch)[0] for batch in learned.validation() or ()]
        direct = [alone.loss(built, alone.train.step(step)[0])[0] for step in range(2)]
    assert sum(map(float, expected)) == pytest.approx(sum(map(float, direct)), rel=1e-4)


def test_pairs_that_belong_together_are_learned() -> None:
    """Each text looks for the one with its ids turned round, which untrained vectors do not tell."""
    generator = np.random.default_rng(3)
    rows = []
    for _ in range(60):
        first, second = generator.choice(np.arange(1, 11), 2, replace=False).tolist()
        rows.append([[first, second, 21], [11 + (first % 10), 11 + (second % 10), 22]])
    learned = Contrast(
        Plan(examples(rows[:48]), 16, 64, 0, "pack", 16), Plan(examples(rows[48:]), 12, 64, 0, "pack", 16)
    )
    config = TrainConfig(steps=60, batch_size=16, learning_rate=1e-2, eval_every=30, device="cpu", weight_decay=0.0)
    result = fit(model(), learned, config)
    assert result.best_loss is not None
    assert result.best_loss < math.log(12) / 3
