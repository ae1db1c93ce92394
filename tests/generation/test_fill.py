from __future__ import annotations

import pytest
import torch

from scratchlm.errors import UserError
from scratchlm.generation.fill import fill
from scratchlm.models import Decoder, Encoder
from scratchlm.tokenizers import Tokenizer


def test_candidates_are_the_models_most_likely_words_with_their_probabilities(
    encoder: Encoder, words: Tokenizer
) -> None:
    text = "Rumi, was a [MASK] poet."
    (candidates,) = fill(encoder, words, text, top_k=words.vocab_size)
    with torch.no_grad():
        logits = encoder(torch.tensor([words.encode(text, allow_special=True)]))[0, 3]
    logits[list(words.special_ids)] = -torch.inf
    expected = logits.softmax(-1)
    assert len(candidates) == words.vocab_size - len(words.special_ids)
    assert sum(probability for _, probability in candidates) == pytest.approx(1)
    for word, probability in candidates:
        token = words.id_of(word)
        assert token is not None
        assert probability == pytest.approx(float(expected[token]), abs=1e-6)
    assert candidates == sorted(candidates, key=lambda pair: -pair[1])


def test_each_gap_is_filled_in_order(encoder: Encoder, words: Tokenizer) -> None:
    both = fill(encoder, words, "[MASK] was a [MASK] poet.", top_k=3)
    assert [len(candidates) for candidates in both] == [3, 3]
    assert both[0] != both[1]


@pytest.mark.parametrize("before", [0, 1, 5, 20])
@pytest.mark.parametrize("after", [0, 2, 20])
def test_in_a_long_text_a_gap_is_filled_from_the_window_around_it(
    encoder: Encoder, words: Tokenizer, before: int, after: int
) -> None:
    ids = words.encode("Jalāl al-Dīn Rumi, was a or simply") * 6
    left, right = ids[:before], ids[-after:] if after else []
    text = " ".join([words.decode(left), "[MASK]", words.decode(right)])
    (candidates,) = fill(encoder, words, text, top_k=1)
    row = [*left, words.mask_id, *right]
    start = max(0, min(before - 4, len(row) - 8))
    with torch.no_grad():
        logits = encoder(torch.tensor([row[start : start + 8]]))[0, before - start]
    logits[list(words.special_ids)] = -torch.inf
    assert candidates[0][0] == words.token(int(logits.argmax()))


def test_a_text_without_a_gap_says_how_to_write_one(encoder: Encoder, words: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"no \[MASK\]"):
        fill(encoder, words, "Rumi, was a poet.")


def test_unknown_words_follow_the_tokenizers_policy(encoder: Encoder, words: Tokenizer) -> None:
    with pytest.raises(UserError, match="snowman"):
        fill(encoder, words, "a snowman [MASK]")


def test_a_decoder_is_refused(decoder: Decoder, characters: Tokenizer) -> None:
    with pytest.raises(UserError, match="generate"):
        fill(decoder, characters, "[MASK]")


def test_no_candidates_at_all_is_refused(encoder: Encoder, words: Tokenizer) -> None:
    with pytest.raises(UserError, match="top_k"):
        fill(encoder, words, "a [MASK]", top_k=0)
