from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scratchlm.data.pairs import encode_pairs
from scratchlm.errors import UserError
from scratchlm.evaluation import scores as module
from scratchlm.evaluation.scores import Scores, character_counts, score_batches, score_masked, score_text
from scratchlm.models import Decoder, Encoder, ModelConfig, Seq2Seq, build_model
from scratchlm.tokenizers import Tokenizer, train_tokenizer

TEXT = "so Rūmī 😀 was a poet;\nhis works: “Maṯnawī” and e\u0301toile, naïve   spaces.\n" * 3


def build(vocab_size: int, architecture: str = "decoder", context: int = 6) -> Decoder | Encoder | Seq2Seq:
    torch.manual_seed(0)
    return build_model(
        ModelConfig(
            vocab_size=vocab_size, architecture=architecture, context=context, width=16, layers=1, heads=2, dropout=0.5
        )  # type: ignore[arg-type]
    )


def nll(logits: torch.Tensor, token: int) -> float:
    return float(-logits.double().log_softmax(-1)[token])


@pytest.mark.parametrize("batch", [1, 12, 10_000])
def test_every_window_and_position_counts_once(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(module, "TOKENS_PER_BATCH", batch)
    ids, model = np.random.default_rng(0).integers(0, 9, 25), build(9)
    scores = score_text(model, ids)
    assert model.training
    model.eval()
    nats, correct = [], 0
    with torch.no_grad():
        for start in range(25 - 6):
            logits = model(torch.from_numpy(ids[start : start + 6])[None])[0]
            for t in range(6):
                nats.append(nll(logits[t], int(ids[start + t + 1])))
                correct += int(logits[t].argmax()) == ids[start + t + 1]
    assert scores.tokens == len(nats) == 19 * 6
    assert scores.nats == pytest.approx(sum(nats), rel=1e-5)
    assert scores.correct == correct
    assert scores.cross_entropy == pytest.approx(np.mean(nats), rel=1e-5)
    assert scores.perplexity == pytest.approx(math.exp(np.mean(nats)), rel=1e-5)
    assert scores.accuracy == correct / 114


@pytest.mark.parametrize("length", [2, 5, 7, 13, 25, 26])
def test_windows_set_apart_predict_each_token_but_the_first_once(length: int) -> None:
    ids, model = np.random.default_rng(0).integers(0, 9, length), build(9)
    assert score_text(model, ids, stride=6).tokens == length - 1


@pytest.mark.parametrize("batch", [1, 100, 10_000])
def test_each_token_of_each_window_is_hidden_in_turn(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(module, "TOKENS_PER_BATCH", batch)
    ids, model = np.random.default_rng(0).integers(2, 9, 15), build(9, "encoder", context=4).eval()
    ids[5] = 1  # a special token, never hidden
    scores = score_masked(model, ids, mask_id=0, special_ids=[0, 1])
    nats, correct = [], 0
    with torch.no_grad():
        for start in range(12):
            for t in range(4):
                row = torch.from_numpy(ids[start : start + 4].copy())
                token = int(row[t])
                if token == 1:
                    continue
                row[t] = 0
                logits = model(row[None])[0, t]
                nats.append(nll(logits, token))
                correct += int(logits.argmax()) == token
    assert scores.tokens == len(nats) == 12 * 4 - 4
    assert scores.nats == pytest.approx(sum(nats), rel=1e-5)
    assert scores.correct == correct


def test_a_text_shorter_than_the_context_is_one_window() -> None:
    ids = np.array([3, 4, 5])
    assert score_text(build(9), ids).tokens == 2
    assert score_masked(build(9, "encoder"), ids, mask_id=0).tokens == 3


@pytest.mark.parametrize("ids", [[], [3]])
def test_a_text_without_a_next_token_is_told(ids: list[int]) -> None:
    with pytest.raises(UserError, match="at least 2"):
        score_text(build(9), np.array(ids, dtype=np.int64))


@pytest.mark.parametrize("ids", [[], [1, 1]])
def test_a_text_with_nothing_to_hide_is_told(ids: list[int]) -> None:
    with pytest.raises(UserError, match="no tokens to hide"):
        score_masked(build(9, "encoder"), np.array(ids, dtype=np.int64), mask_id=0, special_ids=[0, 1])


def test_pairs_are_scored_without_their_padding() -> None:
    tokenizer = train_tokenizer("char", ["abc"], special_tokens=("[PAD]", "[BOS]", "[EOS]"))
    model = build(tokenizer.vocab_size, "seq2seq").eval()
    pairs = [("abc", "cb"), ("a", "abca"), ("bb", "")]
    together = score_batches(model, encode_pairs(pairs, tokenizer, 6).every(3))
    apart = Scores()
    for pair in pairs:
        one = score_batches(model, encode_pairs([pair], tokenizer, 6).every(1))
        apart.nats += one.nats
        apart.tokens += one.tokens
        apart.correct += one.correct
    assert together.tokens == apart.tokens == 3 + 5 + 1
    assert together.correct == apart.correct
    assert together.nats == pytest.approx(apart.nats, rel=1e-5)


def tokenizers() -> list[Tokenizer]:
    special = ("[PAD]", "[UNK]", "[MASK]")
    return [
        train_tokenizer("char", [TEXT]),
        train_tokenizer("word", [TEXT], special_tokens=special),
        train_tokenizer("bpe", [TEXT], vocab_size=290),
        train_tokenizer("wordpiece", [TEXT], vocab_size=80, special_tokens=special),
    ]


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=lambda t: t.kind)
def test_the_characters_of_the_tokens_add_up_to_the_text_they_spell(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_array(TEXT)
    counts = character_counts(tokenizer, ids)
    assert counts is not None
    assert counts.sum() == len(tokenizer.decode(ids.tolist()))
    if tokenizer.kind in ("char", "bpe"):
        assert counts.sum() == len(TEXT)


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=lambda t: t.kind)
def test_a_model_that_guesses_evenly_needs_log_v_nats_for_each_token_it_spells(tokenizer: Tokenizer) -> None:
    model = build(tokenizer.vocab_size)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
    ids = tokenizer.encode_array(TEXT)
    scores = score_text(model, ids, stride=6, counts=character_counts(tokenizer, ids))
    spelled = len(tokenizer.decode(ids.tolist())) - len(tokenizer.decode(ids[:1].tolist()))
    expected = (len(ids) - 1) * math.log2(tokenizer.vocab_size) / spelled
    assert scores.bits_per_character == pytest.approx(expected, rel=1e-5)


def test_with_every_window_the_characters_are_those_of_every_window() -> None:
    tokenizer = train_tokenizer("word", ["a bb ccc dddd eeeee"])
    ids = tokenizer.encode_array("a bb ccc dddd eeeee")
    scores = score_text(build(tokenizer.vocab_size, context=2), ids, counts=character_counts(tokenizer, ids))
    # The labels of the windows are (bb, ccc), (ccc, dddd), (dddd, eeeee), each word with the space before it.
    assert scores.characters == (3 + 4) + (4 + 5) + (5 + 6)


def test_characters_hidden_behind_unknown_tokens_are_not_guessed() -> None:
    tokenizer = train_tokenizer("word", ["a bb"], special_tokens=("[UNK]",), unknown="token")
    assert character_counts(tokenizer, tokenizer.encode_array("a zzz")) is None


def test_a_loss_beyond_numbers_is_an_infinite_perplexity() -> None:
    assert Scores(nats=1000.0, tokens=1).perplexity == math.inf
