"""Tools from functions: what a model is shown of them, and what comes back for each way to use them wrongly."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import enum
import functools
import json
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from scratchlm.agents.tool import Tool, tool
from scratchlm.errors import UserError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: int
    y: float = 2.0


class Node(BaseModel):
    value: int
    children: list[Node] = []


def paint(
    colour: Colour,
    places: list[Point],
    size: Annotated[int, Field(ge=1, le=9)] = 3,
    mode: Literal["fast", "fine"] = "fast",
    when: datetime.date | None = None,
    schema: dict[str, int] | None = None,
) -> str:
    """Paint some places,
    in a colour.

    Args:
        colour: of the paint,
            not of the brush
        size (int): of the brush

    Returns:
        what was done
    """
    return f"{colour.name} {places} {size} {mode} {when!r} {schema}"


def test_a_function_says_all_that_a_model_needs() -> None:
    made = tool(paint)
    assert made.schema() == {
        "type": "function",
        "function": {
            "name": "paint",
            "description": "Paint some places, in a colour.",
            "parameters": {
                "type": "object",
                "additionalProperties": False,
                "required": ["colour", "places"],
                "properties": {
                    "colour": {
                        "enum": ["red", "blue"],
                        "type": "string",
                        "description": "of the paint, not of the brush",
                    },
                    "places": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["x"],
                            "properties": {"x": {"type": "integer"}, "y": {"type": "number", "default": 2.0}},
                        },
                    },
                    "size": {
                        "type": "integer",
                        "minimum": 1,
                        "maximum": 9,
                        "default": 3,
                        "description": "of the brush",
                    },
                    "mode": {"enum": ["fast", "fine"], "type": "string", "default": "fast"},
                    "when": {"anyOf": [{"format": "date", "type": "string"}, {"type": "null"}], "default": None},
                    "schema": {
                        "anyOf": [
                            {"type": "object", "additionalProperties": {"type": "integer"}},
                            {"type": "null"},
                        ],
                        "default": None,
                    },
                },
            },
        },
    }


def test_arguments_arrive_as_the_functions_own_types() -> None:
    given = {"colour": "red", "places": [{"x": 1}], "when": "2024-02-29", "schema": {"a": 1}}
    expected = "RED [Point(x=1, y=2.0)] 3 fast datetime.date(2024, 2, 29) {'a': 1}"
    for arguments in (given, json.dumps(given)):
        outcome = tool(paint).run(arguments)
        assert (outcome.text, outcome.failed, outcome.value) == (expected, False, expected)


def test_sphinx_docstrings_and_partials() -> None:
    def scale(amount: Decimal, by: int) -> Decimal:
        """Scale.

        :param amount: what to scale
        :param int by: how often
        """
        return amount * by

    made = tool(name="scale")(functools.partial(scale, by=3))
    assert made.parameters["properties"]["by"] == {"type": "integer", "default": 3}
    assert tool(scale).description == "Scale."
    about = {key: one["description"] for key, one in tool(scale).parameters["properties"].items()}
    assert about == {"amount": "what to scale", "by": "how often"}
    assert made.run('{"amount": 0.1}').text == "0.3"


def test_a_type_that_contains_itself_keeps_its_reference() -> None:
    @tool
    def depth(tree: Node) -> int:
        return 1 + max((depth.call({"tree": one.model_dump()}) for one in tree.children), default=0)

    node = depth.parameters["$defs"]["Node"]
    assert node["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}
    assert node["additionalProperties"] is False
    assert depth.run('{"tree": {"value": 1, "children": [{"value": 2}]}}').text == "2"
    assert depth.run('{"tree": {"value": 1, "children": [{"valu": 2}]}}').failed


def test_async_functions() -> None:
    @tool(timeout=5)
    async def wait(seconds: float) -> str:
        """Wait."""
        await asyncio.sleep(seconds)
        return "waited"

    assert wait.run({"seconds": 0.01}).text == "waited"
    short = dataclasses.replace(wait, timeout=0.05)
    outcome = short.run({"seconds": 60})
    assert outcome.text == "error: wait took longer than 0.05 s and was left"
    assert outcome.failed
    assert outcome.seconds < 5


def test_a_coroutine_is_cancelled_at_its_time() -> None:
    ended = threading.Event()

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    assert tool(timeout=0.05)(wait).run("").failed
    assert ended.wait(5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is\n", "as it is\n"),
        ("", "(empty)"),
        (None, "done"),
        (3, "3"),
        (True, "true"),
        ([1, "é"], '[1, "é"]'),
        ({"a": Decimal("1.50")}, '{"a": "1.50"}'),
        (Point(1), '{"x": 1, "y": 2.0}'),
        (Node(value=1), '{"value": 1, "children": []}'),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (
            {
                1,
            },
            "[1]",
        ),
        (b"\xff", "_w=="),
        (1j, "1j"),
        ("half \ud800", "half ?"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_any_value_becomes_a_text(value: Any, text: str) -> None:
    outcome = Tool("give", "", {"type": "object"}, lambda _: value).run("{}")
    assert (outcome.text, outcome.failed) == (text, False)


def test_long_output_is_cut_and_the_text_says_so() -> None:
    give = Tool("give", "", {"type": "object"}, lambda _: "x" * 5_000, most=1_000)
    assert give.run("{}").text == "x" * 1_000 + "\n[cut: the first 1,000 of 5,000 characters]"


SHAPE = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0}, "b": {"type": "array", "items": {"enum": ["x", "y"]}}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("{", "the arguments are no JSON"),
        ("", "'a' is a required property"),
        ("nonsense", "no JSON"),
        ("[1]", "the arguments are a list, not a JSON object"),
        ("null", "the arguments are null"),
        ('"a"', "the arguments are a text"),
        ("{}", "'a' is a required property"),
        ('{"a": "1"}', "a: '1' is not of type 'integer'"),
        ('{"a": 1.5}', "a: 1.5 is not of type 'integer'"),
        ('{"a": true}', "a: True is not of type 'integer'"),
        ('{"a": null}', "a: None is not of type 'integer'"),
        ('{"a": -1}', "a: -1 is less than the minimum of 0"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": 1, "b": ["x", "z"]}', "b.1: 'z' is not one of ['x', 'y']"),
        ('{"a": 1, "b": "x"}', "b: 'x' is not of type 'array'"),
        ('{"a": 1, "c": 1}', "'c' was unexpected"),
        ('{"a": 1} {"a": 2}', "no JSON"),
        ("{'a': 1}", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"a": ' + "9" * 10_000 + "}", "no JSON"),
        ('{"a": "' + "x" * 2_000_000 + '"}', "the arguments have 2,000,009 characters"),
        ('{"a": "' + "x" * 100_000 + '"}', "a: 'xxx"),
    ],
    ids=lambda text: text[:24],
)
def test_arguments_that_do_not_fit_go_back_as_text(arguments: str, says: str) -> None:
    called: list[Any] = []
    outcome = Tool("take", "", SHAPE, called.append).run(arguments)
    assert outcome.failed
    assert outcome.text.startswith("error: ")
    assert says in outcome.text
    assert outcome.text.endswith("take takes: a, b")
    assert len(outcome.text) < 700
    assert called == []


def test_a_rule_that_no_schema_says_goes_back_as_text() -> None:
    @tool
    def on(day: datetime.date) -> str:
        return day.isoformat()

    assert on.run('{"day": "2023-02-29"}').text.startswith("error: day: Input should be a valid date")


def raises(error: BaseException) -> Callable[[dict[str, Any]], Any]:
    def call(_: dict[str, Any]) -> Any:
        raise error

    return call


class Unprintable(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError


class UnprintableValue:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def itself() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (raises(ValueError("no such\ncity")), "no such city"),
        (raises(UserError("no such file")), "no such file"),
        (raises(KeyError("x")), "KeyError: 'x'"),
        (raises(RuntimeError()), "RuntimeError"),
        (raises(SystemExit(3)), "SystemExit: 3"),
        (raises(KeyboardInterrupt()), "KeyboardInterrupt"),
        (raises(Unprintable()), "Unprintable"),
        (raises(TimeoutError("the server is slow")), "the server is slow"),
        (raises(RecursionError("too deep")), "RecursionError: too deep"),
        (raises(MemoryError()), "MemoryError"),
        (raises(ExceptionGroup("two", [ValueError("a")])), "ExceptionGroup: two (1 sub-exception)"),
        (raises(OSError("x" * 1_000)), f"OSError: {'x' * 200}"),
        (lambda _: UnprintableValue(), "RuntimeError: no text"),
        (lambda _: itself(), "Circular reference detected (id repeated)"),
        (lambda _: {}["missing"], "KeyError: 'missing'"),
        (lambda _: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_tool_that_fails_goes_back_as_text(call: Callable[[dict[str, Any]], Any], text: str) -> None:
    outcome = Tool("fail", "", {"type": "object"}, call).run("{}")
    assert (outcome.text, outcome.failed, outcome.value) == (f"error: {text}", True, None)


def test_a_tool_that_takes_too_long_is_left() -> None:
    held = threading.Event()
    slow = Tool("slow", "", {"type": "object"}, lambda _: held.wait(60), timeout=0.05, effects=True)
    start = time.perf_counter()
    outcome = slow.run("{}")
    held.set()
    assert outcome.text == "error: slow took longer than 0.05 s and was left; what it does may still happen"
    assert time.perf_counter() - start < 5


def test_a_schema_from_elsewhere_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr("urllib.request.urlopen", opened.append)
    far = {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/schema.json"}}}
    outcome = Tool("far", "", far, lambda _: 1).run('{"a": 1}')
    assert outcome.failed
    assert "http://127.0.0.1:9/schema.json" in outcome.text
    assert opened == []


def no_type(a) -> None: ...  # type: ignore[no-untyped-def]
def any_number(*rest: int) -> None: ...
def any_name(**rest: int) -> None: ...
def no_name(a: int, /) -> None: ...
def no_schema(a: threading.Lock) -> None: ...
def a_callable(a: Callable[[], int]) -> None: ...
def unknown(a: Missing) -> None: ...  # type: ignore[name-defined] # noqa: F821
def in_default(a: int = Field(3)) -> None: ...


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (no_type, "the parameter a of the tool no_type has no type; write one, such as a: str"),
        (any_number, "takes *rest: int, which a model cannot name"),
        (any_name, "takes **rest: int, which a model cannot name"),
        (no_name, "takes a: int, which a model cannot name"),
        (no_schema, "the types of the tool no_schema have no JSON Schema"),
        (a_callable, "the types of the tool a_callable have no JSON Schema"),
        (unknown, "a type of the tool unknown cannot be read: name 'Missing' is not defined"),
        (in_default, "has Field as default; write it in Annotated[...]"),
        (dict.update, "the tool update "),
    ],
)
def test_a_function_that_is_no_tool_is_told_in_one_line(function: Callable[..., Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        tool(function)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "two words", "1st", "a" * 65, "dash-ed", "naïve", "x\n"])
def test_names_are_checked(name: str) -> None:
    with pytest.raises(UserError, match="is no tool's name"):
        Tool(name, "", {"type": "object"}, print)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "string"},
        [],
        None,
        {"type": "object", "properties": 3},
        {"type": "object", "properties": {"a": {"type": "int"}}},
        {"type": "object", "required": "a"},
        {"type": "object", "properties": {"a": {"pattern": 3}}},
    ],
    ids=str,
)
def test_schemas_are_checked(schema: Any) -> None:
    with pytest.raises(UserError) as error:
        Tool("t", "", schema, print)
    assert "JSON Schema" in str(error.value)


@pytest.mark.parametrize("settings", [{"timeout": 0}, {"most": 0}], ids=str)
def test_limits_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Tool("t", "", {"type": "object"}, print, **settings)
