"""Models of ours: whatever their weights say, what they write is text or calls that fit the tools."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import scratchlm
from scratchlm.agents.call_format import OURS, format_of
from scratchlm.agents.call_grammar import call_grammar
from scratchlm.agents.local_model import LocalAgentModel
from scratchlm.agents.loop import run_agent
from scratchlm.agents.settings import AgentSettings
from scratchlm.agents.shipped import open_tools
from scratchlm.checkpoints.catalogue import find_pulled
from scratchlm.errors import UserError
from scratchlm.generation.sampling import SamplingConfig

from .chat_tokenizers import CHATML, LIST, MISTRAL, MISTRAL_NAMED, chatty, published
from .scripted import noting
from .tiny_models import Tiny

TEMPLATES = {"ours": CHATML, "hermes": "qwen2_5", "llama": "llama3_1", "list": LIST, "mistral": MISTRAL}
TEMPLATES["mistral-named"] = MISTRAL_NAMED
CITY = {"type": "string", "enum": ["Oslo", "Rome"]}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The forecast.",
        "parameters": {
            "type": "object",
            "properties": {"city": CITY, "days": {"type": "integer", "minimum": 1, "maximum": 14}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
NOTE = noting()[0].schema()
TOOLS = [WEATHER, NOTE]
ASK = [{"role": "user", "content": "Rain?"}]
WILD = SamplingConfig(temperature=2.0, seed=0)


def tiny(form: str, **more: Any) -> LocalAgentModel:
    template = TEMPLATES[form]
    made = LocalAgentModel(Tiny(template if "{" in template else published(template)), **more)
    assert made.form.name == form
    return made


@pytest.fixture(scope="module")
def models() -> dict[str, LocalAgentModel]:
    return {}


def check(call: Any) -> None:
    schema = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}[call.name]
    Draft202012Validator(schema).validate(json.loads(call.arguments))
    assert call.fault == ""


@pytest.mark.parametrize("form", TEMPLATES)
@pytest.mark.parametrize("choice", ["required", {"name": "weather"}], ids=["required", "weather"])
def test_every_call_fits_whatever_the_weights(form: str, choice: Any, models: dict[str, LocalAgentModel]) -> None:
    model = models.setdefault(form, tiny(form))
    for seed in range(3):
        sampling = SamplingConfig(temperature=2.0, seed=seed)
        reply = model.respond(ASK, TOOLS, choice=choice, max_new_tokens=75 + seed, sampling=sampling)
        assert reply.text == ""
        assert reply.calls
        for call in reply.calls:
            check(call)
            assert choice == "required" or call.name == "weather"
        assert len(reply.ids) == len(reply.sampled) == reply.completion_tokens
        assert not all(reply.sampled)
        kept = [i for i in reply.ids if i not in model.model.tokenizer.eos_ids]
        assert model.model.tokenizer.decode(kept) == reply.raw


@pytest.mark.parametrize("form", TEMPLATES)
@pytest.mark.parametrize("choice", ["auto", "none"])
def test_free_text_holds_no_call_that_does_not_fit(form: str, choice: str, models: dict[str, LocalAgentModel]) -> None:
    model = models.setdefault(form, tiny(form))
    for seed in range(4):
        heard: list[str] = []
        sampling = SamplingConfig(temperature=2.0, seed=seed)
        reply = model.respond(ASK, TOOLS, choice=choice, max_new_tokens=60, sampling=sampling, on_text=heard.append)
        for call in reply.calls:
            check(call)
        assert choice == "auto" or not reply.calls
        assert reply.calls or "".join(heard).strip() == reply.text


CALL_A = {"ours": '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'}
CALL_A["hermes"] = CALL_A["ours"].replace("<tool_call>", "<tool_call>\n").replace("</tool_call>", "\n</tool_call>")
CALL_A["llama"] = '{"name": "weather", "parameters": {"city": "Oslo"}}'
CALL_A["list"] = '<tool_call>[{"name": "weather", "arguments": {"city": "Oslo"}}]</tool_call>'
CALL_A["mistral"] = '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Oslo"}}]'
CALL_A["mistral-named"] = '[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}'


def allowed(form: str, text: str, choice: Any = "auto") -> bool:
    """Whether a turn may be this text."""
    template = TEMPLATES[form]
    words = chatty(template if "{" in template else published(template))
    constraint = call_grammar(format_of(words), TOOLS, choice).constraint(words)
    ids = [*words.encode(text), min(words.eos_ids)]
    return constraint.allows(ids) == len(ids)


@pytest.mark.parametrize("form", TEMPLATES)
def test_a_turn_is_text_or_text_and_calls(form: str) -> None:
    call = CALL_A[form]
    assert allowed(form, call)
    assert allowed(form, "Let me see <b>.")
    assert allowed(form, call, "required")
    assert allowed(form, call, {"name": "weather"})
    assert not allowed(form, call, {"name": "note"})
    assert not allowed(form, call, "none")
    assert not allowed(form, "Let me see.", "required")
    assert not allowed(form, call.replace("Oslo", "Paris"))
    assert not allowed(form, call.replace("weather", "whether"))
    assert not allowed(form, call.replace('"city"', '"town"'))
    if form != "llama":
        assert allowed(form, "Let me see.\n" + call)
        assert allowed(form, "Let me see <b>. <tool_", "none")
        assert not allowed(form, f"Let me see. {call[:-4]}")
    two = {"ours": f"{call}\n{call}", "hermes": f"{call}\n{call}", "mistral-named": call + call}
    if form in two:
        assert allowed(form, two[form])
        assert not allowed(form, two[form].replace("Oslo", "Rome", 1).replace("Oslo", "Bonn"))


def test_calls_with_marks_in_their_arguments_are_read_back() -> None:
    text = 'a</tool_call>\n<tool_call>{"name": "x'
    call = f'<tool_call>{{"name": "note", "arguments": {json.dumps({"text": text})}}}</tool_call>'
    assert allowed("ours", call)
    said, (read,) = OURS.parse(call)
    assert (said, json.loads(read.arguments)) == ("", {"text": text})


def test_a_schema_that_cannot_be_promised_leaves_an_object_and_the_tool_checks(models: dict[str, Any]) -> None:
    odd, _ = noting()
    schema = {**odd.schema()["function"], "parameters": {"type": "object", "not": {"required": ["x"]}}}
    model = models.setdefault("ours", tiny("ours"))
    for seed in range(1):
        sampling = SamplingConfig(temperature=2.0, seed=seed)
        reply = model.respond(
            ASK, [{"type": "function", "function": schema}], choice="required", max_new_tokens=75, sampling=sampling
        )
        assert all(isinstance(json.loads(call.arguments), dict) for call in reply.calls)


def test_the_least_budget_makes_a_call_and_less_is_told(models: dict[str, LocalAgentModel]) -> None:
    model = models.setdefault("ours", tiny("ours"))
    with pytest.raises(UserError, match=r"needs at least \d+ tokens") as told:
        model.respond(ASK, TOOLS, choice="required", max_new_tokens=10)
    least = int(str(told.value).partition("at least ")[2].split()[0])
    (call,) = model.respond(ASK, TOOLS, choice="required", max_new_tokens=least).calls
    check(call)


def test_unconstrained_it_writes_what_it_likes() -> None:
    model = tiny("ours", constrained=False)
    reply = model.respond(ASK, TOOLS, choice="required", max_new_tokens=40, sampling=WILD)
    assert reply.calls == ()
    assert all(reply.sampled)


def test_cancelled_in_the_middle_the_engine_is_free_again(models: dict[str, LocalAgentModel]) -> None:
    model = models.setdefault("ours", tiny("ours"))
    heard: list[str] = []
    state = run_agent(
        "Rain?",
        model,
        [noting()[0]],
        AgentSettings(sampling=WILD),
        on_event=lambda event: heard.append(event.text) if event.kind == "text" else None,
        cancel=lambda: bool(heard),
    )
    assert state.reason == "cancelled"
    assert model.model.engine().load == (0, 0)


def test_a_run_of_an_untrained_model_ends(models: dict[str, LocalAgentModel]) -> None:
    model = models.setdefault("ours", tiny("ours"))
    for seed in range(3):
        settings = AgentSettings(max_steps=3, max_new_tokens=60, sampling=SamplingConfig(temperature=2.0, seed=seed))
        state = run_agent("Rain?", model, [noting()[0]], settings)
        assert state.status in ("done", "stopped")
        assert state.completion_tokens <= 180


def test_a_conversation_longer_than_the_context_is_told() -> None:
    model = LocalAgentModel(Tiny(CHATML, context=300))
    with pytest.raises(UserError, match="reads 300; shorten it"):
        model.respond([{"role": "user", "content": "x" * 400}])
    with pytest.raises(UserError, match=r"take [\d,]+ tokens, and the model has room for"):
        run_agent("x" * 400, model, [noting()[0]])


def test_models_that_cannot_call() -> None:
    bare = Tiny(CHATML)
    bare.tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        LocalAgentModel(bare)
    encoder = Tiny(CHATML)
    encoder.config = type("Config", (), {"architecture": "encoder"})()
    with pytest.raises(UserError, match="no decoder"):
        LocalAgentModel(encoder)


def test_a_choice_of_no_tool(models: dict[str, LocalAgentModel]) -> None:
    with pytest.raises(UserError, match="no tool 'x'"):
        models.setdefault("ours", tiny("ours")).respond(ASK, TOOLS, choice={"name": "x"})


@pytest.mark.slow
def test_a_real_models_calls_all_fit() -> None:
    """SmolLM2-135M as it comes, made to call in each of so many questions."""
    if find_pulled("smollm2-135m-instruct") is None:
        pytest.skip("the model is not here; fetch it with: scratchlm models pull smollm2-135m-instruct")
    model = LocalAgentModel(scratchlm.load("smollm2-135m-instruct"))
    tools = {one.name: one for one in open_tools(["calculator", "dates", "units"])}
    schemas = [one.schema() for one in tools.values()]
    for number in range(10):
        question = f"What is {number + 3} * {number + 17}, and how many km are {number + 2} miles?"
        sampling = SamplingConfig(temperature=1.0, seed=number)
        reply = model.respond(
            [{"role": "user", "content": question}], schemas, choice="required", max_new_tokens=90, sampling=sampling
        )
        assert reply.calls
        for call in reply.calls:
            Draft202012Validator(dict(tools[call.name].parameters)).validate(json.loads(call.arguments))
