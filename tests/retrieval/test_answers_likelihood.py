"""What a language model says of the likeliest sentences: the gain in likelihood, and what becomes of the order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch

from scratchlm.errors import UserError
from scratchlm.models import Decoder, build_model, model_preset
from scratchlm.retrieval import Embeddings
from scratchlm.retrieval.evidence import JUDGED, Candidate, EvidenceScorer, Judged, Judgement, Signals, Weights
from scratchlm.retrieval.likelihood import QuestionLikelihood
from scratchlm.retrieval.passages import Hit
from scratchlm.tokenizers import Tokenizer, train_tokenizer

WORDS = "the cat dog fish sat ran swam on under mat tree river what where does it Question".split()  # noqa: SIM905
WEIGHTS = Weights((0.0, 4.0, *(0.0,) * 11), 0.0)  # the cosine with the sentence alone
TEXT = "One here. Two here. Three here."


@pytest.fixture(scope="module")
def decoder() -> tuple[Decoder, Tokenizer]:
    tokenizer = train_tokenizer("bpe", [" ".join(WORDS)] * 3, vocab_size=280, special_tokens=("<|endoftext|>",))
    torch.manual_seed(0)
    model = build_model(model_preset("tinygpt", tokenizer.vocab_size, context=96)).eval()
    assert isinstance(model, Decoder)
    return model, tokenizer


def mean_log_probability(model: Decoder, before: list[int], asked: list[int]) -> float:
    with torch.no_grad():
        odds = model(torch.tensor([before + asked])).log_softmax(-1)[0]
    return sum(float(odds[len(before) - 1 + n, token]) for n, token in enumerate(asked)) / len(asked)


def test_gains_are_differences_of_mean_log_probabilities(decoder: tuple[Decoder, Tokenizer]) -> None:
    model, tokenizer = decoder
    said = [("", "the cat sat on the mat"), ("fish", "it ran"), ("fish", "it swam in the river")]
    sentences = [Judged(head, text, text) for head, text in said]
    found = QuestionLikelihood(model, tokenizer, "fp32").gains("where does it", sentences)
    encode, asked = tokenizer.encode, tokenizer.encode(" where does it")
    start = [*tokenizer.prefix_ids] or [*tokenizer.eos_ids][:1]
    for (head, text), gain in zip(said, found, strict=True):
        alone = [*start, *encode(head + "\n"), *encode("\nQuestion:")]
        below = [*start, *encode(head + "\n"), *encode(text), *encode("\nQuestion:")]
        expected = mean_log_probability(model, below, asked) - mean_log_probability(model, alone, asked)
        assert gain == pytest.approx(expected, abs=1e-4)


def test_a_long_sentence_is_cut_and_a_long_question_is_an_error(decoder: tuple[Decoder, Tokenizer]) -> None:
    judge = QuestionLikelihood(*decoder)
    (gain,) = judge.gains("where", [Judged("", "fish " * 300, "")])
    assert np.isfinite(gain)
    with pytest.raises(UserError, match=r"the question has .* tokens"):
        judge.gains("fish " * 300, [Judged("", "cat", "cat")])
    assert judge.gains("where", []) == []


def test_of_a_passage_that_is_judged_the_signals_say_which_sentence_it_is() -> None:
    plain = [WEIGHTS.probability(one) for one in _signals()]
    one, two, three = probabilities(Prefers("", of_passages=True))
    assert two / one == pytest.approx(plain[1] / plain[0])
    assert three <= two < one
    assert one == pytest.approx(Prefers.judgement.probability(plain[0], 0.0))


def test_likelihoods_need_a_decoder(decoder: tuple[Decoder, Tokenizer]) -> None:
    with pytest.raises(UserError, match="decoder"):
        QuestionLikelihood(build_model(model_preset("tinybert", decoder[1].vocab_size)), decoder[1])


class Ordered:
    """An embedder by which "One here." is nearest to any question, then "Two here."."""

    dimensions = 2

    def embed(self, texts: Iterable[str]) -> Embeddings:
        near = {"One": 0.9, "Two": 0.8, "Thr": 0.1}
        cosines = np.array([near.get(text[:3], 1.0) for text in texts], np.float32)
        return Embeddings(np.stack([cosines, np.sqrt(1 - cosines**2)], 1), 0)


class Prefers:
    """Finds one sentence likelier than others."""

    judgement = Judgement(1.0, 1.0, -1.0)

    def __init__(self, text: str, *, of_passages: bool = False) -> None:
        self.text, self.of_passages = text, of_passages
        self.seen: list[Judged] = []

    def gains(self, question: str, sentences: Sequence[Judged]) -> list[float]:
        del question
        self.seen = list(sentences)
        return [3.0 if one.sentence == self.text else 0.0 for one in sentences]


HIT = Hit("x", "x", TEXT, 0, len(TEXT), 1, 1, None, None, ("A", "B"), "text", 1.0)
CANDIDATES = [
    Candidate(0, 0, 9, "One here."),
    Candidate(0, 10, 19, "Two here."),
    Candidate(0, 20, 31, "Three here."),
]


def probabilities(judge: Prefers) -> list[float]:
    return EvidenceScorer(Ordered(), WEIGHTS, judge).probabilities("Which?", [HIT], CANDIDATES)


def _signals() -> list[Signals]:
    return EvidenceScorer(Ordered(), WEIGHTS).signals("Which?", [HIT], CANDIDATES)


def test_the_likeliest_sentences_are_judged_and_the_others_stay_behind() -> None:
    judge = Prefers("Two here.")
    one, two, three = probabilities(judge)
    assert judge.seen == [("A > B", "One here.", TEXT), ("A > B", "Two here.", TEXT)]
    assert len(judge.seen) == JUDGED
    assert two > one >= three
    assert probabilities(Prefers("Three here."))[2] <= min(probabilities(Prefers("Three here."))[:2])
