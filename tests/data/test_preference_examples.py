"""Pairs, judged completions and prompts as token ids: what is supervised, what is cut, and how it is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

from scratchlm.data import IGNORE, Examples, encode_records, read_records
from scratchlm.errors import UserError
from scratchlm.tokenizers import Tokenizer, train_tokenizer
from scratchlm.tokenizers.parts import Parts

TEXT = "The quick brown fox jumps over the lazy dog; system user assistant Be kind. Hi Hello! 1 + 1 = 2 \n" * 3
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}
AGAIN = {"role": "user", "content": "The dog"}


@pytest.fixture(scope="module")
def decoder() -> Tokenizer:
    """Byte-level BPE with <|im_end|> for EOS and a chat template."""
    made = train_tokenizer("bpe", [TEXT], vocab_size=330, special_tokens=["<|im_start|>", "<|im_end|>"])
    ends = [made.id_of("<|im_end|>") or 0]
    return Tokenizer(
        made.backend, "bpe", unknown="token", roles={"eos": "<|im_end|>"}, end_ids=ends, chat_template=CHATML
    )


@pytest.fixture(scope="module")
def encoder() -> Tokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e"]
    backend = Backend(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(words[:4])
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    return Tokenizer.from_parts(Parts(backend, "wordpiece", {"pad": "[PAD]", "unk": "[UNK]"}, frozenset(), None, None))


def encoded(folder: Path, rows: list[Any], task: Any, tokenizer: Tokenizer, **options: Any) -> Examples:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    records = read_records(path, task=task, bad=options.pop("bad", "stop"))
    return encode_records(records, tokenizer, **{"max_length": 64, **options})


def learned(examples: Examples, number: int) -> list[int]:
    return [int(target) for target in examples[number][1] if target != IGNORE]


def test_of_a_pair_both_completions_are_learned_with_their_ends(tmp_path: Path, decoder: Tokenizer) -> None:
    rows = [
        {"prompt": "1 + 1 =", "chosen": " 2", "rejected": " 1 + 1"},
        {"prompt": "Hi", "chosen": "a", "rejected": "b"},
    ]
    examples = encoded(tmp_path, rows, "preference", decoder)
    prompt, end = decoder.encode("1 + 1 ="), decoder.eos_id
    for number, text in enumerate((" 2", " 1 + 1")):
        answer = [*decoder.encode(text), end]
        ids, targets = examples[number]
        assert ids.tolist() == prompt + answer
        assert targets.tolist() == [IGNORE] * (len(prompt) - 1) + answer + [IGNORE]
    assert (examples.rows.tolist(), examples.groups.tolist(), examples.count) == ([0, 0, 1, 1], [0, 2, 4], 2)
    assert examples.show(decoder) == "1 + 1 =⟦ 2<|im_end|>⟧ ≻ 1 + 1 =⟦ 1 + 1<|im_end|>⟧"
    assert examples.show(decoder, 3) == "Hi⟦a<|im_end|>⟧ ≻ Hi⟦b<|im_end|>⟧"
    assert "in pairs" in examples.description()


def test_whole_texts_are_compared_from_their_second_token_on(tmp_path: Path, decoder: Tokenizer) -> None:
    examples = encoded(tmp_path, [{"chosen": "The dog", "rejected": "The lazy"}], "preference", decoder)
    assert learned(examples, 0) == [*decoder.encode("The dog")[1:], decoder.eos_id]


def test_of_chats_the_last_turn_alone_is_compared(tmp_path: Path, decoder: Tokenizer) -> None:
    shared = [USER, ANSWER, AGAIN]
    rows = [
        {"chosen": [*shared, {**ANSWER, "content": text}], "rejected": [*shared, ANSWER]} for text in ("jumps", "fox")
    ]
    rows.append({"prompt": "Hi", "chosen": "dog", "rejected": "fox"})  # a file may hold both
    examples = encoded(tmp_path, rows, "preference", decoder)
    before = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
    before += "<|im_start|>user\nThe dog<|im_end|>\n<|im_start|>assistant\n"
    shown = [f"{before}⟦{text}<|im_end|>⟧\n" for text in ("jumps", "Hello!", "fox")]
    assert examples.show(decoder) == " ≻ ".join(shown[:2])
    assert examples.show(decoder, 2) == f"{shown[2]} ≻ {shown[1]}"
    assert examples.show(decoder, 4) == "Hi⟦dog<|im_end|>⟧ ≻ Hi⟦fox<|im_end|>⟧"


@pytest.mark.parametrize("chat", [False, True])
def test_a_prompt_that_is_too_long_loses_its_beginning_and_both_answers_survive(
    tmp_path: Path, decoder: Tokenizer, chat: bool
) -> None:
    prompt: Any = [{"role": "user", "content": TEXT}] if chat else TEXT
    examples = encoded(
        tmp_path, [{"prompt": prompt, "chosen": "fox", "rejected": "lazy dog"}], "preference", decoder, max_length=30
    )
    for number, text in enumerate(("fox", "lazy dog")):
        assert learned(examples, number) == [*decoder.encode(text), decoder.eos_id]
        assert len(examples[number][0]) == 30
    whole = encoded(
        tmp_path, [{"prompt": prompt, "chosen": "fox", "rejected": "lazy dog"}], "preference", decoder, max_length=999
    )
    assert examples[0][0].tolist() == whole[0][0].tolist()[-30:]
    assert (examples.truncated, whole.truncated) == (2, 0)


def test_a_chat_whose_answer_is_too_long_loses_the_answers_end(tmp_path: Path, decoder: Tokenizer) -> None:
    row = {"prompt": [USER], "chosen": TEXT, "rejected": f"no {TEXT}"}
    examples = encoded(tmp_path, [row], "preference", decoder, max_length=12)
    assert learned(examples, 0) == decoder.encode(TEXT)[:11]
    assert decoder.eos_id not in examples[0][0]


@pytest.mark.parametrize("chat", [False, True])
def test_what_is_left_equal_by_the_cut_teaches_nothing(tmp_path: Path, decoder: Tokenizer, chat: bool) -> None:
    rows = [
        {"prompt": [USER] if chat else "Hi", "chosen": f"{TEXT} a", "rejected": f"{TEXT} b"},
        {"prompt": "Hi", "chosen": "a", "rejected": "b"},
    ]
    with pytest.raises(UserError, match="line 1: its texts have the same 20 tokens, so neither can be preferred; mend"):
        encoded(tmp_path, rows, "preference", decoder, max_length=20)
    examples = encoded(tmp_path, rows, "preference", decoder, max_length=20, bad="skip")
    assert (examples.rows.tolist(), examples.skipped.count) == ([1, 1], 1)


def test_an_encoder_reads_prompt_and_completion_as_one_text(tmp_path: Path, encoder: Tokenizer) -> None:
    rows = [
        {"prompt": "a b ", "chosen": "c d e", "rejected": "e"},
        {"prompt": "", "chosen": "a b c d", "rejected": "b"},
    ]
    ids = [
        one.tolist()
        for one, _ in map(encoded(tmp_path, rows, "preference", encoder, causal=False).__getitem__, range(4))
    ]
    assert ids == [[2, 4, 5, 6, 7, 8, 3], [2, 4, 5, 8, 3], [2, 4, 5, 6, 7, 3], [2, 5, 3]]
    cut = encoded(tmp_path, rows, "preference", encoder, causal=False, max_length=5)
    assert [cut[n][0].tolist() for n in range(4)] == [[2, 6, 7, 8, 3], [2, 4, 5, 8, 3], [2, 4, 5, 6, 3], [2, 5, 3]]
    assert (cut.truncated, cut.supervised) == (2, 0)


def test_a_judged_completion_keeps_whether_it_is_good(tmp_path: Path, decoder: Tokenizer) -> None:
    rows = [
        {"prompt": "1 + 1 =", "completion": " 2", "label": True},
        {"prompt": [USER, ANSWER, AGAIN], "completion": "fox", "label": False},
    ]
    examples = encoded(tmp_path, rows, "kto", decoder)
    assert examples.flags.tolist() == [True, False]
    assert [learned(examples, n) for n in range(2)] == [[*decoder.encode(t), decoder.eos_id] for t in (" 2", "fox")]
    assert examples.show(decoder) == "1 + 1 =⟦ 2<|im_end|>⟧ → good"
    assert examples.show(decoder, 1).endswith("assistant\n⟦fox<|im_end|>⟧\n → bad")
    skipping = encoded(tmp_path, [{**rows[0], "prompt": "", "completion": "H"}, *rows], "kto", decoder)
    assert skipping.flags.tolist() == [True, True, False]


def test_a_prompt_to_answer_ends_where_the_answer_begins(tmp_path: Path, decoder: Tokenizer) -> None:
    examples = encoded(tmp_path, [{"prompt": "1 + 1 ="}, {"prompt": [USER]}], "rollout", decoder)
    assert examples[0][0].tolist() == decoder.encode("1 + 1 =")
    assert decoder.decode(examples[1][0]) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert (examples.supervised, examples.truncated) == (0, 0)
    assert "to be answered" in examples.description()
    long = encoded(tmp_path, [{"prompt": TEXT}, {"prompt": "Hi"}], "rollout", decoder, max_length=8)
    assert long[0][0].tolist() == decoder.encode(TEXT)[-8:]
    assert long.truncated == 1


def test_what_begins_every_text_is_never_cut(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    template = "<s>{% for m in messages %} {{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
    roles = {"bos": "<s>", "eos": "</s>"}
    tokenizer = Tokenizer.from_parts(Parts(backend, "word", roles, frozenset({1}), template))
    row = {"prompt": [{"role": "user", "content": "a a a b"}], "chosen": "c b", "rejected": "c c"}
    examples = encoded(tmp_path, [row], "preference", tokenizer, max_length=5)
    assert [examples[n][0].tolist() for n in range(2)] == [[0, 3, 4, 3, 1], [0, 3, 4, 4, 1]]
    asked = encoded(tmp_path, [{"prompt": row["prompt"]}, {"prompt": "a b c c"}], "rollout", tokenizer, max_length=3)
    assert [asked[n][0].tolist() for n in range(2)] == [[0, 2, 3], [0, 4, 4]]


@pytest.mark.parametrize(
    ("task", "row", "options", "said"),
    [
        (
            "preference",
            {"chosen": "a", "rejected": "b"},
            {"loss_on": "all"},
            "the task preference has no all to learn from; leave loss_on out",
        ),
        (
            "kto",
            {"prompt": "a", "completion": "b", "label": 1},
            {"causal": False},
            "the task kto needs a decoder, and this is an encoder",
        ),
        ("rollout", {"prompt": "a"}, {"causal": False}, "the task rollout needs a decoder, and this is an encoder"),
        (
            "preference",
            {"prompt": [USER], "chosen": "a", "rejected": "b"},
            {"causal": False},
            "line 1 is a chat, which this encoder has no template for; compare chats by a decoder",
        ),
        ("preference", {"prompt": [USER], "chosen": "a", "rejected": "b"}, {}, "this model has no chat template"),
        ("rollout", {"prompt": [USER]}, {}, "this model has no chat template"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, encoder: Tokenizer, task: Any, row: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        encoded(tmp_path, [row], task, encoder, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rated_texts_are_no_pairs_yet(tmp_path: Path, decoder: Tokenizer) -> None:
    rows = [{"text": "a", "rating": 1}, {"text": "b", "rating": 3}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    records = read_records(path, task="preference")
    with pytest.raises(ValueError, match="pairs are encoded: split_records makes them"):
        encode_records(records, decoder, max_length=8)
    examples = encode_records(records.paired(), decoder, max_length=8)
    assert np.array_equal(examples[0][0], [*decoder.encode("b"), decoder.eos_id])
