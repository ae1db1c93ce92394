"""Rollouts: the same whatever is sampled beside them, as likely as the policy says, and of the policy as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scratchlm.adapters import LoraSettings, add_lora, quantise_base, use_adapter
from scratchlm.adapters.attach import adapters_of
from scratchlm.alignment.policy import Prompts
from scratchlm.alignment.rollouts import Rollout, Sampler, sample_rollouts
from scratchlm.data import encode_records, read_records
from scratchlm.errors import UserError
from scratchlm.models import Decoder, evaluating

from ..training import tuned_models
from .tiny_policies import PROMPTS, letters, moved, policy


def roll(model: Decoder, **more: Any) -> list[Rollout]:
    words = letters()
    asked: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0.8, "seed": 7} | more
    return sample_rollouts(model, words, [words.encode(text) for text in PROMPTS], 3, **asked)


def by_hand(model: Decoder, one: Rollout, temperature: float) -> list[float]:
    """The log-probabilities of a completion's tokens, all logits whole."""
    ids = torch.tensor([one.prompt + one.completion])
    with evaluating(model), torch.no_grad():
        spread = (model(ids)[0] / temperature).log_softmax(-1)
    return [float(spread[len(one.prompt) + n - 1, token]) for n, token in enumerate(one.completion)]


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_what_is_drawn_is_as_likely_as_the_policy_says_at_its_temperature(lora: bool, temperature: float) -> None:
    model = moved(policy(lora=lora), 0.2)
    for one in roll(model, temperature=temperature):
        assert one.log_probabilities == pytest.approx(by_hand(model, one, temperature), abs=1e-4)
        assert one.sampled == [True] * len(one.completion)


def test_the_same_seed_says_the_same_whatever_is_sampled_beside_it() -> None:
    model = policy()
    alone, together = roll(model, slots=1), roll(model, slots=64)
    assert [one.completion for one in alone] == [one.completion for one in together]
    assert [one.completion for one in roll(model, seed=8)] != [one.completion for one in alone]
    words, sampler = letters(), Sampler(model)
    asked: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0.8, "seed": 7, "tokenizer": words}
    last = sampler.sample([words.encode(text) for text in PROMPTS[2:]], 3, first=6, **asked)
    assert [one.completion for one in last] == [one.completion for one in together[6:]]


def test_a_completion_ends_at_the_end_token_which_is_not_part_of_its_text() -> None:
    words, found = letters(), roll(policy(), max_new_tokens=20)
    assert {one.reason for one in found} == {"end", "length"}
    assert [one.source for one in found] == [n // 3 for n in range(len(found))]
    for one in found:
        assert one.finished == (one.completion[-1] == words.eos_id)
        assert one.text == words.decode(one.completion[:-1] if one.finished else one.completion)
        assert len(one.completion) == 20 or one.finished


def test_completions_end_with_the_context() -> None:
    words, model = letters(), policy()
    found = sample_rollouts(model, words, [words.encode("a" * 22)], 9, max_new_tokens=8)
    assert max(len(one.completion) for one in found) == 2


@pytest.mark.parametrize("lora", [False, True])
def test_a_sampler_that_is_kept_speaks_as_the_policy_as_it_is(lora: bool) -> None:
    words, model = letters(), policy(lora=lora)
    sampler, asked = Sampler(model), {"max_new_tokens": 8, "temperature": 1.0, "seed": 1}
    ids = [words.encode(text) for text in PROMPTS]
    first = sampler.sample(ids, 2, tokenizer=words, **asked)  # type: ignore[arg-type]
    moved(model, 0.5)
    kept = sampler.sample(ids, 2, tokenizer=words, **asked)  # type: ignore[arg-type]
    anew = sample_rollouts(model, words, ids, 2, **asked)  # type: ignore[arg-type]
    assert kept == anew
    assert [one.completion for one in kept] != [one.completion for one in first]
    longer = asked | {"max_new_tokens": 20}
    assert sampler.sample(ids, 2, tokenizer=words, **longer) == sample_rollouts(model, words, ids, 2, **longer)  # type: ignore[arg-type]


def test_sampling_leaves_the_model_as_it_was() -> None:
    model = moved(policy(lora=True, dropout=0.1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    takes = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    sampler, words = Sampler(model), letters()
    for _ in range(2):
        sampler.sample([words.encode("ab")], 2, max_new_tokens=3, temperature=1.0, seed=0, tokenizer=words)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == takes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert adapters_of(model).active == {"default": 1.0}


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_few_bits_sample_nearly_as_the_policy_does(precision: Any) -> None:
    model = moved(policy(lora=True, width=64, init_std=0.1), 0.1)
    off = [
        abs(found - wanted)
        for one in roll(model, precision=precision)
        for found, wanted in zip(one.log_probabilities, by_hand(model, one, 0.8), strict=True)
    ]
    assert 1e-4 < sum(off) / len(off) < {"int8": 0.05, "int4": 0.6}[precision]


def test_adapters_beside_a_base_in_few_bits_are_sampled_from_too() -> None:
    model = policy(width=64)
    quantise_base(model, "nf4")
    add_lora(model, LoraSettings(rank=2))
    moved(model, 0.2)
    for one in roll(model):
        assert one.log_probabilities == pytest.approx(by_hand(model, one, 0.8), abs=1e-3)


def test_with_its_adapters_off_a_model_samples_as_its_base() -> None:
    model = moved(policy(lora=True), 0.5)
    use_adapter(model, None)
    found, base = roll(model), roll(policy())
    assert [one.completion for one in found] == [one.completion for one in base]
    for one, other in zip(found, base, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)


@pytest.mark.parametrize("length", [0, 24])
def test_prompts_that_leave_no_room_are_refused(length: int) -> None:
    with pytest.raises(UserError, match=rf"prompt 1 has {length} tokens; give at least 1 and fewer than .* 24$"):
        sample_rollouts(policy(), letters(), [[1] * length], max_new_tokens=2)


def test_prompts_of_rows_keep_their_columns_and_a_chats_last_question(tmp_path: Path) -> None:
    words, turns = tuned_models.tokenizer("llama"), [{"role": "user", "content": "the sea"}]
    turns += [{"role": "assistant", "content": "is wide"}, {"role": "user", "content": "the moon"}]
    for rows, texts in (
        ([{"prompt": "the sea", "answer": "3"}, {"prompt": "red", "other": 1}], ["the sea", "red"]),
        ([{"prompt": turns, "answer": "3"}], ["the moon"]),
    ):
        records = read_records(tuned_models.write_rows(tmp_path / "rows.jsonl", rows), task="rollout")
        found = Prompts.of(encode_records(records, words, max_length=40), records)
        assert found.texts == texts
        assert found.columns_of([*range(len(rows))])["answer"] == ["3", None][: len(rows)]
    assert words.decode(found.ids[0]).endswith("<user>the moon<|endoftext|><assistant>")
