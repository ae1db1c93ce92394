"""LangChain's tools as ours, and ours as LangChain's, which pass its own suites."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import pytest

pytest.importorskip("langchain_core", reason="LangChain is not installed")
pytest.importorskip("langchain_tests", reason="LangChain's test suites are not installed")

from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, InjectedToolArg, InjectedToolCallId, StructuredTool, ToolException
from langchain_core.tools import Tool as SingleInputTool
from langchain_core.tools import tool as langchain_tool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests
from pydantic import BaseModel, Field, field_validator

from scratchlm.agents.loop import run_agent
from scratchlm.agents.tool import Outcome, Tool, tool
from scratchlm.errors import UserError
from scratchlm.integrations.langchain import from_langchain, to_langchain

from ..agents.scripted import ScriptedModel


@tool
def ticket(day: str, people: int = 1) -> str:
    """The price of a ticket.

    Args:
        day: when
    """
    if people < 1:
        raise ValueError("nobody goes")
    return f"{day}: {12 * people}"


class Ours:
    @property
    def tool_constructor(self) -> BaseTool:
        return to_langchain(ticket)

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"day": "sunday", "people": 2}


class TestUnit(Ours, ToolsUnitTests):
    """LangChain's."""


class TestIntegration(Ours, ToolsIntegrationTests):
    """LangChain's."""


def asked(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_call", "id": "1", "name": "ticket", "args": arguments}


def test_ours_says_the_same_in_langchain() -> None:
    theirs = to_langchain(ticket)
    message = theirs.invoke(asked({"day": "sunday", "people": 2}))
    assert (message.content, message.status) == ("sunday: 24", "success")
    assert isinstance(message.artifact, Outcome)
    assert message.artifact.value == "sunday: 24"
    assert theirs.invoke({"day": "sunday"}) == "sunday: 12"
    failed = asyncio.run(theirs.ainvoke(asked({"day": "sunday", "people": 0})))
    assert (failed.content, failed.status) == ("error: nobody goes", "error")
    wrong = theirs.invoke(asked({"people": "many"}))
    assert wrong.status == "error"
    assert wrong.content.startswith("error: ")
    assert "'many' is not of type 'integer'" in wrong.content


def test_the_schema_that_langchain_shows_a_model_is_ours() -> None:
    from langchain_core.utils.function_calling import convert_to_openai_tool

    shown = convert_to_openai_tool(to_langchain(ticket))
    assert shown == ticket.schema()


@pytest.mark.parametrize("name", ["config", "run_manager", "self", "callbacks"])
def test_an_argument_that_langchain_keeps_is_told(name: str) -> None:
    schema = {"type": "object", "properties": {name: {"type": "string"}}}
    with pytest.raises(UserError, match=f"argument '{name}'"):
        to_langchain(Tool("odd", "", schema, dict))


def test_what_is_no_tool_is_told() -> None:
    with pytest.raises(UserError, match="int is no LangChain tool"):
        from_langchain(3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="StructuredTool is no tool of scratchlm"):
        to_langchain(to_langchain(ticket))  # type: ignore[arg-type]


@langchain_tool
def search(query: str, count: Annotated[int, Field(ge=1, description="how many")] = 3) -> list[str]:
    """Search for words."""
    return [f"{query} {number}" for number in range(count)]


def test_theirs_is_one_of_ours() -> None:
    ours = from_langchain(search, effects=False)
    assert (ours.name, ours.description, ours.effects) == ("search", "Search for words.", False)
    assert ours.parameters == {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "count": {"type": "integer", "minimum": 1, "default": 3, "description": "how many"},
        },
        "required": ["query"],
        "additionalProperties": False,
    }
    assert from_langchain(search).effects
    model = ScriptedModel(("search", {"query": "sea", "count": 2}), "Two.")
    state = run_agent("Look", model, [ours])
    assert state.calls[0].result == "sea 0\nsea 1"
    assert ours.run({"query": "sea", "count": 0}).text.startswith("error: count: 0 is less than the minimum of 1")
    assert ours.run({"query": "sea", "order": "up"}).failed


class Town(BaseModel):
    """A town."""

    name: str
    near: list[Town] = []

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name == "Atlantis":
            raise ValueError("it has sunk")
        return name


def test_models_that_contain_themselves_and_rules_that_no_schema_says() -> None:
    def visit(town: Town) -> str:
        return f"{type(town).__name__} {town.name} {[one.name for one in town.near]}"

    ours = from_langchain(StructuredTool.from_function(visit, name="visit-town", description="Go."))
    assert ours.name == "visit_town"
    given = {"town": {"name": "Halden", "near": [{"name": "Moss"}]}}
    assert ours.run(given).text == "Town Halden ['Moss']"
    assert ours.run({"town": {"name": "Atlantis"}}).text == "error: town.name: Value error, it has sunk"
    assert ours.run({"town": {"near": [{}]}}).failed


def test_a_schema_that_is_written_out_and_a_coroutine_alone() -> None:
    async def add(**given: int) -> int:
        await asyncio.sleep(0)
        return given["a"] + given["b"]

    schema = {
        "title": "add",
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    }
    ours = from_langchain(
        StructuredTool(name="add", description="Adds.", args_schema=schema, coroutine=add), effects=False
    )
    assert ours.run({"a": 2, "b": 3}).text == "5"
    assert ours.run({"a": 2}).text.startswith("error: 'b' is a required property")


def test_a_class_with_a_coroutine_alone_and_one_that_is_late() -> None:
    class Slow(BaseTool):
        name: str = "slow"
        description: str = "Waits."

        def _run(self, seconds: float) -> str:
            raise NotImplementedError

        async def _arun(self, seconds: float) -> str:
            await asyncio.sleep(seconds)
            return "slept"

    ours = from_langchain(Slow(), timeout=0.5)
    assert ours.run({"seconds": 0}).text == "slept"
    late = ours.run({"seconds": 20})
    assert "took longer than 0.5 s" in late.text
    assert late.seconds < 5


def test_a_tool_with_a_single_text() -> None:
    ours = from_langchain(SingleInputTool(name="up", func=str.upper, description="Loud."))
    (name,) = ours.parameters["properties"]
    assert ours.run({name: "sea"}).text == "SEA"


@pytest.mark.parametrize(
    ("handled", "text"),
    [
        (None, "it is shut"),
        (True, "it is shut"),
        ("Try later.", "Try later."),
        (lambda error: f"<{error}>", "<it is shut>"),
    ],
    ids=["unsaid", "yes", "a text", "a function"],
)
def test_an_exception_of_theirs_is_a_call_that_failed(handled: Any, text: str) -> None:
    def enter() -> str:
        raise ToolException("it is shut")

    made = StructuredTool.from_function(enter, description="Go in.", handle_tool_error=handled or False)
    outcome = from_langchain(made).run({})
    assert (outcome.text, outcome.failed) == (f"error: {text}", True)


def test_any_other_error_is_told_too() -> None:
    def enter() -> str:
        raise KeyError("door")

    outcome = from_langchain(StructuredTool.from_function(enter, description="Go in.")).run({})
    assert (outcome.text, outcome.failed) == ("error: KeyError: 'door'", True)


def test_of_content_and_artifact_the_content_is_shown() -> None:
    @langchain_tool(response_format="content_and_artifact")
    def draw(shape: str) -> tuple[str, bytes]:
        """Draw."""
        return f"a {shape}", b"\x89PNG"

    assert from_langchain(draw).run({"shape": "star"}).text == "a star"

    @langchain_tool
    def blocks() -> list[dict[str, Any]]:
        """Blocks."""
        return [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]

    assert from_langchain(blocks).run({}).text == "One.\nTwo."

    @langchain_tool
    def table() -> dict[str, Any]:
        """A table."""
        return {"é": [1, None]}

    assert json.loads(from_langchain(table).run({}).text) == {"é": [1, None]}


def test_hidden_arguments_are_not_the_models() -> None:
    @langchain_tool
    def buy(what: str, user: Annotated[str, InjectedToolArg], call: Annotated[str, InjectedToolCallId]) -> ToolMessage:
        """Buy."""
        return ToolMessage(f"{user} buys {what} by {call[:5]}", tool_call_id=call)

    ours = from_langchain(buy, injected={"user": "Anna"})
    assert list(ours.parameters["properties"]) == ["what"]
    assert ours.run({"what": "tea"}).text == "Anna buys tea by call_"
    assert ours.run({"what": "tea", "user": "Eve"}).failed
    with pytest.raises(UserError, match="wants 'user', which is hidden from the model; give it in injected="):
        from_langchain(buy)


def test_there_and_back_says_the_same() -> None:
    again = from_langchain(to_langchain(ticket), effects=False)
    assert again.schema() == ticket.schema()
    for given in ({"day": "sunday"}, {"day": "sunday", "people": 0}):
        assert again.run(given).text.removeprefix("error: ") == ticket.run(given).text
