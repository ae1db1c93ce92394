"""From a call's arguments to an HTTP request, as an OpenAPI document says, and from its answer to a text."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import SplitResult, quote, urlencode, urljoin

from scratchlm.agents.parameters import message
from scratchlm.agents.redaction import Redactor
from scratchlm.agents.tool import ToolError
from scratchlm.agents.web import WebLimits, address_of, checked_url, exchange, readable

_REDIRECTIONS, _SHOWN = 5, 500
"""Redirections that are followed; characters of a refusal that the model sees."""
JSON = re.compile(r"application/([\w.+-]+\+)?json", re.IGNORECASE)
"""The kinds of content that are JSON."""
_BETWEEN = {"form": ",", "spaceDelimited": "%20", "pipeDelimited": "%7C"}


@dataclass(frozen=True)
class Parameter:
    """Where an argument goes, and how it is written there."""

    argument: str
    """Its name among the tool's arguments."""
    name: str
    place: str
    """``path``, ``query``, ``header`` or ``cookie``."""
    style: str
    explode: bool
    reserved: bool = False
    """Whether signs such as ``/`` are sent as they are."""
    as_json: bool = False


@dataclass(frozen=True)
class Body:
    """What a request's body is made of."""

    kind: str
    """``application/json`` and its like, or ``application/x-www-form-urlencoded``."""
    whole: str | None
    """The argument that is the body; None where it is made of fields."""
    fields: Mapping[str, str]
    """Of the body, by the names of their arguments."""
    required: bool


@dataclass(frozen=True)
class Credential:
    """A key, a token, or a name with its password, ready to be sent."""

    place: str
    """``header``, ``query`` or ``cookie``."""
    name: str
    value: str
    secrets: tuple[str, ...]
    """What no text may show."""


@dataclass(frozen=True)
class Operation:
    """One of an API's operations."""

    method: str
    base: str
    """The server's address, to which ``path`` is added."""
    path: str
    parameters: Sequence[Parameter]
    body: Body | None
    credentials: Sequence[Credential]
    public: bool
    """Whether only addresses that everyone can reach are asked."""


@dataclass(frozen=True)
class Request:
    """What is sent."""

    url: str
    headers: dict[str, str]
    body: bytes | None


def request_of(operation: Operation, arguments: Mapping[str, Any]) -> Request:
    """The request that a call makes.

    Raises:
        ToolError: an argument cannot stand where it belongs.
    """
    headers = {"accept": "application/json, text/*"}
    query: list[str] = []
    cookies: list[str] = []
    paths: dict[str, str] = {}
    for one in operation.parameters:
        if (value := arguments.get(one.argument)) is None:
            continue
        if one.as_json:
            value = _compact(value)
        if one.place == "path":
            paths[one.name] = _in_path(one, value)
        elif one.place == "query":
            query += _in_query(one, value)
        elif one.place == "header":
            headers[one.name.lower()] = _in_header(one.name, ",".join(_items(value, one.explode, _plain)))
        else:
            cookies += _in_query(one, value)
    for key in operation.credentials:
        if key.place == "header":
            headers[key.name.lower()] = key.value
        else:
            (query if key.place == "query" else cookies).append(f"{_quoted(key.name)}={_quoted(key.value)}")
    if cookies:
        headers["cookie"] = "; ".join(cookies)
    body = _body(operation.body, arguments)
    if body is not None and operation.body is not None:
        headers["content-type"] = operation.body.kind
    elif operation.method not in ("GET", "HEAD", "OPTIONS"):
        body = b""
    path = re.sub(r"\{([^{}]+)\}", lambda found: paths[found[1]], operation.path)
    url = operation.base.rstrip("/") + path
    return Request(f"{url}{'&' if '?' in url else '?'}{'&'.join(query)}" if query else url, headers, body)


def send(operation: Operation, arguments: Mapping[str, Any], limits: WebLimits) -> str:
    """Make a call, and give its answer as text. Redirections are followed on the same host only, and no text shows a
    credential.

    Raises:
        ToolError: it was refused or broken off, or an argument does not fit.
    """
    hidden = Redactor([secret for key in operation.credentials for secret in key.secrets], {})
    try:
        return hidden.known(_sent(operation, request_of(operation, arguments), limits))
    except ToolError as error:
        raise ToolError(hidden.known(str(error))) from None
    except ValueError as error:
        known = "" if operation.method in ("GET", "HEAD", "OPTIONS") else "; what it does may still have happened"
        raise ToolError(hidden.known(message(error)) + known) from None


def _sent(operation: Operation, request: Request, limits: WebLimits) -> str:
    until = time.monotonic() + limits.seconds
    method, url, headers, body = operation.method, request.url, dict(request.headers), request.body
    origin = _origin(checked_url(operation.base, limits.hosts))
    for _ in range(_REDIRECTIONS + 1):
        parts = checked_url(url, limits.hosts)
        if _origin(parts) != origin:
            raise ToolError(f"the server redirects to another host ({parts.netloc}), which is not asked")
        address = address_of(parts, public=operation.public)
        status, answered, data = exchange(parts, address, limits, until, method=method, headers=headers, body=body)
        there = answered.get("Location", "")
        if status not in (301, 302, 303, 307, 308) or not there:
            break
        if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
            method, body = "GET", None
            headers.pop("content-type", None)
        url = urljoin(url, there)
    else:
        raise ToolError(f"the server redirects more than {_REDIRECTIONS} times")
    said = f"{status} {http.client.responses.get(status, '')}".rstrip()
    if status >= 300:
        try:
            told = _text(url, answered, data)
        except ValueError:
            told = ""
        shown = told if len(told) <= _SHOWN else f"{told[:_SHOWN]}..."
        raise ToolError(f"{operation.method} {operation.path} answers {said}{': ' if shown else ''}{shown}")
    return _text(url, answered, data) if data.strip() else f"{said}, with nothing in it"


def _text(url: str, answered: Message, data: bytes) -> str:
    """JSON as it is: to leave sentences out of it would break it. Anything else as a page."""
    if JSON.fullmatch(answered.get_content_type()):
        return data.decode("utf-8", "replace")
    return readable(url, answered, data)


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _body(body: Body | None, arguments: Mapping[str, Any]) -> bytes | None:
    if body is None:
        return None
    value: Any
    if body.whole is not None:
        if body.whole not in arguments:
            return None
        value = arguments[body.whole]
    else:
        value = {field: arguments[name] for name, field in body.fields.items() if name in arguments}
        if not value and not body.required:
            return None
    if body.kind != "application/x-www-form-urlencoded":
        return _compact(value).encode()
    if not isinstance(value, Mapping):
        raise ToolError(f"{body.whole} has to be an object: it is sent as a form")
    pairs = [(key, one) for key, many in value.items() for one in (many if isinstance(many, list) else [many])]
    return urlencode([(key, _plain(one)) for key, one in pairs if one is not None]).encode()


# ---- how a value is written


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else _compact(value)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _quoted(value: Any) -> str:
    return quote(_plain(value), safe="")


def _unreserved(value: Any) -> str:
    return quote(_plain(value), safe=":/?@!$'()*,;")  # not & = + #, which would end it


def _items(value: Any, explode: bool, spell: Callable[[Any], str]) -> list[str]:
    """The parts between which a style has its sign."""
    if isinstance(value, list):
        return [spell(one) for one in value]
    if not isinstance(value, Mapping):
        return [spell(value)]
    if explode:
        return [f"{spell(key)}={spell(one)}" for key, one in value.items()]
    return [spell(part) for pair in value.items() for part in pair]


def _in_path(one: Parameter, value: Any) -> str:
    items, name = _items(value, one.explode, _quoted), _quoted(one.name)
    if one.style == "matrix":
        if not one.explode or not isinstance(value, list | Mapping):
            return f";{name}={','.join(items)}"
        return "".join(f";{item}" if isinstance(value, Mapping) else f";{name}={item}" for item in items)
    if one.style == "label":
        return "." + ("." if one.explode else ",").join(items)
    text = ",".join(items)
    if text in ("", ".", ".."):  # would lead to another operation
        raise ToolError(f"{one.argument} is {text!r}, which cannot stand in an address")
    return text


def _in_query(one: Parameter, value: Any) -> list[str]:
    """For a cookie, too: its style is form."""
    spell, name = _unreserved if one.reserved else _quoted, _quoted(one.name)
    if one.style == "deepObject" and isinstance(value, Mapping):
        return [
            f"{name}%5B{_quoted(key)}%5D={spell(item)}"
            for key, many in value.items()
            for item in (many if isinstance(many, list) else [many])
        ]
    items = _items(value, one.explode, spell)
    if one.explode and isinstance(value, Mapping):
        return items
    if one.explode and isinstance(value, list):
        return [f"{name}={item}" for item in items]
    return [f"{name}={_BETWEEN.get(one.style, ',').join(items)}"]


def _in_header(name: str, text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise ToolError(f"{name} is sent in a header: it has to be of printable ASCII characters, on one line")
    return text
