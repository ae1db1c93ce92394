from __future__ import annotations

import itertools

import pytest
import torch

from scratchlm.errors import UserError
from scratchlm.generation.generate import generate
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.models import Decoder, Encoder, ModelConfig, Seq2Seq, build_model
from scratchlm.tokenizers import Tokenizer, train_tokenizer

SEEDED = SamplingConfig(seed=11)
GREEDY = SamplingConfig(greedy=True)


def decoder_for(tokenizer: Tokenizer, context: int = 16) -> Decoder:
    torch.manual_seed(3)
    model = build_model(ModelConfig(vocab_size=tokenizer.vocab_size, context=context, width=32, layers=1, heads=2))
    assert isinstance(model, Decoder)
    return model.eval()


def test_the_same_seed_gives_the_same_text_and_another_seed_another(decoder: Decoder, characters: Tokenizer) -> None:
    first, again = (generate(decoder, characters, "Rum", max_new_tokens=40, sampling=SEEDED)[0] for _ in range(2))
    other = generate(decoder, characters, "Rum", max_new_tokens=40, sampling=SamplingConfig(seed=12))[0]
    assert first == again
    assert first.completion != other.completion
    assert len(first.ids) == len(first.completion) == 40
    assert (first.finish_reason, first.seed) == ("length", 11)
    assert first.text == "Rum" + first.completion


def test_a_fresh_seed_is_told_and_makes_the_text_again(decoder: Decoder, characters: Tokenizer) -> None:
    fresh = generate(decoder, characters, "Rum", max_new_tokens=20)[0]
    again = generate(decoder, characters, "Rum", max_new_tokens=20, sampling=SamplingConfig(seed=fresh.seed))[0]
    assert fresh.completion == again.completion


def test_a_longer_budget_continues_the_same_text(decoder: Decoder, characters: Tokenizer) -> None:
    short, long = (generate(decoder, characters, "R", max_new_tokens=n, sampling=SEEDED)[0] for n in (10, 30))
    assert long.ids[:10] == short.ids


def test_a_sample_depends_on_neither_the_number_of_samples_nor_the_other_prompts(
    decoder: Decoder, characters: Tokenizer
) -> None:
    two = generate(decoder, characters, "Rum", max_new_tokens=30, samples=2, sampling=SEEDED)
    many = generate(decoder, characters, ["al", "Rum"], max_new_tokens=30, samples=5, sampling=SEEDED)
    assert [g.prompt for g in many] == ["al"] * 5 + ["Rum"] * 5
    assert [g.ids for g in many[5:7]] == [g.ids for g in two]
    assert len({g.completion for g in many}) == 10


@pytest.mark.parametrize(
    "sampling",
    [
        SEEDED,
        GREEDY,
        SamplingConfig(temperature=0.7, top_k=5, top_p=0.9, min_p=0.01, repetition_penalty=1.3, seed=4),
    ],
    ids=["plain", "greedy", "all filters"],
)
def test_with_and_without_the_cache_the_text_is_the_same(
    decoder: Decoder, characters: Tokenizer, sampling: SamplingConfig
) -> None:
    with_cache, without = (
        generate(decoder, characters, "Rumi", max_new_tokens=60, sampling=sampling, samples=2, use_cache=use)
        for use in (True, False)
    )
    assert [g.ids for g in with_cache] == [g.ids for g in without]


def test_a_repetition_penalty_makes_text_repeat_less(decoder: Decoder, characters: Tokenizer) -> None:
    plain = generate(decoder, characters, "Rumi", max_new_tokens=30, sampling=GREEDY)[0]
    penalised = generate(
        decoder, characters, "Rumi", max_new_tokens=30, sampling=SamplingConfig(greedy=True, repetition_penalty=50.0)
    )[0]
    assert len(set(penalised.ids)) > len(set(plain.ids))
    assert not set(penalised.ids[:5]) & set(characters.encode("Rumi"))


def test_the_repetition_penalty_counts_the_prompt(characters: Tokenizer) -> None:
    model = decoder_for(characters)
    first, second = characters.encode("al")
    with torch.no_grad():  # always likes "a" a little better than "l"
        model.head.weight.zero_()
        model.head.bias.zero_()
        model.head.bias[first], model.head.bias[second] = 5.0, 4.5
    penalised = SamplingConfig(greedy=True, repetition_penalty=1.5)
    made = [generate(model, characters, prompt, max_new_tokens=2, sampling=penalised)[0] for prompt in ("a", "R")]
    assert [generation.completion for generation in made] == ["la", "al"]


def test_no_token_is_made_with_a_budget_of_zero(decoder: Decoder, characters: Tokenizer) -> None:
    (made,) = generate(decoder, characters, "Rumi", max_new_tokens=0)
    assert (made.completion, made.ids, made.finish_reason, made.text) == ("", [], "length", "Rumi")


def test_a_stop_string_that_spans_tokens_ends_the_text_before_it(decoder: Decoder, characters: Tokenizer) -> None:
    free = generate(decoder, characters, "Rumi", max_new_tokens=60, sampling=SEEDED)[0].completion
    stop = free[20:24]
    end = free.find(stop)
    shown: list[str] = []
    (cut,) = generate(
        decoder,
        characters,
        "Rumi",
        max_new_tokens=60,
        sampling=SEEDED,
        stop=[stop, "never"],
        on_text=lambda _, text: shown.append(text),
    )
    assert (cut.completion, cut.finish_reason) == (free[:end], "stop")
    assert "".join(shown) == cut.completion
    assert len(cut.ids) == end + len(stop)


def test_samples_that_stop_early_leave_the_others_unchanged(decoder: Decoder, characters: Tokenizer) -> None:
    free = generate(decoder, characters, "Rumi", max_new_tokens=50, samples=6, sampling=SEEDED)
    cut = generate(decoder, characters, "Rumi", max_new_tokens=50, samples=6, sampling=SEEDED, stop="a")
    assert {g.finish_reason for g in cut} <= {"stop", "length"}
    assert len({len(g.ids) for g in cut}) > 1
    for whole, part in zip(free, cut, strict=True):
        assert part.completion == whole.completion.split("a")[0]


def test_streamed_text_is_the_completion_and_never_half_a_character(pieces: Tokenizer) -> None:
    model = decoder_for(pieces)
    shown: dict[int, list[str]] = {0: [], 1: []}
    made = generate(
        model,
        pieces,
        "Jalāl",
        max_new_tokens=300,
        samples=2,
        sampling=SEEDED,
        on_text=lambda number, text: shown[number].append(text),
    )
    for number, generation in enumerate(made):
        assert "".join(shown[number]) == generation.completion == pieces.decode(generation.ids)
        assert all(shown[number])


def test_a_character_of_several_tokens_is_streamed_whole() -> None:
    tokenizer = train_tokenizer("bpe", ["a"], vocab_size=256)
    model = decoder_for(tokenizer, context=32)
    script = iter(tokenizer.encode("āḥ€😀!"))
    with torch.no_grad():  # a model that says what the script says
        model.head.weight.zero_()
    shown: list[str] = []
    handle = model.head.register_forward_hook(
        lambda _m, _i, out: torch.nn.functional.one_hot(torch.tensor([next(script)]), out.shape[-1]) * 100.0
    )
    length = len(tokenizer.encode("āḥ€😀!"))
    made = generate(model, tokenizer, "a", max_new_tokens=length, sampling=GREEDY, on_text=lambda _, t: shown.append(t))
    handle.remove()
    assert shown == ["ā", "ḥ", "€", "😀", "!"]
    assert made[0].completion == "āḥ€😀!"


def test_an_end_token_ends_the_text_and_is_not_shown() -> None:
    tokenizer = train_tokenizer("char", ["ab"], special_tokens=("[PAD]", "[BOS]", "[EOS]"))
    model = decoder_for(tokenizer)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        model.head.bias[tokenizer.eos_id] = 5.0
    (made,) = generate(model, tokenizer, "a", max_new_tokens=9, sampling=GREEDY)
    assert (made.completion, made.ids, made.finish_reason) == ("", [tokenizer.eos_id], "end")


def test_an_empty_prompt_starts_from_the_start_token_where_there_is_one() -> None:
    tokenizer = train_tokenizer("char", ["ab\n"], special_tokens=("[BOS]",))
    model = decoder_for(tokenizer)
    (made,) = generate(model, tokenizer, "", max_new_tokens=1, sampling=GREEDY)
    with torch.no_grad():
        assert made.ids == [int(model(torch.tensor([[tokenizer.bos_id]]))[0, -1].argmax())]


def test_an_empty_prompt_starts_from_a_newline_where_there_is_no_start_token(
    decoder: Decoder, characters: Tokenizer
) -> None:
    empty, newline = (generate(decoder, characters, text, max_new_tokens=20, sampling=SEEDED)[0] for text in ("", "\n"))
    assert empty.ids == newline.ids
    assert (empty.text, newline.text) == (empty.completion, "\n" + empty.completion)


@pytest.mark.parametrize("prompt", ["", "  \n "])
def test_an_empty_prompt_without_anything_to_start_from_says_what_to_do(words: Tokenizer, prompt: str) -> None:
    with pytest.raises(UserError, match="give at least one character or word"):
        generate(decoder_for(words), words, prompt)


def test_words_are_joined_to_the_prompt_by_one_space(words: Tokenizer) -> None:
    model = decoder_for(words)
    made = [generate(model, words, text, max_new_tokens=3, sampling=SEEDED)[0] for text in ("Rumi, was", "Rumi, was ")]
    assert made[0].ids == made[1].ids
    assert made[0].text == made[1].text == "Rumi, was " + words.decode(made[0].ids)


def test_a_prompt_longer_than_the_context_is_read_from_its_end(decoder: Decoder, characters: Tokenizer) -> None:
    long, end = "Jalāl al-Dīn Muḥammad Rūmī, or simply Rumi", "or simply Rumi"
    padded = "a" * 50 + long[-16:]
    first, second = (generate(decoder, characters, t, max_new_tokens=20, sampling=SEEDED)[0] for t in (long, padded))
    assert first.ids == second.ids
    assert first.text.startswith(long)
    assert end in first.text


def test_unknown_characters_in_the_prompt_are_named(decoder: Decoder, characters: Tokenizer) -> None:
    with pytest.raises(UserError, match="☃"):
        generate(decoder, characters, "Rumi ☃")


@pytest.mark.parametrize(
    ("settings", "words_of_the_line"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"samples": 0}, "samples"),
        ({"stop": [""]}, "stop string"),
    ],
)
def test_settings_out_of_range_are_named(
    decoder: Decoder, characters: Tokenizer, settings: dict[str, object], words_of_the_line: str
) -> None:
    with pytest.raises(UserError, match=words_of_the_line) as caught:
        generate(decoder, characters, "Rumi", **settings)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_masked_model_is_refused(encoder: Encoder, words: Tokenizer) -> None:
    with pytest.raises(UserError, match="fill"):
        generate(encoder, words, "Rumi, was")


def test_broken_weights_are_told(characters: Tokenizer) -> None:
    model = decoder_for(characters)
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    for sampling in (SEEDED, GREEDY):
        with pytest.raises(UserError, match="NaN"):
            generate(model, characters, "Rumi", sampling=sampling)


def test_a_model_in_training_mode_generates_without_dropout_and_stays_in_it(characters: Tokenizer) -> None:
    model = decoder_for(characters)
    expected = generate(model, characters, "Rumi", max_new_tokens=20, sampling=SEEDED)[0].ids
    model.train()
    assert generate(model, characters, "Rumi", max_new_tokens=20, sampling=SEEDED)[0].ids == expected
    assert model.training


def test_an_encoder_decoder_answers_its_source() -> None:
    tokenizer = train_tokenizer("char", ["abc\n"], special_tokens=("[PAD]", "[BOS]", "[EOS]"))
    torch.manual_seed(0)
    model = build_model(
        ModelConfig(vocab_size=tokenizer.vocab_size, architecture="seq2seq", context=12, width=32, layers=1, heads=2)
    ).eval()
    assert isinstance(model, Seq2Seq)
    cached, uncached = (
        generate(model, tokenizer, "abca", max_new_tokens=100, sampling=SEEDED, samples=3, use_cache=use)
        for use in (True, False)
    )
    assert [g.ids for g in cached] == [g.ids for g in uncached]
    for generation in cached:
        assert generation.text == generation.completion
        assert len(generation.ids) <= 12
        ids = [tokenizer.bos_id, *generation.ids[:-1]]
        with torch.no_grad():
            logits = model(torch.tensor([ids]), source_ids=torch.tensor([tokenizer.encode("abca")]))
        assert torch.isfinite(logits).all()
    greedy = generate(model, tokenizer, "abca", max_new_tokens=6, sampling=GREEDY)[0].ids
    with torch.no_grad():
        for length in range(1, len(greedy)):
            ids = torch.tensor([[tokenizer.bos_id, *greedy[:length]]])
            expected = model(ids, source_ids=torch.tensor([tokenizer.encode("abca")]))[0, -1].argmax()
            assert greedy[length] == int(expected)


def test_a_source_longer_than_the_context_is_told() -> None:
    tokenizer = train_tokenizer("char", ["abc"], special_tokens=("[PAD]", "[BOS]", "[EOS]"))
    model = build_model(
        ModelConfig(vocab_size=tokenizer.vocab_size, architecture="seq2seq", context=4, width=16, layers=1, heads=2)
    )
    with pytest.raises(UserError, match="shorten it"):
        generate(model, tokenizer, "abcab")


def test_several_prompts_keep_their_order_whatever_their_lengths(decoder: Decoder, characters: Tokenizer) -> None:
    prompts = ["Rumi", "a", "or simply", "Rumi"]
    together = generate(decoder, characters, prompts, max_new_tokens=12, sampling=GREEDY)
    apart = itertools.chain(*(generate(decoder, characters, p, max_new_tokens=12, sampling=GREEDY) for p in prompts))
    assert [g.text for g in together] == [g.text for g in apart]
