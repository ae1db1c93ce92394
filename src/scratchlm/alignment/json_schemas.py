"""A small part of JSON Schema (draft 2020-12), that most answers need; what is not checked is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scratchlm.errors import UserError

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "null": (type(None),),
    "integer": (int,), "number": (int, float),
}  # fmt: skip
_CHECKED = ("type", "enum", "const", "properties", "required", "additionalProperties", "items")
_REMARKS = ("$schema", "$id", "$comment", "title", "description", "default", "examples")
_DEEPEST, _LONGEST = 50, 1 << 20
"""Levels of a schema; characters of a text."""


@dataclass(frozen=True)
class JsonSchema:
    """A schema with the keywords ``type``, ``enum``, ``const``, ``properties``, ``required``, ``additionalProperties``
    (true or false) and ``items`` (one schema for all), and remarks (``title``, ``description`` and the like)."""

    schema: Mapping[str, Any]

    @classmethod
    def of(cls, source: Any) -> JsonSchema:
        """Of a mapping or of JSON.

        Raises:
            UserError: it is neither, or has a keyword that is not checked here.
        """
        if isinstance(source, str):
            try:
                source = json.loads(source)
            except (ValueError, RecursionError) as error:
                raise UserError(f"the schema is no JSON ({str(error)[:80]})") from error
        _check(source, "the schema", 0)
        return cls(source)

    def fits_text(self, text: str) -> bool:
        """Whether a text is JSON and nothing else, and fits. ``NaN`` and ``Infinity`` are no JSON."""
        if len(text) > _LONGEST:
            return False
        try:
            value = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
        return self.fits(value)

    def fits(self, value: Any) -> bool:
        """Whether a value of JSON fits."""
        return _fits(value, self.schema)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _check(schema: Any, where: str, depth: int) -> None:
    """Raises UserError where a schema is none, or has what is not checked here."""
    if not isinstance(schema, Mapping):
        raise UserError(f"{where} is {str(schema)[:40]!r}, which is no JSON object; give one with a type")
    if depth > _DEEPEST:
        raise UserError(f"{where} is nested more than {_DEEPEST} levels deep; give a flatter one")
    for key in schema:
        if key not in (*_CHECKED, *_REMARKS):
            raise UserError(f"{where} has the keyword {key!r}, which is not checked; use: {', '.join(_CHECKED)}")
    types = schema.get("type", [])
    for name in types if isinstance(types, list) else [types]:
        if not isinstance(name, str) or name not in _TYPES:
            raise UserError(f"{where} has the type {name!r}; choose one of: {', '.join(_TYPES)}")
    for key, kind in (("enum", list), ("required", list), ("properties", Mapping), ("additionalProperties", bool)):
        if key in schema and not isinstance(schema[key], kind):
            shape = {"enum": "a list", "required": "a list", "properties": "an object"}.get(key, "true or false")
            raise UserError(f"{where} has {key} {str(schema[key])[:40]!r}; give {shape}")
    if not all(isinstance(name, str) for name in schema.get("required", ())):
        raise UserError(f"{where} has required {str(schema['required'])[:40]!r}; give names of properties")
    for name, one in schema.get("properties", {}).items():
        _check(one, f"{where}, property {name!r},", depth + 1)
    if "items" in schema:
        _check(schema["items"], f"{where}, items,", depth + 1)


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    types = schema.get("type")
    if types is not None and not any(_is(value, name) for name in (types if isinstance(types, list) else [types])):
        return False
    if "enum" in schema and not any(_equal(value, one) for one in schema["enum"]):
        return False
    if "const" in schema and not _equal(value, schema["const"]):
        return False
    if isinstance(value, dict):
        known = schema.get("properties", {})
        if any(name not in value for name in schema.get("required", ())):
            return False
        if schema.get("additionalProperties", True) is False and any(name not in known for name in value):
            return False
        return all(_fits(value[name], one) for name, one in known.items() if name in value)
    if isinstance(value, list) and "items" in schema:
        return all(_fits(one, schema["items"]) for one in value)
    return True


def _is(value: Any, name: str) -> bool:
    if name in ("integer", "number") and isinstance(value, bool):
        return False
    return isinstance(value, _TYPES[name]) or (name == "integer" and isinstance(value, float) and value.is_integer())


def _equal(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return bool(one == other)
