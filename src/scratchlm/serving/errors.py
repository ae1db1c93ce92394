"""What goes wrong, told in OpenAI's form: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from scratchlm.errors import UserError

log = logging.getLogger("scratchlm.serving")
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_MOST = 400
"""Characters of a message."""


class ApiError(Exception):
    """A request that is refused or fails.

    Args:
        status: of HTTP.
        param: the field that is wrong, such as ``messages.0.content``.
        code: OpenAI's word for it, where it has one.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The JSON that tells it."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message[:_MOST], "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The whole answer."""
        return JSON(self.body, self.status, self.headers)


class JSON(Response):
    """JSON as we send it. Half a surrogate pair, which a client can write and UTF-8 cannot, becomes ``?``."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content)


def to_json(content: Any) -> bytes:
    """One line of JSON in UTF-8."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def refusal(error: BaseException) -> ApiError:
    """Any error as what the client is told: a mistake of its own, or that the server failed, without its insides."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return ApiError(400, str(error))
    log.error("a request failed: %s: %s", type(error).__name__, error, exc_info=error)
    return ApiError(500, "the server failed at this request; its log tells why")


def add_handlers(app: FastAPI) -> None:
    """Make every error of an app take this form."""

    async def told(_request: Request, error: Exception) -> Response:
        return refusal(error).response()

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _invalid(error.errors()).response()

    async def plain(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said = str(error.detail) or HTTPStatus(error.status_code).phrase
        return ApiError(error.status_code, said, headers=error.headers).response()

    for kind in (ApiError, UserError, Exception):
        app.add_exception_handler(kind, told)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, plain)


def _invalid(found: Sequence[Any]) -> ApiError:
    """The first thing that is wrong with a body; of what may be one of several things, what came farthest."""
    place = found[0]["loc"][:2]
    first = max((one for one in found if one["loc"][:2] == place), key=lambda one: len(one["loc"]))
    # The names of the things that it may be stand in the path, too.
    parts = [str(part) for part in first["loc"] if part not in ("body", "str", "int")]
    param = ".".join(part for part in parts if part.isdigit() or (part.isidentifier() and part.islower())) or None
    kind, said = first["type"], str(first["msg"])
    if kind == "json_invalid":
        return ApiError(400, f"the body is no valid JSON ({first.get('ctx', {}).get('error', said)})")
    if kind == "extra_forbidden":
        return ApiError(400, f"Unrecognized request argument supplied: {param}", param=param, code="unknown_parameter")
    if kind == "missing":
        what = f"Missing required parameter: '{param}'." if param else "the body is missing; send a JSON object"
        return ApiError(400, what, param=param, code="missing_required_parameter")
    said = said.removeprefix("Value error, ")
    return ApiError(400, f"Invalid '{param}': {said}." if param else f"the body is wrong: {said}", param=param)
