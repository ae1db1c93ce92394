"""An OpenAPI document (3.0, 3.1): read, its references followed, its schemas as plain JSON Schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from scratchlm.agents.parameters import message, tidy
from scratchlm.agents.web import WebLimits, fetch_bytes
from scratchlm.errors import UserError
from scratchlm.reading import read_text

_LARGEST, _MOST_PARTS = 32 << 20, 20_000
"""Bytes of a document; parts of one operation's schemas, written out."""
_ONE = ("items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else")
_SEVERAL = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "dependentSchemas")
"""Where schemas stand in a schema: one, a list, by names. ``unevaluatedProperties`` and its like are copied, as they
hold true or false in practice."""
_DROPPED = (
    "xml",
    "externalDocs",
    "discriminator",
    "example",
    "nullable",
    "readOnly",
    "writeOnly",
    "deprecated",
    "$defs",
)


class Document:
    """An OpenAPI document.

    Args:
        source: a file (JSON or YAML), an http(s) address on the public web, or the document itself.

    Raises:
        UserError: it cannot be read, or is no OpenAPI document of version 3.0 or 3.1.
    """

    def __init__(self, source: str | Path | Mapping[str, Any], limits: WebLimits) -> None:
        self.name, self.url = "the document", ""
        if isinstance(source, Mapping):
            content: Any = source
        else:
            self.name = str(source)
            if self.name.lower().startswith(("http://", "https://")):
                self.url, text = _fetched(self.name, limits)
            else:
                text = _file(Path(source))
            content = _parsed(text, self.name)
        if not isinstance(content, Mapping):
            raise UserError(f"{self.name} is no OpenAPI document: it holds no object; give another file")
        version = str(content.get("openapi", ""))
        if "swagger" in content and not version:
            raise UserError(
                f"{self.name} is Swagger {str(content['swagger'])[:20]}; convert it to OpenAPI 3 first, such as with "
                "swagger2openapi"
            )
        if not version:
            raise UserError(f"{self.name} is no OpenAPI document: it has no field openapi; give another file")
        if not re.fullmatch(r"3\.[01](\.\d+.*)?", version):
            raise UserError(f"{self.name} is OpenAPI {version[:20]}; give one of version 3.0 or 3.1")
        self.content, self.old = content, version.startswith("3.0")

    def mapping(self, value: Any, where: str) -> Mapping[str, Any]:
        """An object of the document, behind its references.

        Raises:
            UserError: it is none, or a reference leads nowhere.
        """
        seen: set[str] = set()
        while isinstance(value, Mapping) and isinstance(value.get("$ref"), str):
            if value["$ref"] in seen:
                raise UserError(f"{self.name}, {where}: {value['$ref']} refers to itself; mend the document")
            seen.add(value["$ref"])
            value = self._at(value["$ref"], where)
        if not isinstance(value, Mapping):
            raise UserError(f"{self.name}, {where}: this is no object; mend the document")
        return value

    def listed(self, value: Any, where: str) -> list[Any]:
        """A list of the document; empty where there is none.

        Raises:
            UserError: it is something else.
        """
        if value is None:
            return []
        if not isinstance(value, list):
            raise UserError(f"{self.name}, {where}: this is no list; mend the document")
        return value

    def _at(self, reference: str, where: str) -> Any:
        if not reference.startswith("#"):
            raise UserError(
                f"{self.name}, {where}: {reference[:100]} is in another file; bundle the document into one, such as "
                "with redocly bundle"
            )
        found: Any = self.content
        for part in unquote(reference[1:]).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, Mapping) and key in found:
                found = found[key]
            else:
                raise UserError(f"{self.name}, {where}: {reference[:100]} is not in the document; mend the reference")
        return found

    def schema(self, parts: Mapping[str, Any], required: list[str], where: str) -> dict[str, Any]:
        """The JSON Schema of an object with these properties and no others. References are written out; a schema that
        contains itself stays one, under ``$defs``.

        Args:
            parts: the document's own schemas, by the names that they get.

        Raises:
            UserError: a reference leads nowhere, or it is too large.
        """
        reader = _Schemas(self, where)
        found = {name: reader.read(part) for name, part in parts.items()}
        if sum(reader.weight(part, ()) for part in found.values()) > _MOST_PARTS:
            raise reader.too_large
        whole: dict[str, Any] = {"type": "object", "properties": found, "additionalProperties": False}
        if required:
            whole["required"] = required
        return tidy({**whole, "$defs": reader.definitions}, closed=False)


class _Schemas:
    """Turns the schemas of one operation into JSON Schema 2020-12."""

    def __init__(self, document: Document, where: str) -> None:
        self._document, self._where, self._parts = document, where, 0
        self.definitions: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        self._weights: dict[str, int] = {}
        self.too_large = UserError(
            f"{document.name}, {where}: its schemas have too many parts; choose another operation"
        )

    def read(self, part: Any) -> Any:
        self._parts += 1
        if self._parts > _MOST_PARTS:  # YAML's aliases can make a short text endless
            raise self.too_large
        if isinstance(part, bool):
            return part
        if not isinstance(part, Mapping):
            raise UserError(f"{self._document.name}, {self._where}: a schema is no object; mend the document")
        if isinstance(reference := part.get("$ref"), str):
            referred = {"$ref": f"#/$defs/{self._name(reference)}"}
            beside = {key: value for key, value in part.items() if key != "$ref"}
            return referred if self._document.old or not beside else {**self.read(beside), **referred}
        found: dict[str, Any] = {}
        for key, value in part.items():
            if key in _DROPPED or str(key).startswith("x-") or (key == "pattern" and not _compiles(value)):
                continue
            if key in _NAMED:
                found[key] = {str(name): self.read(one) for name, one in self._writable(value).items()}
            elif key in _SEVERAL and isinstance(value, list):
                found[key] = [self.read(one) for one in value]
            else:
                found[key] = self.read(value) if key in _ONE else value
        if isinstance(found.get("required"), list) and isinstance(part.get("properties"), Mapping):
            left = part["properties"].keys() - found["properties"].keys()
            found["required"] = [name for name in found["required"] if name not in left]
        if "example" in part:
            found.setdefault("examples", [part["example"]])
        return self._of_3_0(found, part.get("nullable") is True) if self._document.old else found

    def _writable(self, properties: Any) -> dict[str, Any]:
        """The properties that a request may have."""
        given = self._document.mapping(properties, self._where)
        return {
            name: one
            for name, one in given.items()
            if not isinstance(one, Mapping) or self._document.mapping(one, self._where).get("readOnly") is not True
        }

    @staticmethod
    def _of_3_0(found: dict[str, Any], nullable: bool) -> dict[str, Any]:
        for bound, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if isinstance(found.get(bound), bool) and found.pop(bound) and limit in found:
                found[bound] = found.pop(limit)
        if not nullable or not found:
            return found
        if not isinstance(found.get("type"), str):
            return {"anyOf": [found, {"type": "null"}]}
        found["type"] = [found["type"], "null"]
        if isinstance(found.get("enum"), list) and None not in found["enum"]:
            found["enum"] = [*found["enum"], None]
        return found

    def _name(self, reference: str) -> str:
        if reference not in self._names:
            own = re.sub(r"[^A-Za-z0-9_.-]", "_", reference.rpartition("/")[2]) or "schema"
            while own in self.definitions:
                own += "_"
            self._names[reference], self.definitions[own] = own, True
            self._document.mapping({"$ref": reference}, self._where)  # that it leads somewhere, and not in a circle
            self.definitions[own] = self.read(self._document._at(reference, self._where))
        return self._names[reference]

    def weight(self, part: Any, inside: tuple[str, ...]) -> int:
        """The parts of a schema with all its references written out, those that go in circles once."""
        if isinstance(part, list):
            return sum(self.weight(one, inside) for one in part)
        if not isinstance(part, Mapping):
            return 1
        own = sum(self.weight(value, inside) for value in part.values())
        name = str(part.get("$ref", "")).removeprefix("#/$defs/")
        if name not in self.definitions or name in inside:
            return own + 1
        if name not in self._weights:
            self._weights[name] = self.weight(self.definitions[name], (*inside, name))
        return own + self._weights[name]


def _fetched(url: str, limits: WebLimits) -> tuple[str, str]:
    try:
        url, _, data = fetch_bytes(url, limits)
        return url, data.decode()
    except ValueError as error:
        raise UserError(f"{url[:200]} cannot be fetched: {message(error)}; give a file instead") from error


def _file(path: Path) -> str:
    try:
        return read_text(path, _LARGEST)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; give an OpenAPI document in JSON or YAML") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no UTF-8 text; give an OpenAPI document in JSON or YAML") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give an OpenAPI document") from error


def _parsed(text: str, name: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """YAML as OpenAPI has it: a day is a text, and so are yes and no."""

    words = re.compile(r"true|True|TRUE|false|False|FALSE")
    Loader.yaml_implicit_resolvers = {
        letter: [
            (tag, words if tag.endswith(":bool") else pattern)
            for tag, pattern in pairs
            if not tag.endswith(":timestamp")
        ]
        for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    try:
        return json.loads(text) if text.lstrip().startswith("{") else yaml.load(text, Loader)
    except json.JSONDecodeError as error:
        raise UserError(f"{name}, line {error.lineno}: this is no JSON ({error.msg}); mend it") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{name}, line {line}: this is no YAML ({error.problem}); mend it") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{name} cannot be read: {message(error)}; mend it") from error


def _compiles(pattern: Any) -> bool:
    """Whether Python knows a regular expression, too; they are JavaScript's here."""
    try:
        re.compile(pattern)
    except (re.error, TypeError, RecursionError):
        return False
    return True
