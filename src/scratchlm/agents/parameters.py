"""From a Python function to what a model reads of it: a description and a JSON Schema of its parameters.

The types are pydantic's: numbers, texts, Literal, Enum, lists, dictionaries, dates, dataclasses, models, Annotated with
Field. The schema is closed (no other properties), has its references written out where they do not go in circles, and
carries no titles: a model reads each token of it.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from scratchlm.errors import UserError, missing_package

_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns?|Raises|Yields|Examples?|Notes?):\s*$", re.MULTILINE)
_GOOGLE = re.compile(r"^(\s+)\*{0,2}(\w+)(?: ?\([^)]*\))?:\s*(.*)$")
_SPHINX = re.compile(r"^:param (?:[^:]* )?(\w+):\s*(.*)$")


def described(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """A docstring's first part, before any section, and what it says of each parameter: Google's ``Args:`` or
    Sphinx's ``:param x:``."""
    text = inspect.cleandoc(function.__doc__ or "") if hasattr(function, "__doc__") else ""
    about: dict[str, str] = {}
    name, indent = "", 0
    for line in text.splitlines():
        if found := _SPHINX.match(line):
            name, about[found[1]], indent = found[1], found[2], 0
        elif (found := _GOOGLE.match(line)) and (not name or len(found[1]) <= indent or not indent):
            name, about[found[2]], indent = found[2], found[3], len(found[1])
        elif name and len(line) - len(line.lstrip()) > indent:
            about[name] = f"{about[name]} {line.strip()}".strip()
        else:
            name = ""
    head = re.split(r"^:\w", _SECTION.split(text)[0], maxsplit=1, flags=re.MULTILINE)[0]
    return " ".join(head.split()), about


def from_function(
    function: Callable[..., Any], name: str
) -> tuple[str, dict[str, Any], Callable[[Mapping[str, Any]], dict[str, Any]]]:
    """A function's description, the JSON Schema of its parameters, and what turns JSON's values into its own types.

    Raises:
        UserError: pydantic is missing; a parameter has no type, or one without a JSON Schema; the function takes
            ``*args``, ``**kwargs`` or arguments without names.
    """
    try:
        from typing import NotRequired

        from pydantic import ConfigDict, TypeAdapter
        from pydantic.errors import PydanticUserError
        from typing_extensions import TypedDict
    except ImportError:
        raise missing_package("tools need", "pydantic", "agents") from None
    typed_dict: Any = TypedDict  # its names and types are not known before
    description, about = described(function)
    fields: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for key, one in _signature(function, name).items():
        if one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            raise UserError(
                f"the tool {name} takes {one}, which a model cannot name; give each parameter a name and a type"
            )
        if one.annotation is one.empty:
            raise UserError(f"the parameter {key} of the tool {name} has no type; write one, such as {key}: str")
        if type(one.default).__name__ == "FieldInfo":
            raise UserError(f"the parameter {key} of the tool {name} has Field as default; write it in Annotated[...]")
        fields[key] = one.annotation if one.default is one.empty else NotRequired[one.annotation]
        if one.default is not one.empty:
            defaults[key] = one.default
    try:
        shape = typed_dict(name, fields)
        shape.__pydantic_config__ = ConfigDict(extra="forbid")
        adapter = TypeAdapter[dict[str, Any]](shape)
        schema = adapter.json_schema()
    except (PydanticUserError, TypeError, ValueError, NameError, RecursionError) as error:
        raise UserError(f"the types of the tool {name} have no JSON Schema: {message(error)}") from error
    schema = tidy(schema)
    schema.setdefault("properties", {})
    for key, value in schema["properties"].items():
        if about.get(key):
            value.setdefault("description", about[key])
        if key in defaults and _plain(defaults[key]):
            value.setdefault("default", defaults[key])
    return description, schema, lambda arguments: adapter.validate_json(json.dumps(dict(arguments)))


def _signature(function: Callable[..., Any], name: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function, eval_str=True).parameters
    except (TypeError, ValueError) as error:
        raise UserError(f"the tool {name} has no signature to read: {message(error)}") from error
    except Exception as error:  # a type that is written as text is run, and may be anything
        raise UserError(f"a type of the tool {name} cannot be read: {message(error)}") from error


def _plain(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


_VALUES = ("default", "const", "enum", "examples")
_LEFT_OUT = ("title", "$defs", "discriminator", "uniqueItems")
_MEANT = {"oneOf": "anyOf"}
"""Constrained decoding cannot promise that items differ, nor that no more than one part fits; a set takes an item
twice, and of the parts of pydantic's unions only one can fit."""


def tidy(schema: Mapping[str, Any], *, closed: bool = True) -> dict[str, Any]:
    """A schema without titles, with its ``$defs`` written out in place, and with closed objects. A type that contains
    itself keeps its ``$ref``.

    Args:
        closed: leave it out for a schema that others have written, whose objects may be parts of one (``allOf``).
    """
    definitions = schema.get("$defs", {})
    kept: dict[str, Any] = {}

    def walk(part: Any, inside: tuple[str, ...], names: bool = False) -> Any:
        """``names``: the keys are a user's own, not the schema's words."""
        if isinstance(part, list):
            return [walk(one, inside) for one in part]
        if not isinstance(part, Mapping):
            return part
        if names:
            return {key: walk(value, inside) for key, value in part.items()}
        target = str(part.get("$ref", "")).removeprefix("#/$defs/")
        if target in definitions:
            beside = {key: value for key, value in part.items() if key != "$ref"}
            if _circular(target, definitions):
                if target not in kept:
                    kept[target] = None
                    kept[target] = walk(definitions[target], inside)
                return dict(part)
            return {**walk(definitions[target], (*inside, target)), **walk(beside, inside)}
        found = {
            _MEANT.get(key, key): value if key in _VALUES else walk(value, inside, key == "properties")
            for key, value in part.items()
            if key not in _LEFT_OUT
        }
        if closed and "properties" in found:
            found.setdefault("additionalProperties", False)
        return found

    whole: dict[str, Any] = walk({key: value for key, value in schema.items() if key != "$defs"}, ())
    return {**whole, "$defs": kept} if kept else whole


def lost_reference(schema: Mapping[str, Any]) -> str | None:
    """The first ``$ref`` of a schema that leads to no part of it; None where each does. Nothing is fetched."""
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    def walk(part: Any, resolver: Any) -> str | None:
        if isinstance(part, list):
            return next((lost for one in part if (lost := walk(one, resolver)) is not None), None)
        if not isinstance(part, Mapping):
            return None
        if isinstance(part.get("$id"), str):
            resolver = resolver.in_subresource(DRAFT202012.create_resource(part))
        if isinstance(reference := part.get("$ref"), str):
            try:
                resolver.lookup(reference)
            except (Unresolvable, TypeError, ValueError):
                return reference
        return walk([value for key, value in part.items() if key not in _VALUES], resolver)

    registry: Any = Registry().with_resource("", DRAFT202012.create_resource(schema)).crawl()
    return walk(schema, registry.resolver())


def _circular(name: str, definitions: Mapping[str, Any]) -> bool:
    """Whether a definition leads back to itself."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        for target in re.findall(r'"#/\$defs/([^"]+)"', json.dumps(definitions.get(waiting.pop(), {}), default=str)):
            if target == name:
                return True
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return False


def message(error: BaseException) -> str:
    """An error's message on one line."""
    text = " ".join(str(error).split())
    return f"{text[:297]}..." if len(text) > 300 else text or type(error).__name__
