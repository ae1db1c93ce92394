"""What other programs are offered over MCP, asked with the official SDK's client over stdio and HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

import scratchlm
from scratchlm.agents.mcp_client import McpServer
from scratchlm.errors import UserError
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.retrieval.index import Index
from scratchlm.retrieval.search import Searcher
from scratchlm.serving.mcp_server import create_mcp_server

from ..cli.conftest import library as library

KEY = "a-key-for-the-tests-0123456789"
HOME = Path(scratchlm.__file__).parents[1]


def environment() -> dict[str, str]:
    """What a client gives a server that it starts: enough to find the package that is tested."""
    return {**os.environ, "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def command(models: Path, library: Path) -> list[str]:
    return [
        *("-m", "scratchlm", "mcp", "--model", str(models / "chat"), "--tools", "calculator,units"),
        *("--store", str(library / "store")),
    ]


@pytest.fixture(scope="module")
def over_http(command: list[str], library: Path) -> Iterator[str]:
    started = [sys.executable, *command, "--port", "0"]
    told = {**environment(), "SCRATCHLM_API_KEYS": KEY}
    with subprocess.Popen(started, env=told, cwd=library, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines: list[str] = []
        while not lines or not lines[-1].startswith("serving at "):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        yield lines[-1].removeprefix("serving at ").strip()
        process.terminate()


@asynccontextmanager
async def connected(how: str, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    if how == "http":
        http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
        transport: Any = streamable_http_client(request.getfixturevalue("over_http"), http_client=http)
    else:
        arguments, folder = request.getfixturevalue("command"), request.getfixturevalue("library")
        transport = StdioServerParameters(command=sys.executable, args=arguments, env=environment(), cwd=folder)
    async with Client(transport) as client:
        yield client


def asked(how: str, request: pytest.FixtureRequest, work: Callable[[Client], Awaitable[None]]) -> None:
    """Do something with a client of the server."""

    async def run() -> None:
        async with connected(how, request) as client:
            await work(client)

    anyio.run(run)


BOTH = pytest.mark.parametrize("how", ["stdio", "http"])


@BOTH
def test_everything_that_is_offered_works(
    how: str, request: pytest.FixtureRequest, models: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(library)
    index = Index.open("store")
    found = Searcher(index, index.open_embedder()).search("Who decoded the waggle dance?", 3)
    messages = [{"role": "user", "content": "Hello"}]
    model = scratchlm.load(str(models / "chat"))
    said = model.chat(messages, max_new_tokens=24, sampling=SamplingConfig(greedy=True))

    async def work(client: Client) -> None:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(listed) == {"search", "ask", "chat", "run_agent"}
        assert all(tool.description and tool.output_schema for tool in listed.values())
        assert all(tool.annotations and tool.annotations.read_only_hint for tool in listed.values())
        assert client.server_info is not None
        assert (client.server_info.name, client.server_info.version) == ("scratchlm", scratchlm.__version__)

        hits = await client.call_tool("search", {"query": "Who decoded the waggle dance?", "count": 3})
        told = hits.structured_content["hits"]
        assert [(one["file"], one["start"], one["end"], one["place"]) for one in told] == [
            (hit.file, hit.start, hit.end, hit.place()) for hit in found.hits
        ]
        assert [one["score"] for one in told] == pytest.approx([hit.score for hit in found.hits])
        assert "waggle dance" in told[0]["text"]
        assert json.loads(hits.content[0].text) == hits.structured_content  # for clients that read texts alone

        answer = await client.call_tool("ask", {"question": "When was the waggle dance decoded by Karl von Frisch?"})
        cited = answer.structured_content
        assert not cited["refused"]
        assert "[1]" in cited["text"]
        for source in cited["sources"]:
            assert source["quote"] in (library / "docs" / source["file"]).read_text()
        assert (
            await client.call_tool("ask", {"question": "Who won the 1974 chess final in Oslo?"})
        ).structured_content["refused"]

        heard: list[float] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            del total, message
            heard.append(done)

        given = {"message": "Hello", "max_new_tokens": 24}
        made = await client.call_tool("chat", given, progress_callback=progress)
        assert made.structured_content == {"text": said.completion, "finish_reason": said.finish_reason}
        assert heard == sorted(heard)
        assert heard
        worked = await client.call_tool("run_agent", {"task": "What is 2 + 2?", "max_steps": 2})
        assert set(worked.structured_content) == {"answer", "status", "calls"}
        assert not worked.is_error

    asked(how, request, work)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("search", {"query": " "}, "the query is empty"),
    ("search", {"query": "x", "count": 0}, "count"),
    ("search", {"query": "x", "count": "many"}, "count"),
    ("search", {}, "query"),
    ("ask", {"question": "?"}, "the question is empty"),
    ("ask", {"question": "x " * 5000}, "ask shorter"),
    ("chat", {"message": "x", "max_new_tokens": 0}, "max_new_tokens"),
    ("chat", {"message": "x" * 3000}, "the model reads 1,024"),
    ("chat", {"message": "x", "temperature": 9}, "temperature"),
    ("run_agent", {"task": ""}, "there is no task"),
    ("run_agent", {"task": "x", "max_steps": 0}, "max_steps"),
    ("fly", {}, "Unknown tool: fly"),
]


@BOTH
def test_mistakes_are_told_and_the_server_goes_on(how: str, request: pytest.FixtureRequest) -> None:
    async def work(client: Client) -> None:
        for name, given, said in WRONG:
            result = await client.call_tool(name, given)
            assert result.is_error, (name, given)
            assert said in result.content[0].text, (name, given, result.content[0].text)
        assert not (await client.call_tool("search", {"query": "bees"})).is_error

    asked(how, request, work)


@BOTH
def test_calls_side_by_side_and_calls_that_are_taken_back(how: str, request: pytest.FixtureRequest) -> None:
    async def work(client: Client) -> None:
        hello = {"message": "Hello", "max_new_tokens": 16}
        one = (await client.call_tool("chat", hello)).structured_content
        found: list[Any] = []

        async def again() -> None:
            found.append(
                (await client.call_tool("chat", {"message": "Hello", "max_new_tokens": 16})).structured_content
            )

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(again)
        assert found == [one] * 4
        for _ in range(8):
            with anyio.move_on_after(0.02):
                await client.call_tool("chat", {"message": "Hello", "max_new_tokens": 900})
        assert (await client.call_tool("chat", hello)).structured_content == one

    asked(how, request, work)


def test_work_stops_when_its_call_is_taken_back(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that waits for its turn does not wait on."""
    begun: list[str] = []
    ended: list[str] = []

    def chat(self: object, messages: list[dict[str, str]], on_text: Callable[[int, str], None], **_: object) -> None:
        del self
        begun.append(messages[-1]["content"])
        try:
            for _ in range(600):
                on_text(0, "and ")
                time.sleep(0.05)
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    monkeypatch.setattr("scratchlm.language_model.LanguageModel.chat", chat)
    server = create_mcp_server(model=str(models / "chat"))

    async def run() -> None:
        async with Client(server) as client:
            with anyio.move_on_after(1.0):
                async with anyio.create_task_group() as group:
                    for message in ("first", "second"):
                        group.start_soon(client.call_tool, "chat", {"message": message})
                        await anyio.sleep(0.2)
            for _ in range(100):
                if ended:
                    break
                await anyio.sleep(0.05)

    asyncio.run(run())
    assert ended == ["_LeftError"]
    assert begun == ["first"]


def test_ours_is_a_server_for_our_own_agents(
    command: list[str], library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(library)
    with McpServer(" ".join([sys.executable, *command]), environment=environment(), connecting=90) as server:
        tools = {tool.name: tool for tool in server.tools()}
        assert "bees" in tools["search"].run({"query": "waggle dance", "count": 1}).text


def test_nothing_but_the_protocol_goes_to_standard_output(command: list[str], library: Path) -> None:
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }
    found = subprocess.run(
        [sys.executable, *command],
        input=json.dumps(hello) + "\n",
        capture_output=True,
        text=True,
        env=environment(),
        cwd=library,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0  # it ends when its input does
    lines = found.stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [1]


def test_a_key_is_needed_over_http_and_other_names_of_this_machine_are_refused(over_http: str) -> None:
    hello = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    headers = {"Accept": "application/json, text/event-stream", "Authorization": f"Bearer {KEY}"}
    with httpx2.Client(timeout=30) as client:
        assert client.post(over_http, json=hello).status_code == 401
        assert client.post(over_http, json=hello, headers=headers | {"Authorization": "Bearer no"}).status_code == 401
        assert client.post(over_http, json=hello, headers=headers | {"Host": "evil.example"}).status_code == 403
    port = int(over_http.split(":")[2].partition("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as made:
        lines = ("POST /mcp HTTP/1.1", "Host: localhost", f"Authorization: Bearer {KEY}", f"Content-Length: {5 << 20}")
        made.sendall("\r\n".join((*lines, "", "")).encode())
        assert made.recv(100).startswith(b"HTTP/1.1 413")


def test_several_indexes_are_called_by_their_folders(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(library)
    (tmp_path / "second").symlink_to(library / "store")
    server = create_mcp_server(["store", str(tmp_path / "second")])
    names = [tool.name for tool in anyio.run(server.list_tools)]
    assert names == ["search_store", "ask_store", "search_second", "ask_second"]
    with pytest.raises(UserError, match="two indexes are called store"):
        create_mcp_server(["store", str(library / "store")])


def test_an_agent_that_may_change_something_says_so(models: Path, tmp_path: Path) -> None:
    server = create_mcp_server(model=str(models / "chat"), tools=[f"files-write:{tmp_path}"])
    (agent,) = [tool for tool in anyio.run(server.list_tools) if tool.name == "run_agent"]
    assert agent.annotations is not None
    assert agent.annotations.read_only_hint is False
    assert "write_file" in str(agent.description)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "nothing is offered; give an index with --store, a model with --model"),
        ({"tools": ["calculator"]}, "there is no model; give --model"),
        ({"stores": ["nowhere"]}, "nowhere"),
        ({"model": "no-such-model"}, "no-such-model"),
    ],
)
def test_what_cannot_be_offered_is_told_at_the_start(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        create_mcp_server(**given)


def test_no_chat_model_and_an_unknown_tool(models: Path) -> None:
    for name, tools, said in (
        ("plain", (), "chat"),
        ("encoder", (), "no decoder"),
        ("chat", ("fly",), "no tool 'fly'"),
    ):
        with pytest.raises(UserError, match=said):
            create_mcp_server(model=str(models / name), tools=tools)


def test_a_port_that_is_taken(models: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = subprocess.run(
            [
                *(sys.executable, "-m", "scratchlm", "mcp", "--model", str(models / "chat")),
                *("--port", str(taken.getsockname()[1])),
            ],
            capture_output=True,
            text=True,
            env=environment(),
            timeout=120,
            check=False,
        )
    assert found.returncode == 2
    assert "cannot be had" in found.stderr
