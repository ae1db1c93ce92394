"""A chat model behind an address that speaks OpenAI's protocol, such as ``scratchlm serve``, llama.cpp or vLLM.

Nothing is sent anywhere but to the address that the user has given.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from scratchlm.errors import UserError
from scratchlm.retrieval.chat_models import OnText
from scratchlm.tokenizers.chat import Message

_CHARACTERS, _MESSAGE_TOKENS = 3, 8
"""Of a token at least, in most scripts, and tokens that a message takes beside its text: the endpoint's tokenizer is
not known, so that the count is an estimate that is rather too high."""
_SHOWN = 120


class Part(NamedTuple):
    """A piece of an answer."""

    message: dict[str, Any]
    """Of the assistant's message: "content", "tool_calls"; of a stream what is new of them."""
    finish_reason: str | None
    usage: dict[str, Any]
    """How many tokens were read and written, where the endpoint says it; mostly in the last piece."""


class Endpoint:
    """A model behind an address.

    Args:
        url: of the API, with its version, such as ``http://localhost:8000/v1``.
        model: the name by which the endpoint knows it.
        key: sent as a bearer token; never shown.
        timeout: seconds to wait for the next piece of an answer.
        context: tokens that the model reads and writes at most.

    Raises:
        UserError: no http(s) address, no name, or numbers out of range.
    """

    writes = True

    def __init__(
        self, url: str, model: str, key: str | None = None, *, timeout: float = 60.0, context: int = 8192
    ) -> None:
        try:
            parts = urlsplit(url.strip())
            valid = (
                parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
            )
        except ValueError:
            valid = False
        if not valid or any(c.isspace() for c in url.strip()):
            raise UserError(f"{url!r} is no address of an endpoint; give one such as http://localhost:8000/v1")
        if parts.username is not None or parts.password is not None:
            raise UserError("the endpoint's address holds a user or password; leave them out, and give a key instead")
        if not model.strip():
            raise UserError(f"the endpoint {url} needs a model's name; give the one it lists under /models")
        if not timeout > 0 or timeout == float("inf"):
            raise UserError(f"the timeout is {timeout:g} seconds; give more than 0")
        if context < 1:
            raise UserError(f"the context is {context} tokens; give at least 1")
        if key is not None and (not key.isascii() or any(c.isspace() for c in key)):
            raise UserError("the endpoint's key has spaces or characters beyond ASCII; copy it again")
        self.url, self.name, self.context, self.timeout = url.strip().rstrip("/"), model.strip(), context, timeout
        self._key = key

    def count(self, messages: Sequence[Message]) -> int:
        """About the tokens that these messages take, rather too many."""
        texts = (str(message["content"]) for message in messages)
        return sum(len(text.encode()) // _CHARACTERS + _MESSAGE_TOKENS for text in texts)

    def chat(self, messages: Sequence[Message], *, max_new_tokens: int, on_text: OnText | None = None) -> str:
        """The answer to messages, at temperature 0.

        Raises:
            UserError: the endpoint cannot be reached, refuses, takes too long, or answers in another form.
        """
        body = {
            "model": self.name,
            "messages": [dict(message) for message in messages],
            "max_tokens": max_new_tokens,
            "temperature": 0,
            "stream": True,
        }
        pieces: list[str] = []
        for part in self.parts(body):
            if isinstance(text := part.message.get("content"), str) and text:
                pieces.append(text)
                if on_text is not None:
                    on_text(text)
        if not pieces:
            raise UserError(f"the endpoint {self.url} gave an empty answer; try another model than {self.name}")
        return "".join(pieces)

    def parts(self, body: Mapping[str, Any]) -> Iterator[Part]:
        """The parts of the answer to a request as they come; one where the endpoint does not stream.

        Raises:
            UserError: as :meth:`chat`, but for an empty answer.
        """
        try:
            with self._open(body) as answer:
                yield from self._read(answer)
        except TimeoutError as error:
            raise self._late() from error
        except (OSError, http.client.HTTPException) as error:
            raise UserError(f"the endpoint {self.url} broke off its answer ({_reason(error)}); ask again") from error

    def _open(self, body: Mapping[str, Any]) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
        try:
            opened: http.client.HTTPResponse = urllib.request.build_opener(_NoRedirect).open(
                request, timeout=self.timeout
            )
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self._late() from error
            raise UserError(
                f"the endpoint {self.url} cannot be reached ({_reason(error.reason)}); start it, or mend the address"
            ) from error
        return opened

    def _read(self, answer: http.client.HTTPResponse) -> Iterator[Part]:
        if "event-stream" not in answer.headers.get("Content-Type", ""):
            yield self._part(answer.read(), "message")
            return
        ended = False
        for line in answer:
            field, _, value = line.strip().partition(b":")
            if field != b"data":
                continue
            if value.strip() == b"[DONE]":
                return
            part = self._part(value, "delta")
            ended = ended or part.finish_reason is not None
            yield part
        if not ended:
            raise http.client.IncompleteRead(b"")

    def _part(self, data: bytes, name: str) -> Part:
        try:
            given = json.loads(data)
            if isinstance(given, dict) and given.get("error"):
                raise UserError(f"the endpoint {self.url} says: {_said(data)}")
            choice = given["choices"][0] if given["choices"] else {name: {}}
            usage, reason = given.get("usage"), choice.get("finish_reason")
            return Part(dict(choice[name]), reason, usage if isinstance(usage, dict) else {})
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            start = " ".join(data[:_SHOWN].decode("utf-8", "replace").split())
            raise UserError(
                f"the endpoint {self.url} answers in no form of OpenAI's ({start!r}); see that its address ends in /v1"
            ) from error

    def _refused(self, error: urllib.error.HTTPError) -> UserError:
        try:
            said = _said(error.read(65_536))
        except OSError:
            said = ""
        what = {
            400: f"refuses the request{said}; check the model's name and its context",
            401: "does not accept the key; give the right one",
            403: "does not allow this; check the key",
            404: f"has no model {self.name!r}, or no API at this address{said}; check both",
            429: "is asked too often; wait a while and ask again",
        }.get(error.code)
        if what is None and 300 <= error.code < 400:
            what = f"sends elsewhere, to {error.headers.get('Location', 'nowhere')}; give that address"
        return UserError(f"the endpoint {self.url} {what or f'failed with status {error.code}{said}; look at its log'}")

    def _late(self) -> UserError:
        return UserError(f"the endpoint {self.url} did not answer within {self.timeout:g} seconds; raise the timeout")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The question and the key go to the address that was given, and to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _reason(error: object) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:_SHOWN]


def _said(data: bytes) -> str:
    """What an endpoint's error says, in brackets; nothing where it has another form."""
    try:
        given = json.loads(data)
        error = given.get("error", given.get("detail", given.get("message", "")))
        text = error.get("message", "") if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError):
        return ""
    line = " ".join(str(text).split())[:_SHOWN]
    return f" ({line})" if line else ""
