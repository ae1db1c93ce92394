"""Tools from an OpenAPI document: each operation of an HTTP API is one.

    from scratchlm.agents.openapi import tools_from_openapi

    tools = tools_from_openapi("petstore.yaml", operations=["findPets", "GET /pets/{id}"])

A credential is never among a tool's arguments: it is taken from an environment variable and sent with each call.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

from scratchlm.agents.openapi_credentials import credentials_of
from scratchlm.agents.openapi_document import Document
from scratchlm.agents.openapi_request import JSON, Body, Operation, Parameter, send
from scratchlm.agents.tool import Tool, valid_name
from scratchlm.agents.web import WebLimits, checked_url
from scratchlm.errors import UserError
from scratchlm.retrieval.prompting import as_data

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch")
_HARMLESS = ("get", "head", "options")
_STYLES = {
    "path": ("simple", "label", "matrix"),
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
    "header": ("simple",),
    "cookie": ("form",),
}
"""The first is the one without a word."""
_OURS = (
    "accept",
    "content-type",
    "authorization",
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "cookie",
)
"""Headers that a call does not choose."""
_FORM = "application/x-www-form-urlencoded"
_FIELDS = {"type", "properties", "required", "additionalProperties", "title", "description", "examples", "default"}
"""What a body's schema may hold whose fields become arguments of their own."""
_LONGEST = 1_000
"""Characters of a description."""


@dataclass(frozen=True)
class _Found:
    """An operation in the document."""

    method: str
    path: str
    item: Mapping[str, Any]
    own: Mapping[str, Any]

    @property
    def title(self) -> str:
        return f"{self.method.upper()} {self.path}"

    @property
    def name(self) -> str:
        given = self.own.get("operationId")
        return str(given) if given else f"{self.method}{re.sub(r'[^A-Za-z0-9]+', '_', self.path)}".rstrip("_")


def tools_from_openapi(
    document: str | Path | Mapping[str, Any],
    *,
    base_url: str | None = None,
    operations: Sequence[str] | None = None,
    limits: WebLimits | None = None,
    environment: Mapping[str, str] | None = None,
    on_left_out: Callable[[str], None] | None = None,
) -> list[Tool]:
    """The operations of an HTTP API as tools.

    Parameters and the fields of a JSON body are the arguments of a tool; of two with one name, one is told by its
    place (``query_id``, ``body_id``). A body without named fields is the argument ``body``. GET, HEAD and OPTIONS
    have no effects, all others have. A document that was fetched has its calls made to public addresses only.

    Args:
        document: a file (JSON or YAML), an http(s) address on the public web, or the document itself; OpenAPI 3.0 or
            3.1.
        base_url: the server's address; without it, the document's own.
        operations: those that are wanted, by operationId or as ``GET /path``; None for all.
        limits: of the document and of each answer: seconds, bytes, and the hosts that may be asked.
        environment: where credentials are looked up, by the name of their scheme: that of ``apiKey`` in
            ``SCRATCHLM_KEY_APIKEY``. Basic credentials are ``user:password``. :data:`os.environ` if not given.
        on_left_out: told in one line of each operation that cannot be called. Of those that were named, it is an error.

    Raises:
        UserError: the document cannot be read or is none, it has no such operation, there is no server, an operation
            that was named cannot be called, or none can.
    """
    limits = limits or WebLimits(seconds=30.0)
    read = Document(document, limits)
    if base_url is not None:
        _server(base_url, "the base URL")
    found = list(_operations(read))
    if not found:
        raise UserError(f"{read.name} has no operations; give a document with paths")
    chosen = found if operations is None else [_named(name, found, read) for name in operations]
    if not chosen:
        raise UserError(f"no operation of {read.name} is named; name some, or leave the choice out for all")
    reader = _Reader(read, base_url, limits, os.environ if environment is None else environment)
    tools: dict[str, Tool] = {}
    reasons: list[str] = []
    for operation in {one.title: one for one in chosen}.values():
        try:
            made = reader.tool(operation, tools)
        except (UserError, RecursionError) as error:
            deep = "its schemas are too deep, or contain themselves without a $ref"
            why = deep if isinstance(error, RecursionError) else str(error)
            if operations is not None:
                raise UserError(f"{operation.name} cannot be called: {why}") from error
            reasons.append(f"{operation.name} is left out: {why}")
            continue
        tools[made.name] = made
    if not tools:
        raise UserError(f"none of the operations of {read.name} can be called; {reasons[0]}")
    if on_left_out is not None:
        for reason in reasons:
            on_left_out(reason)
    return list(tools.values())


def _operations(document: Document) -> Iterator[_Found]:
    paths = document.mapping(document.content.get("paths") or {}, "paths")
    for path, item in paths.items():
        if not str(path).startswith("/"):
            continue  # an extension
        item = document.mapping(item, str(path))
        for method in _METHODS:
            if method in item:
                yield _Found(method, str(path), item, document.mapping(item[method], f"{method} {path}"))


def _named(name: str, found: Sequence[_Found], document: Document) -> _Found:
    for one in found:
        if name in (one.name, valid_name(one.name)) or name.split() == one.title.split():
            return one
    names = [one.name for one in found]
    near = difflib.get_close_matches(name, names, 1)
    cure = f"did you mean {near[0]}?" if near else f"choose of: {', '.join(names[:20])}"
    raise UserError(f"{document.name} has no operation {name!r}; {cure}")


def _server(url: str, what: str) -> str:
    try:
        parts = checked_url(url)
    except ValueError as error:
        raise UserError(f"{what} is wrong: {error}; give one such as https://api.example.org/v1") from error
    if parts.query or parts.fragment:
        raise UserError(f"{what} {url} has a query or a fragment; leave it out")
    return url.strip()


class _Reader:
    """Makes tools of operations."""

    def __init__(
        self, document: Document, base_url: str | None, limits: WebLimits, environment: Mapping[str, str]
    ) -> None:
        self._document, self._base, self._limits, self._environment = document, base_url, limits, environment

    def tool(self, one: _Found, taken: Mapping[str, Tool]) -> Tool:
        document, where = self._document, one.title
        credentials = credentials_of(document, one.own, where, self._environment)
        sent = {(key.place, key.name.lower()) for key in credentials}
        given = [p for p in self._parameters(one) if (p["in"], str(p["name"]).lower()) not in sent]
        schemas: dict[str, Any] = {}
        required: list[str] = []
        parameters: list[Parameter] = []
        names = [str(p["name"]) for p in given]
        for part in given:
            name = str(part["name"])
            argument = name if names.count(name) == 1 else f"{part['in']}_{name}"
            parameter, schema = self._parameter(part, argument, where)
            parameters.append(parameter)
            schemas[argument] = {**schema, "description": part["description"]} if part.get("description") else schema
            if part.get("required") is True or part["in"] == "path":
                required.append(argument)
        missing = set(re.findall(r"\{([^{}]+)\}", one.path)) - {p.name for p in parameters if p.place == "path"}
        if missing:
            raise UserError(f"{document.name}, {where}: there is no parameter {sorted(missing)[0]}; mend the document")
        body = self._body(one, schemas, required)
        name = valid_name(one.name)
        number = 1
        while name in taken:
            number += 1
            name = f"{valid_name(one.name)[:60]}_{number}"
        base = self._server_of(one)
        path = quote(one.path, safe="/%:@!$&'()*+,;=~{}?-._")
        public = bool(document.url) and self._base is None
        operation = Operation(one.method.upper(), base, path, parameters, body, credentials, public)
        limits = self._limits

        def call(arguments: dict[str, Any]) -> str:
            return send(operation, arguments, limits)

        schema = document.schema(schemas, required, where)
        effects = one.method not in _HARMLESS
        return Tool(name, self._about(one), schema, call, effects, limits.seconds + 5)

    def _about(self, one: _Found) -> str:
        parts = [str(one.own[key]).strip() for key in ("summary", "description") if one.own.get(key)]
        text = as_data("\n".join(dict.fromkeys(parts)))[0] or one.title
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."

    # ---- parameters

    def _parameters(self, one: _Found) -> list[Mapping[str, Any]]:
        """Those of the path and of the operation, which come before."""
        document, where = self._document, one.title
        found: dict[tuple[str, str], Mapping[str, Any]] = {}
        for holder in (one.item, one.own):
            for part in document.listed(holder.get("parameters"), f"{where}, parameters"):
                part = document.mapping(part, f"{where}, parameters")
                if not isinstance(part.get("name"), str) or part.get("in") not in _STYLES:
                    raise UserError(
                        f"{document.name}, {where}: a parameter has no name, or is not in path, query, header or "
                        "cookie; mend the document"
                    )
                if part["in"] != "header" or part["name"].lower() not in _OURS:
                    found[part["name"], part["in"]] = part
        return list(found.values())

    def _parameter(self, part: Mapping[str, Any], argument: str, where: str) -> tuple[Parameter, Mapping[str, Any]]:
        document, place, name = self._document, str(part["in"]), str(part["name"])
        style = str(part.get("style", _STYLES[place][0]))
        if style not in _STYLES[place]:
            raise UserError(f"{document.name}, {where}: {name} has the style {style}, which no {place} has")
        explode = bool(part.get("explode", style in ("form", "deepObject")))
        schema = part.get("schema", {})
        as_json = False
        if "content" in part:
            content = document.mapping(part["content"], f"{where}, {name}")
            kind = next((kind for kind in content if JSON.fullmatch(str(kind))), None)
            if kind is None:
                raise UserError(f"{name} is sent as {next(iter(content), 'nothing')}, which cannot be written")
            schema, as_json = document.mapping(content[kind], f"{where}, {name}").get("schema", {}), True
        if isinstance(schema, bool):
            schema = {}
        if not isinstance(schema, Mapping):
            raise UserError(f"{document.name}, {where}: the schema of {name} is no object; mend the document")
        reserved = part.get("allowReserved") is True
        return Parameter(argument, name, place, style, explode, reserved, as_json), schema

    # ---- the body

    def _body(self, one: _Found, schemas: dict[str, Any], required: list[str]) -> Body | None:
        """What the body is made of; its arguments are added to ``schemas`` and ``required``."""
        document, where = self._document, f"{one.title}, requestBody"
        if "requestBody" not in one.own:
            return None
        given = document.mapping(one.own["requestBody"], where)
        content = document.mapping(given.get("content") or {}, where)
        kinds = {str(kind).partition(";")[0].strip().lower(): kind for kind in content}
        kind = next((kind for kind in kinds if JSON.fullmatch(kind)), _FORM if _FORM in kinds else None)
        if kind is None and {"*/*", "application/*"} & kinds.keys():
            kinds["application/json"] = next(kinds[any_] for any_ in ("*/*", "application/*") if any_ in kinds)
            kind = "application/json"
        needed = given.get("required") is True
        if kind is None:
            if not needed and content:
                return None
            raise UserError(
                f"its body is {' or '.join(kinds) or 'of no kind'}, which cannot be written as JSON or a form"
            )
        schema = document.mapping(content[kinds[kind]] or {}, where).get("schema", {})
        fields = self._fields(schema, where)
        if fields is None or (not needed and fields[1]):
            name = "body"
            while name in schemas:
                name += "_"
            schemas[name] = schema
            required += [name] if needed else []
            return Body(kind, name, {}, needed)
        arguments: dict[str, str] = {}
        for field, part in fields[0].items():
            name = field
            while name in schemas:
                name = f"body_{name}"
            schemas[name], arguments[name] = part, field
            required += [name] if field in fields[1] else []
        return Body(kind, None, arguments, needed)

    def _fields(self, schema: Any, where: str) -> tuple[dict[str, Any], set[str]] | None:
        """The properties of a body that is an object with these and no others, and those that are required; None for
        any other body."""
        if not isinstance(schema, Mapping):
            return None
        schema = self._document.mapping(schema, where)
        held = {
            key for key in schema if key not in ("example", "xml", "externalDocs") and not str(key).startswith("x-")
        }
        if held - _FIELDS or not isinstance(schema.get("properties"), Mapping) or schema.get("additionalProperties"):
            return None
        properties = {
            str(name): part
            for name, part in schema["properties"].items()
            if not isinstance(part, Mapping) or self._document.mapping(part, where).get("readOnly") is not True
        }
        named = self._document.listed(schema.get("required"), where)
        return properties, {name for name in named if name in properties}

    # ---- where it is sent

    def _server_of(self, one: _Found) -> str:
        document = self._document
        if self._base is not None:
            return self._base
        for holder in (one.own, one.item, document.content):
            servers = document.listed(holder.get("servers"), "servers")
            if servers:
                first = document.mapping(servers[0], "servers")
                break
        else:
            first = {"url": "/"}
        url = str(first.get("url", "/"))
        for name, value in document.mapping(first.get("variables") or {}, "servers").items():
            default = document.mapping(value, "servers").get("default", "")
            url = url.replace(f"{{{name}}}", str(default))
        url = urljoin(document.url, url) if document.url else url
        if not url.lower().startswith(("http://", "https://")):
            raise UserError(f"{document.name} does not say on which server its API is; give the base URL (--base-url)")
        return _server(url, f"{document.name}: the server's address")
