"""A tool: something a model may call, with a name, a description, a JSON Schema of its arguments, and limits.

What a model does wrong (arguments that do not fit, a tool that fails or takes too long) comes back as text that it can
read, never as an exception: see :meth:`Tool.run`.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

from scratchlm.agents.parameters import from_function, message
from scratchlm.errors import UserError, missing_package
from scratchlm.importing import said

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}")
_GRACE, _LARGEST, _TOLD = 0.5, 1_000_000, 3
"""Seconds for a coroutine to end after its time; characters of arguments that are read at all; mistakes told of."""


@dataclass(frozen=True)
class Outcome:
    """What came of a call: the text that the model sees, whether it failed, the seconds it took, and the tool's own
    value where it returned."""

    text: str
    failed: bool
    seconds: float
    value: Any = field(default=None, compare=False)


@dataclass(frozen=True, eq=False)
class Tool:
    """Something a model may call.

    Args:
        name: letters, digits and underscores, at most 64.
        parameters: the JSON Schema of an object: the arguments.
        call: gets the checked arguments; may be an async function.
        effects: whether it changes something outside (writes, sends). Such a call is not repeated without asking.
        timeout: seconds a call may take.
        most: characters of its output that the model sees. What is cut is told of.

    Raises:
        UserError: the name or the schema is not one, jsonschema is missing.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    call: Callable[[dict[str, Any]], Any]
    effects: bool = False
    timeout: float = 30.0
    most: int = 4_000

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise UserError(f"{self.name!r:.100} is no tool's name; use letters, digits and _, at most 64")
        if self.timeout <= 0 or self.most < 1:
            raise ValueError(f"{self.name}: timeout and most are above 0, not {self.timeout} and {self.most}")
        if not isinstance(self.parameters, Mapping) or self.parameters.get("type") != "object":
            raise UserError(f"the parameters of the tool {self.name} are no JSON Schema of an object")
        try:
            from jsonschema import Draft202012Validator as Draft
            from jsonschema.exceptions import SchemaError
        except ImportError:
            raise missing_package("tools need", "jsonschema", "agents") from None
        try:
            Draft.check_schema(self.parameters)
        except (SchemaError, RecursionError, re.error) as error:
            text = error.message if isinstance(error, SchemaError) else message(error)
            raise UserError(f"the JSON Schema of the tool {self.name} is wrong: {text[:200]}") from error

    def schema(self) -> dict[str, Any]:
        """As chat templates and OpenAI's interface take it: ``{"type": "function", "function": {...}}``."""
        own = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": own}

    def run(self, arguments: str | Mapping[str, Any]) -> Outcome:
        """Checks the arguments (JSON's text, or read already) and calls the tool in a thread of its own. Nothing that
        the model or the tool does raises: failures are outcomes whose text begins with ``error:``.

        A synchronous function that is past its time cannot be stopped: it goes on in its thread, and its result is
        thrown away. One with effects may still have them, and the text says so.
        """
        start = time.perf_counter()
        box: list[tuple[str, bool, Any]] = []
        context = contextvars.copy_context()

        def work() -> None:
            try:
                value = self.call(self._checked(arguments))
                if inspect.isawaitable(value):
                    value = asyncio.run(_within(value, self.timeout))
                box.append((shown(value), False, value))
            except (_BadArguments, ToolError) as error:
                box.append((str(error), True, None))
            except TimeoutError as error:
                text = message(error) if str(error) else self._late()
                box.append((text, True, None))
            except BaseException as error:  # SystemExit too: a tool does not end the program
                box.append((_failure(error), True, None))

        thread = threading.Thread(target=context.run, args=(work,), name=f"tool {self.name}", daemon=True)
        thread.start()
        thread.join(self.timeout + (_GRACE if inspect.iscoroutinefunction(self.call) else 0))
        text, failed, value = box[0] if box else (self._late(), True, None)
        text = self._cut(f"error: {text}" if failed else text)
        return Outcome(text, failed, time.perf_counter() - start, value)

    def _late(self) -> str:
        known = "; what it does may still happen" if self.effects else ""
        return f"{self.name} took longer than {self.timeout:g} s and was left{known}"

    def _cut(self, text: str) -> str:
        text = text.encode("utf-8", "replace").decode()  # no half of a surrogate pair
        if len(text) <= self.most:
            return text
        return f"{text[: self.most]}\n[cut: the first {self.most:,} of {len(text):,} characters]"

    @cached_property
    def _validator(self) -> Any:
        from jsonschema import Draft202012Validator
        from referencing import Registry

        # An empty registry: a schema that was written elsewhere fetches nothing.
        return Draft202012Validator(dict(self.parameters), registry=Registry())

    def _checked(self, arguments: str | Mapping[str, Any]) -> dict[str, Any]:
        takes = ", ".join(self.parameters.get("properties", {})) or "no arguments"
        cure = f"{self.name} takes: {takes}"
        if isinstance(arguments, str):
            if len(arguments) > _LARGEST:
                raise _BadArguments(f"the arguments have {len(arguments):,} characters; {cure}")
            try:
                arguments = json.loads(arguments or "{}", parse_constant=_no_number)
            except (ValueError, RecursionError) as error:
                raise _BadArguments(f"the arguments are no JSON ({message(error)}); {cure}") from error
        if not isinstance(arguments, Mapping):
            raise _BadArguments(f"the arguments are {_kind(arguments)}, not a JSON object; {cure}")
        wrong = []
        for one in self._validator.iter_errors(arguments):
            place = ".".join(str(part) for part in one.absolute_path)
            wrong.append(f"{place + ': ' if place else ''}{one.message[:150]}")
            if len(wrong) == _TOLD:
                break
        if wrong:
            raise _BadArguments(f"{'; '.join(wrong)}; {cure}")
        return dict(arguments)


def valid_name(text: str) -> str:
    """A tool's name from any text: other signs become underscores, and what is longer than 64 is cut."""
    name = re.sub(r"[^a-zA-Z0-9_]+", "_", text)[:64] or "_"
    return name if _NAME.fullmatch(name) else f"_{name}"[:64]


class ToolError(Exception):
    """What a tool raises to tell the model something, on several lines if need be: the text is shown as it is."""


class _BadArguments(Exception):  # noqa: N818
    """Arguments that do not fit, in words for the model."""


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    effects: bool = False,
    timeout: float = 30.0,
    most: int = 4_000,
) -> Callable[[Callable[..., Any]], Tool]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    effects: bool = False,
    timeout: float = 30.0,
    most: int = 4_000,
) -> Any:
    """A tool from a function, async too: its name, docstring and types say all that a model needs.

    Used bare (``@tool``) or with settings (``@tool(effects=True)``); ``tool(function)`` does the same.

    Raises:
        UserError: see :func:`~scratchlm.agents.parameters.from_function`.
    """

    def make(function: Callable[..., Any]) -> Tool:
        own = name or str(getattr(function, "__name__", type(function).__name__))
        about, schema, typed = from_function(function, own)

        def call(arguments: dict[str, Any]) -> Any:
            try:
                values = typed(arguments)
            except ValueError as error:  # pydantic's: a date that is none, a rule that no schema can say
                raise _BadArguments(pydantic_says(error)) from error
            return function(**values)

        async def call_async(arguments: dict[str, Any]) -> Any:
            return await call(arguments)

        awaited = inspect.iscoroutinefunction(function)
        about = about if description is None else description
        return Tool(own, about, schema, call_async if awaited else call, effects, timeout, most)

    return make if function is None else make(function)


async def _within(value: Any, seconds: float) -> Any:
    return await asyncio.wait_for(value, seconds)


def shown(value: Any) -> str:
    """A tool's value as the text that a model reads: a text as it is, nothing as ``done``, the rest as JSON, without
    quotes where that is a text, as of a date."""
    if value is None:
        return "done"
    if not isinstance(value, str):
        from pydantic_core import to_jsonable_python

        value = to_jsonable_python(value, fallback=str, bytes_mode="base64")
    return (value or "(empty)") if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _failure(error: BaseException) -> str:
    """In words for the model: a message that is meant to be read as it is, the rest with the error's kind."""
    try:
        return message(error) if type(error) in (UserError, ValueError) else said(error)
    except Exception:  # an exception's own text may raise
        return type(error).__name__


def pydantic_says(error: ValueError) -> str:
    """What pydantic finds wrong, in words for the model; of another error its message."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return message(error)
    told = errors(include_url=False, include_input=False, include_context=False)[:_TOLD]
    return "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in told)


def _kind(value: Any) -> str:
    """Of a value of JSON that is no object."""
    kinds = {str: "a text", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null" if value is None else "of another kind")


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")
