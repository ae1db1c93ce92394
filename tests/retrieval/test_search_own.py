"""Questions of one's own documents, and settings compared by them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scratchlm.errors import UserError
from scratchlm.models import build_model, model_preset
from scratchlm.retrieval import Embedder
from scratchlm.retrieval.own_questions import OwnQuestion, make_questions, sweep
from scratchlm.retrieval.passages import Document
from scratchlm.tokenizers import train_tokenizer

from .test_search import hits_of

TEXTS = [
    "The Halden bridge was opened by a queen in winter. It carries trams.",
    "Short.",
    "Otters build their nests beside slow rivers in early spring.",
]


def test_questions_are_the_rarest_words_of_a_sentence() -> None:
    found = make_questions(hits_of(TEXTS))
    assert len(found) == 2
    assert {one.text for one in found} == {
        "Halden bridge opened queen winter", "Otters build nests beside slow rivers early spring",
    }  # fmt: skip
    for one in found:
        assert set(one.text.split()) <= set("\n".join(TEXTS)[one.start : one.end].replace(".", "").split())
    places = {"\n".join(TEXTS)[one.start : one.end] for one in found}
    assert places == {"The Halden bridge was opened by a queen in winter.", TEXTS[2]}  # the sentence, not its passage
    assert make_questions(hits_of(TEXTS)) == found
    assert len(make_questions(hits_of(TEXTS), 1)) == 1


def test_a_model_may_write_them() -> None:
    found = make_questions(hits_of(TEXTS), chat=lambda messages: f"What of {messages[0]['content'][-9:]}?\nmore")
    assert sorted(one.text for one in found) == ["What of es trams.?", "What of y spring.?"]


def test_a_sweep_tries_all_and_puts_the_best_first() -> None:
    words = " ".join(TEXTS)
    tokenizer = train_tokenizer("bpe", [words] * 3, vocab_size=300, special_tokens=("<|endoftext|>",))
    torch.manual_seed(0)
    embedder = Embedder(build_model(model_preset("tinygpt", tokenizer.vocab_size, context=128)), tokenizer)
    documents = [Document(f"{n}.txt", text, "text", "", len(text), 0.0) for n, text in enumerate(TEXTS)]
    questions = [OwnQuestion("halden bridge", "0.txt", 0, 20), OwnQuestion("otters", "2.txt", 0, 20)]
    found = sweep(documents, embedder, questions, sizes=(16, 64), ks=(1, 3))
    assert {(one.size, one.fusion, one.k) for one in found} == {
        (size, fusion, k) for size in (16, 64) for fusion in ("weighted", "rrf") for k in (1, 3)
    }
    assert [one.ndcg for one in found] == sorted((one.ndcg for one in found), reverse=True)
    assert all(0 <= one.ndcg <= 1 for one in found)
    assert max(one.found for one in found if one.k == 3 and one.size == 64) == 1.0
    with pytest.raises(UserError, match="in no document"):
        sweep(documents, embedder, [OwnQuestion("otters", "9.txt", 0, 20)], sizes=(64,))
    with pytest.raises(UserError, match="sweep needs"):
        sweep(documents, embedder, [])


@pytest.mark.parametrize(("texts", "count", "says"), [(["Short."], 5, "no passage"), (TEXTS, 0, "0 questions")])
def test_nothing_to_ask(texts: list[str], count: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_questions(hits_of(texts), count)
