"""Tools of MCP servers: one that others wrote, one made with the official SDK over both transports, and broken ones."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scratchlm.agents.loop import run_agent
from scratchlm.agents.mcp_client import McpServer
from scratchlm.agents.model import ToolCall
from scratchlm.agents.settings import EFFECTS, AgentSettings
from scratchlm.agents.tool import Outcome, Tool
from scratchlm.errors import UserError

from .scripted import ScriptedModel

PEER, BY_HAND = (Path(__file__).parent / name for name in ("mcp_peer.py", "mcp_by_hand.py"))
OVER_STDIO = f"{sys.executable} {PEER}"


def tools_of(server: McpServer) -> dict[str, Tool]:
    return {tool.name: tool for tool in server.tools()}


@pytest.fixture(scope="module")
def over_http() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([sys.executable, str(PEER), str(port), "let-me-in"]) as process:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/mcp"
        process.kill()


@pytest.fixture(scope="module", params=["stdio", "http"])
def server(request: pytest.FixtureRequest) -> Iterator[McpServer]:
    """The same server over both; over stdio it begins with a line that is no message."""
    address = OVER_STDIO if request.param == "stdio" else request.getfixturevalue("over_http")
    with McpServer(address, key="let-me-in" if request.param == "http" else None, timeout=20) as opened:
        yield opened


def by_hand(folder: Path, **told: Any) -> str:
    file = folder / "told.json"
    file.write_text(json.dumps({"pages": [[]], **told}))
    return f"{sys.executable} {BY_HAND} {file}"


def one_tool(name: str = "look", **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object", "properties": {}}, **more}


# ---- a server of others


def test_a_server_from_a_package_is_used_as_it_is() -> None:
    with McpServer(f"{sys.executable} -m mcp_server_time --local-timezone=Etc/UTC") as server:
        tools = tools_of(server)
        assert set(tools) == {"get_current_time", "convert_time"}
        given = {"source_timezone": "Etc/UTC", "time": "12:30", "target_timezone": "Asia/Tokyo"}
        found = tools["convert_time"].run(given)
        assert json.loads(found.text)["target"]["datetime"].split("T")[1].startswith("21:30")
        wrong = tools["get_current_time"].run({"timezone": "Mars/Olympus"})
        assert wrong.failed
        assert "Mars/Olympus" in wrong.text


def test_an_agent_works_with_its_tools() -> None:
    with McpServer(f"{sys.executable} -m mcp_server_time --local-timezone=Etc/UTC") as server:
        asked = {"source_timezone": "Etc/UTC", "time": "06:00", "target_timezone": "Etc/UTC"}
        model = ScriptedModel(("convert_time", asked), "It is 6.")
        state = run_agent("What time is it there?", model, server.tools())
    assert state.answer == "It is 6."
    assert "06:00" in str(state.steps[0].calls[0].result)


# ---- both transports


def test_names_schemas_and_effects(server: McpServer) -> None:
    tools = tools_of(server)
    assert server.name == "peer_1"
    assert list(tools) == ["add", "note", "fail", "slow", "large", "mixed", "secret", "die"]
    assert tools["add"].description == "Add two numbers."
    assert tools["add"].parameters["properties"] == {"a": {"type": "integer"}, "b": {"type": "integer"}}
    assert tools["add"].parameters["required"] == ["a", "b"]
    assert [name for name, tool in tools.items() if tool.effects] == ["note", "die"]


def test_results_and_failures_are_texts(server: McpServer) -> None:
    tools = tools_of(server)
    assert tools["add"].run({"a": 2, "b": 40}).text == "42"
    assert tools["mixed"].run({}).text == "a text\n[image/png, which is not shown]\nin the file"
    failed = tools["fail"].run({"why": "no ink"})
    assert failed.failed
    assert "no ink" in failed.text
    assert failed.text.startswith("error: ")
    misfit = tools["add"].run({"a": "two", "b": 1})
    assert misfit.text == "error: a: 'two' is not of type 'integer'; add takes: a, b"
    large = tools["large"].run({"count": 9_000})
    assert large.text.startswith("x" * 4_000 + "\n[cut: the first 4,000 of 9,000")


def test_a_call_that_takes_too_long_is_cancelled_at_the_server(
    server: McpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_timeout", 0.5)
    slow = tools_of(server)["slow"]
    file = tmp_path / "broken-off"
    found = slow.run({"seconds": 60, "file": str(file)})
    assert found.failed
    assert found.text == "error: slow took longer than 0.5 s and was left"
    for _ in range(100):
        if file.exists():
            break
        time.sleep(0.1)
    assert file.read_text() == "cancelled"
    assert tools_of(server)["add"].run({"a": 1, "b": 1}).text == "2"


def test_calls_side_by_side(server: McpServer) -> None:
    add = tools_of(server)["add"]
    model = ScriptedModel([("add", {"a": n, "b": 100}) for n in range(6)], "done")
    state = run_agent("Add.", model, [add])
    assert [one.result for one in state.steps[0].calls] == [str(100 + n) for n in range(6)]


def test_what_may_have_effects_is_asked_about(server: McpServer, tmp_path: Path) -> None:
    file = tmp_path / "notes"
    given = {"text": "hello", "file": str(file)}
    model = ScriptedModel(("note", given), ("add", {"a": 1, "b": 2}), "done")
    asked: list[tuple[str, str]] = []

    def refuse(call: ToolCall, why: str) -> bool:
        asked.append((call.name, why))
        return False

    state = run_agent("Note it.", model, server.tools(), AgentSettings(approve=(EFFECTS,)), ask=refuse)
    assert asked == [("note", "approval")]
    assert not file.exists()
    assert state.steps[1].calls[0].result == "3"


# ---- how it is opened


def test_only_what_is_named_of_the_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "abc")
    with McpServer(OVER_STDIO) as server:
        assert tools_of(server)["secret"].run({"name": "MY_TOKEN"}).text == "nothing"
    with McpServer(OVER_STDIO, environment={"MY_TOKEN": "abc"}) as server:
        assert tools_of(server)["secret"].run({"name": "MY_TOKEN"}).text == "abc"


def test_a_key_opens_an_http_server_and_is_not_sent_in_the_open(over_http: str) -> None:
    with pytest.raises(UserError, match=r"cannot be used: .* \(HTTP 401\)"):
        McpServer(over_http)
    with pytest.raises(UserError, match=r"a key would go to example\.org in the open; use https"):
        McpServer("http://example.org/mcp", key="k")


BAD = [
    ("no-such-program-here --x", "cannot be used: there is no program no-such-program-here"),
    (f"{sys.executable} -c pass", "cannot be used: Connection closed"),
    (f"{sys.executable} -c 'raise SystemExit(\"no licence\")'", r"\(it said: no licence\)"),
    (f"{sys.executable} {PEER}x", r"it said: .*No such file"),
    (f"{sys.executable} -c 'import time; time.sleep(60)'", "has not answered after 1.5 s"),
    ("'unfinished", "is no command: No closing quotation"),
    ("   ", "an MCP server is a command or an address"),
    ("http://127.0.0.1:9/mcp", "cannot be used: All connection attempts failed"),
    ("http://", "is no address"),
]


@pytest.mark.parametrize(("address", "said"), BAD, ids=[said[:30] for _, said in BAD])
def test_what_cannot_be_opened_is_told_in_a_line(address: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        McpServer(address, connecting=1.5 if "sleep" in address else 30)
    assert "\n" not in str(error.value)


def test_a_page_that_is_no_mcp_server(tmp_path: Path) -> None:
    code = "from http.server import *; HTTPServer(('127.0.0.1', {}), SimpleHTTPRequestHandler).serve_forever()"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [sys.executable, "-c", code.format(port)]
    with subprocess.Popen(started, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        time.sleep(1.5)
        with pytest.raises(UserError, match="cannot be used: "):
            McpServer(f"http://127.0.0.1:{port}/mcp", connecting=10)
        process.kill()


def peers() -> set[int]:
    """The servers that were started over stdio and live."""
    # -ww: where COLUMNS is set, ps cuts its lines, and with them the name that is looked for
    shown = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())]
    listed = subprocess.run(shown, capture_output=True, text=True)
    return {int(line.split()[0]) for line in listed.stdout.splitlines() if line.endswith("mcp_peer.py")}


def test_the_program_ends_with_the_connection() -> None:
    before = peers()
    server = McpServer(OVER_STDIO)
    (pid,) = peers() - before
    tool = tools_of(server)["add"]
    server.close()
    server.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert tool.run({"a": 1, "b": 1}).text == "error: peer_1 has ended"


def test_a_server_that_dies_is_an_answer_and_nothing_hangs() -> None:
    with McpServer(OVER_STDIO, timeout=20) as server:
        tools = tools_of(server)
        began = time.monotonic()
        died = tools["die"].run({})
        assert died.failed
        assert "closed" in died.text.lower()
        again = tools["add"].run({"a": 1, "b": 1})
        assert again.failed
        assert time.monotonic() - began < 15


def test_a_server_that_is_killed_between_calls() -> None:
    before = peers()
    with McpServer(OVER_STDIO, timeout=20) as server:
        (pid,) = peers() - before
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)
        assert tools_of(server)["add"].run({"a": 1, "b": 1}).failed


# ---- lists of tools


def test_pages_are_read_to_the_end(tmp_path: Path) -> None:
    pages = [[one_tool("a"), one_tool("b")], [one_tool("c")], [one_tool("d-e.f/g")]]
    result = {"content": [], "structuredContent": {"n": 1}}
    with McpServer(by_hand(tmp_path, pages=pages, result=result)) as server:
        tools = tools_of(server)
        assert list(tools) == ["a", "b", "c", "d_e_f_g"]
        assert tools["d_e_f_g"].run({}).text == '{"n": 1}'
    with pytest.raises(UserError, match="more than 100 pages"):
        McpServer(by_hand(tmp_path, endless=True))


def test_names_that_are_taken_get_the_servers(tmp_path: Path) -> None:
    pages = [[one_tool("look"), one_tool("look-up"), one_tool("look.up"), one_tool("9lives")]]
    told = pytest.raises(UserError, match="two tools are called by_hand_look_up; the MCP server")
    with McpServer(by_hand(tmp_path, pages=pages)) as server, told:
        server.tools(taken=["look"])
    with McpServer(by_hand(tmp_path, pages=[[one_tool("look"), one_tool("9lives")]])) as server:
        assert [tool.name for tool in server.tools(taken=["look"])] == ["by_hand_look", "_9lives"]
        with pytest.raises(UserError, match="two tools are called by_hand_look"):
            server.tools(taken=["look", "by_hand_look"])


def test_a_tool_that_cannot_be_used_is_left_out_by_name(tmp_path: Path) -> None:
    wrong = one_tool("odd", inputSchema={"type": "object", "properties": {"a": {"type": "nothing"}}})
    with McpServer(by_hand(tmp_path, pages=[[wrong, one_tool("good")]])) as server:
        told: list[str] = []
        assert [tool.name for tool in server.tools(on_left_out=told.append)] == ["good"]
        assert len(told) == 1
        assert told[0].startswith("the tool odd of by_hand is left out: the JSON Schema of the tool odd is wrong")
        with pytest.raises(UserError, match="the tool odd of by_hand is left out"):
            server.tools()


def given_back(folder: Path, schema: dict[str, Any], given: dict[str, Any]) -> Outcome:
    """What a tool with this schema makes of arguments."""
    pages = [[one_tool(inputSchema=schema)]]
    with McpServer(by_hand(folder, pages=pages, result={"content": [{"type": "text", "text": "made"}]})) as server:
        return tools_of(server)["look"].run(given)


OPEN = [
    {"type": "object"},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "object", "allOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"b": True}}]},
    {"type": "object", "properties": {"a": True}, "anyOf": [{"required": ["a"], "properties": {"b": {"const": 2}}}]},
    {"type": "object", "properties": {"a": True}, "patternProperties": {"^b": True}},
    {"type": "object", "properties": {"a": True}, "$ref": "#/$defs/more", "$defs": {"more": {"properties": {"b": {}}}}},
    {"type": "object", "allOf": [{"$ref": "#/definitions/b"}], "definitions": {"b": {"properties": {"b": {}}}}},
]


@pytest.mark.parametrize("schema", OPEN, ids=lambda schema: json.dumps(schema)[17:60])
def test_arguments_that_do_not_all_stand_in_properties_are_taken(tmp_path: Path, schema: dict[str, Any]) -> None:
    assert given_back(tmp_path, schema, {"a": 1, "b": 2}).text == "made"


def test_a_name_that_the_schema_has_not_is_told_of(tmp_path: Path) -> None:
    whole = {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {}}}}}
    wrong = given_back(tmp_path, whole, {"aa": {}})
    assert wrong.text == "error: Additional properties are not allowed ('aa' was unexpected); look takes: a"
    assert given_back(tmp_path, whole, {"a": {"c": 1}}).text == "made"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"properties": {"a": {"$ref": "http://127.0.0.1:9/a.json"}}}, "the reference http://127.0.0.1:9/a.json in"),
        ({"properties": {"a": {"items": [{"$ref": "#/$defs/b"}]}}}, "the JSON Schema of the tool look is wrong"),
        ({"properties": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}}}, "the reference #/$defs/b in its JSON Schema leads"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": 5}}, "the JSON Schema of the tool look is wrong"),
        ({"$defs": 5}, "the JSON Schema of the tool look is wrong"),
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_followed_is_told_when_it_is_read(
    tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    with McpServer(by_hand(tmp_path, pages=[[one_tool(inputSchema={"type": "object", **wrong})]])) as server:
        told: list[str] = []
        assert server.tools(on_left_out=told.append) == []
        assert told[0].startswith(f"the tool look of by_hand is left out: {said}")


def test_noise_between_the_messages_is_passed_over(tmp_path: Path) -> None:
    result = {"content": [{"type": "text", "text": "seen"}]}
    with McpServer(by_hand(tmp_path, pages=[[one_tool()]], result=result, noise="Grüße {"), timeout=20) as server:
        look = tools_of(server)["look"]
        assert [look.run({}).text for _ in range(2)] == ["seen", "seen"]


def test_what_is_no_result_is_told_without_jargon(tmp_path: Path) -> None:
    with McpServer(by_hand(tmp_path, pages=[[one_tool()]], result={"content": [{"type": "smell"}]})) as server:
        found = tools_of(server)["look"].run({})
    assert found.text.startswith("error: by_hand answered what is no result: content.0.")
    assert "pydantic" not in found.text
    with pytest.raises(UserError, match=r"cannot be used: tools\.0\.inputSchema: Field required$"):
        McpServer(by_hand(tmp_path, pages=[[{"name": "look"}]]))


def test_a_call_that_is_made_while_it_is_closed_is_an_answer() -> None:
    server = McpServer(OVER_STDIO)
    slow = tools_of(server)["slow"]
    threading.Timer(1, server.close).start()
    found = slow.run({"seconds": 60, "file": os.devnull})
    assert found.failed
    assert found.seconds < 15
    assert found.text == "error: peer_1: Connection closed"


def test_a_missing_sdk_is_told_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(UserError, match=r"need mcp, which is missing; run: pip install 'scratchlm\[agents\]'"):
        McpServer("python -m mcp_server_time")


def test_an_error_of_the_protocol_is_an_answer(tmp_path: Path) -> None:
    with McpServer(by_hand(tmp_path, pages=[[one_tool()]], result=None)) as server:
        found: Outcome = tools_of(server)["look"].run({})
        assert found.failed
        assert found.text == "error: by_hand: there is no such method"
