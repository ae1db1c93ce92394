"""Examples: which tokens are supervised, what is cut, where tags stand; and how it is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from scratchlm.data import IGNORE, Examples, encode_records, read_records
from scratchlm.data.examples import encode_texts, encode_words
from scratchlm.errors import UserError
from scratchlm.tokenizers import Tokenizer, train_tokenizer
from scratchlm.tokenizers.parts import Parts

TEXT = "The quick brown fox jumps over the lazy dog; system user assistant Be kind. Hi Hello! 1 + 1 = 2 \n" * 3
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENDLESS = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
ENDLESS += "{% if add_generation_prompt %}{{ '\n' }}assistant: {% endif %}"
CHAT = [("user", "Hi"), ("assistant", "Hello!"), ("user", "The dog"), ("assistant", "jumps over")]


@pytest.fixture(scope="module")
def decoder() -> Tokenizer:
    """Byte-level BPE with <|im_end|> for EOS and a chat template."""
    specials = ["<|im_start|>", "<|im_end|>"]
    made = train_tokenizer("bpe", [TEXT], vocab_size=330, special_tokens=specials)
    ends = [made.id_of("<|im_end|>") or 0]
    return Tokenizer(
        made.backend, "bpe", unknown="token", roles={"eos": "<|im_end|>"}, end_ids=ends, chat_template=CHATML
    )


@pytest.fixture(scope="module")
def encoder() -> Tokenizer:
    """WordPiece with [CLS] and [SEP]."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##believ", "##able", "ada", "runs", "in", "paris", "##ian", "."]
    backend = Backend(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(words[:4])
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    return Tokenizer.from_parts(Parts(backend, "wordpiece", {"pad": "[PAD]", "unk": "[UNK]"}, frozenset(), None, None))


def encoded(folder: Path, rows: list[dict[str, Any]], tokenizer: Tokenizer, **options: Any) -> Examples:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    keep = {key: options.pop(key) for key in ("task", "bad", "labels") if key in options}
    return encode_records(read_records(path, **keep), tokenizer, **{"max_length": 64, **options})


def learned(examples: Examples, number: int = 0) -> list[int]:
    """The ids that are supervised."""
    return [int(target) for target in examples[number][1] if target != IGNORE]


def messages(turns: list[tuple[str, str]]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_a_completion_and_its_end_are_learned_and_nothing_of_the_prompt(tmp_path: Path, decoder: Tokenizer) -> None:
    examples = encoded(tmp_path, [{"prompt": "1 + 1 =", "completion": " 2"}], decoder)
    prompt, answer = decoder.encode("1 + 1 ="), [*decoder.encode(" 2"), decoder.eos_id]
    ids, targets = examples[0]
    assert ids.tolist() == prompt + answer
    assert targets.tolist() == [IGNORE] * (len(prompt) - 1) + answer + [IGNORE]
    assert examples.show(decoder) == "1 + 1 =⟦ 2<|im_end|>⟧"


def test_all_tokens_but_the_first_can_be_learned(tmp_path: Path, decoder: Tokenizer) -> None:
    examples = encoded(tmp_path, [{"prompt": "1 + 1 =", "completion": " 2"}], decoder, loss_on="all")
    assert learned(examples) == examples.ids[1:].tolist()
    assert examples.ids[-1] == decoder.eos_id
    chat = encoded(tmp_path, [messages(CHAT)], decoder, loss_on="all")
    assert learned(chat) == chat.ids[1:].tolist()


def test_a_text_is_learned_whole_with_its_end(tmp_path: Path, decoder: Tokenizer) -> None:
    examples = encoded(tmp_path, [{"text": "The dog <|im_end|>"}, {"text": "Hi"}], decoder)
    ids = [*decoder.encode("The dog <|im_end|>"), decoder.eos_id]
    assert examples[0][0].tolist() == ids
    assert ids.count(decoder.eos_id) == 1  # a text cannot spell an end into itself
    assert learned(examples) == ids[1:]
    assert (len(examples), examples.supervised, examples.truncated) == (2, len(examples.ids) - 2, 0)


def test_of_a_chat_the_assistants_turns_are_learned_with_their_ends(tmp_path: Path, decoder: Tokenizer) -> None:
    examples = encoded(tmp_path, [messages(CHAT)], decoder)
    assert examples.show(decoder) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n"
        "<|im_start|>user\nThe dog<|im_end|>\n<|im_start|>assistant\n⟦jumps over<|im_end|>⟧\n"
    )


def test_where_the_template_ends_no_turn_the_end_is_added(tmp_path: Path, decoder: Tokenizer) -> None:
    examples = encoded(tmp_path, [messages(CHAT[:2])], decoder, template=ENDLESS)
    assert examples.show(decoder) == "user: Hi\nassistant: ⟦Hello!<|im_end|>⟧"


def test_a_long_prompt_loses_its_beginning_and_the_completion_survives(tmp_path: Path, decoder: Tokenizer) -> None:
    row = {"prompt": TEXT, "completion": " The lazy dog"}
    answer = [*decoder.encode(" The lazy dog"), decoder.eos_id]
    examples = encoded(tmp_path, [row], decoder, max_length=20)
    ids, _ = examples[0]
    assert len(ids) == 20
    assert ids.tolist() == [*decoder.encode(TEXT)[len(answer) - 20 :], *answer]
    assert (learned(examples), examples.truncated) == (answer, 1)


def test_what_is_cut_at_its_end_is_not_said_to_end(tmp_path: Path, decoder: Tokenizer) -> None:
    long = encoded(tmp_path, [{"prompt": "Hi", "completion": TEXT}], decoder, max_length=9)
    assert learned(long) == decoder.encode(TEXT)[:8]
    text = encoded(tmp_path, [{"text": TEXT}], decoder, max_length=9)
    assert text.ids.tolist() == decoder.encode(TEXT)[:9]
    assert (long.truncated, text.truncated) == (1, 1)
    assert "1 truncated to 9 tokens" in text.description()


def test_a_whole_file_is_read_in_parts_that_predict_each_token_once(tmp_path: Path, decoder: Tokenizer) -> None:
    path = tmp_path / "book.txt"
    path.write_text(TEXT)
    whole = [*decoder.encode(TEXT), decoder.eos_id]
    for max_length in (2, 7, len(whole) - 1, len(whole), len(whole) + 1):
        examples = encode_records(read_records(path), decoder, max_length=max_length)
        assert [one for n in range(len(examples)) for one in learned(examples, n)] == whole[1:]
        assert max(examples.lengths) <= max_length
        assert examples.truncated == 0
        assert set(examples.rows) == {0}


def test_a_label_stands_at_an_encoders_first_token_and_a_decoders_last(
    tmp_path: Path, decoder: Tokenizer, encoder: Tokenizer
) -> None:
    rows = [{"text": "Ada runs.", "label": "good"}, {"text": "Ada", "label": "bad"}]
    examples = encoded(tmp_path, rows, encoder, causal=False)
    assert examples[0][0].tolist() == [2, 7, 8, 12, 3]
    assert examples[0][1].tolist() == [1, *[IGNORE] * 4]
    last = encoded(tmp_path, rows, decoder)
    assert last[0][0].tolist() == decoder.encode("Ada runs.")
    assert last[0][1].tolist() == [*[IGNORE] * (len(last[0][0]) - 1), 1]
    assert examples.show(encoder).endswith(" → good")
    assert examples.labels == ("bad", "good")


def test_an_encoder_made_here_reads_bos_first(tmp_path: Path) -> None:
    ours = train_tokenizer("word", ["ada runs"], special_tokens=["[BOS]", "[MASK]"])
    rows = [{"text": "ada runs", "label": 0}, {"text": "ada", "label": 1}]
    assert encoded(tmp_path, rows, ours, causal=False)[0][0].tolist() == [ours.bos_id, *ours.encode("ada runs")]


def test_a_tag_stands_at_the_first_sub_token_of_its_word(tmp_path: Path, encoder: Tokenizer) -> None:
    row = {"tokens": ["Ada", "runs", "unbelievable", "\u200b", "Parisian", "."], "tags": ["B", "O", "O", "O", "I", "O"]}
    examples = encoded(tmp_path, [row], encoder, causal=False)
    assert examples[0][0].tolist() == [2, 7, 8, 4, 5, 6, 10, 11, 12, 3]
    names = [None if target == IGNORE else examples.labels[target] for target in examples[0][1]]
    assert names == [None, "B", "O", "O", None, None, "I", None, "O", None]
    assert examples.show(encoder) == "ada → B; runs → O; unbelievable → O; parisian → I; . → O;"
    cut = encoded(tmp_path, [row], encoder, causal=False, max_length=5)
    assert cut[0][0].tolist() == [2, 7, 8, 4, 3]
    assert (len(learned(cut)), cut.truncated) == (3, 1)


def test_words_are_encoded_as_in_a_sentence(decoder: Tokenizer, encoder: Tokenizer) -> None:
    words = ["The", "quick", "brown", "dog"]
    for tokenizer in (decoder, encoder):
        assert [i for word in next(encode_words(tokenizer, [words])) for i in word] == tokenizer.encode(" ".join(words))


def test_many_texts_at_once_are_as_one_by_one(decoder: Tokenizer, encoder: Tokenizer) -> None:
    texts = [TEXT, "", "naïve <|im_end|> 🧑\u200d🌾", "  two  spaces\n\n"]
    for tokenizer in (decoder, encoder):
        assert encode_texts(tokenizer, texts) == [tokenizer.encode(text) for text in texts]
    words = train_tokenizer("word", ["a b"], unknown="error")
    with pytest.raises(UserError, match="not in the vocabulary"):
        encode_texts(words, ["a c"])


def test_sentencepiece_answers_continue_their_prompts(tmp_path: Path) -> None:
    pieces = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "a": 4, "b": 5, "c": 6, "▁a": 7, "▁b": 8, "bc": 9}
    backend = Backend(models.BPE(vocab=pieces, merges=[("▁", "a"), ("▁", "b"), ("b", "c")], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    roles = {"bos": "<s>", "eos": "</s>"}
    llama = Tokenizer.from_parts(Parts(backend, "spm", roles, frozenset({2}), None, None))
    examples = encoded(tmp_path, [{"prompt": "a", "completion": "bc"}, {"prompt": "a", "completion": " bc"}], llama)
    assert examples[0][0].tolist() == [1, 7, 9, 2]  # no space that nobody wrote
    assert examples[1][0].tolist() == [1, 7, 8, 6, 2]
    assert (learned(examples), learned(examples, 1)) == ([9, 2], [8, 6, 2])


def test_many_rows_are_encoded_as_each_alone(
    tmp_path: Path, decoder: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"Hi {n}", "completion": " " + "dog " * (n % 5 + 1)} for n in range(11)]
    whole = encoded(tmp_path, rows, decoder)
    monkeypatch.setattr("scratchlm.data.examples._ROWS_AT_ONCE", 3)
    parts = encoded(tmp_path, rows, decoder)
    for field in ("ids", "targets", "offsets", "rows"):
        assert np.array_equal(getattr(whole, field), getattr(parts, field))


def test_a_chat_that_is_cut_before_its_answer_is_named_or_skipped(tmp_path: Path, decoder: Tokenizer) -> None:
    rows = [messages(CHAT[:2]), messages([("user", TEXT), ("assistant", "Hi")])]
    with pytest.raises(UserError, match=r"line 2: nothing is left to learn in its first 40 tokens; raise max_length"):
        encoded(tmp_path, rows, decoder, max_length=40)
    examples = encoded(tmp_path, rows, decoder, max_length=40, bad="skip")
    assert (len(examples), examples.rows.tolist(), examples.skipped.count) == (1, [0], 1)
    assert "skipped 1 bad rows" in examples.description()


def test_a_chat_that_the_template_refuses_is_named(tmp_path: Path, decoder: Tokenizer) -> None:
    template = "{% if messages[0].role != 'user' %}{{ raise_exception('begin with a user') }}{% endif %}" + CHATML
    rows = [messages(CHAT), messages([("system", "x"), *CHAT])]
    with pytest.raises(UserError, match=r"rows.jsonl, line 2: .*begin with a user"):
        encoded(tmp_path, rows, decoder, template=template)


@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        ({"text": "Hi"}, {"loss_on": "completion"}, "the task lm has no completion to learn from"),
        (
            {"prompt": "a", "completion": "b"},
            {"loss_on": "assistant"},
            "the task prompt has no assistant to learn from",
        ),
        (messages(CHAT), {"loss_on": "completion"}, "the task chat has no completion"),
        ({"text": "Hi"}, {"loss_on": "some"}, "there is no loss on 'some'; choose one of: auto, completion"),
        ({"text": "Hi"}, {"max_length": 1}, "max_length is 1; give at least 2 tokens"),
        ({"text": "Hi"}, {"causal": False}, "the task lm needs a decoder, and this is an encoder"),
        (messages([("user", TEXT), ("assistant", "Hi")]), {"max_length": 9, "bad": "skip"}, "no row is left to learn"),
    ],
)
def test_options_that_do_not_fit_are_one_clear_line(
    tmp_path: Path, decoder: Tokenizer, row: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        encoded(tmp_path, [row], decoder, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_words_without_tokens_alone_are_named(tmp_path: Path, encoder: Tokenizer) -> None:
    rows = [{"tokens": ["Ada"], "tags": ["O"]}, {"tokens": ["\u200b"], "tags": ["O"]}]
    with pytest.raises(UserError, match="line 2: none of its words has a token"):
        encoded(tmp_path, rows, encoder, causal=False)


def test_no_template_is_the_models_lack_and_not_a_rows(tmp_path: Path) -> None:
    plain = train_tokenizer("bpe", [TEXT], vocab_size=300)
    with pytest.raises(UserError, match="this model has no chat template"):
        encoded(tmp_path, [messages(CHAT)], plain, bad="skip")


def test_a_vocabulary_without_an_end_is_told(tmp_path: Path) -> None:
    plain = train_tokenizer("bpe", [TEXT], vocab_size=300)
    examples = encoded(tmp_path, [{"text": "The dog"}], plain)
    assert examples.ids.tolist() == plain.encode("The dog")
    assert "no EOS, so the model does not learn to stop" in examples.description()


def test_the_histogram_counts_every_row(tmp_path: Path, decoder: Tokenizer) -> None:
    examples = encoded(tmp_path, [{"text": "Hi " * n} for n in range(1, 30)], decoder)
    counts = [int(line.replace("-", " ").split()[2].replace(",", "")) for line in examples.histogram().split("\n")[1:]]
    assert sum(counts) == 29
    assert np.isclose(examples.lengths.mean(), len(examples.ids) / 29)
