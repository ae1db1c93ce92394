from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from scratchlm.errors import UserError
from scratchlm.evaluation.evaluate import evaluate_pairs, evaluate_run, evaluate_text
from scratchlm.evaluation.report import comparison_table, result_table, to_json
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.models import Decoder, Encoder, ModelConfig, build_model
from scratchlm.tokenizers import Tokenizer, train_tokenizer

TEXT = "\nto be, or not to be, that is the question\n" * 2


@pytest.fixture(scope="module")
def characters() -> Tokenizer:
    return train_tokenizer("char", [TEXT])


@pytest.fixture(scope="module")
def decoder(characters: Tokenizer) -> Decoder:
    torch.manual_seed(0)
    return build_model(ModelConfig(vocab_size=characters.vocab_size, context=8, width=16, layers=1, heads=2))


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return train_tokenizer("word", [TEXT], special_tokens=("[PAD]", "[UNK]", "[MASK]"))


@pytest.fixture(scope="module")
def encoder(words: Tokenizer) -> Encoder:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=words.vocab_size, architecture="encoder", context=4, width=16, layers=1, heads=2)
    return build_model(config)


def rendered(table: object, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def test_a_decoders_figures_are_there_for_both_texts_and_the_held_out_one_leads(
    decoder: Decoder, characters: Tokenizer
) -> None:
    ids = characters.encode_array(TEXT)
    result = evaluate_run(decoder, characters, ids[:60], ids[60:], new_tokens=30)
    assert result["measured_on"] == "validation"
    for key in ("cross_entropy", "perplexity", "accuracy", "bits_per_character"):
        assert result[key] == result["validation"][key] != result["training"][key]
    assert result["perplexity"] == pytest.approx(math.exp(result["cross_entropy"]))
    assert result["bits_per_character"] == pytest.approx(result["cross_entropy"] / math.log(2))
    assert result["cross_entropy"] >= result["floor_cross_entropy"]
    assert result["distinct_units"] == "characters"
    assert len(result["sample"]) == 8 + 30
    assert 0 < result["distinct_1"] <= result["distinct_2"] <= 1
    assert result == json.loads(to_json(result))


def test_without_a_held_out_text_the_training_text_leads(decoder: Decoder, characters: Tokenizer) -> None:
    result = evaluate_run(decoder, characters, characters.encode_array(TEXT), new_tokens=0)
    assert result["measured_on"] == "training"
    assert "validation" not in result
    assert "distinct_1" not in result


def test_the_sample_follows_prompt_and_settings(decoder: Decoder, characters: Tokenizer) -> None:
    ids = characters.encode_array(TEXT)
    greedy = SamplingConfig(greedy=True)
    result = evaluate_run(decoder, characters, ids, new_tokens=5, prompt="not ", sampling=greedy)
    assert result["sample"].startswith("not ")
    assert result == evaluate_run(decoder, characters, ids, new_tokens=5, prompt="not ", sampling=greedy)


def test_an_encoder_is_measured_on_hidden_words_and_has_no_bits_per_character(
    encoder: Encoder, words: Tokenizer
) -> None:
    result = evaluate_run(encoder, words, words.encode_array(TEXT))
    assert {"cross_entropy", "perplexity", "accuracy", "floor_cross_entropy"} <= set(result)
    assert not {"bits_per_character", "distinct_1"} & set(result)


def test_windows_can_be_set_apart_and_then_have_no_floor(decoder: Decoder, characters: Tokenizer) -> None:
    ids = characters.encode_array(TEXT)
    apart = evaluate_text(decoder, characters, ids, windows="apart")
    assert (apart["windows"], apart["tokens"]) == ("apart", len(ids) - 1)
    assert "floor_cross_entropy" not in apart
    assert evaluate_text(decoder, characters, ids)["windows"] == "every"


def test_a_long_text_is_read_in_windows_set_apart(
    decoder: Decoder, characters: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scratchlm.evaluation.evaluate.EVERY_WINDOW_LIMIT", 100)
    assert evaluate_text(decoder, characters, characters.encode_array(TEXT))["windows"] == "apart"


def test_a_model_that_knows_the_text_reaches_its_floor(characters: Tokenizer) -> None:
    class Oracle(Decoder):
        """Answers with the observed shares of what follows the window so far."""

        def forward_batch(self, batch):  # type: ignore[no-untyped-def]
            shares = torch.full((*batch.ids.shape, characters.vocab_size), 1e-30)
            windows = np.lib.stride_tricks.sliding_window_view(text_ids, 9)
            for row in range(batch.ids.shape[0]):
                for t in range(8):
                    same = (windows[:, : t + 1] == batch.ids[row, : t + 1].numpy()).all(axis=1)
                    for following in windows[same, t + 1]:
                        shares[row, t, following] += 1
            return shares.log()

    text_ids = characters.encode_array(TEXT)
    oracle = Oracle(ModelConfig(vocab_size=characters.vocab_size, context=8, width=16, layers=1, heads=2))
    figures = evaluate_text(oracle, characters, text_ids)
    assert figures["floor_cross_entropy"] > 0.01
    assert figures["cross_entropy"] == pytest.approx(figures["floor_cross_entropy"], rel=1e-4)
    assert figures["accuracy"] == pytest.approx(figures["floor_accuracy"])


def test_pairs_give_token_figures_and_exact_matches() -> None:
    tokenizer = train_tokenizer("char", ["abc"], special_tokens=("[PAD]", "[BOS]", "[EOS]"))
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, architecture="seq2seq", context=6, width=16, layers=1, heads=2, dropout=0.0
    )
    torch.manual_seed(0)
    model = build_model(config)
    with torch.no_grad():  # always ends at once: right for an empty target only
        model.head.weight.zero_()
        model.head.bias.zero_()
        model.head.bias[tokenizer.eos_id] = 9.0
    figures = evaluate_pairs(model, tokenizer, [("ab", ""), ("b", "a"), ("c", "bc"), ("a", ""), ("bb", "")])
    assert figures["exact_match"] == 3 / 5
    assert figures["tokens"] == 1 + 2 + 3 + 1 + 1
    assert figures["accuracy"] == 5 / 8
    assert figures["pairs"] == 5


def test_plain_text_is_not_for_an_encoder_decoder(characters: Tokenizer) -> None:
    model = build_model(
        ModelConfig(vocab_size=characters.vocab_size, architecture="seq2seq", width=16, layers=1, heads=2)
    )
    with pytest.raises(UserError, match="pairs"):
        evaluate_text(model, characters, characters.encode_array(TEXT))


def test_a_tokenizer_without_a_mask_is_not_the_encoders(encoder: Encoder, characters: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"\[MASK\]"):
        evaluate_text(encoder, characters, characters.encode_array(TEXT))


@pytest.mark.parametrize(
    ("preset", "figures", "shown"),
    [
        ("tinybert", {"cross_entropy": 0.01, "perplexity": 1.01, "accuracy": 1.0}, ["0.2245", "1.25", "0.0100"]),
        (
            "tinygpt",
            {
                "cross_entropy": 0.0369,
                "perplexity": 1.0376,
                "accuracy": 0.98511,
                "bits_per_character": 0.0532,
                "distinct_1": 0.11,
                "distinct_2": 0.43,
                "floor_cross_entropy": 0.0346,
                "floor_accuracy": 0.9854,
            },
            ["0.0399", "98.48", "0.058", "0.113", "0.432", "0.0369", "98.51", "0.053", "98.54", "0.050", "floor"],
        ),
    ],
)
def test_our_figures_stand_beside_the_tutorials_in_eighty_columns(
    preset: str, figures: dict[str, float], shown: list[str]
) -> None:
    text = rendered(comparison_table(preset, figures))
    assert all(number in text for number in shown)
    assert "…" not in text


def test_a_run_of_any_preset_has_a_table_with_both_texts(decoder: Decoder, characters: Tokenizer) -> None:
    ids = characters.encode_array(TEXT)
    result = evaluate_run(decoder, characters, ids[:60], ids[60:], new_tokens=20)
    text = rendered(result_table(result, "a run"))
    assert "training" in text
    assert f"{result['training']['cross_entropy']:.4f}" in text
    assert f"{result['validation']['cross_entropy']:.4f}" in text
    assert "…" not in text


def test_what_json_cannot_say_becomes_null() -> None:
    assert json.loads(to_json({"perplexity": math.inf, "parts": [1.5, math.nan]})) == {
        "perplexity": None,
        "parts": [1.5, None],
    }
