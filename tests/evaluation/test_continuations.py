"""Held-out rows: how likely a model finds them, and what it says to their prompts."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from scratchlm.adapters import LoraSettings, add_lora, merge, trainable
from scratchlm.data import IGNORE, Examples, Records, encode_records, read_records
from scratchlm.errors import UserError
from scratchlm.evaluation import continuations
from scratchlm.evaluation.continuations import SAMPLES, Prompt, choose_prompts, continue_prompts, evaluate_examples
from scratchlm.generation.build import build_engine
from scratchlm.generation.engine import Engine
from scratchlm.generation.generate import generate
from scratchlm.generation.native import Segment, Stop
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.models import Decoder, ModelConfig, build_model, with_head
from scratchlm.tokenizers import Tokenizer, render_chat, train_tokenizer

TEXT = "The quick brown fox jumps over the lazy dog; system user assistant Be kind. Hi Hello! 1 + 1 = 2 é 机器\n" * 3
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPTS = [{"prompt": f"{n} + {n} =", "completion": f" {2 * n}"} for n in range(9)]
WORDS = "the quick brown fox jumps over the lazy dog"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Byte-level BPE with <|im_end|> for EOS and a chat template."""
    made = train_tokenizer("bpe", [TEXT], vocab_size=340, special_tokens=["<|im_start|>", "<|im_end|>"])
    ends = [made.id_of("<|im_end|>") or 0]
    return Tokenizer(
        made.backend, "bpe", unknown="token", roles={"eos": "<|im_end|>"}, end_ids=ends, chat_template=CHATML
    )


@pytest.fixture(scope="module")
def decoder(tokenizer: Tokenizer) -> Decoder:
    """Untrained, with weights so large that it tells different prompts apart."""
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=tokenizer.vocab_size, context=64, width=32, layers=2, heads=4, dropout=0.0)
    model = build_model(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
    assert isinstance(model, Decoder)
    return model


def held_out(
    folder: Path, rows: Sequence[dict[str, Any]], tokenizer: Tokenizer, *, max_length: int = 64, **options: Any
) -> tuple[Records, Examples]:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    records = read_records(path, **options)
    return records, encode_records(records, tokenizer, max_length=max_length)


def chosen(tokenizer: Tokenizer, records: Records, examples: Examples, **more: Any) -> list[Prompt]:
    options = {"count": 100, "max_new_tokens": 50, "seed": 0, "prompt_share": 0.5, **more}
    return choose_prompts(tokenizer, records, examples, **options)


def oracle(prompts: Sequence[Prompt], _: int) -> list[str]:
    return [prompt.reference for prompt in prompts]


def test_perplexity_is_that_of_each_row_alone(tmp_path: Path, tokenizer: Tokenizer, decoder: Decoder) -> None:
    records, examples = held_out(tmp_path, PROMPTS, tokenizer)
    nats, right, count = 0.0, 0, 0
    for number in range(len(examples)):
        ids, targets = (torch.from_numpy(part.astype("int64")) for part in examples[number])
        with torch.no_grad():
            logits = decoder(ids[None])[0].log_softmax(-1)
        for place, target in enumerate(targets.tolist()):
            if target != IGNORE:
                nats -= float(logits[place, target])
                right += int(logits[place].argmax()) == target
                count += 1
    figures = evaluate_examples(decoder, tokenizer, records, examples, prompts=0)
    assert count == examples.supervised == figures["tokens"]
    assert figures["cross_entropy"] == pytest.approx(nats / count, rel=1e-5)
    assert figures["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert figures["accuracy"] == pytest.approx(right / count)
    assert (figures["rows"], figures["prompts"], figures["samples"]) == (9, 0, [])
    assert "bleu" not in figures


def test_a_large_vocabulary_changes_nothing(
    tmp_path: Path, tokenizer: Tokenizer, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, examples = held_out(tmp_path, PROMPTS, tokenizer)
    whole = evaluate_examples(decoder, tokenizer, records, examples, prompts=0)
    monkeypatch.setattr("scratchlm.evaluation.scores.LOGITS_AT_ONCE", 3 * tokenizer.vocab_size)
    in_parts = evaluate_examples(decoder, tokenizer, records, examples, prompts=0)
    assert in_parts == {
        **whole,
        "cross_entropy": pytest.approx(whole["cross_entropy"]),
        "perplexity": pytest.approx(whole["perplexity"]),
    }


def test_who_says_what_is_in_the_data_gets_ones(tmp_path: Path, tokenizer: Tokenizer, decoder: Decoder) -> None:
    records, examples = held_out(tmp_path, PROMPTS, tokenizer)
    figures = evaluate_examples(decoder, tokenizer, records, examples, prompts=4, generate=oracle)
    assert figures["exact_match"] == figures["rouge_1"] == figures["bleu_1"] == 1.0
    assert (figures["prompts"], figures["rows"], figures["references_cut"]) == (4, 9, 0)
    assert len(figures["samples"]) == 4 <= SAMPLES
    assert all(sample["reference"] == sample["output"] for sample in figures["samples"])
    assert json.loads(json.dumps(figures)) == figures


def test_the_continuations_are_the_greedy_ones_of_each_prompt_alone(
    tmp_path: Path, tokenizer: Tokenizer, decoder: Decoder
) -> None:
    rows = [{"prompt": TEXT[n : n + 5 + 3 * n], "completion": " Be kind."} for n in range(20)]
    records, examples = held_out(tmp_path, rows, tokenizer)
    prompts = chosen(tokenizer, records, examples)
    found = continue_prompts(decoder, tokenizer, prompts, 8)
    greedy = SamplingConfig(greedy=True)
    alone = [generate(decoder, tokenizer, p.text, max_new_tokens=8, sampling=greedy)[0].completion for p in prompts]
    assert found == alone
    assert len(set(found)) > 3


def test_a_cache_has_room_for_what_is_needed_and_no_more(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_engine(decoder, rows=2, context=20).backend.context == 20
    assert [build_engine(decoder, rows=2, context=room).backend.context for room in (1000, None)] == [64, 64]
    monkeypatch.setattr("scratchlm.generation.build.supported", lambda _: False)
    assert build_engine(decoder, rows=2, context=20).backend.context == 20


def test_an_adapter_takes_part(tmp_path: Path, tokenizer: Tokenizer, decoder: Decoder) -> None:
    records, examples = held_out(tmp_path, PROMPTS, tokenizer)
    model = copy.deepcopy(decoder)
    base = evaluate_examples(model, tokenizer, records, examples, max_new_tokens=8)
    add_lora(model, LoraSettings(rank=4))
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter += 0.3 * torch.randn_like(parameter)
    adapted = evaluate_examples(model, tokenizer, records, examples, max_new_tokens=8)
    merge(model)
    merged = evaluate_examples(model, tokenizer, records, examples, max_new_tokens=8)
    assert adapted["cross_entropy"] == pytest.approx(merged["cross_entropy"], rel=1e-4)
    assert adapted["samples"] == merged["samples"] != base["samples"]


def test_a_rows_prompt_is_read_as_in_training(tmp_path: Path, tokenizer: Tokenizer) -> None:
    records, examples = held_out(tmp_path, PROMPTS, tokenizer)
    for number, prompt in enumerate(chosen(tokenizer, records, examples)):
        ids, targets = examples[number]
        first = next(n for n, target in enumerate(targets.tolist()) if target != IGNORE)
        assert prompt.ids == ids[: first + 1].tolist()
        assert (prompt.text, prompt.reference) == (PROMPTS[number]["prompt"], PROMPTS[number]["completion"])


def test_of_a_chat_the_last_answer_is_asked_for(tmp_path: Path, tokenizer: Tokenizer, decoder: Decoder) -> None:
    turns = [("user", "Hi"), ("assistant", "Hello!"), ("user", "The dog"), ("assistant", "jumps"), ("user", "Hi")]
    chat = [{"role": role, "content": content} for role, content in turns]
    begun = [{"role": "assistant", "content": "Hello!"}]  # there is nothing to answer
    records, examples = held_out(tmp_path, [{"messages": chat}, {"messages": begun}], tokenizer)
    (prompt,) = chosen(tokenizer, records, examples)
    assert prompt.ids == render_chat(tokenizer, chat[:3], add_generation_prompt=True).ids
    assert prompt.ids == examples[0][0][: len(prompt.ids)].tolist()
    assert prompt.reference == "jumps"
    ended = Prompt(prompt.text, prompt.ids, "jumps", skip_special=True)
    (said,) = continue_prompts(decoder, tokenizer, [ended], 30)
    assert "<|im_" not in said


class Scripted:
    """A backend that says the same tokens to every prompt."""

    keeps, enough, precision, context, slots = True, 256, "fp32", 64, 4

    def __init__(self, said: list[int], vocab_size: int, prompt: int) -> None:
        self._said, self.vocab_size, self._prompt = said, vocab_size, prompt
        self.asked = 0

    def logits(self, segments: Sequence[Segment], stop: Stop | None = None) -> torch.Tensor:  # noqa: ARG002
        places = [segment.start + len(segment.ids) - self._prompt for segment in segments]
        self.asked = max(self.asked, *places)
        return torch.nn.functional.one_hot(torch.tensor([self._said[n] for n in places]), self.vocab_size).float()

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Nothing is remembered."""


@pytest.mark.parametrize(("skip_special", "text"), [(True, " jumps"), (False, " jumps<|im_start|>")])
def test_an_end_token_ends_a_text_and_in_chats_others_are_no_part_of_it(
    skip_special: bool, text: str, tokenizer: Tokenizer, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, end = (tokenizer.id_of(name) or 0 for name in ("<|im_start|>", "<|im_end|>"))
    jumps, ids = tokenizer.encode(" jumps"), tokenizer.encode("Hi")
    backend = Scripted([*jumps, start, end, *jumps, *jumps], tokenizer.vocab_size, len(ids))
    monkeypatch.setattr(continuations, "build_engine", lambda *_, **__: Engine(backend))
    assert continue_prompts(decoder, tokenizer, [Prompt("Hi", ids, "", skip_special=skip_special)], 20) == [text]
    assert backend.asked == len(jumps) + 1  # nothing after the end


def test_a_template_of_ones_own_is_used_for_prompts_too(tmp_path: Path, tokenizer: Tokenizer) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    records, examples = held_out(tmp_path, [{"messages": turns}], tokenizer)
    template = CHATML.replace("<|im_start|>", "")
    (prompt,) = chosen(tokenizer, records, examples, template=template)
    assert prompt.text == "user\nHi<|im_end|>\nassistant\n"


@pytest.mark.parametrize(
    ("share", "prompt"),
    [
        (0.5, "the quick brown fox"),
        (0.25, "the quick"),
        (0.01, "the"),
        (0.99, "the quick brown fox jumps over the lazy"),
    ],
)
def test_the_first_words_of_a_text_are_the_prompt(
    share: float, prompt: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    records, examples = held_out(tmp_path, [{"text": WORDS}], tokenizer)
    (found,) = chosen(tokenizer, records, examples, prompt_share=share)
    assert found.text == prompt
    assert found.text + found.reference == WORDS
    assert found.reference.startswith(" ")


def test_where_there_are_no_spaces_characters_count_and_one_is_too_few(tmp_path: Path, tokenizer: Tokenizer) -> None:
    records, examples = held_out(tmp_path, [{"text": "机器器机"}, {"text": "é"}], tokenizer)
    (found,) = chosen(tokenizer, records, examples)
    assert (found.text, found.reference) == ("机器", "器机")


def test_a_text_longer_than_an_example_is_what_the_example_has_of_it(tmp_path: Path, tokenizer: Tokenizer) -> None:
    records, examples = held_out(tmp_path, [{"text": WORDS * 5}], tokenizer, max_length=10)
    (found,) = chosen(tokenizer, records, examples)
    assert found.text + found.reference == tokenizer.decode(examples[0][0].tolist())
    (tmp_path / "book.txt").write_text(f"{WORDS}. " * 20)
    records = read_records(tmp_path / "book.txt")
    examples = encode_records(records, tokenizer, max_length=12)
    parts = chosen(tokenizer, records, examples)
    assert len(parts) == len(examples) > 5
    assert all(len(part.ids) <= 12 for part in parts)


def test_references_are_cut_to_what_may_be_said(tmp_path: Path, tokenizer: Tokenizer, decoder: Decoder) -> None:
    rows = [{"prompt": "Hi", "completion": f" {WORDS}"}, {"prompt": "Hi", "completion": " 1"}]
    records, examples = held_out(tmp_path, rows, tokenizer)
    long, short = chosen(tokenizer, records, examples, max_new_tokens=3)
    assert long.reference == tokenizer.decode(tokenizer.encode(f" {WORDS}")[:3])
    assert (long.cut, short.cut, short.reference) == (True, False, " 1")
    figures = evaluate_examples(decoder, tokenizer, records, examples, max_new_tokens=3, generate=oracle)
    assert figures["references_cut"] == 1


def test_a_seed_draws_the_prompts_and_they_keep_the_rows_order(tmp_path: Path, tokenizer: Tokenizer) -> None:
    records, examples = held_out(tmp_path, PROMPTS, tokenizer)
    some = chosen(tokenizer, records, examples, count=4)
    assert some == chosen(tokenizer, records, examples, count=4)
    order = [row["prompt"] for row in PROMPTS]
    places = [order.index(prompt.text) for prompt in some]
    assert places == sorted(set(places))
    others = [chosen(tokenizer, records, examples, count=4, seed=seed) for seed in range(1, 5)]
    assert any(other != some for other in others)


def test_how_far_it_has_come_is_told_with_the_time_left(
    tmp_path: Path, tokenizer: Tokenizer, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuations, "PLAIN_INTERVAL", 0.0)
    monkeypatch.setattr(continuations, "_TOKENS", 16)
    records, examples = held_out(tmp_path, PROMPTS, tokenizer)
    told: list[str] = []
    evaluate_examples(decoder, tokenizer, records, examples, max_new_tokens=6, note=told.append)
    measuring = [line for line in told if line.startswith("measuring: ")]
    continuing = [line for line in told if line.startswith("continuing: ")]
    assert len(measuring) > 1
    assert len(continuing) > 1
    assert all(line.endswith(" left") for line in told)
    assert f"of {examples.supervised} tokens" in measuring[0]
    assert "of 9 prompts" in continuing[0]


def test_the_model_is_left_as_it_was(tmp_path: Path, tokenizer: Tokenizer, decoder: Decoder) -> None:
    records, examples = held_out(tmp_path, PROMPTS, tokenizer)
    decoder.train()
    first = evaluate_examples(decoder, tokenizer, records, examples, max_new_tokens=4)
    assert decoder.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in decoder.parameters())
    decoder.eval()
    assert evaluate_examples(decoder, tokenizer, records, examples, max_new_tokens=4) == first


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompts": -1}, "0 or more"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"prompt_share": 1.0}, "between 0 and 1"),
        ({"prompt_share": 0.0}, "between 0 and 1"),
    ],
)
def test_numbers_out_of_range_are_told(
    options: dict[str, Any], words: str, tmp_path: Path, tokenizer: Tokenizer, decoder: Decoder
) -> None:
    records, examples = held_out(tmp_path, PROMPTS, tokenizer)
    with pytest.raises(UserError, match=words):
        evaluate_examples(decoder, tokenizer, records, examples, **options)


def test_an_encoder_continues_nothing(tmp_path: Path, tokenizer: Tokenizer) -> None:
    records, examples = held_out(tmp_path, PROMPTS, tokenizer)
    encoder = build_model(ModelConfig(vocab_size=400, architecture="encoder", context=64, width=16, layers=1, heads=2))
    with pytest.raises(UserError, match="decoders"):
        evaluate_examples(encoder, tokenizer, records, examples)


def test_rows_with_labels_get_the_figures_of_labels(tmp_path: Path, tokenizer: Tokenizer, decoder: Decoder) -> None:
    rows = [{"text": f"{WORDS[n:]}", "label": "good" if n % 3 else "bad"} for n in range(12)]
    records, examples = held_out(tmp_path, rows, tokenizer)
    classifier = with_head(decoder, "classify", ("bad", "good"))
    figures = evaluate_examples(classifier, tokenizer, records, examples)
    assert figures["rows"] == 12
    assert {"loss", "accuracy", "macro_f1", "micro_f1", "classes"} <= set(figures)
    rows = [{"tokens": ["fox", "dog", "Hi"], "tags": ["B-animal", "B-animal", "O"]}, {"tokens": ["Hi"], "tags": ["O"]}]
    records, examples = held_out(tmp_path, rows, tokenizer)
    figures = evaluate_examples(with_head(decoder, "tag", records.labels), tokenizer, records, examples)
    assert (figures["rows"], figures["words"]) == (2, 4)
    assert "f1" in figures["entity"]
