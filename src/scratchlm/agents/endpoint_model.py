"""A model behind an address that speaks OpenAI's protocol, with its tool calls, streamed or not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from scratchlm.agents.call_format import HERMES, call_id
from scratchlm.agents.model import Choice, Reply, ToolCall
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.retrieval.endpoint import Part
from scratchlm.tokenizers.chat import Message

_ENDS = {"stop": "end", "tool_calls": "end", "function_call": "end", "length": "length"}


class Source(Protocol):
    """Where answers come from: an :class:`~scratchlm.retrieval.endpoint.Endpoint`, or a server in this process."""

    name: str
    context: int

    def count(self, messages: Sequence[Message]) -> int:
        """About the tokens that these messages take."""

    def parts(self, body: Mapping[str, Any]) -> Iterator[Part]:
        """The parts of the answer to a request in OpenAI's form."""


class EndpointModel:
    """What the loop asks, of an :class:`~scratchlm.retrieval.endpoint.Endpoint`.

    The server may send calls in pieces, whole, or, where it does not know the model's format, as ``<tool_call>`` in the
    text. What it does wrong in a call goes back to the model, as of any other model.
    """

    def __init__(self, endpoint: Source) -> None:
        self.endpoint, self.name, self.context = endpoint, endpoint.name, endpoint.context

    def count(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> int:
        """About the tokens that these take as a prompt, rather too many."""
        calls = [json.dumps(m["tool_calls"]) for m in messages if m.get("tool_calls")]
        written = [{"content": text} for text in (*calls, *map(json.dumps, tools))]
        return self.endpoint.count([*({"content": m.get("content") or ""} for m in messages), *written])

    def respond(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        choice: Choice = "auto",
        max_new_tokens: int = 512,
        sampling: SamplingConfig | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """The next turn; see :class:`~scratchlm.agents.model.AgentModel`."""
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [_sent(message) for message in messages],
            "max_tokens": max_new_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **_drawn(sampling),
        }
        if tools:
            named = None if isinstance(choice, str) else {"type": "function", "function": dict(choice)}
            body |= {"tools": list(tools), "tool_choice": named or choice}
        start = time.perf_counter()
        text, calls = "", _Calls()
        finish, usage = "end", dict[str, Any]()
        for part in self.endpoint.parts(body):
            if isinstance(piece := part.message.get("content"), str) and piece:
                text += piece
                if on_text is not None:
                    on_text(piece)
            calls.add(part)
            finish = _ENDS.get(part.finish_reason or "stop", "stop") if part.finish_reason else finish
            usage = part.usage or usage
        made = calls.finished()
        raw = text
        if tools and not made and HERMES.opening in text:
            text, made = HERMES.parse(text)
        read, written = (_whole(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        return Reply(
            text,
            tuple(made),
            self.count(messages, tools) if read is None else read,
            self.endpoint.count([{"content": raw + "".join(c.arguments for c in made)}])
            if written is None
            else written,
            time.perf_counter() - start,
            finish,
            raw,
        )


class _Calls:
    """Calls that come in pieces: a name, an id, and arguments bit by bit."""

    def __init__(self) -> None:
        self._found: list[dict[str, Any]] = []
        self._at: dict[Any, int] = {}

    def add(self, part: Part) -> None:
        given = part.message.get("tool_calls")
        for piece in given if isinstance(given, list) else ():
            if not isinstance(piece, Mapping):
                continue
            function = piece.get("function")
            function = function if isinstance(function, Mapping) else {}
            name, new, index = function.get("name"), piece.get("id"), piece.get("index")
            at = self._at.get(index)
            # Some servers give no index, or the same to every call; then a new id with a name begins a new call.
            if at is None or (new and name and self._found[at]["id"] not in ("", new)):
                at = self._at[index] = len(self._found)
                self._found.append({"id": "", "name": "", "arguments": ""})
            call = self._found[at]
            call["id"] = call["id"] or str(new or "")
            call["name"] += name if isinstance(name, str) and name != call["name"] else ""
            arguments = function.get("arguments")
            call["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments else ""

    def finished(self) -> list[ToolCall]:
        return [
            ToolCall(one["id"] or call_id(n), one["name"], one["arguments"] or "{}")
            for n, one in enumerate(self._found, 1)
        ]


def _sent(message: Message) -> dict[str, Any]:
    """A message as servers take it: no name of a result, no arguments that are no JSON object."""
    sent = {key: value for key, value in message.items() if key != "name" or message["role"] != "tool"}
    if calls := message.get("tool_calls"):
        sent["tool_calls"] = [{**call, "function": _with_json(call["function"])} for call in calls]
    return sent


def _with_json(function: Mapping[str, Any]) -> dict[str, Any]:
    try:
        good = isinstance(json.loads(function["arguments"]), dict)
    except (ValueError, RecursionError):
        good = False
    return {**function} if good else {**function, "arguments": "{}"}


def _drawn(sampling: SamplingConfig | None) -> dict[str, Any]:
    if sampling is None or sampling.is_greedy:
        return {"temperature": 0}
    drawn: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    return drawn if sampling.seed is None else {**drawn, "seed": sampling.seed}


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
