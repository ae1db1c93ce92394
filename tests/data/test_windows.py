from __future__ import annotations

import numpy as np
import pytest
import torch

from scratchlm.data import IGNORE, every_block, every_window, sample_blocks, sample_windows

IDS = np.arange(20, dtype=np.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_labels_are_the_ids_one_token_ahead():
    batch = sample_windows(IDS, 5, 8, generator())
    assert batch.ids.shape == (5, 8)
    assert batch.ids.dtype == torch.int64
    assert batch.labels is not None
    assert torch.equal(batch.labels, batch.ids + 1)


def test_every_window_from_the_first_to_the_last_is_sampled():
    batch = sample_windows(IDS, 2000, 8, generator())
    assert set(batch.ids[:, 0].tolist()) == set(range(len(IDS) - 8))
    assert batch.labels is not None
    assert int(batch.labels.max()) == 19


def test_a_stream_of_exactly_one_window_is_enough_and_a_shorter_one_is_refused():
    assert sample_windows(IDS[:9], 3, 8, generator()).ids[:, 0].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="8 tokens has no window of 9"):
        sample_windows(IDS[:8], 3, 8, generator())


def test_the_same_seed_draws_the_same_windows():
    first, second, other = (sample_windows(IDS, 8, 8, generator(seed)).ids for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_all_windows_are_visited_in_order():
    batches = list(every_window(IDS, 8, rows=5))
    assert [batch.rows for batch in batches] == [5, 5, 2]
    assert torch.cat([batch.ids[:, 0] for batch in batches]).tolist() == list(range(12))


@pytest.mark.parametrize("length", range(9, 40))
def test_windows_side_by_side_predict_every_token_but_the_first_exactly_once(length):
    ids = np.arange(length, dtype=np.uint16)
    predicted: list[int] = []
    for batch in every_window(ids, 8, rows=2, stride=8):
        assert batch.labels is not None
        kept = batch.labels != IGNORE
        assert torch.equal(batch.labels[kept], batch.ids[kept] + 1)
        predicted += batch.labels[kept].tolist()
    assert predicted == list(range(1, length))


def test_overlapping_windows_reach_the_end_too():
    batches = list(every_window(np.arange(14), 8, rows=9, stride=3))
    assert batches[0].ids[:, 0].tolist() == [0, 3, 5]
    labels = batches[0].labels
    assert labels is not None
    assert labels[2].tolist() == [IGNORE] * 6 + [12, 13]


def test_a_stride_that_would_leave_tokens_out_is_refused():
    for stride in (0, 9):
        with pytest.raises(ValueError, match="stride"):
            next(iter(every_window(IDS, 8, rows=1, stride=stride)))
    with pytest.raises(ValueError, match="stride"):
        next(iter(every_block(IDS, 8, rows=1, stride=0)))


def test_blocks_for_masking_reach_the_last_token_and_are_not_shifted():
    blocks = sample_blocks(IDS, 2000, 8, generator())
    assert blocks.dtype == torch.int64
    assert set(blocks[:, 0].tolist()) == set(range(13))
    assert torch.equal(blocks - blocks[:, :1], torch.arange(8).expand(2000, 8))
    assert sample_blocks(IDS[:8], 2, 8, generator()).tolist() == [list(range(8))] * 2


def test_all_blocks_are_visited_and_the_last_ends_the_stream():
    assert torch.cat(list(every_block(IDS, 8, rows=5)))[:, 0].tolist() == list(range(13))
    assert torch.cat(list(every_block(IDS, 8, rows=5, stride=8)))[:, 0].tolist() == [0, 8, 12]


def test_windows_do_not_write_into_the_stream():
    ids = IDS.copy()
    ids.flags.writeable = False
    batch = sample_windows(ids, 2, 4, generator())
    batch.ids.zero_()
    assert ids.tolist() == list(range(20))
