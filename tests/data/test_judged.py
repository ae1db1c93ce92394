"""Where a reward is read: the same place, whatever stands after the text and however it was encoded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scratchlm.data import IGNORE, Examples, encode_records
from scratchlm.data.judged import at_reading_place, encode_judged
from scratchlm.data.record_rows import Record
from scratchlm.data.records import Records, Skipped
from scratchlm.tokenizers import Tokenizer, train_tokenizer

ROWS = [Record(prompt="the cat ", texts=("sat",)), Record(texts=("a mat",)), Record(prompt="it ", texts=("",))]


def known(*specials: str) -> Tokenizer:
    return train_tokenizer("bpe", ["the cat sat on a mat and it rained"] * 3, vocab_size=270, special_tokens=specials)


def examples(targets: list[list[int]]) -> Examples:
    lengths = [len(one) for one in targets]
    return Examples(
        "preference",
        np.arange(sum(lengths), dtype=np.uint32),
        np.concatenate(targets).astype(np.int32),
        np.cumsum([0, *lengths]),
        np.arange(len(targets)) // 2,
        (),
        8,
        0,
        Skipped(),
    )


def test_each_example_has_its_number_where_its_reward_is_read() -> None:
    no = IGNORE
    given = examples([[no, no, 7, 8, no], [5, no, no], [no, 3], [4, no]])
    decoder = at_reading_place(given, (8, 3), first=10)  # the texts that end in 5 and 4 were stopped
    assert decoder.targets.tolist() == [no, no, no, 10, no, no, 11, no, no, 12, no, 13]
    encoder = at_reading_place(given, None)
    assert encoder.targets.tolist() == [0, no, no, no, no, 1, no, no, 2, no, 3, no]
    assert given.targets.tolist()[:5] == [no, no, 7, 8, no]  # what was given is as it was
    assert decoder.ids is given.ids


@pytest.mark.parametrize("end", [(), ("<|endoftext|>",)])
def test_a_decoders_is_the_last_token_of_the_text_with_and_without_an_end(end: tuple[str, ...]) -> None:
    tokenizer = known(*end)
    assert (tokenizer.eos_id is not None) == bool(end)
    rows = ROWS[:2] if not end else ROWS  # without an end an empty completion leaves nothing to read
    for row, one in zip(rows, encode_judged(rows, tokenizer, 30, encoder=False), strict=True):
        text = [*tokenizer.prefix_ids, *tokenizer.encode(row.prompt), *tokenizer.encode(row.texts[0])]
        assert one.ids.tolist()[: len(text)] == text
        assert one.place == len(text) - 1
        assert not one.truncated


def test_an_encoders_is_the_first_token() -> None:
    tokenizer = known("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    for row, one in zip(ROWS, encode_judged(ROWS, tokenizer, 30, encoder=True), strict=True):
        text = tokenizer.encode(row.prompt + row.texts[0])
        assert one.place == 0
        assert [i for i in one.ids.tolist() if i not in tokenizer.special_ids] == text


@pytest.mark.parametrize("encoder", [False, True])
def test_what_has_no_token_has_no_place_and_what_is_too_long_is_cut(encoder: bool) -> None:
    tokenizer = known("<|endoftext|>")
    nothing, long, short = encode_judged(
        [
            Record(texts=(text,), prompt="the cat " if n == 1 else "")
            for n, text in enumerate(("", "a mat " * 9, "sat"))
        ],
        tokenizer,
        12,
        encoder,
    )
    assert nothing.place == -1
    assert (len(long.ids), long.truncated, short.truncated) == (12, True, False)
    assert long.place == (0 if encoder else 11)


@pytest.mark.parametrize("encoder", [False, True])
def test_texts_are_judged_where_they_are_learned_from(encoder: bool) -> None:
    """Cut ones too: the prompt's beginning first."""
    tokenizer = known("<|endoftext|>")
    pairs = [("a mat", "it rained"), ("the cat sat on a mat and it rained", "sat")]
    rows = [Record(prompt=prompt, texts=pair) for prompt in ("", "the cat and the mat ") for pair in pairs]
    records = Records("", "", "preference", "", {}, rows)
    trained = encode_records(records, tokenizer, max_length=12, causal=not encoder)
    placed = at_reading_place(trained, None if encoder else tokenizer.eos_ids)
    singly = [replace(row, texts=(text,)) for row in rows for text in row.texts]
    judged = encode_judged(singly, tokenizer, 12, encoder)
    assert sum(one.truncated for one in judged) == trained.truncated > 0
    for number, one in enumerate(judged):
        ids, targets = placed[number]
        assert one.ids.tolist() == ids.tolist()
        assert targets.tolist() == [number if n == one.place else IGNORE for n in range(len(ids))]
