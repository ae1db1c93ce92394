from __future__ import annotations

import pytest
import torch

from scratchlm.data import IGNORE, date_pairs, encode_pairs
from scratchlm.errors import UserError
from scratchlm.tokenizers import Tokenizer, train_tokenizer

PAIRS = [("abc", "x"), ("a", "xyz"), ("ab", "")]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer("char", ["abcxyz"], special_tokens=["[PAD]", "[BOS]", "[EOS]"])


def test_the_decoder_reads_the_target_after_bos_and_must_say_it_before_eos(tokenizer):
    batch = encode_pairs(PAIRS, tokenizer, 8).batch(torch.tensor([0, 1, 2]))
    a, b, c, x, y, z = tokenizer.encode("abcxyz")
    pad, bos, eos = tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id
    assert batch.source_ids is not None
    assert batch.source_ids.tolist() == [[a, b, c], [a, pad, pad], [a, b, pad]]
    assert batch.source_documents.tolist() == [[0, 0, 0], [0, -1, -1], [0, 0, -1]]
    assert [row[: n + 1] for row, n in zip(batch.ids.tolist(), [1, 3, 0], strict=True)] == [
        [bos, x],
        [bos, x, y, z],
        [bos],
    ]
    i = IGNORE
    assert batch.labels.tolist() == [[x, eos, i, i], [x, y, z, eos], [eos, i, i, i]]
    assert batch.documents.tolist() == [[0, 0, -1, -1], [0, 0, 0, 0], [0, -1, -1, -1]]


def test_a_batch_is_no_wider_than_its_longest_pair_and_whole_rows_have_no_documents(tokenizer):
    batch = encode_pairs(PAIRS, tokenizer, 8).batch(torch.tensor([0]))
    assert batch.source_ids is not None
    assert batch.source_ids.shape == (1, 3)
    assert batch.ids.shape == (1, 2)
    assert batch.documents is None
    assert batch.source_documents is None


def test_all_pairs_are_visited_once_and_sampling_reaches_each(tokenizer):
    table = encode_pairs(PAIRS, tokenizer, 8)
    assert len(table) == 3
    assert table.target_characters == 4
    assert [batch.rows for batch in table.every(2)] == [2, 1]
    sampled = table.sample(200, torch.Generator().manual_seed(0))
    assert sampled.label_count() > 0
    assert len(set(map(tuple, sampled.source_ids.tolist()))) == 3


def test_dates_fit_a_context_of_64_characters():
    pairs = date_pairs("train", 3000)
    text = "".join(source + target for source, target in pairs)
    tokenizer = train_tokenizer("char", [text], special_tokens=["[PAD]", "[BOS]", "[EOS]"])
    table = encode_pairs(pairs, tokenizer, 64)
    batch = table.batch(torch.arange(4))
    assert tokenizer.decode(batch.ids[2], skip_special=True) == pairs[2][1]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "there are no pairs"),
        ([("a", "x"), ("", "x")], "pair 2 has an empty source"),
        ([("a", "x"), ("abcabcabc", "x")], "pair 2 needs 9 tokens, the model's context is 8"),
        ([("a", "xyzxyzxy")], "pair 1 needs 9 tokens"),
        ([("a", "x"), ("a", "q")], r"pair 2: the character 'q'"),
    ],
)
def test_pairs_that_cannot_be_used_are_cited_by_number(pairs, message, tokenizer):
    with pytest.raises(UserError, match=message):
        encode_pairs(pairs, tokenizer, 8)


def test_a_tokenizer_without_the_special_tokens_is_the_programmers_mistake():
    with pytest.raises(ValueError, match=r"\[BOS\]"):
        encode_pairs(PAIRS, train_tokenizer("char", ["abcxyz"]), 8)
