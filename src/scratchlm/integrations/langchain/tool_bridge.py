"""LangChain's tools as ours, and ours as LangChain's."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool, ToolException
from langchain_core.tools import Tool as SingleInputTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, ValidationError

from scratchlm.agents.parameters import message, tidy
from scratchlm.agents.tool import Outcome, Tool, ToolError, pydantic_says, shown, valid_name
from scratchlm.errors import UserError

_THEIRS = ("config", "run_manager", "self", "callbacks")
"""Names that LangChain does not hand on to a tool's function."""


def from_langchain(
    tool: BaseTool,
    *,
    effects: bool = True,
    timeout: float = 30.0,
    most: int = 4_000,
    injected: Mapping[str, Any] | None = None,
) -> Tool:
    """A LangChain tool as one of ours, with the same arguments.

    Its content is what the model sees; an artifact beside it is not kept. A ``ToolException`` is a failed call, by the
    words of ``handle_tool_error`` where that is set.

    Args:
        effects: whether it changes something outside. LangChain does not say, so that it counts as if it did.
        timeout: seconds a call may take.
        most: characters of its output that the model sees.
        injected: values of the arguments that LangChain hides from the model (``InjectedToolArg``). The call's id is
            there in any case.

    Raises:
        UserError: it is no LangChain tool, has no JSON Schema, or wants a hidden argument that is not given.
    """
    hidden = injected or {}
    if not isinstance(tool, BaseTool):
        raise UserError(f"{type(tool).__name__} is no LangChain tool; give one, such as what @tool makes")
    try:
        function = convert_to_openai_tool(tool)["function"]
    except Exception as error:  # a type without a schema raises whatever it likes
        raise UserError(f"the LangChain tool {tool.name} has no JSON Schema: {message(error)}") from error
    schema = {"type": "object", "properties": {}, **function.get("parameters", {})}
    given = tidy(schema, closed=not isinstance(tool.args_schema, dict))
    _check_hidden(tool, given["properties"], hidden)

    def asked(arguments: Mapping[str, Any]) -> dict[str, Any]:
        args = {**arguments, **hidden}
        return {"type": "tool_call", "id": f"call_{uuid.uuid4().hex}", "name": tool.name, "args": args}

    def call(arguments: dict[str, Any]) -> str:
        try:
            return _content(tool.invoke(asked(arguments)))
        except (ToolException, ValidationError) as error:
            raise _said(error) from error

    async def call_async(arguments: dict[str, Any]) -> str:
        try:
            return _content(await tool.ainvoke(asked(arguments)))
        except (ToolException, ValidationError) as error:
            raise _said(error) from error

    about = str(function.get("description", ""))
    return Tool(
        valid_name(tool.name), about, given, call_async if _by_coroutine(tool) else call, effects, timeout, most
    )


def to_langchain(tool: Tool) -> StructuredTool:
    """One of our tools as LangChain's. Its artifact is the :class:`~scratchlm.agents.tool.Outcome`; a call that fails
    gives a message with the status ``error``, as our model would read it.

    Raises:
        UserError: it is no tool of ours, or has an argument by a name that LangChain keeps for itself.
    """
    if not isinstance(tool, Tool):
        raise UserError(f"{type(tool).__name__} is no tool of scratchlm; make one by scratchlm.agents.tool.tool")
    for name in [one for one in _THEIRS if one in tool.parameters.get("properties", {})]:
        raise UserError(f"the tool {tool.name} has an argument {name!r}, a name that LangChain keeps; rename it")

    def call(**arguments: Any) -> tuple[str, Outcome]:
        outcome = tool.run(arguments)
        if outcome.failed:
            raise ToolException(outcome.text)
        return outcome.text, outcome

    async def call_async(**arguments: Any) -> tuple[str, Outcome]:
        return await asyncio.to_thread(call, **arguments)

    return StructuredTool(
        name=tool.name,
        description=tool.description,
        args_schema=dict(tool.parameters),
        func=call,
        coroutine=call_async,
        response_format="content_and_artifact",
        handle_tool_error=True,
    )


def _check_hidden(tool: BaseTool, shown_names: Mapping[str, Any], injected: Mapping[str, Any]) -> None:
    schema = tool.args_schema
    if not isinstance(schema, type) or not issubclass(schema, BaseModel):
        return
    for name, field in schema.model_fields.items():
        by_id = any(one is InjectedToolCallId or isinstance(one, InjectedToolCallId) for one in field.metadata)
        if field.is_required() and name not in shown_names and name not in injected and not by_id:
            raise UserError(
                f"the LangChain tool {tool.name} wants {name!r}, which is hidden from the model; give it in injected="
            )


def _by_coroutine(tool: BaseTool) -> bool:
    """Whether a tool is better asked by its coroutine: it has one of its own, and perhaps nothing else."""
    if isinstance(tool, StructuredTool | SingleInputTool):
        return tool.func is None
    return type(tool)._arun is not BaseTool._arun


def _content(answer: Any) -> str:
    """What a model reads of an answer.

    Raises:
        ToolError: the tool says that it failed.
    """
    if not isinstance(answer, ToolMessage):
        return shown(answer)
    blocks = answer.content if isinstance(answer.content, list) else [answer.content]
    texts = [one["text"] if isinstance(one, dict) and one.get("type") == "text" else shown(one) for one in blocks]
    text = "\n".join(texts) or "(empty)"
    if answer.status == "error":
        raise ToolError(text)
    return text


def _said(error: ToolException | ValidationError) -> ToolError:
    if isinstance(error, ValidationError):
        return ToolError(pydantic_says(error))
    return ToolError(str(error) or type(error).__name__)
