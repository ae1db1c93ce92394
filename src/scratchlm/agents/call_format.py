"""How a model is shown its tools, and how it writes calls: in the form that its chat template has, or else in ours.

A template that shows tools was written for a model that has learned them in that form: ``<tool_call>{...}</tool_call>``
(Hermes, Qwen), a bare object with "parameters" (Llama 3), ``[TOOL_CALLS]`` (Mistral), one list of calls. Which it is is
read from the template's text and tried on a small conversation; a model's name is never looked at. Any other template
knows only roles and texts; there the tools are listed in the system message, one line each, and results come back as a
user's message. That text is short, for a small model reads it before every answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from scratchlm.agents.model import ToolCall
from scratchlm.errors import UserError
from scratchlm.retrieval.instructions import marks_apart
from scratchlm.tokenizers import Tokenizer
from scratchlm.tokenizers.chat import Message, render_chat

_MOST_DESCRIPTION, _MOST_DEPTH = 400, 3
_NAME = "\ufffdprobe"
_INTRODUCTION = "You can use these tools:"
_HOW = (
    'To use one, write <tool_call>{"name": NAME, "arguments": {...}}</tool_call> and read its result. '
    "Then answer. If no tool helps, answer at once."
)


@dataclass(frozen=True)
class CallFormat:
    """One way to write calls."""

    name: str
    opening: str
    """What a call, or the list of them, begins with."""
    closing: str = ""
    style: Literal["each", "single", "list", "named"] = "each"
    """``each``: one object between the marks for each call; ``single``: the same, one call in a turn; ``list``: one
    list of objects; ``named``: the name, ``[ARGS]`` and the arguments."""
    arguments: str = "arguments"
    gap: str = ""
    """Between the marks and the object."""
    shown: bool = True
    """Whether the chat template itself shows tools, calls and results."""
    system: bool = True
    """Whether the template takes a system message."""

    # ---- messages -> what the chat template takes

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
        """Messages and tools as ``render_chat`` takes them. In texts that tools gave, marks of a chat template are
        spelled so that no tokenizer takes them for turns."""
        if self.shown:
            return self._own(messages), [dict(tool) for tool in tools] or None
        return self._plain(messages, tools), None

    def _own(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        results = {m.get("tool_call_id"): m for m in messages if m["role"] == "tool"}
        for message in messages:
            calls = message.get("tool_calls") or []
            if self.style == "single" and (message["role"] == "tool" or calls):
                # One call a turn: each is followed by its result.
                for call in calls:
                    made.append({"role": "assistant", "content": "", "tool_calls": [_with_object(call)]})
                    if (result := results.get(call["id"])) is not None:
                        made.append({**result, "content": marks_apart(str(result["content"]))})
                continue
            one = {**message, "content": message.get("content") or ""}
            if message["role"] == "tool":
                one["content"] = marks_apart(one["content"])
            if calls:
                one["tool_calls"] = [_with_object(call) for call in calls]
            made.append(one)
        return made

    def _plain(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        results: list[str] = []
        system = "\n\n".join(str(message["content"]) for message in messages if message["role"] == "system")
        for message in messages:
            content = message.get("content") or ""
            if message["role"] == "assistant":
                calls = [_call_of(call) for call in message.get("tool_calls") or []]
                made.append({"role": "assistant", "content": "\n".join(filter(None, [content, self.write(calls)]))})
            elif message["role"] == "tool":
                results.append(f"<tool_response>\n{marks_apart(content)}\n</tool_response>")
                if len(results) > 1:
                    made.pop()
                made.append({"role": "user", "content": "\n".join(results)})
                continue
            elif message["role"] != "system" and made and made[-1]["role"] == message["role"]:
                made[-1]["content"] += f"\n\n{content}"  # for templates in which turns must alternate
            elif message["role"] != "system":
                made.append({"role": message["role"], "content": content})
            results = []
        system = "\n\n".join(filter(None, [system, describe(tools) if tools else ""]))
        if not system:
            return made
        if self.system:
            return [{"role": "system", "content": system}, *made]
        if not made or made[0]["role"] != "user":
            return [{"role": "user", "content": system}, *made]
        return [{"role": "user", "content": f"{system}\n\n{made[0]['content']}"}, *made[1:]]

    # ---- calls <-> text

    def write(self, calls: Sequence[ToolCall]) -> str:
        """The text of calls, as the model is to write it; empty for none."""
        if not calls:
            return ""
        if self.style == "named":
            return "".join(f"{self.opening}{call.name}[ARGS]{call.arguments}" for call in calls)
        objects = [f'{{"name": {_text(call.name)}, "{self.arguments}": {_tidy(call.arguments)}}}' for call in calls]
        if self.style == "list":
            objects = [f"[{', '.join(objects)}]"]
        return "\n".join(f"{self.opening}{self.gap}{one}{self.gap}{self.closing}" for one in objects)

    def parse(self, text: str, first: int = 1) -> tuple[str, list[ToolCall]]:
        """What a turn says beside its calls, and its calls, numbered from ``first``. What begins as a call and cannot
        be read is one with a fault."""
        found: list[tuple[str, Any] | str] = []
        if not self.opening:
            said, found = self._bare(text)
        else:
            said, at = "", 0
            while (begin := text.find(self.opening, at)) >= 0:
                said += text[at:begin]
                read, at = self._read(text, begin + len(self.opening))
                found += read
            said += text[at:]
        calls = []
        for number, one in enumerate(found, first):
            if isinstance(one, str):
                calls.append(ToolCall(call_id(number), "", "", one))
            else:
                name, arguments = one
                given = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
                calls.append(ToolCall(call_id(number), name, given))
        return said.strip(), calls

    def _bare(self, text: str) -> tuple[str, list[tuple[str, Any] | str]]:
        body = text.strip().removeprefix("<|python_tag|>").strip()
        if not body.startswith("{"):
            return text, []
        found, end = self._read(body, 0)
        # A text that happens to begin with a brace is an answer.
        good = not isinstance(found[0], str) or '"name"' in body[:40]
        return (body[end:].lstrip(" ;\n"), found) if good else (text, [])

    def _read(self, text: str, start: int) -> tuple[list[tuple[str, Any] | str], int]:
        """The calls from a place on, and where they end: behind the closing mark. The JSON is read first, since a text
        in it may hold the marks."""
        name, at = None, start
        if self.style == "named" and (mark := text.find("[ARGS]", start)) >= 0:
            name, at = text[start:mark].partition("[CALL_ID]")[0].strip(), mark + len("[ARGS]")
        at += len(text) - at - len(text[at:].lstrip())
        try:
            value, end = json.JSONDecoder(strict=False).raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            ends = [place for mark in (self.closing, self.opening) if mark and (place := text.find(mark, start)) >= 0]
            end = min(ends, default=len(text))
            why = f"it is not valid JSON ({error})" if isinstance(error, ValueError) else "it is nested too deeply"
            read: list[tuple[str, Any] | str] = [why if name is None else (name, text[at:end].strip())]
        else:
            objects = value if isinstance(value, list) else [value]
            read = [(name, value)] if name is not None else [*map(self._call, objects)] or ["its list is empty"]
        closing = text.find(self.closing, end) if self.closing else -1
        if closing < 0:
            return read, end
        if rest := text[end:closing].strip():
            read = [f"after its JSON comes {rest[:40]!r}"]
        return read, closing + len(self.closing)

    def _call(self, value: Any) -> tuple[str, Any] | str:
        if not isinstance(value, dict):
            return "it is no JSON object"
        value = value["function"] if isinstance(value.get("function"), dict) else value
        name = value.get("name", value.get("function"))
        if not isinstance(name, str) or not name.strip():
            return 'it has no "name"'
        for key in (self.arguments, "arguments", "parameters", "args"):
            if key in value:
                return name.strip(), value[key]
        return name.strip(), {}


OURS = CallFormat("ours", "<tool_call>", "</tool_call>", shown=False)
HERMES = CallFormat("hermes", "<tool_call>", "</tool_call>", gap="\n")
LIST = CallFormat("list", "<tool_call>", "</tool_call>", "list")
BAR_LIST = CallFormat("bar-list", "<|tool_call|>", "", "list")
MISTRAL = CallFormat("mistral", "[TOOL_CALLS]", "", "list")
MISTRAL_NAMED = CallFormat("mistral-named", "[TOOL_CALLS]", "", "named")
LLAMA = CallFormat("llama", "", "", "single", "parameters")


def format_of(tokenizer: Tokenizer) -> CallFormat:
    """The form in which the model of this tokenizer calls tools.

    Raises:
        UserError: it has no chat template, or one that does not even take a user's message.
    """
    if tokenizer.chat_template is None:
        raise UserError("this model has no chat template, so it cannot call tools; give a chat model")
    return _format_of(tokenizer, tokenizer.chat_template)


@lru_cache(maxsize=16)
def _format_of(tokenizer: Tokenizer, template: str) -> CallFormat:
    named = _named(template)
    if named is not None and _shows(tokenizer, named):
        return named
    render_chat(tokenizer, [{"role": "user", "content": _NAME}], add_generation_prompt=True)
    with_system = [{"role": "system", "content": _NAME}, {"role": "user", "content": "?"}]
    try:
        takes = _NAME in render_chat(tokenizer, with_system, add_generation_prompt=True).text
    except UserError:
        takes = False
    return replace(OURS, system=takes)


def _named(template: str) -> CallFormat | None:
    """The form that a template's text speaks of; None for none that we know."""
    if not re.search(r"\btools\b", template):
        return None
    if "[TOOL_CALLS]" in template:
        return MISTRAL_NAMED if "[ARGS]" in template else MISTRAL
    if "<|tool_call|>" in template:
        return replace(BAR_LIST, closing="<|/tool_call|>") if "<|/tool_call|>" in template else BAR_LIST
    if re.search(r"<tool_call>\s*\[", template):
        return LIST
    if "<tool_call>" in template:
        return None if "<function=" in template else HERMES
    if '"parameters": ' in template and ("ipython" in template or "python_tag" in template):
        return LLAMA
    return None


def _shows(tokenizer: Tokenizer, form: CallFormat) -> bool:
    """Whether the template really writes a tool, a call in this form, and its result."""
    tool = {
        "type": "function",
        "function": {
            "name": "probe_tool",
            "description": "Probes.",
            "parameters": {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]},
        },
    }
    call = ToolCall(call_id(1), "probe_tool", '{"x": "probe_value"}')
    messages: list[Message] = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [call.as_json()]},
        {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": "probe_result"},
    ]
    try:
        given, tools = form.prompt(messages, [tool])
        text = render_chat(tokenizer, given, tools=tools, add_generation_prompt=True, masked=False).text
    except UserError:
        return False
    wanted = "".join(form.write([call]).split()).partition('"}')[0]
    return wanted in "".join(text.split()) and "Probes." in text and "probe_result" in text


def describe(tools: Sequence[Mapping[str, Any]]) -> str:
    """The tools as a system message says them where the template does not: a line each, and how to call them."""
    lines = [_line(tool.get("function", tool)) for tool in tools]
    return "\n".join([_INTRODUCTION, *lines, _HOW])


def _line(function: Mapping[str, Any]) -> str:
    """``- weather(city: string, days?: integer): The forecast. city: in English.``"""
    schema = function.get("parameters") or {}
    properties = schema.get("properties") or {}
    told = [" ".join(str(function.get("description") or "").split())]
    told += [
        f"{name}: {' '.join(str(part['description']).split())}"
        for name, part in properties.items()
        if isinstance(part, Mapping) and part.get("description")
    ]
    sentences = " ".join(one if one[-1] in ".!?" else f"{one}." for one in told if one)
    if len(sentences) > _MOST_DESCRIPTION:
        sentences = f"{sentences[: _MOST_DESCRIPTION - 1]}…"
    return marks_apart(f"- {function['name']}({_fields(schema, schema)}){': ' if sentences else ''}{sentences}")


def _type(schema: Any, whole: Mapping[str, Any], depth: int = 0) -> str:
    """A schema's type in a few words: string, "km"|"mile", list[integer], {from: string}."""
    if not isinstance(schema, Mapping) or depth > _MOST_DEPTH:
        return "any"
    if isinstance(where := schema.get("$ref"), str):
        return _type((whole.get("$defs") or {}).get(where.rpartition("/")[2]), whole, depth + 1)
    if "enum" in schema or "const" in schema:
        return "|".join(_text(one) for one in schema.get("enum", [schema.get("const")]))
    for joined in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(joined), list):
            return "|".join(dict.fromkeys(_type(one, whole, depth + 1) for one in schema[joined]))
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        return "|".join(map(str, kind))
    if kind == "array":
        return f"list[{_type(schema.get('items'), whole, depth + 1)}]"
    if kind == "object" and schema.get("properties"):
        return f"{{{_fields(schema, whole, depth + 1)}}}"
    return str(kind)


def _fields(schema: Mapping[str, Any], whole: Mapping[str, Any], depth: int = 0) -> str:
    """``city: string, days?: integer``."""
    required = schema.get("required") or ()
    properties = (schema.get("properties") or {}).items()
    return ", ".join(f"{n}{'' if n in required else '?'}: {_type(p, whole, depth)}" for n, p in properties)


def call_id(number: int) -> str:
    """``call00001``: nine letters and digits, which Mistral's templates insist on."""
    return f"call{number:05d}"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _tidy(arguments: str) -> str:
    """JSON as we write it everywhere; what is broken stays as it is."""
    try:
        return _text(json.loads(arguments))
    except (ValueError, RecursionError):
        return arguments


def _call_of(call: Mapping[str, Any]) -> ToolCall:
    return ToolCall(str(call.get("id", "")), call["function"]["name"], call["function"]["arguments"])


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call with its arguments as an object, which is what templates write out."""
    function = dict(call["function"])
    with suppress(ValueError, RecursionError, TypeError):
        function["arguments"] = json.loads(function["arguments"])
    return {**call, "function": function}
