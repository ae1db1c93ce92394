"""The official client, unchanged, against our server."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import openai
import pytest
import torch
from pydantic import BaseModel

import scratchlm
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.retrieval import Embedder
from scratchlm.tokenizers import render_chat

ASK: list[Any] = [{"role": "user", "content": "What is it?"}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "maximum": 9, "minimum": 1}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


def greedy(client: Any, **more: Any) -> Any:
    asked = {"model": "chat", "messages": ASK, "temperature": 0, "max_tokens": 20} | more
    return client.chat.completions.create(**asked)


@pytest.fixture(scope="module")
def local(models: Path) -> scratchlm.LanguageModel:
    return scratchlm.load(models / "chat", device="cpu")


def test_a_chat_is_the_models_own_answer(client: Any, local: scratchlm.LanguageModel) -> None:
    given = greedy(client)
    own = local.chat(ASK, max_new_tokens=20, sampling=SamplingConfig(greedy=True))
    assert given.choices[0].message.content == own.completion
    assert given.choices[0].message.role == "assistant"
    assert given.choices[0].finish_reason == ("length" if own.finish_reason == "length" else "stop")
    prompt = render_chat(local.tokenizer, ASK, add_generation_prompt=True).ids
    assert given.usage.prompt_tokens == len(prompt)
    assert given.usage.completion_tokens == len(own.ids)
    assert given.usage.total_tokens == len(prompt) + len(own.ids)
    assert given.id.startswith("chatcmpl-")
    assert given.model == "chat"


def test_what_was_read_before_is_not_read_again(client: Any) -> None:
    words = [{"role": "user", "content": "A beginning that both have, of which much is said. And?"}]
    greedy(client, messages=words)
    again = greedy(client, messages=words).usage
    assert again.prompt_tokens_details.cached_tokens == again.prompt_tokens - 1


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_says_the_same_in_pieces(client: Any, n: int) -> None:
    drawn = {"temperature": 1.0, "seed": 4, "n": n, "max_tokens": 30}
    whole = greedy(client, **drawn)
    parts = list(greedy(client, **drawn, stream=True, stream_options={"include_usage": True}))
    texts, reasons = [""] * n, [None] * n
    for part in parts[:-1]:
        assert part.usage is None
        for choice in part.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert parts[-1].choices == []
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({part.id for part in parts}) == 1
    assert len(set(texts)) == n


def test_a_stream_says_what_was_used_only_where_it_is_asked_to(client: Any) -> None:
    for more in ({}, {"stream_options": {"include_usage": False}}):
        parts = list(greedy(client, stream=True, **more))
        assert [part.usage for part in parts] == [None] * len(parts)
        assert all(part.choices for part in parts)


def test_the_least_heat_is_none(client: Any) -> None:
    tiny = greedy(client, temperature=5e-324, top_p=0.0, extra_body={"min_p": 5e-324, "repetition_penalty": 1.0})
    assert tiny.choices[0].message.content == greedy(client).choices[0].message.content


def test_a_seed_decides_the_text_and_its_samples(client: Any) -> None:
    drawn = [greedy(client, temperature=1.2, seed=seed, n=2) for seed in (-5, -5, 6)]
    texts = [[choice.message.content for choice in one.choices] for one in drawn]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0][0] != texts[0][1]
    free = {greedy(client, temperature=2.0).choices[0].message.content for _ in range(4)}
    assert len(free) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(client: Any, local: scratchlm.LanguageModel, stream: bool) -> None:
    asked = {"logprobs": True, "top_logprobs": 3, "max_tokens": 5}
    if stream:
        content = []
        for part in greedy(client, **asked, stream=True):
            content += (part.choices[0].logprobs.content or []) if part.choices[0].logprobs else []
    else:
        content = greedy(client, **asked).choices[0].logprobs.content
    assert len(content) == 5
    ids = render_chat(local.tokenizer, ASK, add_generation_prompt=True).ids
    with torch.inference_mode():
        for one in content:
            scores = local.model(torch.tensor([ids]))[0, -1].log_softmax(-1)
            best = scores.topk(3)
            assert one.logprob == pytest.approx(float(best.values[0]), abs=1e-4)
            assert [top.logprob for top in one.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-4)
            assert bytes(one.bytes) == local.tokenizer.bytes_of(int(best.indices[0]))
            assert one.token == one.top_logprobs[0].token
            ids.append(int(best.indices[0]))


def test_stop_strings_end_before_themselves(client: Any) -> None:
    text = greedy(client, max_tokens=40).choices[0].message.content
    stop = text[6:8]
    for stops in (stop, ["never said", stop]):
        choice = greedy(client, max_tokens=40, stop=stops).choices[0]
        assert choice.message.content == text[: text.index(stop)]
        assert choice.finish_reason == "stop"


def test_penalties_change_what_is_said(client: Any) -> None:
    free = greedy(client, max_tokens=60).choices[0].message.content
    less = greedy(client, max_tokens=60, frequency_penalty=2.0, presence_penalty=2.0).choices[0].message.content
    assert len(set(less)) > len(set(free))


def test_biases_demand_and_forbid_tokens_and_leave_log_probabilities_alone(
    client: Any, local: scratchlm.LanguageModel
) -> None:
    plain = greedy(client, logprobs=True, top_logprobs=1, max_tokens=3)
    word = local.tokenizer.encode("tea")[-1]
    demanded = greedy(client, logprobs=True, top_logprobs=1, logit_bias={str(word): 100}, max_tokens=3)
    assert demanded.choices[0].message.content == local.tokenizer.decode([word] * 3)
    first, biased = plain.choices[0].logprobs.content[0], demanded.choices[0].logprobs.content[0]
    assert biased.top_logprobs[0] == first.top_logprobs[0]  # what the model itself would say
    assert biased.logprob < first.logprob
    said = local.chat(ASK, max_new_tokens=3, sampling=SamplingConfig(greedy=True)).ids
    forbidden = greedy(client, logit_bias={str(token): -100 for token in said}, max_tokens=3)
    assert forbidden.choices[0].message.content != plain.choices[0].message.content
    drawn = greedy(client, temperature=1.5, n=2, seed=3, logit_bias={str(word): 100}, max_tokens=3)
    assert {choice.message.content for choice in drawn.choices} == {demanded.choices[0].message.content}
    asked = {"model": "chat", "prompt": "the sea", "temperature": 0, "max_tokens": 3}
    assert client.completions.create(**asked, logit_bias={str(word): 100}).choices[0].text == local.tokenizer.decode(
        [word] * 3
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_schema_is_kept_to(client: Any, stream: bool, temperature: float) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    given = greedy(client, temperature=temperature, max_tokens=80, response_format=form, stream=stream)
    parts = [part.choices[0].delta.content or "" for part in given] if stream else [given.choices[0].message.content]
    jsonschema.validate(json.loads("".join(parts)), PERSON)


def test_any_json_object(client: Any) -> None:
    given = greedy(client, temperature=1.0, max_tokens=30, response_format={"type": "json_object"})
    assert isinstance(json.loads(given.choices[0].message.content), dict)


def test_the_clients_own_models_are_parsed(client: Any) -> None:
    class Answer(BaseModel):
        yes: bool
        sure: int

    made = client.chat.completions.with_raw_response.parse(
        model="chat", messages=ASK, temperature=0, max_tokens=200, response_format=Answer
    )
    body = json.loads(made.content)["choices"][0]["message"]["content"]
    assert isinstance(Answer.model_validate_json(body), Answer)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_tool_that_must_be_called_is_called_rightly(client: Any, stream: bool, choice: Any) -> None:
    asked = {"tools": [WEATHER], "tool_choice": choice, "temperature": 1.5, "max_tokens": 300}
    if stream:
        calls: dict[int, dict[str, str]] = {}
        for part in greedy(client, **asked, stream=True):
            for call in part.choices[0].delta.tool_calls or []:
                one = calls.setdefault(call.index, {"id": "", "name": "", "arguments": ""})
                one["id"] += call.id or ""
                one["name"] += call.function.name or ""
                one["arguments"] += call.function.arguments or ""
            reason = part.choices[0].finish_reason
        found = list(calls.values())
    else:
        first = greedy(client, **asked).choices[0]
        found = [
            {"id": c.id, "name": c.function.name, "arguments": c.function.arguments} for c in first.message.tool_calls
        ]
        reason = first.finish_reason
        assert first.message.content is None
    assert reason == "tool_calls"
    assert found
    for call in found:
        assert call["name"] == "weather"
        jsonschema.validate(json.loads(call["arguments"]), WEATHER["function"]["parameters"])
    assert len({call["id"] for call in found}) == len(found)
    if choice != "required":
        assert len(found) == 1


def test_with_no_choice_no_tool_is_called(client: Any) -> None:
    message = greedy(client, tools=[WEATHER], tool_choice="none", temperature=1.0, seed=1).choices[0].message
    assert message.tool_calls is None
    assert "<tool_call>" not in message.content


def test_calls_and_results_go_back_as_they_came(client: Any) -> None:
    asked: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    first = greedy(client, **asked, max_tokens=100).choices[0].message
    assert len(first.tool_calls) == 1
    talk = [*ASK, first, {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "sunny"}]
    second = greedy(client, **asked, messages=talk, max_tokens=100).choices[0].message
    assert second.tool_calls[0].id != first.tool_calls[0].id


def test_messages_in_parts_and_a_developers(client: Any) -> None:
    parts = [{"type": "text", "text": "What "}, {"type": "text", "text": "is it?"}]
    plain = greedy(client, messages=[{"role": "system", "content": "Be kind."}, *ASK])
    other = greedy(client, messages=[{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}])
    assert plain.choices[0].message.content == other.choices[0].message.content


# ---- completions


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_goes_on(client: Any, local: scratchlm.LanguageModel, stream: bool) -> None:
    given = client.completions.create(model="chat", prompt="The sea", temperature=0, stream=stream, max_tokens=12)
    text = "".join(part.choices[0].text for part in given) if stream else given.choices[0].text
    assert text == local.generate("The sea", greedy=True, max_new_tokens=12)[0].completion


def test_many_prompts_as_texts_and_as_tokens(client: Any, local: scratchlm.LanguageModel) -> None:
    prompts = ["one", "and two", "three"]
    as_ids = [local.tokenizer.encode(one) for one in prompts]
    for given in (prompts, as_ids):
        made = client.completions.create(model="chat", prompt=given, temperature=0, max_tokens=6, n=2)
        assert [choice.index for choice in made.choices] == list(range(6))
        own = local.generate(prompts, greedy=True, max_new_tokens=6, samples=2)
        assert [choice.text for choice in made.choices] == [one.completion for one in own]
        assert made.usage.prompt_tokens == sum(map(len, as_ids))
    single = client.completions.create(model="chat", prompt=as_ids[1], temperature=0)
    assert single.usage.completion_tokens == 16


@pytest.mark.parametrize("most", [0, 1, 4])
@pytest.mark.parametrize("stream", [False, True])
def test_what_harnesses_ask_for_to_score_a_text(
    client: Any, local: scratchlm.LanguageModel, most: int, stream: bool
) -> None:
    ids = local.tokenizer.encode("A text that is scored, é.")
    given = client.completions.create(
        model="chat", prompt=[ids], echo=True, logprobs=2, max_tokens=most, temperature=0, seed=1234, stream=stream
    )
    choices = [part.choices[0] for part in given] if stream else given.choices
    values = [one for choice in choices for one in choice.logprobs.token_logprobs]
    tops = [one for choice in choices for one in choice.logprobs.top_logprobs]
    offsets = [one for choice in choices for one in choice.logprobs.text_offset]
    assert "".join(choice.text for choice in choices).startswith("A text that is scored, é.")
    assert len(values) == len(tops) == len(offsets) == len(ids) + most
    assert values[0] is None
    assert tops[0] is None
    with torch.inference_mode():
        scores = local.model(torch.tensor([ids]))[0].log_softmax(-1)
    expected = [float(scores[place, token]) for place, token in enumerate(ids[1:])]
    assert values[1 : len(ids)] == pytest.approx(expected, abs=1e-4)
    for place, top in enumerate(tops[1 : len(ids)]):
        assert max(top.values()) == pytest.approx(float(scores[place].max()), abs=1e-4)
    assert offsets == sorted(offsets)


# ---- vectors, models


def test_embeddings_in_both_forms(client: Any, models: Path) -> None:
    texts = ["green tea", "bees dance"]
    own = Embedder.open(models / "encoder").embed(texts).vectors
    numbers = client.embeddings.create(model="encoder", input=texts, encoding_format="float")
    assert np.array([one.embedding for one in numbers.data]) == pytest.approx(own, abs=1e-6)
    packed = client.embeddings.with_raw_response.create(model="encoder", input=texts[0], encoding_format="base64")
    raw = json.loads(packed.content)["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(raw), "<f4") == pytest.approx(own[0], abs=1e-6)
    assert np.array(client.embeddings.create(model="encoder", input=texts[0]).data[0].embedding) == pytest.approx(
        own[0]
    )
    ids = Embedder.open(models / "encoder").tokenizer.encode(texts[0])
    assert np.array(client.embeddings.create(model="encoder", input=ids).data[0].embedding) == pytest.approx(own[0])
    short = client.embeddings.create(model="encoder", input=texts, dimensions=4)
    assert math.hypot(*short.data[1].embedding) == pytest.approx(1)
    assert numbers.usage.prompt_tokens > 4


def test_models_are_listed(client: Any) -> None:
    assert [one.id for one in client.models.list().data] == ["chat", "other", "plain", "encoder"]
    assert client.models.retrieve("other").owned_by == "scratchlm"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody")
    assert caught.value.code == "model_not_found"


def test_two_models_say_different_things(client: Any) -> None:
    assert greedy(client).choices[0].message.content != greedy(client, model="other").choices[0].message.content
