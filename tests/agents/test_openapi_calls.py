"""Calls of tools from an OpenAPI document: what a real server gets, beside what httpx sends it, and what comes back."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

import httpx

from scratchlm.agents import web
from scratchlm.agents.local_model import LocalAgentModel
from scratchlm.agents.loop import run_agent
from scratchlm.agents.openapi import tools_from_openapi
from scratchlm.agents.openapi_request import Body, Operation, Parameter, request_of
from scratchlm.agents.tool import Tool, ToolError
from scratchlm.agents.traces import TraceWriter
from scratchlm.agents.web import WebLimits
from scratchlm.errors import UserError

from .api_server import make_api, served
from .chat_tokenizers import CHATML
from .scripted import ScriptedModel
from .tiny_models import Tiny

KEYS = {
    "SCRATCHLM_KEY_INHEADER": "h3ader-key",
    "SCRATCHLM_KEY_INQUERY": "qu+ery/key",
    "SCRATCHLM_KEY_TOKEN": "t0ken-of-mine",
    "SCRATCHLM_KEY_USER": "anna:pass:word",
}
API = make_api()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(API) as url:
        yield url


@pytest.fixture(scope="module")
def tools(address: str) -> dict[str, Tool]:
    found = tools_from_openapi(API.openapi(), base_url=address, environment=KEYS)
    return {one.name: one for one in found}


def seen_after(call: Any) -> tuple[str, str, dict[str, str], bytes]:
    API.state.seen.clear()
    call()
    (one,) = API.state.seen
    return one


def test_the_arguments_of_an_operation(tools: dict[str, Tool]) -> None:
    find = tools["find_town"]
    assert find.description == "Find a town.\nBy its name."
    assert find.parameters["required"] == ["name"]
    assert find.parameters["properties"]["name"] == {"type": "string", "description": "as it is written"}
    river = {"type": "array", "items": {"type": "integer", "minimum": 0}, "default": []}
    assert find.parameters["properties"]["river"] == river
    assert list(find.parameters["properties"]) == ["name", "river", "deep", "x-trace", "session"]
    order = tools["order"].parameters
    assert list(order["properties"]) == ["id", "hurry", "body_id", "what", "notes"]
    assert order["required"] == ["id", "body_id", "what"]
    assert order["properties"]["what"] == {"type": "string", "enum": ["tea", "bread"]}
    assert order["additionalProperties"] is False
    keep = tools["keep_towns"].parameters
    assert keep["properties"]["body"]["items"] == {"$ref": "#/$defs/Town-Input"}
    assert keep["$defs"]["Town-Input"]["properties"]["near"]["items"] == {"$ref": "#/$defs/Town-Input"}


def test_what_only_looks_has_no_effects(tools: dict[str, Tool]) -> None:
    changing = {name for name, one in tools.items() if one.effects}
    assert changing == {"order", "keep_towns", "remove_towns__name__delete", "moved"}


def test_a_request_is_what_httpx_sends(tools: dict[str, Tool], address: str) -> None:
    given = {"name": "Å/b c?&", "river": [1, 22], "deep": True, "x-trace": "a, b", "session": "s1"}
    outcome = tools["find_town"].run(given)
    method, target, headers, body = seen_after(lambda: tools["find_town"].run(given))
    theirs = seen_after(
        lambda: httpx.get(
            f"{address}/towns/%C3%85%2Fb%20c%3F%26",
            params={"river": [1, 22], "deep": True},
            headers={"x-trace": "a, b"},
            cookies={"session": "s1"},
        )
    )
    assert (method, target, body) == (theirs[0], theirs[1], theirs[3])
    for name in ("x-trace", "cookie", "host"):
        assert headers[name] == theirs[2][name]
    assert outcome.failed  # Starlette reads %2F as a slash
    given["name"] = "Å b?&"
    assert json.loads(tools["find_town"].run(given).text) == {
        "name": "Å b?&",
        "river": [1, 22],
        "deep": True,
        "x_trace": "a, b",
        "session": "s1",
    }


def test_a_body_is_what_httpx_sends(tools: dict[str, Tool], address: str) -> None:
    given = {"id": 7, "body_id": 3, "what": "tea", "notes": {"é": "<&>"}, "hurry": "yes"}
    ours = seen_after(lambda: tools["order"].run(given))
    sent = {"id": 3, "what": "tea", "notes": {"é": "<&>"}}
    theirs = seen_after(lambda: httpx.post(f"{address}/towns/7/orders", params={"hurry": "yes"}, json=sent))
    assert ours[:2] == theirs[:2]
    assert ours[3] == theirs[3]
    for name in ("content-type", "content-length"):
        assert ours[2][name] == theirs[2][name]
    assert json.loads(tools["order"].run(given).text) == {"town": 7, "order": sent, "hurry": "yes"}
    towns = [{"name": "Halden", "people": None, "near": [{"name": "Moss", "people": 4, "near": []}]}]
    assert json.loads(tools["keep_towns"].run({"body": towns}).text) == towns
    assert tools["order"].run({**given, "what": "gold"}).text.startswith("error: what: 'gold' is not one of")


def test_answers_that_say_nothing_and_refusals(tools: dict[str, Tool]) -> None:
    remove = tools["remove_towns__name__delete"]
    assert remove.run({"name": "Halden"}).text == "204 No Content, with nothing in it"
    refused = remove.run({"name": "Moss"})
    assert refused.failed
    assert refused.text.startswith("error: DELETE /towns/{name} answers 409 Conflict: It stays. It stays.")
    assert len(refused.text) < 600
    assert tools["see_picture"].run({}).text.endswith("is image/png, which is no text")


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("find_town", {"name": ".."}, "name is '..', which cannot stand in an address"),
        ("find_town", {"name": ""}, "name is '', which cannot stand in an address"),
        ("find_town", {"name": "a", "x-trace": "a\r\nX-Key: b"}, "x-trace is sent in a header"),
        ("find_town", {"name": "a", "x-trace": "é"}, "x-trace is sent in a header"),
        ("find_town", {"river": [1]}, "'name' is a required property"),
        ("find_town", {"name": "a", "river": [-1]}, "-1 is less than the minimum of 0"),
        ("find_town", {"name": "a", "stream": 1}, "Additional properties are not allowed"),
        ("keep_towns", {"body": [{"near": []}]}, "'name' is a required property"),
        ("go", {"where": "away"}, "redirects to another host (localhost:9), which is not asked"),
        ("go", {"where": "loop"}, "redirects more than 5 times"),
        ("go", {"where": "nowhere"}, "answers 500 Internal Server Error"),
        ("large", {"size": 200_001}, "has more than 200,000 bytes"),
    ],
)
def test_calls_that_cannot_be_made_are_told_to_the_model(
    address: str, name: str, arguments: dict[str, Any], told: str
) -> None:
    limits = WebLimits(seconds=10, size=200_000)
    tools = tools_from_openapi(
        API.openapi(), base_url=address, operations=[name.replace("find_", "find-")], limits=limits
    )
    outcome = tools[0].run(arguments)
    assert outcome.failed
    assert told in outcome.text
    assert "\n" not in outcome.text


def test_a_server_that_is_late_or_not_there(address: str) -> None:
    limits = WebLimits(seconds=0.5)
    (slow,) = tools_from_openapi(API.openapi(), base_url=address, operations=["slow"], limits=limits)
    outcome = slow.run({"seconds": 3})
    assert (outcome.text, outcome.seconds < 2) == ("error: 127.0.0.1 takes longer than 0.5 s", True)
    (order,) = tools_from_openapi(API.openapi(), base_url="http://127.0.0.1:9", operations=["order"])
    outcome = order.run({"id": 1, "body_id": 2, "what": "tea"})
    assert "127.0.0.1 cannot be asked" in outcome.text
    assert outcome.text.endswith("; what it does may still have happened")


def test_redirections_on_the_same_host_are_followed(tools: dict[str, Tool]) -> None:
    assert json.loads(tools["go"].run({"where": "here"}).text)["deep"] is True
    given = {"id": 3, "what": "tea"}
    for status, methods in (
        (307, ["POST", "POST"]),
        (308, ["POST", "POST"]),
        (302, ["POST", "GET"]),
        (303, ["POST", "GET"]),
    ):
        API.state.seen.clear()
        assert not tools["moved"].run({"status": status, **given}).failed
        assert [one[0] for one in API.state.seen] == methods
        sent = [json.loads(one[3] or b"null") for one in API.state.seen]
        assert sent[1] == (sent[0] if methods[1] == "POST" else None)


def test_credentials_are_sent_and_never_shown(tools: dict[str, Tool], tmp_path: Any) -> None:
    assert tools["secret"].parameters["properties"].keys() == {"kind"}
    assert tools["query_secret"].parameters["properties"] == {}
    assert tools["secret"].run({"kind": "good"}).text == "[secret] and [secret]!"
    assert API.state.seen[-1][2]["x-key"] == "h3ader-key"
    assert tools["secret"].run({"kind": "bad"}).text.endswith("403 Forbidden: [secret] and [secret]!")
    assert "qu" not in tools["query_secret"].run({}).text.partition("key=")[2]
    assert API.state.seen[-1][1] == "/query-secret?key=qu%2Bery%2Fkey"
    assert json.loads(tools["bearer"].run({}).text) == {"right": True}
    assert json.loads(tools["basic"].run({}).text) == {"user": "anna", "right": True}
    assert API.state.seen[-1][2]["authorization"] == f"Basic {base64.b64encode(b'anna:pass:word').decode()}"
    model = ScriptedModel([("secret", {"kind": "good"}), ("query_secret", {})], "So.")
    with closing(TraceWriter(tmp_path / "t.jsonl")) as writer:
        run_agent("Look", model, [tools["secret"], tools["query_secret"]], on_event=writer)
    told = (tmp_path / "t.jsonl").read_text() + json.dumps(model.seen)
    assert not [key for key in KEYS.values() if key in told]


def test_a_credential_in_an_error_is_not_shown(address: str) -> None:
    (one,) = tools_from_openapi(
        API.openapi(), base_url=address, operations=["query_secret"], environment=KEYS, limits=WebLimits(size=10)
    )
    outcome = one.run({})
    assert "has more than 10 bytes" in outcome.text
    assert "ery" not in outcome.text.replace("query", "")


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "it needs the credential user; set the environment variable SCRATCHLM_KEY_USER to user:password"),
        ({"SCRATCHLM_KEY_USER": "anna"}, "SCRATCHLM_KEY_USER holds no credential"),
        ({"SCRATCHLM_KEY_USER": "a:"}, "at least 4 printable ASCII"),
        ({"SCRATCHLM_KEY_USER": "anna:pass\nX: y"}, "printable ASCII"),
    ],
)
def test_a_credential_that_is_missing_is_told(environment: dict[str, str], told: str) -> None:
    with pytest.raises(UserError) as caught:
        tools_from_openapi(API.openapi(), base_url="http://127.0.0.1:9", operations=["basic"], environment=environment)
    assert told in str(caught.value)
    assert "anna" not in str(caught.value)


def test_what_cannot_be_called_is_left_out_and_told() -> None:
    lines: list[str] = []
    found = tools_from_openapi(API.openapi(), base_url="http://127.0.0.1:9", environment={}, on_left_out=lines.append)
    assert [line.partition(" is left out: ")[0] for line in lines] == [
        "send_picture",
        "secret",
        "query_secret",
        "bearer",
        "basic",
    ]
    assert "multipart/form-data, which cannot be written as JSON or a form" in lines[0]
    assert "send_picture" not in [one.name for one in found]
    with pytest.raises(UserError, match="send_picture cannot be called: its body is multipart/form-data"):
        tools_from_openapi(API.openapi(), base_url="http://127.0.0.1:9", operations=["send_picture"])


def test_a_document_from_the_network_leads_to_public_addresses_only(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"127\.0\.0\.1, which is not public"):
        tools_from_openapi(f"{address}/openapi.json")
    monkeypatch.setattr(web, "is_public", lambda _: True)
    document = f"{address}/openapi.json"
    (find,) = tools_from_openapi(document, operations=["GET /towns/{name}"])
    assert json.loads(find.run({"name": "Moss"}).text)["name"] == "Moss"
    (given,) = tools_from_openapi(document, operations=["find-town"], base_url=address)
    monkeypatch.setattr(web, "is_public", lambda _: False)
    assert "which is not public; it is not asked" in find.run({"name": "Moss"}).text
    assert json.loads(given.run({"name": "Moss"}).text)["name"] == "Moss"  # the user has named the server


# ---- how values are written; the examples are those of the OpenAPI specification, section "Style Examples"

COLORS: dict[str, Any] = {
    "string": "blue",
    "array": ["blue", "black", "brown"],
    "object": {"R": 100, "G": 200, "B": 150},
}


@pytest.mark.parametrize(
    ("place", "style", "explode", "string", "array", "of_object"),
    [
        ("path", "matrix", False, ";color=blue", ";color=blue,black,brown", ";color=R,100,G,200,B,150"),
        ("path", "matrix", True, ";color=blue", ";color=blue;color=black;color=brown", ";R=100;G=200;B=150"),
        ("path", "label", False, ".blue", ".blue,black,brown", ".R,100,G,200,B,150"),
        ("path", "label", True, ".blue", ".blue.black.brown", ".R=100.G=200.B=150"),
        ("path", "simple", False, "blue", "blue,black,brown", "R,100,G,200,B,150"),
        ("path", "simple", True, "blue", "blue,black,brown", "R=100,G=200,B=150"),
        ("header", "simple", False, "blue", "blue,black,brown", "R,100,G,200,B,150"),
        ("header", "simple", True, "blue", "blue,black,brown", "R=100,G=200,B=150"),
        ("query", "form", False, "color=blue", "color=blue,black,brown", "color=R,100,G,200,B,150"),
        ("query", "form", True, "color=blue", "color=blue&color=black&color=brown", "R=100&G=200&B=150"),
        ("query", "spaceDelimited", False, None, "color=blue%20black%20brown", "color=R%20100%20G%20200%20B%20150"),
        ("query", "pipeDelimited", False, None, "color=blue%7Cblack%7Cbrown", "color=R%7C100%7CG%7C200%7CB%7C150"),
        ("query", "deepObject", True, None, None, "color%5BR%5D=100&color%5BG%5D=200&color%5BB%5D=150"),
        ("cookie", "form", False, "color=blue", "color=blue,black,brown", "color=R,100,G,200,B,150"),
    ],
)
def test_values_are_written_as_the_specification_shows(
    place: str, style: str, explode: bool, string: str | None, array: str | None, of_object: str | None
) -> None:
    parameter = Parameter("color", "color", place, style, explode)
    path = "/{color}" if place == "path" else "/"
    operation = Operation("GET", "http://a.example/", path, [parameter], None, [], False)
    for kind, wanted in (("string", string), ("array", array), ("object", of_object)):
        if wanted is None:
            continue
        request = request_of(operation, {"color": COLORS[kind]})
        if place in ("path", "query"):
            assert request.url == f"http://a.example/{'?' if place == 'query' else ''}{wanted}"
        else:
            assert request.headers["cookie" if place == "cookie" else "color"] == wanted


@pytest.mark.parametrize(
    ("parameter", "value", "wanted"),
    [
        (Parameter("q", "q", "query", "form", True), "a b&c=d/é", "q=a%20b%26c%3Dd%2F%C3%A9"),
        (Parameter("q", "q", "query", "form", True, reserved=True), "a/b:c&d", "q=a/b:c%26d"),
        (
            Parameter("q", "q", "query", "form", True, as_json=True),
            {"a": [1, "é"]},
            "q=%7B%22a%22%3A%5B1%2C%22%C3%A9%22%5D%7D",
        ),
        (Parameter("q", "q[]", "query", "form", True), [1, 2], "q%5B%5D=1&q%5B%5D=2"),
        (Parameter("q", "q", "query", "form", True), False, "q=false"),
        (Parameter("q", "q", "query", "form", True), 1.5, "q=1.5"),
        (Parameter("q", "q", "query", "form", True), [], ""),
        (Parameter("q", "q", "query", "form", True), None, ""),
    ],
    ids=str,
)
def test_values_in_a_query(parameter: Parameter, value: Any, wanted: str) -> None:
    operation = Operation("GET", "http://a.example/v1", "/x", [parameter], None, [], False)
    assert request_of(operation, {"q": value}).url == f"http://a.example/v1/x{'?' if wanted else ''}{wanted}"


def test_forms_are_what_httpx_sends() -> None:
    body = Body("application/x-www-form-urlencoded", None, {"a": "a", "body_b": "b", "c": "c"}, True)
    operation = Operation("POST", "http://a.example", "/", [], body, [], False)
    request = request_of(operation, {"a": "x y&é", "body_b": [1, True], "c": None})
    theirs = httpx.Request("POST", "http://a.example/", data={"a": "x y&é", "b": [1, True]})
    assert request.body == theirs.content
    assert request.headers["content-type"] == theirs.headers["content-type"]
    whole = Operation("POST", "http://a.example", "/", [], Body(body.kind, "body", {}, True), [], False)
    with pytest.raises(ToolError, match="body has to be an object"):
        request_of(whole, {"body": [1]})


def test_a_body_that_may_be_left_out_is() -> None:
    body = Body("application/json", None, {"a": "a"}, False)
    operation = Operation("POST", "http://a.example", "/", [], body, [], False)
    request = request_of(operation, {})
    assert (request.body, request.headers.get("content-type")) == (b"", None)
    needed = Operation("POST", "http://a.example", "/", [], Body("application/json", None, {}, True), [], False)
    assert request_of(needed, {}).body == b"{}"


def test_an_untrained_model_writes_calls_that_an_api_takes(tools: dict[str, Tool]) -> None:
    model = LocalAgentModel(Tiny(CHATML))
    asked = [{"role": "user", "content": "Order tea."}]
    for name in ("order", "keep_towns"):
        reply = model.respond(asked, [tools[name].schema()], choice={"name": name}, max_new_tokens=300)
        outcome = tools[name].run(reply.calls[0].arguments)
        assert not outcome.failed, outcome.text


def test_an_agent_works_with_an_api(tools: dict[str, Tool]) -> None:
    model = ScriptedModel([("find_town", {"name": "Moss"}), ("find_town", {"name": "Halden"})], "Two towns.")
    state = run_agent("Find them", model, list(tools.values()))
    assert [json.loads(call.result or "")["name"] for call in state.calls] == ["Moss", "Halden"]
