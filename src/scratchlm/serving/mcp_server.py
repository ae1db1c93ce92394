"""Our search, models and agents for other programs, as tools of an MCP server (https://modelcontextprotocol.io).

The official SDK speaks the protocol. What a tool does is done in a thread, one call of a model at a time, and stops
when the client takes its call back or leaves.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, TypeVar

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

from scratchlm import __version__
from scratchlm.agents.local_model import LocalAgentModel
from scratchlm.agents.loop import run_agent
from scratchlm.agents.settings import AgentSettings, Event
from scratchlm.agents.shipped import open_tools
from scratchlm.api import load
from scratchlm.errors import UserError
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.retrieval.prompting import as_data
from scratchlm.serving.documents import Documents
from scratchlm.serving.settings import ServerSettings

_TURN, _EVERY = 0.05, 8
"""Seconds between looks at whether a call that waits was taken back; pieces of text between two reports of progress."""
T = TypeVar("T")
Left = Callable[[], bool]


class Passage(BaseModel):
    """What a search has found."""

    file: str
    place: str = Field(description="Where it stands, for people.")
    text: str
    score: float
    start: int = Field(description="Characters of the file.")
    end: int


class Found(BaseModel):
    """The passages of a search, the best first."""

    hits: list[Passage]


class Source(BaseModel):
    """Where a sentence of an answer comes from."""

    number: int = Field(description="As in [1].")
    file: str
    place: str
    quote: str


class Answered(BaseModel):
    """An answer from documents."""

    text: str = Field(description="Each sentence with [n], the number of its source.")
    refused: bool = Field(description="Whether the documents do not hold the answer.")
    supported: bool
    sources: list[Source]


class Said(BaseModel):
    """What a model answers."""

    text: str
    finish_reason: str


class Worked(BaseModel):
    """What came of an agent's work."""

    answer: str
    status: str = Field(description="done, or stopped where a budget ended before there was an answer.")
    calls: list[dict[str, Any]]


def create_mcp_server(
    stores: Sequence[str] = (),
    model: str | None = None,
    tools: Sequence[str] = (),
    *,
    precision: str = "auto",
) -> MCPServer[Any]:
    """A server that offers what it is given: ``search`` and ``ask`` of an index (of several ``search_NAME`` and so on,
    by the names of their folders), ``chat`` of a model, and ``run_agent`` of a model with tools.

    Args:
        stores: folders of indexes.
        model: a chat model.
        tools: what its agent may use, by the names that :func:`~scratchlm.agents.shipped.open_tools` knows.

    Raises:
        UserError: nothing is offered, tools without a model, two indexes of one name, or what opening them raises.
    """
    if tools and model is None:
        raise UserError("tools are for an agent, and there is no model; give --model as well")
    if not stores and model is None:
        raise UserError("nothing is offered; give an index with --store, a model with --model, or both")
    server: MCPServer[Any] = MCPServer("scratchlm", version=__version__, log_level="WARNING")
    opened = [Documents(store) for store in stores]
    names = [one.name for one in opened]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two indexes are called {name}; rename the folder of one of them")
    for one in opened:
        _offer_documents(server, one, f"_{one.name}" if len(opened) > 1 else "")
    if model is not None:
        _offer_model(server, model, tools, precision)
    return server


def _offer_documents(server: MCPServer[Any], documents: Documents, behind: str) -> None:
    reads = ToolAnnotations(read_only_hint=True)
    turn = threading.Lock()

    async def search(
        query: Annotated[str, Field(description="What to look for, in words or as a question.")],
        count: Annotated[int, Field(ge=1, le=20, description="Passages at most.")] = 5,
    ) -> Found:
        def work(left: Left) -> Found:
            if not query.strip():
                raise UserError("the query is empty; ask for something")
            with _held(turn, left):
                hits = documents.searcher.search(query, count).hits
            return Found(
                hits=[
                    Passage(
                        file=hit.file,
                        place=hit.place(),
                        text=as_data(hit.text)[0],
                        score=float(hit.score),
                        start=hit.start,
                        end=hit.end,
                    )
                    for hit in hits
                ]
            )

        return await _worked(work)

    async def ask(question: Annotated[str, Field(description="A question that the documents may answer.")]) -> Answered:
        def work(left: Left) -> Answered:
            with _held(turn, left):
                found = documents.ask(question)
            cited = {one.number: one for sentence in found.sentences for one in sentence.citations}
            sources = [
                Source(number=n, file=one.hit.file, place=one.place(), quote=one.quote)
                for n, one in sorted(cited.items())
            ]
            return Answered(text=found.text, refused=found.refused, supported=found.supported, sources=sources)

        return await _worked(work)

    about = f"the documents of {documents.name}"
    server.tool(f"search{behind}", description=f"Search {about} for passages.", annotations=reads)(search)
    told = f"Answer a question from {about}, sentence by sentence with its source; says so where they hold no answer."
    server.tool(f"ask{behind}", description=told, annotations=reads)(ask)


def _offer_model(server: MCPServer[Any], name: str, tools: Sequence[str], precision: str) -> None:
    model = load(name, precision=precision)
    agent = LocalAgentModel(model)  # which refuses what is no chat model
    opened = open_tools(tools)
    turn = threading.Lock()

    async def chat(
        message: Annotated[str, Field(description="What is said to the model.")],
        context: Context,
        system: Annotated[str, Field(description="What it is told before.")] = "",
        max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 512,
        temperature: Annotated[float, Field(ge=0, le=2, description="0 always says the likeliest.")] = 0.0,
    ) -> Said:
        tell = _Progress(context)

        def work(left: Left) -> Said:
            def hear(*_: object) -> None:
                _stay(left)
                tell.piece()

            messages = [
                {"role": role, "content": text} for role, text in (("system", system), ("user", message)) if text
            ]
            with _held(turn, left):
                made = model.chat(
                    messages,
                    max_new_tokens=max_new_tokens,
                    sampling=SamplingConfig(temperature=temperature),
                    on_text=hear,
                )
            return Said(text=made.completion, finish_reason=made.finish_reason)

        return await _worked(work)

    async def work_on(
        task: Annotated[str, Field(description="What is to be done.")],
        context: Context,
        max_steps: Annotated[int, Field(ge=1, le=50, description="Turns of the model.")] = 10,
    ) -> Worked:
        tell = _Progress(context)

        def work(left: Left) -> Worked:
            def hear(event: Event) -> None:
                if event.kind == "result" and event.call is not None:
                    tell.step(f"{event.call.name}: {' '.join((event.call.result or '').split())[:200]}")

            if not task.strip():
                raise UserError("there is no task; say what is to be done")
            with _held(turn, left):
                state = run_agent(task, agent, opened, AgentSettings(max_steps=max_steps), on_event=hear, cancel=left)
            report = state.report()
            return Worked(answer=report["answer"] or "", status=report["status"], calls=report["calls"])

        return await _worked(work)

    told = f"Ask the language model {model.name}, which runs on this machine."
    server.tool("chat", description=told, annotations=ToolAnnotations(read_only_hint=True))(chat)
    if opened:
        effects = any(tool.effects for tool in opened)
        told = f"Give a task to an agent with {model.name} and these tools: {', '.join(tool.name for tool in opened)}."
        server.tool("run_agent", description=told, annotations=ToolAnnotations(read_only_hint=not effects))(work_on)


class _LeftError(Exception):
    """The client has taken its call back."""


def _stay(left: Left) -> None:
    if left():
        raise _LeftError


@contextlib.contextmanager
def _held(turn: threading.Lock, left: Left) -> Iterator[None]:
    """One call at a time; one that was taken back does not wait for its turn."""
    while not turn.acquire(timeout=_TURN):
        _stay(left)
    try:
        _stay(left)
        yield
    finally:
        turn.release()


async def _worked(work: Callable[[Left], T]) -> T:
    """What ``work`` returns, in a thread. A user's mistake is told to the client."""
    left = threading.Event()
    try:
        return await anyio.to_thread.run_sync(work, left.is_set, abandon_on_cancel=True)
    except UserError as error:
        raise ToolError(str(error)) from error
    finally:
        left.set()


class _Progress:
    """Tells the client how far a call is, from the thread that works on it."""

    def __init__(self, context: Any) -> None:
        self._context, self._count = context, 0

    def piece(self) -> None:
        """A piece of text has been written."""
        self._count += 1
        if self._count % _EVERY == 0:
            self._tell(None)

    def step(self, text: str) -> None:
        """A call of the agent's has been answered."""
        self._count += 1
        self._tell(text)

    def _tell(self, text: str | None) -> None:
        with contextlib.suppress(RuntimeError):  # the client has left, and nobody listens
            anyio.from_thread.run(self._context.report_progress, float(self._count), None, text)


def serve_stdio(server: MCPServer[Any]) -> None:
    """Serve the program that has started this one, until it closes our standard input."""
    server.run("stdio")


def serve_http(server: MCPServer[Any], settings: ServerSettings, on_start: Callable[[str], None]) -> None:
    """Serve over streamable HTTP, at ``/mcp``, until stopped.

    Args:
        on_start: told of the address once clients may come.

    Raises:
        UserError: the port is taken.
    """
    import uvicorn

    from scratchlm.serving.access import Access
    from scratchlm.serving.server import address_of, bind, configured

    listening = bind(settings.host, settings.port)
    app = Access(server.streamable_http_app(host=settings.host, max_request_body_size=settings.body), settings, _ignore)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                on_start(f"{address_of(listening)}/mcp")

    Server(configured(app, settings)).run([listening])


def _ignore(path: str, status: int) -> None:
    """Nothing is counted here."""


def warn_of_terminal() -> None:
    """Where a person has started it by hand, say what it waits for."""
    if sys.stdin.isatty():
        print("waiting for an MCP client on standard input; programs start this, see docs/agents.md", file=sys.stderr)
