"""LangChain's client, our own agents' and a fuzzer, each unchanged."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

from scratchlm.agents.endpoint_model import EndpointModel
from scratchlm.agents.loop import run_agent
from scratchlm.agents.openapi import tools_from_openapi
from scratchlm.agents.settings import AgentSettings
from scratchlm.agents.tool import tool
from scratchlm.retrieval import Embedder
from scratchlm.retrieval.endpoint import Endpoint
from scratchlm.serving.server import Server

from .conftest import serving


@pytest.fixture
def chain(server: Server) -> ChatOpenAI:
    return ChatOpenAI(model="chat", base_url=server.url, api_key="none", temperature=0, max_retries=0, max_tokens=300)  # type: ignore[call-arg,arg-type]


def test_langchain_chats_and_streams(chain: ChatOpenAI) -> None:
    short = chain.bind(max_tokens=20)
    said = short.invoke("What is it?")
    assert said.content
    assert said.usage_metadata["output_tokens"] <= 20  # type: ignore[attr-defined]
    assert "".join(str(part.content) for part in short.stream("What is it?")) == said.content
    assert [one.content for one in short.batch(["What is it?"] * 3)] == [said.content] * 3


def test_langchain_gets_calls_and_shapes(chain: ChatOpenAI) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    bound = chain.bind_tools([add], tool_choice="required")
    said = bound.invoke("Add 2 and 3.")
    assert said.tool_calls
    assert {call["name"] for call in said.tool_calls} == {"add"}
    assert all(isinstance(call["args"]["a"], int) for call in said.tool_calls)
    results = [ToolMessage("5", tool_call_id=call["id"]) for call in said.tool_calls]
    assert chain.bind(max_tokens=10).invoke([HumanMessage("Add 2 and 3."), said, *results]).content is not None

    class Answer(BaseModel):
        yes: bool
        count: int = Field(ge=0, le=9)

    for method in ("json_schema", "function_calling"):
        made = chain.with_structured_output(Answer, method=method).invoke("Is it?")  # type: ignore[arg-type]
        assert isinstance(made, Answer)


def test_langchain_embeds(server: Server, models: Path) -> None:
    texts = ["green tea", "bees dance"]
    own = Embedder.open(models / "encoder").embed(texts).vectors
    made = OpenAIEmbeddings(
        model="encoder",
        base_url=server.url,
        api_key="none",
        check_embedding_ctx_length=False,  # type: ignore[call-arg,arg-type]
    ).embed_documents(texts)
    assert [pytest.approx(vector, abs=1e-6) for vector in made] == own.tolist()


def test_our_own_agents_take_it_as_an_endpoint(server: Server) -> None:
    asked: list[int] = []

    @tool
    def note(number: int) -> str:
        """Note a number."""
        asked.append(number)
        return f"noted {number}"

    model = EndpointModel(Endpoint(server.url, "chat", context=1024))
    reply = model.respond([{"role": "user", "content": "Note 7."}], [note.schema()], choice="required")
    assert reply.calls
    for call in reply.calls:
        assert call.name == "note"
        jsonschema.validate(json.loads(call.arguments), dict(note.parameters))
    heard: list[str] = []
    plain = model.respond([{"role": "user", "content": "Hello."}], max_new_tokens=12, on_text=heard.append)
    assert plain.text.strip() == "".join(heard).strip()
    assert plain.completion_tokens <= 12
    state = run_agent("Note 7.", model, [note], AgentSettings(max_steps=2, max_new_tokens=100))
    assert state is not None


def test_our_own_document_makes_tools_that_work(server: Server, tmp_path: Path) -> None:
    root = server.url.removesuffix("/v1")
    document = tmp_path / "openapi.json"
    document.write_bytes(urlopen(f"{root}/openapi.json").read())
    left_out: list[str] = []
    tools = tools_from_openapi(document, base_url=root, on_left_out=left_out.append)
    operations = json.loads(document.read_text())["paths"]
    assert len(tools) + len(left_out) == sum(len(item) for item in operations.values())
    assert left_out == []
    by_path = {
        name: tools_from_openapi(document, base_url=root, operations=[name])[0]
        for name in ("GET /v1/models", "POST /v1/embeddings", "POST /v1/chat/completions")
    }
    names = [one["id"] for one in json.loads(by_path["GET /v1/models"].run({}).text)["data"]]
    assert {"chat", "encoder"} <= set(names)
    embed = by_path["POST /v1/embeddings"]
    assert '"embedding":' in embed.run({"model": "encoder", "input": "the sea"}).text
    assert embed.run({"input": "the sea"}).text.startswith("error: 'model' is a required property")
    chat = by_path["POST /v1/chat/completions"]
    asked = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 5, "temperature": 0}
    assert json.loads(chat.run({"model": "chat", **asked}).text)["usage"]["completion_tokens"] <= 5
    refused = chat.run({"model": "nobody", **asked})
    assert refused.text.startswith("error: POST /v1/chat/completions answers 404 Not Found: {")


def mended(body: dict[str, Any]) -> dict[str, Any]:
    """A request without what goes wrong most often: fields that need others, and more than there is room for."""
    wrong = {"logit_bias", "tool_choice", "suffix", "best_of", "max_completion_tokens", "dimensions"}
    wrong |= set() if body.get("stream") else {"stream_options"}
    wrong |= set() if body.get("logprobs") is True else {"top_logprobs"}
    wrong |= {"tools"} if "response_format" in body else set()
    kept = {name: value for name, value in body.items() if name not in wrong}
    if "input" in kept:
        return kept | {"model": "encoder"}
    return kept | {"model": "chat", "max_tokens": 100, "n": 2}


@pytest.mark.slow
def test_no_request_that_a_fuzzer_makes_is_the_servers_fault(models: Path) -> None:
    """Right and wrong requests to every path, made from our OpenAPI document; some of them mended."""
    examples = int(os.environ.get("SCRATCHLM_FUZZ", "150"))
    calm = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    statuses: Counter[tuple[str, int]] = Counter()
    with serving(*(str(models / name) for name in ("chat", "plain", "encoder")), queue=10_000) as server:
        root = server.url.removesuffix("/v1")
        schema = schemathesis.openapi.from_url(f"{root}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        for operation in operations:
            for mode in schemathesis.GenerationMode:

                def is_answered(case: Any) -> None:
                    if isinstance(case.body, dict) and (kind := len(str(case.body)) % 4):
                        model = ("", "chat", "plain", "encoder")[kind]
                        case.body = case.body | {"model": model} if kind > 1 else mended(case.body)
                    answer = case.call(base_url=root, timeout=60)
                    statuses[case.operation.label, answer.status_code] += 1
                    assert answer.status_code < 500, (case.body, answer.text)
                    if answer.status_code >= 400:
                        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

                try:
                    calm(given(operation.as_strategy(generation_mode=mode))(is_answered))()
                except Unsatisfiable:  # of a path without parameters nothing can be wrong
                    continue
    assert len({label for label, _ in statuses}) == len(operations) == 8
    for path in ("chat/completions", "completions", "embeddings"):
        assert statuses[f"POST /v1/{path}", 400]
        assert statuses[f"POST /v1/{path}", 200]
