"""Re-ranking: each judge against what its formula says, on models that are made here."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from scratchlm.errors import UserError
from scratchlm.models import build_model, model_preset
from scratchlm.retrieval import Embedder
from scratchlm.retrieval.rerank import (
    Combined,
    CrossEncoder,
    LateInteraction,
    LikelihoodReranker,
    WordFeedback,
    fit,
    rarity,
    train_reranker,
    write_pairs,
)
from scratchlm.retrieval.rewriting import FollowUp, Hypothetical, standalone
from scratchlm.tokenizers import Tokenizer, train_tokenizer

WORDS = "the cat dog fish sat ran swam on under mat tree river good bad and what where does it".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    return train_tokenizer(
        "wordpiece", [" ".join(WORDS)], vocab_size=120, special_tokens=("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    )


@pytest.fixture(scope="module")
def decoder() -> tuple[Any, Tokenizer]:
    tokenizer = train_tokenizer("bpe", [" ".join(WORDS)] * 3, vocab_size=280, special_tokens=("<|endoftext|>",))
    torch.manual_seed(0)
    return build_model(model_preset("tinygpt", tokenizer.vocab_size, context=96)).eval(), tokenizer


def test_a_reranker_learns_from_pairs_and_is_opened_again(tmp_path: Path, pieces: Tokenizer) -> None:
    things = ["cat", "dog", "fish", "tree", "river", "mat"]
    pairs = [
        (f"what does the {one}", f"good {one} {other}", f"bad {one} {other}") for one in things for other in things
    ]
    assert write_pairs(tmp_path / "pairs.jsonl", pairs, pieces) == len(pairs)
    settings = {"steps": 25, "batch_size": 16, "learning_rate": 3e-3, "eval_every": 25, "validation_fraction": 0.0}
    trained = train_reranker("tinybert", tmp_path / "pairs.jsonl", tmp_path / "run", **settings)
    passages = ["bad tree mat", "good tree mat", "bad dog", "good dog"]
    marks = trained.score("what does the tree", passages)
    assert marks[1] > marks[0]
    assert marks[3] > marks[2]
    assert CrossEncoder.open(tmp_path / "run").score("what does the tree", passages) == pytest.approx(marks)


def test_a_long_passage_does_not_push_the_query_out(tmp_path: Path, pieces: Tokenizer) -> None:
    long = " ".join(WORDS * 20)
    cut = fit("where does the cat", long, pieces, 32)
    assert long.startswith(cut)
    around = len(pieces.prefix_ids) + len(pieces.suffix_ids)
    assert 25 <= len(pieces.encode("where does the cat\n" + cut)) + around <= 32
    assert fit("cat", "the dog", pieces, 32) == "the dog"
    write_pairs(tmp_path / "pairs", [("cat", long, "the dog")], pieces, 32)
    (row,) = [json.loads(line) for line in (tmp_path / "pairs").read_text().splitlines()]
    assert row["prompt"] == "cat\n"
    assert len(pieces.encode(row["prompt"] + row["chosen"])) <= 32


def test_pairs_that_teach_nothing(tmp_path: Path, pieces: Tokenizer) -> None:
    with pytest.raises(UserError, match="no pairs"):
        write_pairs(tmp_path / "pairs", [("cat", "same", "same"), ("cat", "mat", " ")], pieces)
    with pytest.raises(UserError, match="cannot be written"):
        write_pairs(tmp_path / "no" / "pairs", [("cat", "mat", "tree")], pieces)
    with pytest.raises(UserError, match="shorten it"):
        write_pairs(tmp_path / "pairs", [("cat " * 50, "mat", "tree")], pieces, 32)


def test_a_model_without_rewards_is_no_reranker(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        CrossEncoder.open(tmp_path / "nothing")


def test_likelihoods_are_those_of_the_whole_text(decoder: tuple[Any, Tokenizer]) -> None:
    model, tokenizer = decoder
    judge = LikelihoodReranker(model, tokenizer, max_passage=12, between="\n")
    query, passages = "where does the cat", ["the cat sat on the mat", "it ran", "fish " * 40]
    found = judge.score(query, passages)
    asked, between = tokenizer.encode(query), tokenizer.encode("\n")
    start = [*tokenizer.prefix_ids] or [*tokenizer.eos_ids][:1]
    for passage, mark in zip(passages, found, strict=True):
        before = [*start, *tokenizer.encode(passage)[:12], *between]
        with torch.no_grad():
            odds = model(torch.tensor([before + asked])).log_softmax(-1)[0]
        expected = [float(odds[len(before) - 1 + n, token]) for n, token in enumerate(asked)]
        assert mark == pytest.approx(sum(expected) / len(expected), abs=1e-4)
    assert judge.score(query, []) == []


def test_likelihoods_need_a_decoder_and_a_query_that_fits(decoder: tuple[Any, Tokenizer], pieces: Tokenizer) -> None:
    model, tokenizer = decoder
    judge = LikelihoodReranker(model, tokenizer)
    for query in ("", "cat " * 200):
        with pytest.raises(UserError, match="the query has"):
            judge.score(query, ["the cat"])
    encoder = build_model(model_preset("tinybert", pieces.vocab_size))
    with pytest.raises(UserError, match="decoder"):
        LikelihoodReranker(encoder, pieces)


def test_late_interaction_is_the_mean_of_the_best_cosines(decoder: tuple[Any, Tokenizer]) -> None:
    model, tokenizer = decoder
    embedder = Embedder(model, tokenizer)
    query, passages = "the cat", ["the cat", "fish swam in the river"]
    first, second = LateInteraction(embedder, weigh=False).score(query, passages)
    (_, asked), (_, one) = embedder.token_states([query, passages[1]])
    likeness = torch.nn.functional.cosine_similarity(asked[:, None], one[None], dim=-1)
    assert first == pytest.approx(1.0, abs=1e-5)
    assert second == pytest.approx(float(likeness.amax(1).mean()), abs=1e-5)
    pooled = torch.nn.functional.normalize(one.mean(0), dim=0)
    vector = torch.from_numpy(embedder.embed([passages[1]]).vectors[0])
    assert torch.nn.functional.normalize(vector, dim=0) == pytest.approx(pooled, abs=1e-5)


def test_rare_tokens_weigh_more(decoder: tuple[Any, Tokenizer]) -> None:
    weights = rarity([1, 2, 3], [[1, 2], [1, 5], [1]])
    assert weights.tolist() == pytest.approx(
        [math.log(1 + 0.5 / 3.5), math.log(1 + 2.5 / 1.5), math.log(1 + 3.5 / 0.5)]
    )
    embedder = Embedder(*decoder)
    assert LateInteraction(embedder).score("the cat", ["the cat", "cat", "it ran"])[0] == pytest.approx(1.0, abs=1e-5)
    assert LateInteraction(embedder).score("the cat", []) == []


def test_words_of_the_first_passages_are_looked_for() -> None:
    passages = ["cat whiskers", "cat whiskers tail", "whiskers tail", "river stones", "stones"]
    marks = WordFeedback(texts=2, words=5, share=0.5).score("cat", passages)
    assert marks[2] > 0 == marks[3]
    alone = WordFeedback(texts=2, words=5, share=1.0).score("cat", passages)
    assert alone[2] == 0 < alone[0]
    assert WordFeedback().score("cat", []) == []
    assert WordFeedback().score("the", ["", "the"]) == [0.0, 0.0]
    for bad in ({"texts": 0}, {"words": 0}, {"share": 1.5}):
        with pytest.raises(UserError, match="feedback of"):
            WordFeedback(**bad)  # type: ignore[arg-type]


class Fixed:
    def __init__(self, *marks: float) -> None:
        self.marks = list(marks)

    def score(self, _query: str, passages: Any) -> list[float]:
        return self.marks[: len(passages)]


def test_judgements_are_combined_on_one_scale() -> None:
    both = Combined([Fixed(0, 1, 2), Fixed(300, 100, 200)], [1.0, 0.5])
    sd = (2 / 3) ** 0.5
    assert both.score("q", ["a", "b", "c"]) == pytest.approx([(-1 + 0.5) / sd, -0.5 / sd, 1 / sd])
    assert Combined([Fixed(5, 5)], [1.0]).score("q", ["a", "b"]) == [0.0, 0.0]
    assert both.score("q", []) == []
    for weights in ([1.0], [1.0, float("nan")]):
        with pytest.raises(UserError, match="give one each"):
            Combined([Fixed(), Fixed()], weights)


def test_a_follow_up_question_is_made_to_stand_alone() -> None:
    seen: list[Any] = []

    def chat(messages: Any) -> str:
        seen.append(messages)
        return '"Who built the Halden bridge?"\nBecause it was asked for.'

    history = [
        {"role": "user", "content": "When was the Halden bridge opened?"},
        {"role": "assistant", "content": "1912"},
    ]
    assert standalone("Who built it?", history, chat) == "Who built the Halden bridge?"
    assert "Halden bridge opened" in seen[0][0]["content"]
    assert "Last question: Who built it?" in seen[0][0]["content"]
    assert FollowUp(chat, history)("Who built it?").text == "Who built the Halden bridge?"
    assert standalone("Who built it?", [], chat) == "Who built it?"
    assert len(seen) == 2


@pytest.mark.parametrize("answer", ["", "  \n", "long " * 100])
def test_what_is_no_question_is_not_looked_with(answer: str) -> None:
    history = [{"role": "user", "content": "When?"}]
    assert standalone("Who built it?", history, lambda _messages: answer) == "Who built it?"


def test_hypothetical_passages_are_looked_with_too() -> None:
    rewritten = Hypothetical(lambda _messages: " A made-up passage. ", 2)("What?")
    assert (rewritten.text, rewritten.passages) == ("What?", ("A made-up passage.",) * 2)
    assert Hypothetical(lambda _messages: "")("What?").passages == ()
    with pytest.raises(UserError, match="count"):
        Hypothetical(lambda _messages: "", 0)
    with pytest.raises(UserError, match="question is empty"):
        standalone(" ", [], lambda _messages: "")
